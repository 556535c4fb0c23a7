"""A run's page, taken apart for the tests."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from mlx_medlora.evaluation.runs import read_run
from mlx_medlora.report.sources import Evidence, gather


def evidence(run: Path) -> Evidence:
    return gather(read_run(run))


def seen(html: str) -> str:
    """The words of a page outside its script and styles."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", bare)).replace("\xa0", " "))


def rows(html: str) -> list[dict[str, Any]]:
    """The cases that the page's script reads."""
    found = re.search(r'<script type="application/json" id="case-data">(.*?)</script>', html, flags=re.S)
    assert found is not None
    return json.loads(found[1])["rows"]
