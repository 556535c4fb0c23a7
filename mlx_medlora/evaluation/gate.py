"""Gates: what is demanded of the figures. The dataset card's by default, or a YAML file's.

gates:
  - {measure: accuracy, at_least: 0.90}
  - {measure: accuracy, at_least: 0.85, each: modality}
  - {measure: sensitivity, at_least: 0.99, only: {severity: critical}}
  - {measure: fpr, under: 0.05}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from mlx_medlora.errors import GateNotMet, InputError
from mlx_medlora.evaluation.intervals import Interval
from mlx_medlora.evaluation.meanings import CARD_KEYS, MEANINGS, RATES
from mlx_medlora.evaluation.results import GateReport, GateResult, Measure, Scorecard, Scores, Verdict
from mlx_medlora.evaluation.sample_size import cases_needed
from mlx_medlora.settings import StrictModel, validate_yaml

CARD = "dataset card"
TARGET = 0.90
WEIGHTED = "weighted_miss_rate"
NAMES = (*MEANINGS, *CARD_KEYS, WEIGHTED)
ERRORS_ONLY = ("error_type", "severity")  # fields that say nothing of valid treatments

Limit = Annotated[float, Field(ge=-1, le=1, strict=True)]  # YAML's `yes` is no limit


class Gate(StrictModel):
    """One demand: `measure` is at least, or under, a figure, of all cases, `each` group or `only` one."""

    measure: str
    at_least: Limit | None = None
    under: Limit | None = None
    each: str | None = None
    only: dict[str, str] | None = Field(default=None, min_length=1, max_length=1)

    @field_validator("measure")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in NAMES:
            raise ValueError(f"no such measure; there are {', '.join(NAMES)}")
        return value

    @model_validator(mode="after")
    def _one_of_each(self) -> Gate:
        if (self.at_least is None) == (self.under is None):
            raise ValueError("a gate takes one of at_least and under")
        if self.each is not None and self.only is not None:
            raise ValueError("a gate takes each or only, not both")
        if self.measure == WEIGHTED and self.field is not None:
            raise ValueError(f"{WEIGHTED} is of all cases")
        return self

    @property
    def field(self) -> str | None:
        """The field by which cases are grouped for it."""
        return next(iter(self.only)) if self.only else self.each

    @property
    def rule(self) -> str:
        """`at least 90 %`, `under 5 %`; `at least 0.8` of a figure that is no share."""
        words, limit = ("under", self.under or 0.0) if self.at_least is None else ("at least", self.at_least)
        return f"{words} {limit:g}" if self.measure in RATES else f"{words} {100 * limit:g} %"


class Gates(StrictModel):
    """A gates file."""

    gates: list[Gate] = Field(min_length=1)


def card_gates() -> list[Gate]:
    """The dataset card's thresholds."""
    return [
        Gate(measure="accuracy", at_least=0.90),
        Gate(measure="accuracy", at_least=0.85, each="modality"),
        Gate(measure="tpr", at_least=0.95),
        Gate(measure="tnr", at_least=0.95),
        Gate(measure="fpr", under=0.05),
    ]


def read_gates(path: Path | None, fields: Sequence[str]) -> list[Gate]:
    """The gates of a YAML file, or the card's. `fields` are those by which cases are grouped.

    Raises InputError for a malformed file, and for a gate on a field that is not among them.
    """
    gates = card_gates() if path is None else validate_yaml(Gates, path)[0].gates
    for gate in gates:
        if gate.field is not None and gate.field not in fields:
            message = f"a gate asks for {gate.field!r}, by which cases are not grouped"
            raise InputError(message, path=path, hint=f"Add --by {gate.field}.")
    return gates


def target_of(gates: Sequence[Gate]) -> float:
    """The accuracy that all cases together must show; the card's where no gate asks for one."""
    asked = [gate.at_least for gate in gates if gate.measure == "accuracy" and gate.field is None]
    return next((limit for limit in asked if limit is not None and 0 < limit < 1), TARGET)


def judge(gates: Sequence[Gate], card: Scorecard, source: str = CARD) -> GateReport:
    """Hold the figures of `card` against `gates`."""
    results = [result for gate in gates for result in _results(gate, card) or [_of_all(gate, card)]]
    verdicts = {result.verdict for result in results}
    order: tuple[Verdict, ...] = ("fail", "undecided", "pass")
    return GateReport(source=source, verdict=next(v for v in order if v in verdicts), gates=results)


def require(report: GateReport) -> None:
    """Raise GateNotMet naming the gates that failed or are undecided; undecided is not met."""
    unmet = [result for result in report.gates if result.verdict != "pass"]
    if unmet:
        names = "; ".join(f"{title(result)}: {result.verdict}" for result in unmet)
        hint = "More cases may decide what is undecided; see `needed` in scorecard.json."
        raise GateNotMet(f"{len(unmet)} of {len(report.gates)} gates not met: {names}", hint=hint)


def title(result: GateResult) -> str:
    """`accuracy at least 85 % (modality xray)`."""
    group = "" if result.group is None else f" ({' '.join(*result.group.items())})"
    return f"{result.measure} {result.rule}{group}"


def _of_all(gate: Gate, card: Scorecard) -> GateResult:
    whole = card.misses.weighted if gate.measure == WEIGHTED else card.measures[_key(gate)]
    return hold(gate, None, whole)


def _results(gate: Gate, card: Scorecard) -> list[GateResult]:
    """One result, or one for each group; none where no group has what `each` asks of it."""
    if gate.field is None:
        return [_of_all(gate, card)]
    return list(_of_groups(gate, gate.field, card.by[gate.field]))


def _of_groups(gate: Gate, field: str, groups: Mapping[str, Scores]) -> Iterator[GateResult]:
    wanted = groups if gate.only is None else [gate.only[field]]
    for name in wanted:
        if name not in groups:
            reason = f"no case has {field} {name!r}, only {', '.join(groups)}"
            absent = Measure(name=gate.measure, value=None, n=0, meaning="", reason=reason)
            yield hold(gate, {field: name}, absent)
            continue
        found = groups[name].measures[_key(gate)]
        if gate.each in ERRORS_ONLY and not found.n:
            continue  # severity `none` holds valid treatments, among which no error can be found
        yield hold(gate, {field: name}, found)


def _key(gate: Gate) -> str:
    return CARD_KEYS.get(gate.measure, gate.measure)


def hold(gate: Gate, group: dict[str, str] | None, found: Measure) -> GateResult:
    """One figure of one group of cases held against a gate."""
    verdict, reason = _verdict(gate, found)
    needed = _needed(gate, found) if verdict == "undecided" else None
    strict = found.strict_interval
    if verdict == "pass" and strict is not None and _side(gate, strict) != "pass":
        verdict, reason = "undecided", _unread(found.unreadable)
    return GateResult(
        measure=gate.measure,
        group=group,
        rule=gate.rule,
        at_least=gate.at_least,
        under=gate.under,
        value=found.value,
        interval=found.interval,
        n=found.n,
        verdict=verdict,
        reason=reason,
        needed=needed,
    )


def _needed(gate: Gate, found: Measure) -> int | None:
    bound = gate.at_least if gate.at_least is not None else gate.under
    if found.count is None or found.value is None or found.interval is None or bound is None:
        return None
    return cases_needed(found.value, found.interval, found.n, bound) if 0 < bound < 1 else None


def _verdict(gate: Gate, found: Measure) -> tuple[Verdict, str]:
    if found.value is None or found.interval is None:
        return "undecided", found.reason or "it has no interval"
    verdict = _side(gate, found.interval)
    return verdict, _WHY[verdict]


_WHY: dict[Verdict, str] = {
    "pass": "the whole interval meets it",
    "fail": "the whole interval misses it",
    "undecided": "the interval lies on both sides",
}


def _side(gate: Gate, interval: Interval) -> Verdict:
    low, high = interval
    if gate.at_least is not None:
        met, missed = low >= gate.at_least, high < gate.at_least
    else:
        assert gate.under is not None
        met, missed = high < gate.under, low >= gate.under
    return "pass" if met else "fail" if missed else "undecided"


def _unread(unreadable: int) -> str:
    answers = "1 unreadable answer does" if unreadable == 1 else f"{unreadable} unreadable answers do"
    return f"it is met only if {answers} not count against it"
