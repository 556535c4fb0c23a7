"""The whole path on the embedded model: cases, conversion, base scored, LoRA trained, tuned scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import RenderableType
from rich.panel import Panel

from mlx_medlora.atomic import atomic_directory
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.prepare import prepare_phantoms
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import Interrupted, NoSpace
from mlx_medlora.evaluation.adapters import DIGEST, MARKS, digest
from mlx_medlora.evaluation.comparing import compare
from mlx_medlora.evaluation.results import Scorecard
from mlx_medlora.evaluation.runner import Evaluation, answer_case, evaluate, write_evaluation
from mlx_medlora.evaluation.runs import read_run
from mlx_medlora.evaluation.tables import accuracy, scorecard_table
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.gemma.convert import convert
from mlx_medlora.gemma.hub import EMBEDDED
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.load import load
from mlx_medlora.report.page import PAGE, write_page
from mlx_medlora.report.sources import gather
from mlx_medlora.settings import StrictModel
from mlx_medlora.training.log import ProgressBar
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings

CASES = 800
TEST = 200  # held out: neither the base nor the adapter has seen these
VALIDATION = 40
SEED = 20
EPOCHS = 5
LEARNING_RATE = 2e-3  # ten times MedGemma's: the embedded model is a thousand times smaller
BATCH_SIZE = 16

TOY = "The embedded model is a toy on drawn images: this shows the path, not what MedGemma can do."

Say = Callable[[str], None]


class Example(StrictModel):
    """One held-out case with the right answer and what each model wrote."""

    id: str
    input: str
    right: str
    base: str
    tuned: str


class DemoResult(StrictModel):
    """What `demo` found, and where it wrote."""

    base: Scorecard
    tuned: Scorecard
    example: Example
    output: str
    seconds: float
    notice: str = TOY

    def renderables(self) -> list[RenderableType]:
        """The result for a terminal."""
        shown = self.example
        answers = f"right: {shown.right}\nbase:  {shown.base}\ntuned: {shown.tuned}"
        return [
            scorecard_table({"base": self.base, "tuned": self.tuned}),
            Panel(f"{shown.input}\n\n{answers}", title=f"one held-out case, {shown.id}", title_align="left"),
            f"{self.notice} {self.tuned.notice}",
            f"Held-out accuracy: {accuracy(self.base)} before, {accuracy(self.tuned)} tuned",
            f"Wrote {self.output} in {self.seconds:.0f} s; open {Path(self.output) / 'tuned' / PAGE}",
        ]


def run_demo(output: Path, *, say: Say = print) -> DemoResult:
    """Run the path offline and write dataset, model, adapter, both evaluations and a page under `output`.

    `say` is told each step; `output` is complete or absent. Raises InputError where it exists and is not an
    empty directory, NoSpace where the disk is full.
    """
    try:
        with atomic_directory(output) as work:
            found = _run(work, output, say)
    except NoSpace as error:  # it names a part of the directory that is gone
        raise NoSpace(f"no space left on the disk for {output}; nothing was kept", hint=error.hint) from error
    except Interrupted as error:  # the adapter it speaks of is gone with the rest
        raise KeyboardInterrupt from error
    tuned = read_run(output / "tuned")
    write_page(output / "tuned" / PAGE, gather(tuned, comparison=compare([read_run(output / "base"), tuned])))
    return found.model_copy(update={"output": str(output)})


def _run(output: Path, final: Path, say: Say) -> DemoResult:
    """The path, written into `output`, which becomes `final`."""
    start = perf_counter()
    data, model, adapter = output / "dataset", output / "model", output / "adapter"
    say(f"1/5  drawing {CASES} phantom cases")
    prepare_phantoms(CASES, data, seed=SEED, val=VALIDATION, test=TEST)
    say("2/5  converting the embedded model")
    convert(EMBEDDED, model, bits=None, dtype="float32")
    dataset = Dataset.open(data)
    say("3/5  scoring the base on held-out cases")
    base = _scored(model, None, dataset, output / "base", final)
    say("4/5  training LoRA on q, v and o of the text stack")
    with ProgressBar() as bar:
        in_memory = FeatureSettings(memory=True)  # the demo's images are used once
        run_training(model, data, adapter, settings(), features=in_memory, listeners=[bar])
    say("5/5  scoring the tuned model on the same cases")
    tuned = _scored(model, adapter, dataset, output / "tuned", final)
    return DemoResult(
        base=base.scorecard,
        tuned=tuned.scorecard,
        example=_example(dataset, base, tuned, model, adapter),
        output=str(output),
        seconds=round(perf_counter() - start, 1),
    )


def settings() -> TrainSettings:
    """The demo's recipe: the card's LoRA, with this toy's rate and batch."""
    return TrainSettings(epochs=EPOCHS, lr=LEARNING_RATE, batch_size=BATCH_SIZE, seed=SEED)


def _scored(model: Path, adapter: Path | None, dataset: Dataset, output: Path, final: Path) -> Evaluation:
    network, processor = load(str(model), adapter)
    found = evaluate(network, Encoder(processor, network.config), dataset, "test", batch_size=20)
    about: dict[str, Any] = {"model": EMBEDDED, "adapter": adapter and str(final / adapter.name)}
    about[MARKS] = []
    about[DIGEST] = None if adapter is None else digest(adapter)
    about |= {"data": str(final / dataset.root.name), "split": "test"}
    about["split_sha256"] = dataset.fingerprint("test")
    write_evaluation(output, found, {**about, "method": "score", "note": TOY})
    return found


def _example(dataset: Dataset, base: Evaluation, tuned: Evaluation, model: Path, adapter: Path) -> Example:
    """A case that training mended, where there is one."""
    mended = [
        after.correct and not before.correct
        for before, after in zip(base.predictions, tuned.predictions, strict=True)
    ]
    case = dataset.cases("test")[mended.index(True) if True in mended else 0]
    written = [_answer(model, chosen, dataset, case) for chosen in (None, adapter)]
    return Example(id=case.id, input=case.input, right=case.output, base=written[0], tuned=written[1])


def _answer(model: Path, adapter: Path | None, dataset: Dataset, case: Case) -> str:
    network, processor = load(str(model), adapter)
    return answer_case(network, Encoder(processor, network.config), dataset, case)
