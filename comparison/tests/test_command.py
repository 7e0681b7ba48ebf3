"""mekrr benchmark as a user meets it, down to the page in Chromium."""

import csv
import json

import pytest
from ase.io import write
from selenium.webdriver.support.wait import WebDriverWait

from chromium import FITS
from forking import forked
from mekrr.cli.app import run

MEAN = "comparison_methods:MeanEnergy"
HOSTILE = "<b>&raquo;</b>"


@pytest.fixture(scope="module")
def finished(alloys, tmp_path_factory):
    """A learning curve of two methods, one of which fails."""
    folder = tmp_path_factory.mktemp("benchmark")
    for t, atoms in enumerate(alloys):
        copy = atoms.copy()
        copy.calc, copy.info["kind"] = atoms.calc, HOSTILE if t % 2 else "plain"
        write(folder / "data.extxyz", copy, append=True)
    arguments = [
        "benchmark", "learning-curve", str(folder / "data.extxyz"), "-o", str(folder / "run"), "--seeds", "1",
        "--methods", f"{MEAN},comparison_methods:Raising", "--sizes", "6,12", "--test-size", "8",
    ]  # fmt: skip
    with forked():
        assert run(arguments) == 0
    return folder, arguments


def test_the_tables_are_printed_once_computed(finished, capsys):
    _, arguments = finished
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    assert "Error against the number of training structures" in printed
    assert "[1] RuntimeError: no convergence" in printed
    assert "…" not in printed  # no column is cut off, however narrow the terminal


def test_json_is_one_object_with_everything(finished, capsys):
    folder, arguments = finished
    assert run([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((folder / "run" / "results.json").read_text())
    assert [row["training structures"] for row in record["results"]] == [6, 12, 6, 12]
    assert record["settings"]["data"] == {"data": 36}
    assert record["cells"][0]["description"]["settings"] == {"what": "mean energy per atom"}
    assert record["versions"]["mekrr"]


def test_csv_has_a_row_a_fit(finished):
    rows = list(csv.DictReader((finished[0] / "run" / "results.csv").open()))
    assert [row["status"] for row in rows] == ["done", "done", "failed", "failed"]
    assert float(rows[0]["energy_rmse_mev_per_atom"]) > 0


def test_markdown_has_the_printed_table(finished):
    text = (finished[0] / "run" / "results.md").read_text("utf-8")
    assert "| training structures | method |" in text
    assert "[1] RuntimeError: no convergence" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "nonsense"], "no method is called 'nonsense'"),
        (["--sizes", "many"], "--sizes takes whole numbers"),
        (["--sizes", "2"], "--sizes starts at 3"),
        (["--align", "perhaps"], "--align is one of auto"),
        (["--set", "schnet"], "METHOD:OPTION=VALUE"),
        (["--set", "nonsense:a=1"], "no method is called 'nonsense'"),
        (["--by", "nothing"], "no info key 'nothing'"),
        (["--group", "nothing"], "no key 'nothing'"),
        (["--sizes", "1000"], "cannot take 1000"),
        (["--energy-unit", "cal"], "cal"),
    ],
)
def test_wrong_requests_end_in_a_sentence(finished, capsys, tmp_path, more, message):
    folder, arguments = finished
    arguments = [str(tmp_path / "other") if word == str(folder / "run") else word for word in arguments]
    assert run([*arguments, *more]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said


def test_an_unknown_task_names_the_tasks(finished, capsys):
    assert run(["benchmark", "everything", str(finished[0] / "data.extxyz"), "-o", str(finished[0] / "x")]) == 1
    assert "same, transfer, species-weight" in capsys.readouterr().err


@pytest.mark.parametrize("width", [1400, 420])
def test_the_page_draws_its_figures_offline_and_fits(finished, browser, width):
    browser.set_window_size(width, 900)
    browser.get((finished[0] / "run" / "report.html").as_uri())
    drawn = "return document.querySelectorAll('.plot .main-svg').length"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(drawn) > 0)
    plots = browser.execute_script("return document.querySelectorAll('div.plot').length")
    assert plots == browser.execute_script("return document.querySelectorAll('.plot.js-plotly-plot').length") == 2
    assert browser.execute_script(FITS)
    text = browser.find_element("tag name", "body").text
    assert "RuntimeError: no convergence" in text
    assert "How many structures does each method need?" in text
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    page = (finished[0] / "run" / "report.html").read_text()
    assert 'src="http' not in page
    assert '<link rel="stylesheet"' not in page
    browser.get("about:blank")
