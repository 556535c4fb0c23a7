"""Rungs 8 and 9: adapters that travel both ways, and fused weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mlx_medlora.errors import InputError
from mlx_medlora.gemma.checkpoint import open_checkpoint
from mlx_medlora.lora.adapter import write_adapter
from mlx_medlora.lora.exchange import export_adapter, import_adapter
from mlx_medlora.lora.formats import read_any
from mlx_medlora.lora.fuse import fuse
from mlx_medlora.parity import ours, reference
from mlx_medlora.parity.results import FLOOR, Rung, distance, judged, skipped, tolerance
from mlx_medlora.parity.sides import Sides


def adapters(sides: Sides) -> Rung:
    """Rung 8: export and import give the same bits, and PEFT's logits with the export are ours."""
    import peft

    with tempfile.TemporaryDirectory() as scratch:
        native, there, back = (Path(scratch) / name for name in ("native", "peft", "back"))
        native.mkdir()
        write_adapter(native, sides.adapter)
        export_adapter(native, there)
        import_adapter(there, back, str(sides.directory))
        returned = read_any(back, sides.base).tensors
        fresh = reference.load(sides.directory, text_only=sides.config.text_only)
        wrapped = peft.PeftModel.from_pretrained(fresh, there).eval()
    same = returned.keys() == sides.adapter.tensors.keys() and all(
        np.array_equal(returned[name], values) for name, values in sides.adapter.tensors.items()
    )
    batch = sides.batch()
    real = batch["attention_mask"].astype(bool)
    wanted = reference.logits(wrapped, batch)[real]
    with reference.attention(wrapped.get_base_model(), "eager"):
        noise = distance(reference.logits(wrapped, batch)[real], wanted)
    model = sides.adapted()
    model.eval()
    given = (
        ours.features(model, sides.pixels)
        if sides.trains_tower and sides.pixels is not None
        else sides.given()
    )
    error = distance(ours.logits(model, batch, given)[real], wanted) if same else float("inf")
    detail = f"{len(returned)} tensors, bits {'equal' if same else 'differ'} after the round trip"
    return judged(8, "adapter export and import", error, tolerance(noise), noise, detail)


def fused(sides: Sides) -> Rung:
    """Rung 9: fused weights against PEFT's `merge_and_unload`."""
    name = "fused weights"
    with tempfile.TemporaryDirectory() as scratch:
        native, out = Path(scratch) / "native", Path(scratch) / "fused"
        native.mkdir()
        write_adapter(native, sides.adapter)
        try:
            fuse(sides.directory, native, out, format="hf")
        except InputError as refused:
            return skipped(9, name, str(refused))
        found = _state(reference.load(out, text_only=sides.config.text_only))
        stored = open_checkpoint(out)
        low = any(entry.dtype == "BF16" for entry in stored.stored.values())
    wanted = _state(sides.peft().merge_and_unload())
    gaps = {key: distance(found[key], values) for key, values in wanted.items() if key in found}
    missing = sorted(set(wanted) ^ set(found))
    worst = max(gaps, key=lambda key: gaps[key])
    error = float("inf") if missing else gaps[worst]
    detail = f"{len(gaps)} tensors; worst {missing[0] if missing else worst}"
    # a base in bf16 is fused in bf16: half a unit in the last of its 8 bits
    return judged(9, name, error, 2**-8 if low else FLOOR, None, detail)


def _state(model: Any) -> dict[str, Any]:
    return {key: value.detach().float().numpy() for key, value in model.state_dict().items()}
