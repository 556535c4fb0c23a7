"""Floating-point operations of training, by part, for one row."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from mlx_medlora.gemma import counts
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.training.shapes import AdapterShape, RowShape, lora_widths


@dataclass(frozen=True)
class Work:
    """FLOPs of one row. Frozen features and a kept prefix are paid once a run, the rest each epoch.

    tower: forward through tower and projector; tower_backward: where SigLIP is trained; prefix: forward
    through the layers below the first trained one where its result is kept, otherwise part of forward;
    forward, backward: the other layers' frozen matrices; attention: their scores and sums of values, both
    ways; lora: the low-rank updates, both ways; head: logits at supervised tokens, both ways; recomputed:
    what gradient checkpointing adds.
    """

    tower: float = 0
    tower_backward: float = 0
    prefix: float = 0
    forward: float = 0
    backward: float = 0
    attention: float = 0
    lora: float = 0
    head: float = 0
    recomputed: float = 0

    @property
    def epoch(self) -> float:
        """What each epoch pays beside what is kept."""
        parts = asdict(self)
        once = parts["tower"] if not self.tower_backward else 0
        return sum(parts.values()) - once - self.prefix

    def scaled(self, factor: float) -> Work:
        """Every part times `factor`."""
        return Work(*(getattr(self, f.name) * factor for f in fields(self)))

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def row_work(
    config: ModelConfig,
    adapter: AdapterShape,
    row: RowShape,
    *,
    checkpointing: bool,
    prefix_cache: bool = False,
) -> Work:
    """FLOPs of training on one row, its padding left out.

    Layers below the first trained one are a prefix with `prefix_cache`, and without it part of each forward.
    """
    text = config.text
    last, first = text.num_hidden_layers - 1, adapter.first
    below = forward = backward = attention = recomputed = 0.0
    for layer in range(text.num_hidden_layers):
        queries = row.targets if layer == last else row.tokens
        matrices = counts.layer_flops(text, row.tokens, queries)
        scores = counts.attention_flops(text, row.tokens, queries)
        if layer < first:
            below += matrices + scores
            continue
        forward += matrices
        attention += 3 * scores  # one product backward for each factor of the two forward
        backward += matrices if layer > first or adapter.tower else _above_inputs(config, queries)
        if checkpointing:
            recomputed += matrices + scores - _kept_product(config, adapter, layer, queries)
    return Work(
        tower=row.images * counts.tower_flops(config),
        tower_backward=row.images * _tower_backward(config, adapter),
        prefix=below if prefix_cache else 0.0,
        forward=forward if prefix_cache else forward + below,
        backward=backward,
        attention=attention,
        lora=_lora(config, adapter, row),
        head=2 * counts.head_flops(text, row.targets),
        recomputed=recomputed,
    )


def _kept_product(config: ModelConfig, adapter: AdapterShape, layer: int, queries: int) -> float:
    """Checkpointing keeps the result of a layer's last product, unless that one is trained."""
    if "down_proj" in adapter.text.get(layer, ()):
        return 0
    inputs, outputs = counts.text_shapes(config.text)["down_proj"]
    return 2 * inputs * outputs * queries


def _above_inputs(config: ModelConfig, queries: int) -> float:
    """Backward through the first trained layer: nothing below it needs a gradient of its inputs."""
    inputs = ("q_proj", "k_proj", "v_proj")
    shapes = counts.text_shapes(config.text)
    return sum(2 * i * o * queries for name, (i, o) in shapes.items() if name not in inputs)


def _lora(config: ModelConfig, adapter: AdapterShape, row: RowShape) -> float:
    """Two products forward; backward two for the factors' gradients and two towards the input."""
    last = config.text.num_hidden_layers - 1
    total = 0.0
    for layer, kinds in adapter.text.items():
        for kind, (inputs, outputs) in zip(kinds, lora_widths(config, kinds), strict=True):
            whole = layer != last or kind in counts.KEYS
            total += 6 * adapter.rank * (inputs + outputs) * (row.tokens if whole else row.targets)
    if config.vision is not None:
        patches = config.vision.patches_per_side**2 * row.images
        for kinds in adapter.tower.values():
            total += sum(
                6 * adapter.rank * sum(shape) * patches for shape in lora_widths(config, kinds, tower=True)
            )
    return total


def _tower_backward(config: ModelConfig, adapter: AdapterShape) -> float:
    """Backward through the tower from its first trained layer: its matrices once, its attention twice."""
    vision = config.vision
    if vision is None or not adapter.tower:
        return 0
    layers = vision.num_hidden_layers - min(adapter.tower)
    scores = 4 * vision.patches_per_side**4 * vision.hidden_size
    return layers * (counts.tower_layer_flops(vision) + scores)
