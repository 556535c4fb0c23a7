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
from mlx_medlora.training.prefix import Prefix, prefix_bytes, prefix_stores
from mlx_medlora.training.ranks import ALONE, Ranks
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import Setup

Confirm = Callable[[str], bool]


def look(
    setup: Setup, settings: FeatureSettings, ranks: Ranks = ALONE, listeners: Sequence[Listener] = ()
) -> ImageSource:
    """Have the features of every distinct image of both splits, unless the tower is trained.

    Ranks that share a store share the work. Where all features are held, the model lets go of its tower. The
    listeners hear where they came from.
    """
    if setup.trains_vision:
        return PixelSource(setup.encoder)

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    examples = [*setup.train, *setup.val]
    found = open_features(
        setup.model,
        setup.encoder,
        settings,
        setup.dataset.root,
        lambda text: tell(Notice(text)),
        images=any(example.images for example in examples),
    )
    _share(examples, found, ranks)
    cache = FeatureCache.for_examples(
        examples,
        setup.model,
        setup.encoder,
        lambda done, total: tell(Features(done, total)),
        features=found,
    )
    if len(found):
        tell(found.use)
    if found.complete and isinstance(setup.model, Gemma3):
        setup.model.drop_tower()
    return cache


def _share(examples: Sequence[Example], found: ImageFeatures, ranks: Ranks) -> None:
    """Let each rank compute its share and write it for the others; without a store each computes all."""
    if ranks.size == 1 or found.store is None:
        return
    files = list(dict.fromkeys(image for example in examples for image in example.images))
    found.fill(ranks.rows(files))
    ranks.any(False)  # all have written
    found.store.refresh()


def keep_prefix(
    setup: Setup,
    chosen: TrainSettings,
    settings: FeatureSettings,
    images: ImageSource,
    ranks: Ranks = ALONE,
    listeners: Sequence[Listener] = (),
    confirm: Confirm | None = None,
) -> Prefix | None:
    """With `prefix_cache`, the states that enter the first trained layer, computed for every row; else None.

    `confirm` is told what they take and where; its False is an InputError.
    """
    if not chosen.prefix_cache:
        return None

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    model, examples = setup.model, [*setup.train, *setup.val]
    first = chosen.first_layer(model.config.text.num_hidden_layers)
    size = prefix_bytes(model.config, map(len, examples), model.dtype) / 1e9
    place = settings.place(setup.dataset.root) if not settings.memory else "memory"
    if confirm is not None and not confirm(
        f"{len(examples)} rows of hidden states take {size:.2f} GB in {place}"
    ):
        raise InputError(
            f"the hidden states ({size:.2f} GB) were declined",
            hint="Leave out --prefix-cache, or give --features DIR on a larger disk.",
        )
    stores = prefix_stores(
        model,
        first,
        setup.base.fingerprint,
        settings,
        setup.dataset.root,
        lambda text: tell(Notice(text)),
    )
    prefix = Prefix(model, first, images, stores)
    if ranks.size > 1:
        prefix.fill(ranks.rows(examples))
        ranks.any(False)  # all have written
    prefix.fill(examples, lambda done, total: tell(States(done, total)))
    return prefix
