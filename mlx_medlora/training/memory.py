"""Peak memory of training, by part, before anything loads.

All figures are bytes of MLX's own memory (`mx.get_peak_memory`); the Python process adds about half a
gigabyte outside it.
"""

from __future__ import annotations

from pydantic import computed_field

from mlx_medlora.features.size import features_bytes
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.weightsize import weight_bytes
from mlx_medlora.settings import StrictModel
from mlx_medlora.training import kept
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.shapes import AdapterShape, StepShape

LOGITS = 1 << 26  # most logits in one piece, as in `loss.py`
# Arrays as large as the logits that the head's two passes allocate before the first is free again. In fp32
# on the CPU the exponential is a polynomial in several kernels (7: what measured peaks leave for the logits
# of 192 supervised tokens); else logits, their fp32 copy, exponentials, probabilities, gradient and its cast.
_LOGIT_COPIES = {4: 7, 2: 6}


class Memory(StrictModel):
    """Bytes by part.

    text: the language model's weights, embedding once; tower: SigLIP and projector, in memory until the
    features are there, or throughout where they are trained; looking: what the tower's pass over images
    holds; adapter: trained parameters and AdamW's two moments, fp32; batch: features or pixels and masks of a
    batch; activations: kept for the backward pass; backward: what it allocates itself at its peak; logits: at
    supervised tokens; update: gradients and the new values beside the old; summed: gradients of earlier
    batches, or parts of one, of the same update, and of shards.
    """

    text: int
    tower: int
    looking: int
    adapter: int
    batch: int
    activations: int
    backward: int
    logits: int
    update: int
    summed: int
    tower_trained: bool

    @computed_field  # type: ignore[prop-decorator]
    @property
    def features_peak(self) -> int:
        """While the frozen tower looks at the images; 0 where there is nothing to look at."""
        return self.text + self.tower + self.looking if self.looking else self.text

    @computed_field  # type: ignore[prop-decorator]
    @property
    def step_peak(self) -> int:
        """While a step runs: at the start of its backward pass, or while it updates."""
        held = self.text + self.adapter + self.summed + (self.tower if self.tower_trained else 0)
        backward = self.batch + self.activations + max(self.backward, self.logits)
        return held + max(backward, self.update)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.features_peak, self.step_peak)


def predict_memory(
    config: ModelConfig,
    adapter: AdapterShape,
    settings: TrainSettings,
    step: StepShape,
    *,
    checkpointing: bool,
    fused: bool = True,
) -> Memory:
    """The memory of training with batches like `step`, the most expensive one.

    `fused` says that attention over images without gradients holds no scores, as on the CPU backend.
    """
    w = 4 if config.dtype == "float32" else 2
    sizes = weight_bytes(config)
    trained = bool(adapter.tower)
    looking = 0
    if config.vision is not None and step.images and not trained:
        looking = kept.tower_forward(config.vision, w, fused=fused)
    activations, backward = _activations(config, adapter, settings, step, checkpointing, w)
    logits = _LOGIT_COPIES[w] * kept.FP32 * min(LOGITS, step.targets * config.text.vocab_size)
    gradients = kept.FP32 * adapter.parameters
    shards, parts = settings.shards or 1, settings.accumulate > 1 or step.parts > 1
    return Memory(
        text=sizes.text + kept.FP32 * adapter.saved,
        tower=sizes.tower,
        looking=looking,
        adapter=3 * gradients - kept.FP32 * adapter.saved,
        batch=_batch(config, step, w, trained),
        activations=activations,
        backward=backward,
        logits=logits,
        update=5 * gradients,  # gradients, clipped ones, new values, two new moments
        summed=gradients * (2 * shards if shards > 1 else int(parts)),
        tower_trained=trained,
    )


def _activations(
    config: ModelConfig,
    adapter: AdapterShape,
    settings: TrainSettings,
    step: StepShape,
    checkpointing: bool,
    w: int,
) -> tuple[int, int]:
    """Bytes kept at the start of the backward pass, and those that its first full layer then allocates."""
    text, n = config.text, step.positions
    last = text.num_hidden_layers - 1

    def layer(index: int) -> int:
        queries = step.targets if index == last else n
        kinds = adapter.text.get(index, ())
        return kept.text_layer(text, kinds, adapter.rank, settings.dropout, w, n, queries, step.length)

    trained = range(adapter.first, last + 1)
    tower = _tower(config, adapter, settings, step, w)
    if checkpointing:
        held = [
            kept.checkpointed_layer(text, adapter.text.get(i, ()), w, n, step.targets if i == last else n)
            for i in trained
        ]
        kinds = max(adapter.text.values(), key=len, default=())
        again = kept.text_again(text, kinds, adapter.rank, settings.dropout, w, n, step.length)
        return sum(held) + tower, again
    stream = w * text.hidden_size * n  # the hidden states between layers
    layers = [layer(index) for index in trained]
    backward = kept.text_backward(text, w, n, step.length) if len(layers) > 1 else 0
    return stream + sum(layers) + tower, backward


def _tower(
    config: ModelConfig, adapter: AdapterShape, settings: TrainSettings, step: StepShape, w: int
) -> int:
    vision = config.vision
    if vision is None or not adapter.tower:
        return 0
    return sum(
        kept.tower_layer(vision, adapter.tower.get(index, ()), adapter.rank, settings.dropout, w, step.images)
        for index in range(min(adapter.tower), vision.num_hidden_layers)
    )


def _batch(config: ModelConfig, step: StepShape, w: int, pixels: bool) -> int:
    """Features or pixels of a batch, and its two attention masks."""
    masks = 2 * step.rows * step.length**2
    if pixels and config.vision is not None:
        return masks + step.images * kept.FP32 * config.vision.num_channels * config.vision.image_size**2
    return masks + 2 * features_bytes(config, step.images)  # as read, and as spread over the row
