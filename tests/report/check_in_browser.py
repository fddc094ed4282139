"""The HTML report in a real headless browser: ``make test-report``. Not collected by ``make test``.

Needs the package playwright and a Chromium (``CHROMIUM`` names one; otherwise one on the PATH, or playwright's own).
Keeps a screenshot at phone width in ``docs/images/report-phone.png``.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mml_plugin.report.build import build
from mml_plugin.report.rows import Rows
from mml_plugin.report.spec import Spec
from tests.report.sample import cell, history, sample

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOT = ROOT / "docs" / "images" / "report-phone.png"
COMMITTED = sorted((ROOT / "benchmarks" / "reports").glob("*/report.html"))
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
    with playwright.sync_playwright() as play:
        try:
            made = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser can be started: {str(error).splitlines()[0]}")
        yield made
        made.close()


def opened(browser, path, width):
    """A page and everything it complained about or asked the network for."""
    page = browser.new_page(viewport={"width": width, "height": 844}, device_scale_factor=1)
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:")) else complaints.append(request.url),
    )
    page.goto(path.as_uri())
    return page, complaints


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report with everything in it: many columns, long names, failed cells, hostile text."""
    folder = tmp_path_factory.mktemp("report")
    rows = sample()
    more = [cell(label, 1, negatives=n) for n in (10, 800) for label in ("CCL", "MML")]
    rows.cells += more
    rows.history += [line for row in more for line in history(row)]
    error = "<b>" + "a_very_long_word_without_any_blank" * 8 + "</b><script>document.title='hacked'</script>"
    rows.cells.append({**cell("BSL", 9), "state": "failed", "error": error})
    paper = [
        {"model": "MF", "loss": n, "dataset": "yelp18", "recall_at_20": "0.06", "ndcg_at_20": "0.05"}
        for n in ("CCL", "MML")
    ]
    spec = Spec("CCL, MML and BSL", "A check of the page.", paper=paper, early_stop=3, notes=["https://" + "x" * 300])
    build(spec, Rows(rows.cells, rows.history)).write(folder)
    return folder / "report.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_no_complaint_no_network_no_sideways_scrolling(browser, made, width):
    page, complaints = opened(browser, made, width)
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.evaluate("document.images.length") >= 4
    assert page.title() == "CCL, MML and BSL"
    late = "e => e.getBoundingClientRect().right > innerWidth + 1"
    outside = f"[...document.querySelectorAll('p, h1, h2, h3, li, figcaption')].filter({late})"
    assert page.evaluate(f"{outside}.map(e => e.outerHTML.slice(0, 80))") == []
    page.close()


def test_a_screenshot_is_kept(browser, tmp_path):
    build(Spec("CCL, MML and BSL", "Made-up numbers, to look at the page.", early_stop=3), sample()).write(tmp_path)
    page, _ = opened(browser, tmp_path / "report.html", 390)
    SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENSHOT), full_page=True)
    assert SCREENSHOT.stat().st_size > 10_000
    page.close()


def test_wide_tables_scroll_in_their_own_box(browser, made):
    page, _ = opened(browser, made, 390)
    wide = "[...document.querySelectorAll('.scroll')].some(d => d.scrollWidth > d.clientWidth)"
    assert page.evaluate(wide)
    page.close()


def test_plots_are_not_shrunk_beyond_reading(browser, made):
    page, _ = opened(browser, made, 390)
    assert page.evaluate("Math.min(...[...document.images].map(i => i.width / i.naturalWidth))") >= 0.75
    assert page.evaluate("[...document.images].every(i => i.closest('.plot').clientWidth <= innerWidth)")
    page.close()


def test_text_is_readable_at_phone_width(browser, made):
    page, _ = opened(browser, made, 390)
    sizes = (
        "[...document.querySelectorAll('p, td, th, li, figcaption')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    smallest = f"Math.min(...{sizes})"
    assert page.evaluate(smallest) >= 12
    page.close()


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_reports_open_too(browser, path):
    page, complaints = opened(browser, path, 390)
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
