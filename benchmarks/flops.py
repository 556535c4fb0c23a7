"""Floating-point operations of one training step, counted from the geometry.

A product of (m, k) and (k, n) matrices is 2 m k n. Norms, rotations, softmax and activations are left out:
they are under 1 % of these widths. Letters: B rows, L tokens a row, n = B L, s supervised tokens in all.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_medlora.gemma.config import ModelConfig, TextConfig, VisionConfig


@dataclass(frozen=True)
class Work:
    """What a step computes. `images` is 0 where their features are cached; `whole_head` puts the head over
    every token, `whole_last` the last layer's queries, output and MLP."""

    rows: int
    length: int
    supervised: int
    rank: int
    images: int = 0
    whole_head: bool = False
    whole_last: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return self.rows * self.length


def product(tokens: int, inputs: int, outputs: int) -> int:
    """A linear layer over `tokens`."""
    return 2 * tokens * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Scores and weighted sum of values, of `queries` over `keys` each; `width` is all heads' together."""
    return 2 * product(queries, keys, width)


def lora(tokens: int, inputs: int, outputs: int, rank: int) -> int:
    """Forward and backward of one adapter: each of its two products, its gradient and its input's."""
    return 3 * (product(tokens, inputs, rank) + product(tokens, rank, outputs))


def step(config: ModelConfig, work: Work) -> int:
    """Forward and backward of q/v/o LoRA over a frozen base: everything that `work` says is computed."""
    text = config.text
    layers = sum(layer(text, work, index) for index in range(text.num_hidden_layers))
    scored = work.tokens if work.whole_head else work.supervised
    head = 2 * product(scored, text.hidden_size, text.vocab_size)  # forward, and back to its input
    return layers + head + tower(config, work.images)


def layer(text: TextConfig, work: Work, index: int) -> int:
    """One decoder layer: a frozen matrix costs its product forward and one backward, to its input.

    Nothing below the first layer is trained, so its keys get no gradient, and nor do its inputs.
    """
    first, last = index == 0, index == text.num_hidden_layers - 1
    heads, groups = (n * text.head_dim for n in (text.num_attention_heads, text.num_key_value_heads))
    width, n = text.hidden_size, work.tokens
    reached = work.supervised if last and not work.whole_last else n  # tokens whose output is used
    queries = product(reached, width, heads)
    keys_values = 2 * product(n, width, groups)
    above = product(reached, heads, width) + 3 * product(reached, width, text.intermediate_size)
    adapters = (
        lora(reached, width, heads, work.rank)
        + lora(n, width, groups, work.rank)
        + lora(reached, heads, width, work.rank)
    )
    looked = attention(reached, work.length, heads)
    backward = above + 2 * looked + (0 if first else queries + keys_values)
    return queries + keys_values + looked + above + adapters + backward


def tower(config: ModelConfig, images: int) -> int:
    """Forward of the vision tower and the projector; a frozen tower has no backward."""
    vision = config.vision
    if vision is None or not images:
        return 0
    patches = images * vision.patches_per_side**2
    pixels = vision.num_channels * vision.patch_size**2
    projected = product(images * config.mm_tokens_per_image, vision.hidden_size, config.text.hidden_size)
    layers = vision.num_hidden_layers * encoder_layer(vision, patches)
    return product(patches, pixels, vision.hidden_size) + layers + projected


def encoder_layer(vision: VisionConfig, patches: int) -> int:
    """One SigLIP layer over the patches of all images, each image attending to itself."""
    width = vision.hidden_size
    linear = 4 * product(patches, width, width) + 2 * product(patches, width, vision.intermediate_size)
    return linear + attention(patches, vision.patches_per_side**2, width)
