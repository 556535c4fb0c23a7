"""The sections of a model card as Markdown: what the page says, without any case.

No text, id or image of a case and no id of a patient: counts, rates, and names of modalities, error types and
severities. Whatever comes from data is escaped: it is no markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from mlx_medlora.evaluation.results import (
    NOTICE,
    Calibration,
    GateReport,
    GateResult,
    Measure,
    Misses,
    Scorecard,
)
from mlx_medlora.report import view
from mlx_medlora.report.beside import Dependence, Health
from mlx_medlora.report.sources import Evidence
from mlx_medlora.report.words import demand, figure, group_name, interval, last_part, short, title, within

_STATES = {True: "found", False: "not found", None: "cannot be told"}
NOT_ASKED = "Not measured: a model that ignores the image can score as high. `eval --dependence` measures it."
NO_IMAGES = "These cases have no images."


def sections(evidence: Evidence) -> Iterator[list[str]]:
    """Blocks of lines, what must be known before any figure first."""
    found = evidence.scorecard
    yield [NOTICE]
    yield from _alerts(evidence)
    yield [_counts(found)]
    yield _figures(found)
    yield _modalities(found)
    yield from _misses(found.misses)
    if found.gates is not None:
        yield from _gates(found.gates)
    if found.sample_size is not None:
        yield [cell(found.sample_size.sentence, 600)]
    yield from _looks(evidence)
    yield ["### Threshold and calibration"]
    yield [_threshold(found)]
    if found.calibration is not None:
        yield _calibration(found.calibration, found.calibration_before)
    yield from _health(evidence.beside.health)


def cell(text: object, most: int = 80) -> str:
    """Text that stays within its cell and is no markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", short(text, most))


def _table(heads: str, rows: Iterable[Iterable[object]]) -> list[str]:
    """A table of `rows`, whose cells are escaped already."""
    names = heads.split(", ")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return lines + [f"| {' | '.join(str(part) for part in row)} |" for row in rows]


def _alerts(evidence: Evidence) -> Iterator[list[str]]:
    """What the page has at its top: what speaks against the figures, then what was not looked into."""
    alerts = view.alerts(evidence)
    if alerts:
        yield ["**Read this first**"]
        yield [f"- {cell(text, 600)}" for text in alerts]
    notices = [text for text in view.notices(evidence) if text != view.NOTICE]
    if notices:
        yield [f"- {cell(text, 600)}" for text in notices]


def _counts(found: Scorecard) -> str:
    about = found.about
    patients = f" of {found.patients} patients" if found.patients != found.n else ""
    return (
        f"{found.n} cases{patients} ({found.errors} with an error, {found.valid} valid) of the split "
        f"{cell(about.get('split', 'unnamed'))}, "
        f"SHA-256 `{cell(str(about.get('split_sha256', 'unknown'))[:16])}`."
    )


def _figures(found: Scorecard) -> list[str]:
    rows = []
    for one in found.measures.values():
        card = f" (the card's {one.card_name})" if one.card_name else ""
        rows.append((title(one.name) + card, *_measured(one)))
    return _table("figure, value, 95 % interval, cases, meaning", rows)


def _measured(one: Measure) -> tuple[str, ...]:
    meaning = cell(one.reason or one.meaning, 300)
    return cell(figure(one)), cell(interval(one)), str(one.n), meaning


def _modalities(found: Scorecard) -> list[str]:
    rows = []
    for name, scores in found.by_modality.items():
        one = scores.measures["accuracy"]
        rows.append((cell(name), cell(figure(one)), cell(interval(one)), scores.n))
    return _table("modality, accuracy, 95 % interval, cases", rows)


def _misses(found: Misses) -> Iterator[list[str]]:
    yield ["### Errors not found, the gravest first"]
    if not found.rows:
        yield ["No case holds an error, so none could be missed."]
        return
    yield _table(
        "severity, not found, share, 95 % interval, called CORRECT, unreadable",
        (
            (
                cell(row.severity),
                f"{row.missed + row.unreadable} of {row.errors}",
                cell(figure(row.rate)),
                cell(interval(row.rate)),
                row.missed,
                row.unreadable,
            )
            for row in found.rows
        ),
    )
    whole = found.weighted
    yield [
        f"Weighted by severity: {cell(figure(whole, rate=False))} ({cell(interval(whole, rate=False))}). "
        "The weights are the toolkit's choice and no guideline's."
    ]


def _gates(report: GateReport) -> Iterator[list[str]]:
    yield ["### Gates"]
    yield [f"Gates ({cell(last_part(report.source))}): **{report.verdict}**"]
    yield _table(
        "gate, figure, 95 % interval, cases, verdict",
        (
            (
                cell(f"{demand(gate.measure)} {gate.rule}, {_group(gate)}", 200),
                cell(figure(gate)),
                cell(interval(gate)),
                gate.n,
                gate.verdict,
            )
            for gate in report.gates
        ),
    )


def _group(gate: GateResult) -> str:
    """Its name; of groups by other fields than the card's none, which may say something of a person."""
    named = gate.group is None or set(gate.group) <= set(view.FIELDS)
    return group_name(gate) if named else "one group by another field"


def _looks(evidence: Evidence) -> Iterator[list[str]]:
    yield ["### Does it look at the image?"]
    found: Dependence | None = evidence.beside.dependence
    if found is None or not (found.figures or found.looks is not None):
        seen = any(one.image_paths for one in evidence.predictions)
        yield [NOT_ASKED if seen else NO_IMAGES]
        return
    yield [f"**{cell(found.verdict, 200)}**"]
    if found.figures:
        heads = "figure, value, 95 % interval, cases, meaning"
        yield _table(heads, ((cell(title(one.name)), *_measured(one)) for one in found.figures))


def _threshold(found: Scorecard) -> str:
    point = found.operating_point
    if point is None and found.calibration is None:
        return "Verdicts are those that were written: there is no threshold."
    if point is None:
        return "No operating point was applied: ERROR from a probability of one half on."
    same = ", **these very cases**" if point.same_cases else ""
    return (
        f"Operating point: ERROR from a probability of {point.threshold:.4f} on, after temperature "
        f"{point.temperature:.3f}; {cell(point.rule)} {point.limit:g}, chosen on {point.n} cases of the "
        f"split {cell(point.split)}{same}."
    )


def _calibration(found: Calibration, before: Calibration | None) -> list[str]:
    rows = [
        ("ECE", f"{found.ece:.3f}", within(found.ece_interval)),
        ("Brier score", f"{found.brier.value or 0.0:.3f}", within(found.brier.interval)),
        ("log loss, nats", f"{found.log_loss:.3f}", within(found.log_loss_interval)),
    ]
    if before is not None:
        rows.append(("ECE before the temperature", f"{before.ece:.3f}", within(before.ece_interval)))
    return _table("calibration, value, 95 % interval", rows)


def _health(found: Health | None) -> Iterator[list[str]]:
    if found is None:
        return
    yield ["### Run health"]
    yield [f"- {title(one.kind)}: {_STATES[one.found]}. {cell(one.sentence, 600)}" for one in found.findings]
