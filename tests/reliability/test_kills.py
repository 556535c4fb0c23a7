"""Commands that are killed: their target is absent or complete, their source is as it was."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path

import pytest
from killable import ROOT, Ended, Forked, contents

REFERENCE = ROOT / "adapters" / "reference"
INSTANTS = 3  # that a clock gives
BOUNDARIES = 6  # renames and flushes that are chosen among all but the last
KILLED = -9


@pytest.fixture(scope="module")
def table(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV table of the small dataset's cases beside a folder of its images."""
    root = tmp_path_factory.mktemp("table")
    shutil.copytree(small / "images", root / "scans")
    cases = [json.loads(line) for line in (small / "train.jsonl").read_text().splitlines()]
    with (root / "cases.csv").open("w", newline="") as stream:
        names = ["id", "modality", "image", "age", "gender", "finding", "treatment", "label"]
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        for case in cases:
            row = dict.fromkeys(names, "50") | {"id": case["id"], "image": case["image_file"]}
            row |= {
                "modality": case["metadata"]["modality"],
                "gender": "F",
                "label": case["output"].split()[0],
            }
            writer.writerow(row)
    return root


@pytest.fixture
def sources(table: Path, small: Path, tmp_path: Path) -> Path:
    """Everything that commands read: a model, adapters in both formats, a dataset and a table."""
    root = tmp_path / "sources"
    shutil.copytree(ROOT / "mlx_medlora" / "assets" / "tiny-medgemma", root / "tiny-medgemma")
    shutil.copytree(REFERENCE, root / "adapter")
    shutil.copytree(ROOT / "adapters" / "reference-peft", root / "peft")
    shutil.copytree(table, root / "table")
    shutil.copytree(small, root / "data")
    return root


COMMANDS = {
    "convert": ("convert", "S/tiny-medgemma", "OUT", "--bits", "4"),
    "prepare": ("prepare", "S/table/cases.csv", "--images", "S/table/scans", "--output", "OUT"),
    "fuse": ("fuse", "--model", "S/tiny-medgemma", "--adapter", "S/adapter", "--output", "OUT"),
    "export": ("export", "S/adapter", "OUT"),
    "import": ("import", "S/peft", "OUT", "--model", "S/tiny-medgemma"),
    "eval": (*("eval", "--model", "S/tiny-medgemma", "--data", "S/data", "--no-features"), "--output", "OUT"),
}


def line(command: str, sources: Path, output: Path) -> list[str]:
    parts = [part.replace("OUT", str(output)) for part in COMMANDS[command]]
    return [str(sources / part[2:]) if part.startswith("S/") else part for part in parts]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_leaves_all_or_nothing(
    command: str, forked: Forked, sources: Path, tmp_path: Path
) -> None:
    """Killed just before and just after renames and flushes, the last ones always, and at other instants."""
    before = contents(sources)
    whole = forked(*line(command, sources, tmp_path / "whole"))
    assert whole.status == 0, whole.said
    expected, place = contents(tmp_path / "whole"), tmp_path / "place"
    place.mkdir()
    output = place / "out"
    chance = random.Random(command)
    last = range(max(1, whole.instants - 5), whole.instants + 1)  # around the flush, the rename and its flush
    some = chance.sample(range(1, last[0]), min(BOUNDARIES, last[0] - 1))
    deaths: list[dict[str, float]] = [{"die_at": number} for number in (*some, *last)]
    deaths += [{"after": chance.uniform(0, whole.seconds)} for _ in range(INSTANTS)]
    killed = completed = 0
    for death in deaths:
        ended: Ended = forked(*line(command, sources, output), **death)
        assert ended.status == KILLED or "after" in death, ended.said
        killed += ended.status == KILLED
        if output.exists():
            completed += 1
            assert contents(output) == expected
            shutil.rmtree(output)
        left = [path.name for path in place.iterdir()]
        assert len(left) <= 1, "what the kill before left is cleared"
        assert all(name.startswith(".out.") and name.endswith(".partial") for name in left)
        assert contents(sources) == before
    assert killed >= len(some) + len(last)
    assert completed >= 3, "killed between the rename and the end: before and after its flush"
    again = forked(*line(command, sources, output))
    assert again.status == 0, again.said
    assert [path.name for path in place.iterdir()] == ["out"]
    assert contents(output) == expected


def test_a_killed_report_leaves_the_old_page_or_the_new_one(
    forked: Forked, sources: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert forked(*line("eval", sources, run), "--no-report").status == 0
    page, before = run / "report.html", contents(run)
    whole = forked("report", run)
    assert whole.status == 0, whole.said
    expected, seen = page.read_bytes(), set()
    for number in range(1, whole.instants + 1):
        page.write_text("the old one")
        assert forked("report", run, die_at=number).status == KILLED
        seen.add(page.read_bytes())
        left = {name: digest for name, digest in contents(run).items() if not name.endswith(".partial")}
        assert {name: left[name] for name in before} == before
        assert set(left) - set(before) == {"report.html"}
    assert seen == {b"the old one", expected}
    assert forked("report", run).status == 0
    assert not list(run.glob(".*.partial")), "what the kills left is cleared"


def test_a_killed_demo_leaves_nothing_under_its_name(forked: Forked, tmp_path: Path) -> None:
    for seconds in (0.5, 2.0, 4.0):
        assert forked("demo", "--output", tmp_path / "out", after=seconds).status == KILLED
        left = [path.name for path in tmp_path.iterdir()]
        assert len(left) <= 1
        assert all(name.startswith(".out.") for name in left)


class Training:
    """Trains on the sources, resuming what is begun."""

    def __init__(self, forked: Forked, sources: Path) -> None:
        self.forked = forked
        options = ["--epochs", "2", "--batch-size", "4", "--rank", "2", "--checkpoint-every", "0"]
        model = ["--model", sources / "tiny-medgemma", "--data", sources / "data", "--no-features"]
        self.arguments = ["train", *model, *options]

    def __call__(self, output: Path, **death: int) -> Ended:
        checkpoints = (output.parent / f".{output.name}.run" / "checkpoints").glob("*step-*[1-9]*")
        resume = ["--resume"] if any(path.suffix != ".partial" for path in checkpoints) else []
        return self.forked(*self.arguments, "--output", output, *resume, **death)


def adapter_of(output: Path) -> dict[str, str]:
    """What equal runs have in common; their seconds are in two files."""
    found = contents(output)
    return {name: digest for name, digest in found.items() if name not in ("timings.jsonl", "run.json")}


def test_a_training_killed_at_renames_and_flushes_goes_on(
    forked: Forked, sources: Path, tmp_path: Path
) -> None:
    """Again and again, a little further each time; then at the last renames of a run."""
    train, before = Training(forked, sources), contents(sources)
    whole = train(tmp_path / "whole")
    assert whole.status == 0, whole.said
    expected, chance, kills = adapter_of(tmp_path / "whole"), random.Random(3), 0
    while not (tmp_path / "out").exists():
        ended = train(tmp_path / "out", die_at=int(whole.instants * chance.uniform(0.1, 0.4)))
        assert ended.status in (0, KILLED), ended.said
        kills += ended.status == KILLED
    assert kills >= 3
    assert adapter_of(tmp_path / "out") == expected
    for back in (3, 1, 0):  # before the last rename, after it, after its flush
        output = tmp_path / f"out-{back}"
        assert train(output, die_at=whole.instants - back).status == KILLED
        assert output.exists() == (back < 3)
        if back == 3:
            assert train(output).status == 0
        assert adapter_of(output) == expected
    assert contents(sources) == before
