"""An adapter folded into the matrices of its base, as PEFT's `merge_and_unload` does it."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_medlora.errors import InputError
from mlx_medlora.gemma import names
from mlx_medlora.gemma.checkpoint import Checkpoint
from mlx_medlora.gemma.model import build
from mlx_medlora.gemma.weights import packing, refuse_unloadable
from mlx_medlora.lora.adapter import Adapter

_PACKED = (".scales", ".biases")


def merge(weight: mx.array, adapter: Adapter, module: str, rows: slice) -> mx.array:
    """Rows of one layer's (out, in) matrix, `weight`, with the adapter's update, in fp32.

    LoRA adds s * (A B)^T; DoRA then gives each row its trained magnitude.
    """
    a = mx.array(adapter.tensors[f"{module}.lora_a"])
    b = mx.array(adapter.tensors[f"{module}.lora_b"][:, rows])
    merged = weight.astype(mx.float32) + adapter.config.scale_of(module) * (a @ b).T
    magnitude = adapter.tensors.get(f"{module}.magnitude")
    if magnitude is None:
        return merged
    return merged * (mx.array(magnitude[rows]) / mx.linalg.norm(merged, axis=1))[:, None]


class MergedCheckpoint(Checkpoint):
    """A checkpoint that gives its tensors with an adapter merged in, dequantised, by rows."""

    def __init__(self, base: Checkpoint, adapter: Adapter) -> None:
        """Raises InputError where base or result would not load, or the adapter's biases have no place."""
        layout = adapter.config
        tied = base.config.tied_head and not layout.save_modules
        update = {"quantization": None, "tied_head": tied}
        super().__init__(base.directory, base.config.model_copy(update=update))
        self._base, self._adapter = base, adapter
        self._embedding = names.embedding(text_only=base.config.text_only)
        self._head = names.head(text_only=base.config.text_only)
        refuse_unloadable(base)
        whole: dict[str, mx.array] = dict(tree_flatten(build(base.config).parameters()))  # never computed
        for name, entry in base.stored.items():
            scales = base.stored.get(f"{name.removesuffix('.weight')}.scales")
            if scales is not None and name.endswith(".weight"):
                entry = replace(entry, shape=tuple(whole[name].shape), dtype=scales.dtype)
            if not name.endswith(_PACKED):
                self.stored[name] = entry
        if base.config.tied_head and not tied:
            self.stored[f"{self._head}.weight"] = self.stored[f"{self._embedding}.weight"]
        self._refuse_homeless_biases()
        refuse_unloadable(self)

    @property
    def dtype(self) -> str:
        """The base's own dtype, as `convert` names it; fp16, which Gemma 3 overflows, becomes bfloat16."""
        norm = next(entry for name, entry in self._base.stored.items() if name.endswith("norm.weight"))
        return "float32" if norm.dtype == "F32" else "bfloat16"

    def tensor(self, name: str) -> mx.array:
        """One merged tensor, whole."""
        return self.rows(name, 0, self.stored[name].shape[0])

    def rows(self, name: str, start: int, stop: int) -> mx.array:
        """Rows `start` to `stop` of one merged tensor, lazy."""
        module, _, part = name.rpartition(".")
        rows = slice(start, stop)
        if module in (self._embedding, self._head):
            return self._whole(module, name, rows)
        if part == "bias":
            return self._bias(module, name, rows)
        weight = self._plain(module, rows) if part == "weight" else self._base.rows(name, start, stop)
        adapted = f"{module}.lora_a" in self._adapter.tensors
        return merge(weight, self._adapter, module, rows) if adapted else weight

    def _whole(self, module: str, name: str, rows: slice) -> mx.array:
        """Embedding and head: the adapter's copy, or else the base's, whose head may be its embedding."""
        saved = self._adapter.tensors.get(name)
        if saved is not None:
            return mx.array(saved[rows])
        return self._plain(self._embedding if name not in self._base.stored else module, rows)

    def _bias(self, module: str, name: str, rows: slice) -> mx.array:
        tensors = self._adapter.tensors
        trained = tensors.get(f"{module}.linear.bias", tensors.get(name))
        bias = self._base.rows(name, rows.start, rows.stop) if trained is None else mx.array(trained[rows])
        extra = tensors.get(f"{module}.lora_bias")
        if extra is None:
            return bias
        return bias + self._adapter.config.scale_of(module) * mx.array(extra[rows])

    def _plain(self, module: str, rows: slice) -> mx.array:
        """Rows of the module's `weight`, dequantised where it is packed."""
        weight = self._base.rows(f"{module}.weight", rows.start, rows.stop)
        if f"{module}.scales" not in self._base.stored:
            return weight
        width = self.stored[f"{module}.weight"].shape[-1]
        scheme = packing(self._base, module, width)
        if scheme is None:
            raise InputError(
                f"the quantised tensors of {module} do not fit together", path=self._base.directory
            )
        scales, biases = (self._base.rows(f"{module}{part}", rows.start, rows.stop) for part in _PACKED)
        return mx.dequantize(weight, scales, biases, scheme["group_size"], scheme["bits"])

    def _refuse_homeless_biases(self) -> None:
        if not self._adapter.config.lora_bias:
            return
        homeless = [name for name in self._adapter.config.modules if f"{name}.bias" not in self._base.stored]
        if homeless:
            raise InputError(
                f"the adapter adds a bias to {homeless[0]}, which has none, so it cannot be merged",
                hint="Use it beside the base, with --adapter.",
            )
