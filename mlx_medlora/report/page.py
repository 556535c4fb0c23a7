"""The page: one HTML file with everything in it, that loads nothing and runs only its own script."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mlx_medlora import __version__
from mlx_medlora.atomic import atomic_file
from mlx_medlora.files import plain_os_errors
from mlx_medlora.report import figures, heatmaps, provenance, view, words
from mlx_medlora.report.rows import NEAR, OUTCOMES, ROOM, case_data, is_near
from mlx_medlora.report.sources import Evidence, Options
from mlx_medlora.report.svg import Sheet, drawing, inline
from mlx_medlora.report.thumbnails import Progress

PAGE = "report.html"


def render(evidence: Evidence, options: Options | None = None, progress: Progress | None = None) -> str:
    """The page as text: the same for the same evidence and options."""
    options = options or Options()
    sheet = Sheet()
    parts = _parts(evidence, options, sheet)
    taken = sum(len(one.source) for one in parts["maps"])
    parts["cases"] = case_data(evidence, options, progress, ROOM - taken)
    style = Markup(_asset("page.css") + sheet.css())
    script = Markup(_asset("page.js"))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(style=style, script=script, policy=_policy(style, script), **parts)
    )


def write_page(
    path: Path, evidence: Evidence, options: Options | None = None, progress: Progress | None = None
) -> int:
    """Write the page to `path`, whole or not at all, for its owner's eyes alone (0600). Returns its bytes.

    Raises InputError or NoSpace where it cannot be written.
    """
    with plain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)  # refused before the images are made smaller
    content = render(evidence, options, progress).encode()
    with atomic_file(path, private=True) as partial:
        partial.write_bytes(content)
    return len(content)


def _parts(evidence: Evidence, options: Options, sheet: Sheet) -> dict[str, Any]:
    """Every section's content by its name in the template."""
    card = evidence.scorecard
    kinds, by_kind = view.error_types(evidence)
    return {
        "evidence": evidence,
        "options": options,
        "card": card,
        "alerts": view.alerts(evidence),
        "notices": view.notices(evidence),
        "measures": view.measures(card),
        "overall": view.overall_chart(card, sheet),
        "by_modality": view.modality_chart(card, sheet),
        "groups": view.groups(card, options),
        "grouped": view.GROUPED,
        "kinds": kinds,
        "by_kind": by_kind,
        "heatmaps": _heatmaps(evidence, sheet),
        "verdicts": view.verdicts(card),
        "reliability": None if card.calibration is None else figures.reliability(card.calibration, sheet),
        "curves": figures.losses(evidence.beside.curve, sheet),
        "tallies": view.tallies(evidence),
        "near": sum(is_near(one) for one in evidence.predictions),
        "margin": NEAR,
        "maps": view.maps(evidence, options),
        "settings": provenance.settings(evidence, options),
        "contents": provenance.contents(evidence, options),
        "filters": _filters(evidence),
        "outcomes": OUTCOMES,
        "most_ids": view.MOST_IDS,
        "version": __version__,
    }


def _filters(evidence: Evidence) -> dict[str, list[str]]:
    """The values that the cases can be filtered by."""
    fields = ("modality", "severity", "error_type")
    return {
        name: sorted({words.plain(getattr(one, name)) for one in evidence.predictions}) for name in fields
    }


def _heatmaps(evidence: Evidence, sheet: Sheet) -> list[dict[str, str]]:
    """The run's heatmaps, modality by metric and by error type, each with `svg` and `title`."""
    made = []
    for one in [] if evidence.beside.heatmaps is None else heatmaps.maps(evidence.beside.heatmaps):
        with drawing(*one.size) as figure:
            heatmaps.paint(figure, one)
            made.append({"svg": inline(figure, one.name, one.alt, sheet), "title": one.title})
    return made


def _policy(style: str, script: str) -> str:
    """Nothing is loaded from anywhere; of scripts and styles only these very ones are taken."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mlx_medlora.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (
        *(words.plain, words.short, words.last_part, words.title, words.demand, words.group_name),
        *(words.number, words.percent, words.figure, words.interval, words.span, words.within),
        words.points,
    )
    environment.filters.update({function.__name__: function for function in shown})
    environment.globals.update(SYMBOLS=words.SYMBOLS)
    return environment


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
