"""Rungs 10 and 11: greedy generation, and quantised weights."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from mlx_medlora.gemma import names
from mlx_medlora.gemma.generate import banned, generate
from mlx_medlora.gemma.load import load_base
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.scoring import Prompt
from mlx_medlora.lora.peft_keys import module_there
from mlx_medlora.parity import ours, reference
from mlx_medlora.parity.inputs import Row
from mlx_medlora.parity.results import Rung, distance, judged, skipped, tolerance
from mlx_medlora.parity.sides import Sides

TOKENS = 64


def generation(sides: Sides) -> Rung:
    """Rung 10: 64 greedy tokens, row by row and all rows in one batch, token for token."""
    rows = sides.rows
    alone = [_theirs(sides, [row])[0] for row in rows]
    with reference.attention(sides.reference, "eager"):
        noise = sum(_theirs(sides, [row])[0] != wanted for row, wanted in zip(rows, alone, strict=True))
    together = _theirs(sides, rows)
    mine = [_ours(sides, [row])[0] for row in rows]
    batched = _ours(sides, rows)
    wrong = sum(found != wanted for found, wanted in zip(mine + batched, alone + together, strict=True))
    detail = f"{TOKENS} tokens a row, {len(rows)} rows alone and in one batch"
    return judged(10, "greedy generation", float(wrong), 0.0, float(noise), detail, unit="rows that differ")


def _ours(sides: Sides, rows: list[Row]) -> list[list[int]]:
    prompts = []
    for row in rows:
        given = sides.given([row])
        features = None if given is None else mx.array(given.reshape(-1, given.shape[-1]))
        prompts.append(Prompt(row.ids[: row.prompt].astype(np.int32), features))
    return generate(sides.base, prompts, max_tokens=TOKENS)


def _theirs(sides: Sides, rows: list[Row]) -> list[list[int]]:
    import torch

    batch = sides.batch(rows, left=True, prompts=True)
    with torch.no_grad():
        found = sides.reference.generate(
            **reference.arguments(batch),
            do_sample=False,
            max_new_tokens=TOKENS,
            suppress_tokens=np.flatnonzero(np.array(banned(sides.config))).tolist(),
            pad_token_id=sides.config.pad_token_id,
        )
    start = batch["input_ids"].shape[1]
    return [[int(token) for token in row[start:]] for row in found]


def quantised(sides: Sides) -> Rung:
    """Rung 11: our forward on packed weights against transformers on the same weights dequantised."""
    name = "quantised weights"
    error = noise = 0.0
    group = _group(sides)
    if group is None:
        return skipped(11, name, "no group size divides the text stack's widths")
    batch = sides.batch()
    real = batch["attention_mask"].astype(bool)
    for bits in (4, 8):
        model = load_base(sides.directory, mx.float32)
        nn.quantize(model.text, group, bits)
        twin = reference.load(sides.directory, text_only=sides.config.text_only)
        _unpack_into(twin, model)
        wanted = reference.logits(twin, batch)[real]
        with reference.attention(twin, "eager"):
            noise = max(noise, distance(reference.logits(twin, batch)[real], wanted))
        error = max(error, distance(ours.logits(model, batch, sides.given())[real], wanted))
    return judged(11, name, error, tolerance(noise), noise, f"4 and 8 bits in groups of {group}")


def _group(sides: Sides) -> int | None:
    text = sides.config.text
    inner = text.num_attention_heads * text.head_dim
    widths = (text.hidden_size, text.intermediate_size, inner)
    return next((size for size in (64, 32) if all(width % size == 0 for width in widths)), None)


def _unpack_into(twin: Any, model: Base) -> None:
    """Put the dequantised matrices of `model` into transformers' `twin`, in place."""
    import torch

    prefix = "model." if model.config.text_only else names.TEXT
    for name, module in model.text.named_modules():
        if not isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            continue
        packed = (module.weight, module.scales, module.biases)
        values = np.array(mx.dequantize(*packed, module.group_size, module.bits))
        there = module_there(prefix + name, old_vision=False)
        twin.get_submodule(there).weight.data.copy_(torch.tensor(values))
