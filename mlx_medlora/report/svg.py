"""matplotlib's SVG made fit for a page: inline, in the page's colours, without style attributes or scripts.

A strict Content-Security-Policy refuses `style="..."`, so each distinct style becomes a class whose rule
goes into the page's one stylesheet. Colours of the palette become CSS variables: one drawing serves light,
dark and print.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, ACCENT, GOOD, BAD = "#101820", "#4a5560", "#c8ced6", "#1c4ed8", "#05603b", "#b02319"
PALETTE = {INK: "ink", MUTED: "muted", GRID: "line", ACCENT: "accent", GOOD: "good", BAD: "bad"}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_DROPPED = (f"{_SVG}metadata", f"{_SVG}style", f"{_SVG}script")


class Sheet:
    """The rules that drawings need, each once."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}

    def name(self, style: str) -> str:
        """The class of `style`."""
        name = "m" + hashlib.sha256(style.encode()).hexdigest()[:8]
        self._rules[name] = style
        return name

    def css(self) -> str:
        """All rules, in the order in which they were first needed."""
        return "".join(f".{name}{{{style}}}\n" for name, style in self._rules.items())


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` x `height` inches in the page's style, without pyplot's global state."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "mlx-medlora",
        "text.parse_math": False,
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the measuring font lacks; the browser has them
        yield Figure(figsize=(width, height), layout="constrained")


def inline(figure: Figure, name: str, alt: str, sheet: Sheet) -> Markup:
    """The drawing as markup; call it inside `drawing`. `name` makes its ids its own."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return themed(stream.getvalue(), name, alt, sheet)


def themed(svg: str, name: str, alt: str, sheet: Sheet) -> Markup:
    """Any SVG text of this toolkit's own making as inline markup, see above."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _DROPPED]:
            parent.remove(child)
    for element in root.iter():
        _settle(element, name, sheet)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    root.set("class", "chart")
    points = float(root.get("viewBox", "0 0 0 0").split()[2])
    root.set("width", f"{points * 4 / 3:.0f}")  # pixels
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _settle(element: ElementTree.Element, name: str, sheet: Sheet) -> None:
    """One element: its style a class, its id and its references prefixed."""
    link = element.attrib.pop(_LINK, None) or element.attrib.pop("href", None)
    if link is not None and link.startswith("#"):
        element.set("href", f"#{name}-{link[1:]}")
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set("id", f"{name}-{value}")
        elif key == "style":
            del element.attrib[key]
            element.set("class", sheet.name(_coloured(_referring(value, name))))
        elif key.lower().startswith("on"):
            del element.attrib[key]
        else:
            element.set(key, _referring(value, name))


def _referring(value: str, name: str) -> str:
    return re.sub(r"url\(#", f"url(#{name}-", value)


def _coloured(style: str) -> str:
    style = re.sub(r"font: ([\d.]+px) [^;]+", r"font-size: \1", style)  # the page's own letters
    for colour, variable in PALETTE.items():
        style = style.replace(colour, f"var(--{variable})")
    return style
