"""The other side: transformers' Gemma 3 and PEFT's LoRA, in fp32 on the CPU.

The adapter is put on without this toolkit's exporter, so that a fault there shows on its own rung.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlx_medlora.errors import InputError
from mlx_medlora.lora.adapter import Adapter
from mlx_medlora.lora.peft_keys import module_there
from mlx_medlora.parity.inputs import Batch
from mlx_medlora.parity.results import Array

INSTALL = "pip install -c constraints.txt -e '.[parity]'"


def require() -> None:
    """Raise InputError saying what to install where torch or PEFT are absent."""
    import importlib.util

    absent = [name for name in ("torch", "peft") if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(
            f"parity needs {' and '.join(absent)}, which are not installed",
            hint=f"In this project's directory: {INSTALL}",
        )


_NARROW = 512


@contextmanager
def threads(width: int) -> Iterator[None]:
    """One thread for torch meanwhile for a narrow model, where more would only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if width <= _NARROW else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load(directory: Path, *, text_only: bool) -> Any:
    """Transformers' model of a checkpoint directory, in fp32, answering. Raises InputError if it cannot."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kind = transformers.Gemma3ForCausalLM if text_only else transformers.Gemma3ForConditionalGeneration
    try:
        model, told = kind.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"transformers cannot load it: {error}", path=directory) from error
    absent = sorted(told["missing_keys"]) if told["missing_keys"] else []
    if absent:
        raise InputError(f"transformers did not find {len(absent)} tensors ({absent[0]})", path=directory)
    model.generation_config.eos_token_id = None
    return model.eval()


@contextmanager
def attention(model: Any, kind: str) -> Iterator[None]:
    """Compute attention as `kind` ("eager" or "sdpa") meanwhile."""
    before = model.config._attn_implementation
    model.set_attn_implementation(kind)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def arguments(batch: Batch) -> dict[str, Any]:
    """A batch as torch tensors, without what the model does not take."""
    import torch

    return {name: torch.tensor(array) for name, array in batch.items() if name != "supervised"}


def logits(model: Any, batch: Batch) -> Array:
    """(B, L, V) logits."""
    import torch

    with torch.no_grad():
        return np.asarray(model(**arguments(batch)).logits.float().numpy())


def features(model: Any, pixels: Array) -> Array:
    """(N, T, D) image features after the projector."""
    import torch

    with torch.no_grad():
        found = model.get_image_features(torch.tensor(pixels))
    for name in ("pooler_output", "last_hidden_state"):
        if getattr(found, name, None) is not None:
            found = getattr(found, name)
            break
    return np.asarray(found.float().numpy())


def loss(model: Any, batch: Batch) -> Any:
    """Sum over the supervised tokens of -log p, as a tensor with its graph."""
    import torch

    found = model(**arguments(batch)).logits.float()[:, :-1]
    targets = torch.tensor(np.where(batch["supervised"], batch["input_ids"], -100))[:, 1:]
    return torch.nn.functional.cross_entropy(
        found.reshape(-1, found.shape[-1]), targets.reshape(-1), ignore_index=-100, reduction="sum"
    )


def with_adapter(model: Any, adapter: Adapter) -> Any:
    """PEFT's model over `model`, with the tensors of `adapter`, dropout 0, in training mode for gradients."""
    import peft

    layout = adapter.config
    there = {name: module_there(name, old_vision=False) for name in layout.modules}
    config = peft.LoraConfig(
        r=layout.rank,
        lora_alpha=layout.alpha,
        lora_dropout=0.0,
        target_modules=list(there.values()),
        rank_pattern={f"^{there[name]}": shape.rank for name, shape in layout.modules.items()},
        alpha_pattern={f"^{there[name]}": shape.alpha for name, shape in layout.modules.items()},
        use_rslora=layout.rslora,
        use_dora=layout.dora,
        modules_to_save=list(layout.save_modules) or None,
    )
    wrapped = peft.get_peft_model(model, config)
    found = matrices(wrapped, adapter)
    for name, parameter in found.items():
        parameter.data.copy_(_oriented(name, adapter.tensors[name]))
    return wrapped.eval()


def matrices(wrapped: Any, adapter: Adapter) -> dict[str, Any]:
    """PEFT's parameters by our tensor names. Raises InputError for parts that PEFT holds elsewhere."""
    layout, parameters = adapter.config, dict(wrapped.named_parameters())
    parts = {"lora_a": "lora_A.default.weight", "lora_b": "lora_B.default.weight"}
    parts |= {"magnitude": "lora_magnitude_vector.default.weight"}
    found = {}
    for name in adapter.tensors:
        module, _, part = name.rpartition(".")
        there = f"base_model.model.{module_there(module, old_vision=False)}"
        ending = parts.get(part, "modules_to_save.default.weight")
        key = f"{there}.{ending}"
        if key not in parameters:
            raise InputError(f"the ladder does not compare adapters with {part} ({name})")
        found[name] = parameters[key]
    assert len(found) >= 2 * len(layout.modules)
    return found


def _oriented(name: str, values: Array) -> Any:
    import torch

    return torch.tensor(np.ascontiguousarray(values.T if name.endswith((".lora_a", ".lora_b")) else values))


def gradients(wrapped: Any, adapter: Adapter, batch: Batch) -> dict[str, Array]:
    """The mean loss's gradient of every adapter tensor, in our names and orientation."""
    wrapped.zero_grad(set_to_none=True)
    (loss(wrapped, batch) / int(batch["supervised"][:, 1:].sum())).backward()
    return {name: own(name, parameter.grad) for name, parameter in matrices(wrapped, adapter).items()}


def own(name: str, tensor: Any) -> Array:
    """A torch tensor of an adapter in our orientation."""
    array = np.asarray(tensor.detach().float().numpy())
    return array.T if name.endswith((".lora_a", ".lora_b")) else array
