"""What the template shows: every section's rows and drawings, with what may not be shown already left out."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from mlx_medlora.evaluation.adapters import UNKNOWN
from mlx_medlora.evaluation.results import Measure, Scorecard, Scores
from mlx_medlora.report import figures
from mlx_medlora.report.beside import UNREAD, Occlusion
from mlx_medlora.report.figures import Bar
from mlx_medlora.report.rows import OUTCOMES, outcome
from mlx_medlora.report.sources import TOY_NOTICE, Evidence, Options
from mlx_medlora.report.svg import Sheet
from mlx_medlora.report.words import plain, title

SHARES = (
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "false_flag_rate",
    "ppv",
    "npv",
    "invalid_rate",
)
GROUPED = ("accuracy", "sensitivity", "specificity", "false_flag_rate", "ppv", "npv", "invalid_rate")
NOTICE = (
    "Nothing here shows that a model is safe to use on patients. Small samples say little: read the 95 % "
    "intervals; how each was made stands under it."
)
UNSEEN = (
    "Whether the answers come from the images was not measured: a model that ignores them can score as high. "
    "eval --dependence measures it."
)
FIELDS = ("modality", "error_type", "severity")  # groups that a redacted page may name
MOST_GROUPS = 60  # rows of one table; the largest groups
MOST_IDS = 25  # ids in one cell; the case list has them all
MOST_MAPS, MAP_BYTES = 24, 400_000  # occlusion heatmaps on the page


@dataclass(frozen=True)
class Groups:
    """A table of groups: the field, each group's figures, and how many groups are not shown."""

    field: str
    groups: dict[str, Scores]
    left_out: int


@dataclass(frozen=True)
class Drawing:
    """Inline markup (`svg.inline` or `svg.themed`, with its text alternative) and what stands under it."""

    svg: Markup
    title: str


@dataclass(frozen=True)
class Picture:
    """An image beside a sentence."""

    source: str
    alt: str
    caption: str


def alerts(evidence: Evidence) -> list[str]:
    """What a reader must know before any figure."""
    found = []
    dependence, health = evidence.beside.dependence, evidence.beside.health
    if dependence is not None and dependence.looks is False:
        found.append(f"The image does not carry its right answers. The verdict: {plain(dependence.verdict)}.")
    if dependence is not None and dependence.hardly:
        found.append(f"The image gives few of its right answers. The verdict: {plain(dependence.verdict)}.")
    if dependence is not None and dependence.shortcut:
        found.append("The text alone gives answers away: what looks like seeing may be reading.")
    if evidence.caveat is not None:
        found.append(f"{evidence.caveat[0].upper()}{evidence.caveat[1:]}.")
    point = evidence.scorecard.operating_point
    if point is not None:
        found += [f"{plain(warning[:1]).upper()}{plain(warning[1:])}." for warning in point.warnings]
        if point.same_cases and not point.warnings:
            found.append("The threshold was chosen on these very cases: new cases will do worse.")
    if health is not None:
        found += [f"{title(one.kind)}: {plain(one.sentence)}" for one in health.findings if one.found]
    return found


def notices(evidence: Evidence) -> list[str]:
    """What holds of every page, what was not looked into, the run's own note, whether the model is a toy."""
    found = [NOTICE]
    if any(one.image_paths for one in evidence.predictions) and not _asked_whether_it_looks(evidence):
        found.append(UNSEEN)
    unread = [note for note in evidence.beside.notes if note.endswith(UNREAD)]
    if evidence.about.get("adapter") and not evidence.beside.record and not unread:
        unread.append(UNKNOWN)
    found += [f"{note[0].upper()}{note[1:]}." for note in unread]
    note = evidence.about.get("note")
    if note:
        found.append(plain(note))
    elif evidence.is_toy:
        found.append(TOY_NOTICE)
    return found


def _asked_whether_it_looks(evidence: Evidence) -> bool:
    dependence = evidence.beside.dependence
    if dependence is None:
        return False
    return bool(dependence.figures or dependence.hardly or dependence.looks is not None)


def measures(card: Scorecard) -> list[Measure]:
    """All figures of all cases, each once."""
    return list(card.measures.values())


def overall_chart(card: Scorecard, sheet: Sheet) -> Markup | None:
    """The shares of all cases with their intervals, and the gates on them."""
    bars = [
        Bar(title(name), found.value, found.interval, _limits(card, name, None))
        for name, found in card.measures.items()
        if name in SHARES and found.value is not None
    ]
    return figures.intervals(bars, "overall", "Figures of all cases with their 95 % intervals", sheet)


def modality_chart(card: Scorecard, sheet: Sheet) -> Markup | None:
    """Accuracy by modality with its interval, and the gate on it."""
    bars = [
        Bar(
            f"{name} (n={scores.n})",
            scores.accuracy,
            scores.accuracy_interval,
            _limits(card, "accuracy", name),
        )
        for name, scores in list(card.by_modality.items())[:MOST_GROUPS]
        if scores.accuracy is not None
    ]
    return figures.intervals(bars, "by-modality", "Accuracy by modality with its 95 % interval", sheet)


_CARD_KEYS = {"tpr": "specificity", "tnr": "sensitivity", "fpr": "false_flag_rate"}


def _limits(card: Scorecard, measure: str, modality: str | None) -> tuple[float, ...]:
    group = None if modality is None else {"modality": modality}
    found = []
    for gate in card.gates.gates if card.gates is not None else []:
        bound = gate.at_least if gate.at_least is not None else gate.under
        if (
            _CARD_KEYS.get(gate.measure, gate.measure) == measure
            and gate.group == group
            and bound is not None
        ):
            found.append(bound)
    return tuple(found)


def groups(card: Scorecard, options: Options) -> list[Groups]:
    """A table for each field that was grouped by. Redacted pages name none but the dataset card's."""
    by = card.by or {"modality": card.by_modality}
    tables = []
    for field, found in by.items():
        if options.redact and field not in FIELDS:
            continue
        largest = sorted(found, key=lambda name: (-found[name].n, name))[:MOST_GROUPS]
        tables.append(
            Groups(field, {name: found[name] for name in found if name in largest}, len(found) - len(largest))
        )
    return tables


def verdicts(card: Scorecard) -> dict[tuple[str, str, str], str]:
    """(field, group, measure) -> `pass`, `fail` or `undecided`, of the gates on single groups."""
    found: dict[tuple[str, str, str], str] = {}
    for gate in card.gates.gates if card.gates is not None else []:
        for field, name in (gate.group or {}).items():
            found[field, name, _CARD_KEYS.get(gate.measure, gate.measure)] = gate.verdict
    return found


def error_types(evidence: Evidence) -> tuple[list[str], dict[str, dict[str, tuple[int, int]]]]:
    """(error types, modality -> error type -> (right, cases)): how the cases of each kind were answered."""
    cases = Counter((one.modality, one.error_type) for one in evidence.predictions)
    right = Counter((one.modality, one.error_type) for one in evidence.predictions if one.correct)
    kinds = sorted({kind for _, kind in cases})[:MOST_GROUPS]
    rows = sorted({modality for modality, _ in cases})[:MOST_GROUPS]
    return kinds, {
        row: {kind: (right[row, kind], cases[row, kind]) for kind in kinds if cases[row, kind]}
        for row in rows
    }


def tallies(evidence: Evidence) -> list[tuple[str, str, int]]:
    """(outcome, in words, how many cases), the gravest first."""
    found = Counter(outcome(one) for one in evidence.predictions)
    return [(key, words, found[key]) for key, words in OUTCOMES.items()]


def maps(evidence: Evidence, options: Options) -> list[Picture]:
    """The occlusion heatmaps that lie in the run's directory."""
    dependence = evidence.beside.dependence
    if dependence is None or options.redact or not options.images:
        return []
    found = []
    for one in dependence.occlusion[:MOST_MAPS]:
        source = _embedded(one, evidence.directory)
        if source is not None:
            alt = f"Which patches of the image move the answer to case {plain(one.id)}"
            found.append(Picture(source, alt, plain(one.id)))
    return found


def _embedded(found: Occlusion, directory: Path) -> str | None:
    """A data URI, in which nothing of the file can reach the page; None where there is no such image."""
    text = found.path
    if text.lstrip().startswith("<svg"):
        kind, content = "svg+xml", text.encode()
    else:
        path = (directory / text).resolve()
        kinds = {".svg": "svg+xml", ".png": "png"}
        inside = path.is_relative_to(directory.resolve()) and path.is_file()
        if not inside or path.suffix not in kinds or path.stat().st_size > MAP_BYTES:
            return None
        kind, content = kinds[path.suffix], path.read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
