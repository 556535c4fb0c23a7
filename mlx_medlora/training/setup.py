"""Everything that has to be there, and right, before the first update."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.source import DataSource, read_source
from mlx_medlora.device import usable_memory
from mlx_medlora.errors import InputError
from mlx_medlora.gemma import names
from mlx_medlora.gemma.config import ModelConfig, read_config
from mlx_medlora.gemma.fingerprint import fingerprint, source_fingerprint, source_name
from mlx_medlora.gemma.hub import EMBEDDED, Source, locate
from mlx_medlora.gemma.load import load_base
from mlx_medlora.gemma.manifest import trained_on
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder, load_processor
from mlx_medlora.lora.adapter import BaseModelId
from mlx_medlora.lora.layers import attach
from mlx_medlora.marks import unique
from mlx_medlora.training.buckets import costliest
from mlx_medlora.training.examples import Example, build_examples
from mlx_medlora.training.memory import predict_memory
from mlx_medlora.training.replay import Replay, read_replay
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.shapes import adapter_shape, row_shapes


@dataclass(frozen=True)
class Setup:
    """A model with a fresh adapter, and the examples to train and validate it on; `val` may be empty.

    `source` is the mark of where the data comes from, `others` are those of the base and of replayed rows;
    `replay` says which general rows end `train`, if any.
    """

    model: Base
    encoder: Encoder
    dataset: Dataset
    train: list[Example]
    val: list[Example]
    base: BaseModelId
    modules: list[str]
    source: DataSource | None = None
    replay: Replay | None = None
    others: tuple[DataSource, ...] = ()

    @property
    def trains_vision(self) -> bool:
        """True where the adapter reaches into SigLIP's tower."""
        return any(name.startswith(names.TOWER) for name in self.modules)


def set_up(
    model: str | Path, data: str | Path, settings: TrainSettings, dtype: mx.Dtype | None = None
) -> Setup:
    """Check data and model, load the base and attach a fresh adapter, cheap checks first.

    Raises InputError for what is wrong with the dataset, a row (with its file and line), the model or the
    settings.
    """
    dataset = Dataset.open(data)
    dataset.refuse_shared_ids()
    mark = dataset.source()
    splits = {split: dataset.cases(split) for split in ("train", "val") if split in dataset.splits()}
    if "train" not in splits:
        raise InputError("the dataset has no training split (train.jsonl)", path=dataset.root)
    if settings.patience is not None and "val" not in splits:
        raise InputError(
            "patience needs a validation split (val.jsonl)",
            path=dataset.root,
            hint="Leave --patience out, or prepare the dataset with a validation split.",
        )
    replay = read_replay(settings, len(splits["train"]))
    source = locate(model)
    config = read_config(source.directory)
    encoder = Encoder(load_processor(source.directory), config)
    examples = {
        split: build_examples(
            cases,
            dataset,
            encoder,
            config,
            settings.max_length,
            supervise=settings.supervise,
            double_bos=settings.double_bos,
        )
        for split, cases in splits.items()
    }
    if replay is not None:
        examples["train"] += replay.examples(encoder, config, settings)
    _refuse_changing_prefix(settings, config)
    replayed = None if replay is None else read_source(replay.path.absolute().parent)
    others = unique([*trained_on(source.directory), *([] if replayed is None else [replayed])])
    network = load_base(source.directory, dtype)
    modules = attach(network, settings, seed=settings.seed)
    base = base_id(source, config)
    train, val = examples["train"], examples.get("val", [])
    return Setup(network, encoder, dataset, train, val, base, modules, mark, replay, others)


def _refuse_changing_prefix(settings: TrainSettings, config: ModelConfig) -> None:
    """Raise InputError where hidden states that training changes are to be kept, or there are none."""
    first = settings.first_layer(config.text.num_hidden_layers)
    if not settings.prefix_cache:
        return
    if first == 0:
        raise InputError(
            f"--prefix-cache keeps what frozen layers give, and --layers {settings.layers} leaves none",
            hint=f"Give --layers last:K with K below {config.text.num_hidden_layers}.",
        )
    if settings.adapts_vision or "embed_tokens" in settings.save_modules:
        raise InputError(
            "--prefix-cache needs a frozen vision tower and embedding, and these settings train one of them",
            hint="Leave out --prefix-cache, or --vision, all-linear and embed_tokens.",
        )


def recomputes(setup: Setup, settings: TrainSettings, shards: int = 1) -> bool:
    """Whether layers are computed a second time for the backward pass; `auto`: where a step would not fit.

    One of `shards` of a batch is computed at a time.
    """
    if settings.grad_checkpoint != "auto":
        return settings.grad_checkpoint == "on"
    config = setup.model.config.model_copy(update={"dtype": str(setup.model.dtype).removeprefix("mlx.core.")})
    step = costliest(row_shapes(setup.train), settings.batch_size, shards)
    shape = adapter_shape(config, settings)
    return predict_memory(config, shape, settings, step, checkpointing=False).step_peak > usable_memory()


def base_id(source: Source, config: ModelConfig) -> BaseModelId:
    """What the adapter says of its base: the hub's id, or a directory's own name without its place.

    A converted model is called by what it was converted from: so an exported adapter names the hub's model.
    """
    published = source.revision is not None or source.name == EMBEDDED
    own = source.name if published else source.directory.resolve().name
    name = source_name(source.directory) or own
    return BaseModelId(
        id=name,
        fingerprint=fingerprint(source.directory, config),
        source=source_fingerprint(source.directory),
    )
