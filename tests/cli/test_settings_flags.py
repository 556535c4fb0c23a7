from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field

from mlx_medlora.cli import train as train_command
from mlx_medlora.cli.settings_flags import collect, flags_from
from mlx_medlora.errors import InputError
from mlx_medlora.settings import StrictModel
from mlx_medlora.training.settings import TrainSettings


class Recipe(StrictModel):
    lr: float = Field(2e-4, gt=0, description="Rate.")
    schedule: Literal["linear", "cosine"] = Field("linear", description="Shape.")
    patience: int | None = Field(None, description="Stop early.")
    early: bool = Field(False, description="Stop.")
    rank: int = Field(16, gt=0, description="Width.")
    target: tuple[str, ...] = Field(("q", "v"), description="Layers.")


def command(seen: dict[str, Any]) -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @flags_from(Recipe)
    def do(data: Annotated[str, typer.Option()], json: bool = False, **flags: Any) -> None:
        """Do it."""
        seen.update(flags, data=data, json=json)

    return app


def test_every_field_becomes_a_flag_with_its_help_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert command({})(["--help"], standalone_mode=False) == 0
    lines = " ".join(capsys.readouterr().out.split())
    for shown in (
        "--lr <float> Rate. [default: 0.0002]",
        "--schedule <linear|cosine> Shape. [default: linear]",
        "--patience <int> Stop early. --",
        "--early / --no-early Stop. [default: False]",
        "--rank <int> Width. [default: 16]",
        "--target <str> Layers. (separated by commas) [default: q,v]",
    ):
        assert shown in lines


def test_what_is_not_given_is_none() -> None:
    seen: dict[str, Any] = {}
    command(seen)(["--data", "d", "--rank", "3", "--no-early"], standalone_mode=False)
    assert seen.pop("data") == "d"
    assert seen.pop("json") is False
    assert set(seen) == set(Recipe.model_fields)
    assert {name: value for name, value in seen.items() if value is not None} == {"rank": 3, "early": False}


def test_a_field_that_no_flag_can_hold_is_refused_at_once() -> None:
    class Odd(StrictModel):
        table: dict[str, int] = Field(default={})

    with pytest.raises(TypeError, match="no flag can be made from"):
        flags_from(Odd)(lambda json: None)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lr: 0.01\nrank: 8\n")
    found = collect(Recipe, {"rank": 4, "lr": None, "early": True}, recipe)
    assert found == Recipe(lr=0.01, early=True, rank=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 0.1\nwings: 2\n", "unknown option 'wings'"),
        ("rank: 0\n", "rank: Input should be greater than 0 (got 0)"),
        ("lr: fast\n", "lr: Input should be a valid number"),
        ("- lr\n", "expected a mapping"),
        ("lr: [\n", "not valid YAML"),
        ("lr: 1\nlr: 2\n", "'lr' is given twice"),
    ],
)
def test_a_faulty_file_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(InputError, match=r"recipe\.yaml") as caught:
        collect(Recipe, {"rank": 4}, recipe)  # a flag does not hide the file's fault
    assert message in str(caught.value)


def test_a_flag_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"rank: .*greater than 0 .*got -3"):
        collect(Recipe, {"rank": -3})


OTHER = {
    "rank": 3,
    "alpha": 5.5,
    "dropout": 0.25,
    "target": ("k_proj", "gate_proj"),
    "rslora": True,
    "epochs": 7,
    "batch_size": 2,
    "accumulate": 6,
    "lr": 0.003,
    "schedule": "cosine",
    "warmup": 0.2,
    "vision": True,
    "supervise": "row",
    "double_bos": True,
    "dora": True,
    "save_modules": ("lm_head",),
    "weight_decay": 0.4,
    "clip": 0.7,
    "patience": 9,
    "shards": 2,
    "max_length": 333,
    "seed": 11,
    "replay": "general.jsonl",
    "replay_share": 0.35,
    "checkpoint_every": 2.5,
    "keep": 5,
    "layers": "last:3",
    "grad_checkpoint": "off",
    "prefix_cache": True,
}


def as_flag(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if value is True:
        return [option]
    return [option, ",".join(value) if isinstance(value, tuple) else str(value)]


def test_each_train_flag_and_each_yaml_key_reaches_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert set(OTHER) == set(TrainSettings.model_fields)
    defaults = TrainSettings()
    seen: list[TrainSettings] = []
    monkeypatch.setattr(train_command, "start", lambda settings, *_: seen.append(settings))
    app = typer.Typer()
    train_command.add_to(app)
    place = ["--model", "m", "--data", "d", "--output", str(tmp_path / "out")]
    for name, value in OTHER.items():
        assert value != getattr(defaults, name)
        needed = {"replay": OTHER["replay"]} if name == "replay_share" else {}  # refused without it
        own = [*place, *(part for other in needed.items() for part in as_flag(*other))]
        app([*own, *as_flag(name, value)], standalone_mode=False)
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(f"{name}: {list(value) if isinstance(value, tuple) else value}\n")
        app([*own, "--config", str(recipe)], standalone_mode=False)
        assert seen[-2:] == [TrainSettings(**(needed | {name: value}))] * 2
