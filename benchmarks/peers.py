"""The peers as contestants, each run as its documentation says, at its best settings for these rows."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from reference import ADAPTER, LEARNING_RATE, TARGETS, WEIGHT_DECAY, read
from turns import Turn


class MlxVlm:
    """mlx-vlm's `Trainer` on prepared rows, its own clock for each step (data included).

    Rows are padded to no multiple, the loss is taken on completions, gradients are not checkpointed.
    """

    def __init__(self, directory: str, *, dropout: float = 0.0, compiled: bool = False) -> None:
        self.directory, self.dropout, self.compiled = Path(directory), dropout, compiled

    def load(self) -> None:
        """The weights alone, over the same BLAS as ours."""
        from mlx_medlora.backend import load_blas

        load_blas()
        import mlx.core as mx
        from mlx_vlm.utils import load_model

        self.model = load_model(self.directory)
        mx.eval(self.model.parameters())
        self.weights = mx.get_active_memory()

    def prepare(self) -> None:
        """LoRA on the same layers, and the rows as mlx-vlm's dataset would give them."""
        import mlx.core as mx
        from mlx_vlm.trainer import prepare_model_for_training

        prepare_model_for_training(
            self.model,
            lora_rank=ADAPTER["rank"],
            lora_alpha=ADAPTER["alpha"],
            lora_dropout=self.dropout,
            target_modules=list(TARGETS),
            verbose=False,
        )
        given = read(self.directory)
        self.rows = [
            {
                "input_ids": mx.array(ids),
                "attention_mask": mx.ones(ids.shape, mx.int32),
                "completion_mask": mx.array(supervised),
                "pixel_values": mx.array(pixels),
            }
            for ids, supervised, pixels in zip(given.ids, given.supervised, given.pixels, strict=True)
        ]
        self.scratch = tempfile.TemporaryDirectory()

    def turn(self, steps: int) -> Turn:
        """Train `steps` times."""
        import mlx.core as mx
        import mlx.optimizers as optim
        from mlx_vlm.trainer import Trainer, VLMTrainingArgs

        mx.reset_peak_memory()
        settings = VLMTrainingArgs(
            batch_size=len(self.rows),
            iters=steps,
            steps_per_report=1,
            steps_per_save=steps + 1,
            pad_to_multiple=1,
            train_on_completions=True,
            compile=self.compiled,
            adapter_file=str(Path(self.scratch.name) / "adapters.safetensors"),
        )
        trainer = Trainer(
            self.model,
            settings,
            optimizer=optim.AdamW(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY),
            train_dataset=self.rows,
            prepared=True,
        )
        trainer.train()
        log = trainer.log_history
        seconds = [one["step_time"] + one["data_time_per_step"] for one in log]
        return Turn(seconds, log[-1]["train_loss"], mx.get_peak_memory() - self.weights)


class Peft:
    """transformers + PEFT on torch with sdpa attention, labels on the supervised tokens alone.

    With `kept` the head runs at the row's end only (`logits_to_keep`), which a person who reads the model's
    signature can do where every answer ends its row; transformers' own trainer does not. In bf16 the step
    runs under autocast, as that trainer's `bf16=True` does: PEFT keeps the adapter in fp32.
    """

    def __init__(
        self,
        directory: str,
        *,
        dropout: float = 0.0,
        kept: bool = False,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        self.directory, self.dropout, self.kept = Path(directory), dropout, kept
        self.dtype, self.device = dtype, device

    def load(self) -> None:
        """The weights alone, each touched, since they are mapped from the file."""
        import torch
        import transformers

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        transformers.logging.set_verbosity_error()
        self.model = transformers.Gemma3ForConditionalGeneration.from_pretrained(
            self.directory, dtype=getattr(torch, self.dtype), attn_implementation="sdpa"
        ).to(self.device)
        with torch.no_grad():
            for parameter in self.model.parameters():
                float(parameter.sum())
        self.weights = self._allocated()

    def prepare(self) -> None:
        """LoRA on the same layers, torch's AdamW, and the batch."""
        import numpy as np
        import peft
        import torch

        given = read(self.directory)
        names = "|".join(TARGETS)
        settings = peft.LoraConfig(
            r=int(ADAPTER["rank"]),
            lora_alpha=ADAPTER["alpha"],
            lora_dropout=self.dropout,
            target_modules=rf".*language_model.*\.({names})",
        )
        self.adapted: Any = peft.get_peft_model(self.model, settings).train()
        self.trained = [parameter for parameter in self.adapted.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        kept = int(given.supervised[0].sum()) + 1 if self.kept else given.ids.shape[1]
        labels = np.where(given.supervised, given.ids, -100)[:, -kept:]
        image = self.model.config.image_token_id
        tensors = {
            "input_ids": torch.tensor(given.ids),
            "attention_mask": torch.ones(given.ids.shape, dtype=torch.int64),
            "token_type_ids": torch.tensor((given.ids == image).astype(np.int64)),
            "pixel_values": torch.tensor(given.pixels, dtype=getattr(torch, self.dtype)),
            "labels": torch.tensor(labels),
        }
        self.batch: dict[str, Any] = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        self.batch |= {"logits_to_keep": kept if self.kept else 0, "use_cache": False}

    def turn(self, steps: int) -> Turn:
        """Train `steps` times."""
        import torch

        on_gpu = self.device != "cpu"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds, loss = [], 0.0
        for _ in range(steps):
            start = perf_counter()
            loss = self._step()
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() - self.weights if on_gpu else None
        return Turn(seconds, loss, peak)

    def _step(self) -> float:
        import torch

        with torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            found = self.adapted(**self.batch).loss
        found.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(found.detach())

    def _allocated(self) -> int:
        import torch

        return 0 if self.device == "cpu" else int(torch.cuda.memory_allocated())
