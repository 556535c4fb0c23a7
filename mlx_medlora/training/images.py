"""What a run looks at before its first update: every image, once."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_medlora.features.opening import open_features
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.features.source import ImageFeatures
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.training.events import Event, Features, Listener, Notice
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache, ImageSource, PixelSource
from mlx_medlora.training.ranks import ALONE, Ranks
from mlx_medlora.training.setup import Setup


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
