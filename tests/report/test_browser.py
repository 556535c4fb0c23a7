"""The page in a real browser."""

import io
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from pypdf import PdfReader
from runs import HOSTILE, LONG, row, usual, write_dataset, write_run

from mlx_medlora.report.sources import Options
from mlx_medlora.report.words import plain

Open = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return usual(tmp_path)


def ids(page: Any) -> list[str]:
    """The cases that are shown, in their order."""
    return page.eval_on_selector_all("article.case", "all => all.map(one => one.dataset.id)")


def test_filters(run: Path, opened: Open) -> None:
    with opened(run) as page:
        assert len(ids(page)) == 25
        assert "cases 1 to 25 of 60" in page.inner_text("#case-status")
        for name, value, count in [
            ("outcome", "missed", 2),
            ("outcome", "flagged", 1),
            ("outcome", "wrong", 3),
            ("outcome", "near", 1),
            ("outcome", "unreadable", 0),
            ("severity", "critical", 8),
            ("modality", "mri", 15),
            ("error_type", "undertreatment", 16),
            ("label", "CORRECT", 28),
        ]:
            page.select_option(f"#case-{name}", value)
            assert f"of {count} that match" in page.inner_text("#case-status") or not count
            assert len(ids(page)) == min(count, 25)
            page.click("#case-reset")
            assert len(ids(page)) == 25
        page.select_option("#case-outcome", "wrong")
        page.select_option("#case-modality", "xray")
        assert ids(page) == ["case_0000", "case_0004"]
        page.click("#case-reset")
        page.fill("#case-search", "Finding Number 31")
        expect(page.locator("article.case")).to_have_count(1)
        assert ids(page) == ["case_0031"]
        page.fill("#case-search", "patient-7")
        expect(page.locator("article.case")).to_have_count(2)
        page.fill("#case-search", "no such words")
        expect(page.locator("article.case")).to_have_count(0)
        assert "No case matches" in page.inner_text("#case-status")


def test_no_probability_is_rounded_to_certainty(tmp_path: Path, opened: Open) -> None:
    data = write_dataset(tmp_path / "data", [row(number) for number in range(4)])
    with opened(write_run(tmp_path / "run", data, [0.99996, 1.0, 0.0004, 0.0])) as page:
        page.locator("#case-sort").select_option("dataset")
        said = page.locator(".tag", has_text="probability of ERROR").all_text_contents()
    assert [one.partition(": ")[2] for one in said] == ["> 99.9 %", "100.0 %", "< 0.1 %", "0.0 %"]


def test_sorting_and_pages(run: Path, opened: Open) -> None:
    with opened(run) as page:
        assert ids(page)[:4] == ["case_0000", "case_0009", "case_0004", "case_0008"]  # gravest mistakes first
        page.select_option("#case-sort", "dataset")
        assert ids(page) == [f"case_{number:04d}" for number in range(25)]
        page.click("#case-on")
        page.click("#case-on")
        assert ids(page) == [f"case_{number:04d}" for number in range(50, 60)]
        assert page.is_disabled("#case-on")
        page.click("#case-back")
        assert ids(page)[0] == "case_0025"
        page.select_option("#case-sort", "near")
        assert ids(page)[0] == "case_0010"
        page.select_option("#case-sort", "high")
        assert ids(page)[0] == "case_0001"
        page.select_option("#case-sort", "low")
        assert ids(page)[0] == "case_0005"
        page.select_option("#case-sort", "severity")
        assert "severity: critical" in page.text_content("article.case >> nth=0")
        page.select_option("#case-size", "all")
        assert len(ids(page)) == 60


def test_a_missed_error_s_link_shows_it(run: Path, opened: Open) -> None:
    with opened(run) as page:
        page.select_option("#case-outcome", "right")
        page.click("a[data-case=case_0009]")
        assert ids(page) == ["case_0009"]
        assert "Missed error" in page.text_content("article.case")
        page.click("#case-reset")
        assert len(ids(page)) == 25


def test_images_are_seen(run: Path, opened: Open) -> None:
    with opened(run) as page:
        expect(page.locator("article.case img")).to_have_count(25)
        for image in page.locator("article.case img").all():
            image.scroll_into_view_if_needed()
            expect(image).to_have_js_property("complete", True)
            expect(image).to_have_js_property("naturalWidth", 48)
        assert all(
            page.eval_on_selector_all("img", "all => all.map(one => one.alt.startsWith('Image 1 of 1'))")
        )
    with opened(run, Options(images=False)) as page:
        assert page.locator("img").count() == 0
        assert len(ids(page)) == 25
    with opened(run, Options(redact=True)) as page:
        assert page.locator("img, article.case, .filters").count() == 0


EVIL = '"><script>document.title="stolen"</script>'


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run whose every text is out to harm the page."""
    rows = [
        row(0, input=HOSTILE, patient_id=HOSTILE, id="case <b>0</b>"),
        row(1, input=LONG, instruction=LONG, id=LONG[:3000]),
        row(2, "CORRECT", output=f"CORRECT - {HOSTILE}", metadata={"modality": EVIL, "site": HOSTILE}),
    ]
    data = write_dataset(tmp_path / "data", rows)
    run = write_run(tmp_path / "run", data, [0.9, 0.1, 0.2], by=["site"], note=HOSTILE, model=f"m/{EVIL}")
    (run / "dependence.json").write_text(
        json.dumps({"verdict": HOSTILE, "looks": False, "sentences": [HOSTILE, LONG]})
    )
    return run


def test_hostile_text_is_text(hostile: Path, opened: Open) -> None:
    with opened(hostile) as page:
        assert page.title() != "stolen"
        assert page.locator("script").count() == 1  # the page's own: the data block is read and removed
        assert page.locator("style").count() == 1
        assert page.locator("article.case img").count() == 3
        shown = page.eval_on_selector_all(".told", "all => all.map(one => one.textContent)")
        for text in (HOSTILE, LONG, f"CORRECT - {HOSTILE}"):
            assert plain(text) in shown
        assert "⟨U+202E⟩" in plain(HOSTILE)
        assert plain("case <b>0</b>") in page.eval_on_selector_all(
            "h3", "all => all.map(one => one.textContent)"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 1200
        page.select_option("#case-modality", EVIL)
        assert len(ids(page)) == 1
        assert page.evaluate("getComputedStyle(document.body).display") == "block"


def cut(page: Any) -> list[str]:
    """What would be cut off at the right of a sheet of A4."""
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 703, "height": 1000})  # A4 less its margins
    return page.eval_on_selector_all(
        "table, td, figure, svg, article.case, .box, .told, h3",
        """all => all.filter(one => one.getBoundingClientRect().right > innerWidth + 1
            || one.scrollWidth > one.clientWidth + 1 && one.clientWidth
            || one.matches('.told, h3') && one.scrollHeight > one.clientHeight + 1)
          .map(one => one.outerHTML.slice(0, 200))""",
    )


def test_hostile_text_is_printed_whole(hostile: Path, opened: Open) -> None:
    with opened(hostile) as page:
        assert len(PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True))).pages) > 10
        assert cut(page) == []


def test_print(run: Path, opened: Open) -> None:
    with opened(run) as page:
        pdf = page.pdf(prefer_css_page_size=True, print_background=True)
        assert cut(page) == []
        assert not page.is_visible(".filters")
    pages = PdfReader(io.BytesIO(pdf)).pages
    assert 5 < len(pages) < 40
    assert {round(float(one.mediabox.width)) for one in pages} == {595}
    text = re.sub(r"\s+", " ", " ".join(one.extract_text() for one in pages)).replace("\xa0", " ")
    assert "Not a medical device" in pages[0].extract_text()
    for wanted in ("Verdict", "Sensitivity", "Reliability diagram", "What this page contains", "case_0000"):
        assert wanted in text
    assert "Printed: cases 1 to 25 of 60" in text
    assert all(len(one.extract_text()) > 40 for one in pages)  # no page is blank


# every text against what lies behind it, by WCAG 2's formula
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const part = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const back = rgba(getComputedStyle(at).backgroundColor);
      if (back[3] === 255) return back;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || node.closest('script, style, noscript, button:disabled')) continue;
    const style = getComputedStyle(node);
    const ink = rgba(node instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(node))].sort((x, y) => y - x);
    found.push([Math.round(100 * (a + 0.05) / (b + 0.05)) / 100, text.slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str, run: Path, opened: Open) -> None:
    (run / "dependence.json").write_text(json.dumps({"verdict": "blind", "looks": False}))
    with opened(run, color_scheme=scheme) as page:
        found = page.evaluate(CONTRAST)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert len(found) > 500
    assert [one for one in found if one[0] < 4.5] == []
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light")


def test_by_keyboard(run: Path, opened: Open) -> None:
    with opened(run) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
        seen = set()
        for _ in range(80):
            page.keyboard.press("Tab")
            seen.add(page.evaluate("document.activeElement.id"))
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            if page.evaluate("document.activeElement.id") == "case-reset":
                break
        names = ("outcome", "modality", "severity", "error_type", "label", "search", "sort", "size", "reset")
        assert {f"case-{name}" for name in names} <= seen
        page.focus("#case-outcome")
        page.keyboard.type("Missed")
        assert ids(page) == ["case_0000", "case_0009"]
        page.focus("#case-reset")
        page.keyboard.press("Enter")
        assert len(ids(page)) == 25
        page.focus("#case-on")
        page.keyboard.press("Space")
        assert "cases 26 to 50" in page.inner_text("#case-status")


def test_names_for_those_who_do_not_see(run: Path, opened: Open) -> None:
    with opened(run) as page:
        for selector in ("svg[role=img]", "img", "select", "input"):
            for one in page.locator(selector).all():
                name = one.evaluate("one => one.ariaLabel || one.alt || one.labels?.[0]?.textContent || ''")
                assert name.strip()
        assert page.locator("svg[role=img]").count() >= 3
        assert (
            page.eval_on_selector_all("[id]", "all => all.length - new Set(all.map(one => one.id)).size") == 0
        )
        levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(one => Number(one.tagName[1]))")
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        for table in page.locator("table").all():
            assert table.locator("th[scope]").count() > 0


def test_without_scripts_the_figures_are_there(run: Path, opened: Open) -> None:
    with opened(run, java_script_enabled=False) as page:
        assert "Verdict" in page.content()
        assert page.locator("noscript").count() == 1
        assert page.locator("svg").count() >= 3


@pytest.mark.parametrize("width", [390, 768])
def test_a_narrow_screen(width: int, run: Path, opened: Open) -> None:
    with opened(run, viewport={"width": width, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        charts = page.evaluate("[...document.querySelectorAll('.chart')].map(one => one.clientWidth)")
        assert charts
        assert min(charts) >= 400  # its letters stay readable; it scrolls in a place of its own
