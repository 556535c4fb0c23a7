"""A real Chromium, and a page opened in it under watch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlx_medlora.evaluation.runs import read_run
from mlx_medlora.report.page import write_page
from mlx_medlora.report.sources import Options, gather

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
Open = Callable[..., Any]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser for the whole session; tests are skipped where there is none."""
    found = next((path for path in map(shutil.which, NAMES) if path), str(MAC) if MAC.exists() else None)
    if found is None:
        pytest.skip("needs Chromium or Chrome, which is not installed (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Open:
    """Make the page of a run and open it, failing on any console message, error or request of its own.

    `opened(run)` is a context that gives the page; `options` are the page's, other arguments the browser's.
    """

    @contextmanager
    def open_it(run: Path, options: Options | None = None, **context: Any) -> Iterator[Any]:
        path = tmp_path / "page.html"
        write_page(path, gather(read_run(run)), options)
        with watched(chromium, path, **context) as page:
            yield page

    return open_it


@contextmanager
def watched(browser: Any, path: Path, **context: Any) -> Iterator[Any]:
    """A page open at `path`. What it says, requests or breaks is an error once the test is through."""
    session = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **context})
    page, said = session.new_page(), []
    page.on("console", lambda message: said.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: said.append(f"request: {request.url[:100]}"))
    page.goto(path.as_uri(), wait_until="load")
    try:
        yield page
    finally:
        session.close()
    own = f"request: {path.as_uri()[:91]}"
    assert [one for one in said if not one.startswith((own, "request: data:"))] == []
