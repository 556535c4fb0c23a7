"""The demo's directory is complete or absent."""

from pathlib import Path
from typing import Any

import pytest

from mlx_medlora import demo
from mlx_medlora.demo import run_demo
from mlx_medlora.errors import InputError, Interrupted, NoSpace


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo of seconds."""
    for name, value in {"CASES": 32, "TEST": 8, "VALIDATION": 8, "EPOCHS": 1}.items():
        monkeypatch.setattr(demo, name, value)


@pytest.mark.usefixtures("small")
def test_a_finished_demo_is_all_there(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "out", say=lambda text: None)
    assert result.output == str(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter",
        "base",
        "dataset",
        "model",
        "tuned",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    page = (tmp_path / "out" / "tuned" / "report.html").read_text()
    for wanted in ("toy", "Compared with other runs", "Training curves", "data:image/webp"):
        assert wanted in page


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (NoSpace("no room for .out.partial/adapter"), NoSpace, r"for .*out; nothing was kept"),
        (Interrupted("the adapter is in .out.partial/adapter"), KeyboardInterrupt, "^$"),
        (RuntimeError("broken"), RuntimeError, "broken"),
    ],
)
def test_a_demo_that_breaks_off_leaves_nothing(
    raised: Exception,
    expected: type[BaseException],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(demo, "run_training", fail)
    with pytest.raises(expected, match=message):
        run_demo(tmp_path / "out", say=lambda text: None)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_in_it_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        run_demo(tmp_path, say=lambda text: None)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
