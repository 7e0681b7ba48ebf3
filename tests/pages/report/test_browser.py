"""The page as Chromium renders it."""

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.support.wait import WebDriverWait
from slabs import HOSTILE

from chromium import FITS
from mekrr.pages.report import write_report
from mekrr.pages.words import number

SCROLLING_TABLES = """
    return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length
"""


@pytest.fixture(scope="module")
def opened(browser, example, tmp_path_factory):
    """The page of the example, opened from disk."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, example.fitted, example.evaluation, title="Oxygen and hydrogen on copper")
    browser.set_window_size(1200, 6000)
    browser.get(path.as_uri())
    yield browser
    browser.get("about:blank")  # drawn in software, a page that stays open takes as much time as a test


def text_of(browser) -> str:
    return browser.find_element("tag name", "body").text


def test_text_is_on_the_rendered_page(opened, example):
    text = text_of(opened)
    assert "Oxygen and hydrogen on copper" in text
    assert "What was chosen and why" in text
    assert number(example.evaluation.metrics()["energy_rmse_mev_per_atom"]) in text
    assert example.fitted.record.data.sha256 in text
    assert "test.extxyz" in text


def test_every_figure_is_drawn(opened):
    boxes = opened.find_elements("css selector", "div.plot")
    assert len(boxes) > 12
    for box in boxes:
        assert box.find_elements("css selector", "svg.main-svg"), box.get_attribute("id")
    assert "DFT, meV/atom" in opened.find_element("id", "energy-parity").text


def test_hostile_text_is_shown_and_not_run(opened):
    assert HOSTILE in text_of(opened)
    assert opened.execute_script("return window.pwned") is None


def test_nothing_is_fetched_and_nothing_fails(opened):
    fetched = opened.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_screenshot_is_not_blank(opened, tmp_path):
    path = tmp_path / "page.png"
    assert opened.save_screenshot(str(path))
    page = Image.open(path).convert("RGB")
    assert len(page.getcolors(maxcolors=1_000_000)) > 200
    inked = np.asarray(page.convert("L")) < 250
    assert 0.02 < inked.mean() < 0.5


@pytest.mark.parametrize("width", [1200, 700, 500])
def test_nothing_overflows_sideways(opened, width):
    opened.set_window_size(width, 2000)
    WebDriverWait(opened, 10).until(lambda b: b.execute_script(FITS), message=f"the page is wider than {width} pixels")
    if width >= 700:
        assert opened.execute_script(SCROLLING_TABLES) == 0
