"""What a run computes before its first update: image features, and what frozen layers give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlx_medlora.errors import InputError
from mlx_medlora.features.opening import open_features
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.features.source import ImageFeatures
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.training.events import Event, Features, Listener, Notice, States
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache, ImageSource, PixelSource
from mlx_medlora.training.prefix import Prefix, prefix_bytes
from mlx_medlora.training.prefix_stores import prefix_stores, seen_as
from mlx_medlora.training.ranks import ALONE, Ranks
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import Setup

Confirm = Callable[[str], bool]


def open_images(
    setup: Setup, settings: FeatureSettings, listeners: Sequence[Listener] = ()
) -> ImageFeatures | None:
    """What will hold the features of both splits' images, opened; None where the tower is trained."""
    if setup.trains_vision:
        return None
    return open_features(
        setup.model,
        setup.encoder,
        settings,
        setup.dataset.root,
        _notices(listeners),
        images=any(example.images for example in (*setup.train, *setup.val)),
    )


def look(
    setup: Setup,
    settings: FeatureSettings,
    ranks: Ranks = ALONE,
    listeners: Sequence[Listener] = (),
    found: ImageFeatures | None = None,
) -> ImageSource:
    """Have the features of every distinct image of both splits, unless the tower is trained.

    Ranks that share a store share the work. Where all features are held, the model lets go of its tower. The
    listeners hear where they came from. `found` is what `open_images` gave, where it was asked before.
    """
    if found is None:  # an empty one is false
        found = open_images(setup, settings, listeners)
    if found is None:
        return PixelSource(setup.encoder)
    examples = [*setup.train, *setup.val]
    _share(examples, found, ranks)
    cache = FeatureCache.for_examples(
        examples,
        setup.model,
        setup.encoder,
        lambda done, total: _tell(listeners, Features(done, total)),
        features=found,
    )
    if len(found):
        _tell(listeners, found.use)
    if found.complete and isinstance(setup.model, Gemma3):
        setup.model.drop_tower()
    return cache


def _share(examples: Sequence[Example], found: ImageFeatures, ranks: Ranks) -> None:
    """Let each rank compute its share and write it for the others; without a store each computes all."""
    if ranks.size == 1 or ranks.any(found.store is None) or found.store is None:
        return
    files = list(dict.fromkeys(image for example in examples for image in example.images))
    found.fill(ranks.rows(files))
    ranks.any(False)  # all have written
    found.store.refresh()


def agree_on_prefix(
    setup: Setup,
    chosen: TrainSettings,
    settings: FeatureSettings,
    found: ImageFeatures | None,
    listeners: Sequence[Listener] = (),
    confirm: Confirm | None = None,
) -> Prefix | None:
    """With `prefix_cache`, what will hold the states that enter the first trained layer; else None.

    Nothing is computed yet. `confirm` is told what the missing ones take and where; its False is an
    InputError. It is not asked where all are stored.
    """
    if not chosen.prefix_cache or found is None:
        return None
    model, data, examples = setup.model, setup.dataset.root, [*setup.train, *setup.val]
    first = chosen.first_layer(model.config.text.num_hidden_layers)
    seen = any(example.images for example in examples)
    stores = prefix_stores(
        model,
        first,
        setup.base.fingerprint,
        settings,
        data,
        _notices(listeners),
        images=seen_as(found, setup.encoder, settings, data) if seen else None,
        used=None if found.store is None else found.store.used,
    )
    prefix = Prefix(model, first, FeatureCache(found), stores)
    missing = prefix.missing(examples)
    if missing and confirm is not None:
        size = prefix_bytes(model.config, map(len, missing), prefix.dtype) / 1e9
        place = settings.place(data) if prefix.on_disk else "memory"
        if not confirm(f"{len(missing)} rows of hidden states take {size:.2f} GB in {place}"):
            raise InputError(
                f"the hidden states ({size:.2f} GB) were declined",
                hint="Leave out --prefix-cache, or give --features DIR on a larger disk.",
            )
    return prefix


def fill_prefix(
    prefix: Prefix, setup: Setup, ranks: Ranks = ALONE, listeners: Sequence[Listener] = ()
) -> None:
    """Have the states of both splits, as far as there is room. Ranks that share a store share the work."""
    examples = [*setup.train, *setup.val]
    if ranks.size > 1 and not ranks.any(not prefix.on_disk):
        prefix.fill(ranks.rows(examples))
        ranks.any(False)  # all have written
        prefix.refresh()
    prefix.fill(examples, lambda done, total: _tell(listeners, States(done, total)))
    if prefix.left:
        _tell(
            listeners,
            Notice(
                f"hidden states of {prefix.left} of {len(examples)} rows are computed in each epoch: "
                "there is no room left to keep them"
            ),
        )


def _notices(listeners: Sequence[Listener]) -> Callable[[str], None]:
    return lambda text: _tell(listeners, Notice(text))


def _tell(listeners: Sequence[Listener], event: Event) -> None:
    for listener in listeners:
        listener(event)
