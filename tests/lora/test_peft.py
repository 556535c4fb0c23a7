"""Adapters made by PEFT itself, and ours read by PEFT, on a small random model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import Gemma3ForConditionalGeneration

from mlx_medlora.errors import InputError
from mlx_medlora.gemma.fingerprint import fingerprint
from mlx_medlora.lora.adapter import BaseModelId, save_adapter
from mlx_medlora.lora.exchange import export_adapter, import_adapter
from mlx_medlora.lora.layers import attach, bind
from mlx_medlora.lora.layout import Layout
from mlx_medlora.lora.load import load_model
from mlx_medlora.lora.settings import LoraSettings

IMAGE = 4095  # stands for the image's soft tokens in IDS
TEXT_QVO = r".*language_model.*\.(q_proj|v_proj|o_proj)"
KINDS: dict[str, dict[str, Any]] = {
    "regex": {"target_modules": TEXT_QVO},
    "list": {"target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"target_modules": "all-linear"},
    "rslora": {"target_modules": TEXT_QVO, "use_rslora": True},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "patterns": {
        "target_modules": TEXT_QVO,
        "rank_pattern": {r"layers\.0\.self_attn\.q_proj": 6, "v_proj": 2},
        "alpha_pattern": {r".*layers\.1\..*": 3},
    },
    "layers": {"target_modules": ["gate_proj", "k_proj"], "layers_to_transform": [1, 3]},
    "excluded": {"target_modules": ["q_proj"], "exclude_modules": r".*vision_tower.*"},
    "biases": {"target_modules": ["fc1", "q_proj"], "bias": "all"},
    "bias on the update": {"target_modules": TEXT_QVO, "lora_bias": True},
    "saved": {"target_modules": "all-linear", "modules_to_save": ["lm_head", "embed_tokens"]},
    "saved embedding": {"target_modules": TEXT_QVO, "modules_to_save": ["embed_tokens"]},
    "saved head": {"target_modules": TEXT_QVO, "modules_to_save": ["lm_head"]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_medgemma: Path) -> Path:
    """A narrow random checkpoint in the hub's form, fp32."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tiny_medgemma)
    text, vision = config.text_config, config.vision_config
    text.num_hidden_layers, text.hidden_size, text.intermediate_size = 4, 32, 48
    text.layer_types = ["sliding_attention", "full_attention"] * 2
    text.vocab_size = 2048
    vision.num_hidden_layers, vision.hidden_size, vision.intermediate_size = 2, 32, 48
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config).float()
    directory = tmp_path_factory.mktemp("base") / "tiny"
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def inputs(base: Path) -> dict[str, np.ndarray]:
    config = json.loads((base / "config.json").read_text())
    image, soft = config.get("image_token_index", config.get("image_token_id")), config["mm_tokens_per_image"]
    side = config["vision_config"]["image_size"]
    ids = np.array([[2, 17, *[image] * soft, 30, 5, 44, 9]], np.int64)
    pixels = np.random.default_rng(1).normal(size=(1, 3, side, side)).astype(np.float32)
    return {"input_ids": ids, "pixel_values": pixels, "token_type_ids": (ids == image).astype(np.int64)}


def theirs(model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        out = model.eval()(**{name: torch.tensor(array) for name, array in inputs.items()}).logits
    return out.float().numpy()


def ours(base: Path, adapter: Path | None, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return np.array(load_model(base, adapter)(**{name: mx.array(array) for name, array in inputs.items()}))


def in_peft(base: Path, adapter: Path) -> PeftModel:
    return PeftModel.from_pretrained(Gemma3ForConditionalGeneration.from_pretrained(base), adapter)


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def train_in_peft(base: Path, inputs: dict[str, np.ndarray], fields: dict[str, Any]) -> PeftModel:
    torch.manual_seed(1)
    given = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"} | fields
    model = get_peft_model(Gemma3ForConditionalGeneration.from_pretrained(base), LoraConfig(**given))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    batch = {name: torch.tensor(array) for name, array in inputs.items()}
    model.train()
    for _ in range(3):
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest,
    base: Path,
    inputs: dict[str, np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, np.ndarray]:
    """A PEFT adapter of each kind after three steps, and PEFT's logits with it."""
    model = train_in_peft(base, inputs, KINDS[request.param])
    directory = tmp_path_factory.mktemp("peft")
    model.save_pretrained(directory)
    again = in_peft(base, directory)
    return directory, theirs(again, inputs)


def test_what_peft_trained_answers_here(
    base: Path, trained: tuple[Path, np.ndarray], inputs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    directory, logits = trained
    assert distance(ours(base, directory, inputs), logits) < 1e-5
    assert distance(ours(base, None, inputs), logits) > 1e-3
    done = import_adapter(directory, tmp_path / "ours")
    assert done.from_format == "PEFT"
    assert done.layers > 0
    assert distance(ours(base, tmp_path / "ours", inputs), logits) < 1e-5


@pytest.mark.parametrize("before", [False, True])
def test_bits_survive_the_round_trip(
    base: Path, trained: tuple[Path, np.ndarray], tmp_path: Path, before: bool
) -> None:
    directory, _ = trained
    import_adapter(directory, tmp_path / "a", str(base))
    export_adapter(tmp_path / "a", tmp_path / "peft", before_4_52=before)
    import_adapter(tmp_path / "peft", tmp_path / "b", str(base))
    first, second = (load_file(tmp_path / name / "adapters.safetensors") for name in "ab")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_what_came_through_here_answers_in_peft(
    base: Path, trained: tuple[Path, np.ndarray], inputs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    directory, logits = trained
    import_adapter(directory, tmp_path / "ours", str(base))
    export_adapter(tmp_path / "ours", tmp_path / "peft")
    model = in_peft(base, tmp_path / "peft")
    assert distance(theirs(model, inputs), logits) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        LoraSettings(),
        LoraSettings(rank=3, alpha=7.5, rslora=True, vision=True),
        LoraSettings(rank=2, dora=True, target=("all-linear",)),
        LoraSettings(rank=2, target=("down_proj",), save_modules=("embed_tokens", "lm_head")),
    ],
    ids=["card", "rslora", "dora", "saved"],
)
def test_what_was_trained_here_answers_in_peft(
    base: Path, settings: LoraSettings, inputs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    model = load_model(base)
    attach(model, settings)
    for index, (name, array) in enumerate(tree_flatten(model.trainable_parameters())):
        noise = mx.random.normal(array.shape, key=mx.random.key(index)) * 0.05
        model.load_weights([(name, array + noise)], strict=False)
    (tmp_path / "ours").mkdir()
    save_adapter(tmp_path / "ours", model, settings, BaseModelId(id=base.name, fingerprint=fingerprint(base)))
    mine = ours(base, tmp_path / "ours", inputs)
    assert distance(mine, ours(base, None, inputs)) > 1e-3
    export_adapter(tmp_path / "ours", tmp_path / "peft")
    loaded = in_peft(base, tmp_path / "peft")
    assert distance(theirs(loaded, inputs), mine) < 1e-5
    card = (tmp_path / "peft" / "README.md").read_text()
    assert "Not a medical device" in card
    assert "Health AI Developer Foundations" in card


def test_the_adapters_of_three_transformers_generations(shared: Path) -> None:
    for directory in sorted((shared / "peft-adapters").glob("transformers-*")):
        reference: Any = mx.load(str(directory / "reference.safetensors"))
        model = load_model(shared / "peft-adapters" / "base", directory)
        logits = model(
            reference["input_ids"], reference["pixel_values"], token_type_ids=reference["token_type_ids"]
        )
        assert distance(np.array(logits), np.array(reference["logits"])) < 1e-5, directory.name
        assert distance(np.array(reference["base_logits"]), np.array(reference["logits"])) > 1e-2


@pytest.fixture(scope="module")
def plain(base: Path, inputs: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plain") / "adapter"
    train_in_peft(base, inputs, KINDS["regex"]).save_pretrained(directory)
    return directory


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "copy"))


def settings_of(**changes: Any) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def tensors_of(edit: Callable[[dict[str, np.ndarray], str], None]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        path = directory / "adapter_model.safetensors"
        tensors = load_file(path)
        edit(tensors, sorted(tensors)[0])
        save_file(tensors, path)

    return apply


def del_key(tensors: dict[str, np.ndarray], name: str) -> None:
    del tensors[name]


def cut(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def only_pickle(directory: Path) -> None:
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")


def link_away(directory: Path) -> None:
    away = directory.parent / "away.safetensors"
    (directory / "adapter_model.safetensors").rename(away)
    (directory / "adapter_model.safetensors").symlink_to(away)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "rank": (settings_of(r=5), "of another rank than adapter_config.json says"),
    "more targets": (
        settings_of(target_modules=["q_proj", "v_proj", "o_proj"]),
        "missing, though target_modules names the layer",
    ),
    "fewer targets": (
        settings_of(target_modules=r".*language_model.*\.q_proj"),
        "of a layer that target_modules does not name",
    ),
    "no targets": (settings_of(target_modules=["c_attn"]), "of a layer that target_modules does not name"),
    "kind": (settings_of(peft_type="IA3"), "peft_type is 'IA3'"),
    "replication": (settings_of(layer_replication=[[0, 2]]), r"layer_replication = \[\[0, 2\]\]"),
    "unknown": (settings_of(use_something_new=True), "use_something_new = True"),
    "start values": (settings_of(init_lora_weights="pissa"), "it changes the base's own weights"),
    "transposed": (settings_of(fan_in_fan_out=True), "fan_in_fan_out = True"),
    "saved": (settings_of(modules_to_save=["norm"]), r"modules_to_save = \['norm'\]"),
    "pattern": (settings_of(target_modules="("), "not a regular expression"),
    "bias": (settings_of(use_dora=True), "missing: .*magnitude"),
    "missing": (tensors_of(lambda t, name: del_key(t, name)), "missing"),
    "extra": (
        tensors_of(lambda t, name: t.update({"base_model.model.x.lora_A.weight": t[name]})),
        "no layer",
    ),
    "shape": (tensors_of(lambda t, name: t.update({name: t[name][:, :3].copy()})), "of the wrong shape"),
    "nan": (tensors_of(lambda t, name: t.update({name: t[name] * np.nan})), "NaN or infinity"),
    "cut": (cut, "damaged or cut off"),
    "pickle": (only_pickle, "is a pickle"),
    "link": (link_away, "link out of the adapter's directory"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_wrong_adapters_are_refused(base: Path, copy: Path, tmp_path: Path, fault: str) -> None:
    spoil, message = REFUSED[fault]
    spoil(copy)
    with pytest.raises(InputError, match=message):
        import_adapter(copy, tmp_path / "ours", str(base))
    assert not (tmp_path / "ours").exists()


def test_another_base_is_refused(copy: Path, tiny_medgemma: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit"):
        import_adapter(copy, tmp_path / "ours", str(tiny_medgemma))


def test_a_base_that_is_not_to_be_had_is_asked_for(copy: Path, tmp_path: Path) -> None:
    settings_of(base_model_name_or_path="/content/gone")(copy)
    with pytest.raises(InputError, match="'/content/gone' is not to be had") as caught:
        import_adapter(copy, tmp_path / "ours")
    assert "--model" in (caught.value.hint or "")


def test_a_layout_with_gaps_keeps_its_gaps(base: Path, inputs: dict[str, np.ndarray], tmp_path: Path) -> None:
    names = [f"language_model.model.layers.{index}.self_attn.q_proj" for index in (0, 2)]
    layout = Layout.model_validate(
        {"rank": 2, "target": ["q_proj"], "modules": {n: {"rank": 2, "alpha": 3} for n in names}}
    )
    model = load_model(base)
    bind(model, layout)
    (tmp_path / "ours").mkdir()
    save_adapter(tmp_path / "ours", model, layout, BaseModelId(id="tiny", fingerprint=None))
    export_adapter(tmp_path / "ours", tmp_path / "peft")
    loaded = in_peft(base, tmp_path / "peft")
    assert sum(name.endswith("lora_A.default") for name, _ in loaded.named_modules()) == 2
