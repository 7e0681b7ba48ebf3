import json
import sys
import warnings
from dataclasses import replace

import ase.io
import pytest
from ase.build import bulk
from selenium.webdriver.support.wait import WebDriverWait

from mekrr import KernelPotential
from mekrr.cli.app import run
from mekrr.potential.archive import save_fitted
from mekrr.potential.fitted import TrainingLabels

pytest.importorskip("sevenn", reason="mekrr[sevennet] is not installed")


@pytest.fixture(scope="module")
def files(alloys, tmp_path_factory):
    """Models of both solvers and of the mean embedding, and structures."""
    folder = tmp_path_factory.mktemp("explain")
    options = {"sparse": {"solver": "sparse"}, "exact": {"solver": "exact"}, "mean": {"embedding": "mean"}}
    for name, chosen in options.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = KernelPotential("sevennet-0", layers=("interaction_2",), forces=False, prior="composition", **chosen)
            fitted = fit.fit(alloys[:16]).fitted_
        apart = TrainingLabels(**{key: value.clone() for key, value in vars(fitted.labels).items()})
        save_fitted(replace(fitted, labels=apart), folder / f"{name}.safetensors")
    ase.io.write(folder / "alloys.extxyz", [*alloys[12:20], bulk("Cu", cubic=True, a=3.0)])
    ase.io.write(folder / "unknown.extxyz", bulk("No", "fcc", a=4.0, cubic=True))
    return folder


def call(capsys, *arguments):
    """Exit code, stdout and stderr of a command line."""
    capsys.readouterr()
    code = run([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, " ".join(captured.err.split())


@pytest.mark.parametrize("solver", ["sparse", "exact"])
def test_tables(capsys, files, solver):
    code, out, _ = call(capsys, "explain", files / f"{solver}.safetensors", files / "alloys.extxyz", "--index", ":3")
    assert code == 0
    assert "3 structures" in out
    assert "furthest from the training data" in out
    assert "most uncertain" in out


@pytest.mark.parametrize("solver", ["sparse", "exact"])
def test_json_is_one_object_that_adds_up(capsys, files, solver):
    code, out, _ = call(capsys, "explain", files / f"{solver}.safetensors", files / "alloys.extxyz", "--json")
    found = json.loads(out)
    assert (code, found["n_structures"], found["solver"]) == (0, 9, solver)
    for row in found["structures"]:
        assert sum(row["atoms"]["energy"]) == pytest.approx(row["energy"], abs=1e-8)
    assert found["furthest_structures"][0].endswith("index 8 (Cu4)")


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("mean.safetensors", "alloys.extxyz", "has no atomic energies to explain"),
        ("sparse.safetensors", "unknown.extxyz", "No: "),
        ("sparse.safetensors", "nothing.extxyz", "does not exist"),
        ("nothing.safetensors", "alloys.extxyz", "no such model file"),
        ("alloys.extxyz", "alloys.extxyz", "not a whole safetensors file"),
    ],
)
def test_bad_input_is_a_sentence_and_leaves_no_page(capsys, files, tmp_path, model, data, message):
    pytest.importorskip("chemiscope")
    page = tmp_path / "page.html"
    code, out, err = call(capsys, "explain", files / model, files / data, "-o", page)
    assert (code, out) == (1, "")
    assert message in err
    assert not page.exists()


def test_a_page_needs_its_folder_and_its_viewer(capsys, files, tmp_path, monkeypatch):
    words = ["explain", files / "sparse.safetensors", files / "alloys.extxyz", "-o"]
    code, _, err = call(capsys, *words, tmp_path / "no" / "page.html")
    assert (code, "no such folder" in err) == (1, True)
    monkeypatch.setitem(sys.modules, "chemiscope", None)  # as Python marks a module that cannot be imported
    code, _, err = call(capsys, *words, tmp_path / "page.html")
    assert (code, 'pip install "mekrr[explain]"' in err) == (1, True), err


@pytest.fixture(scope="module")
def opened(files, browser, tmp_path_factory):
    """The page of the sparse model in Chromium, opened from disk."""
    pytest.importorskip("chemiscope", reason="mekrr[explain] is not installed")
    page = tmp_path_factory.mktemp("page") / "page.html"
    assert run(["explain", str(files / "sparse.safetensors"), str(files / "alloys.extxyz"), "-o", str(page)]) == 0
    browser.set_window_size(1000, 1200)
    browser.set_script_timeout(180)  # software rendering on a busy machine takes its time over the first picture
    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(lambda b: b.execute_script("return document.body.dataset.viewer === 'ready'"))
    return browser


def buttons(browser):
    return {b.get_attribute("data-property"): b for b in browser.find_elements("css selector", ".colours button")}


@pytest.mark.slow
def test_the_viewer_draws_and_every_button_changes_the_colours(opened):
    box = opened.find_element("id", "chemiscope-structure")
    assert set(buttons(opened)) == {"relative energy", "kernel part", "deviation", "distance", "energy", "element"}
    pictures = set()
    for name, button in buttons(opened).items():
        button.click()
        chosen = opened.execute_script("return window.viewer.structure.saveSettings()[0].color")
        assert chosen["property"] == name
        assert button.get_attribute("aria-pressed") == "true"
        if name != "element":
            assert chosen["min"] == pytest.approx(float(button.get_attribute("data-low")))
        opened.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        pictures.add(box.screenshot_as_base64)
    assert len(pictures) == 6


@pytest.mark.slow
def test_the_page_opens_at_the_most_uncertain_atom_and_needs_no_network(opened):
    text = opened.find_element("tag name", "body").text
    assert "9 structures" in text
    assert "alloys.extxyz, index 8 (Cu4)" in text
    assert opened.find_element("id", "failure").text == ""
    assert opened.execute_script("return window.viewer.saveSettings().pinned[0]") >= 40
    fetched = opened.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith(("data:", "blob:"))] == []
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


OVERLAP = """
const boxes = ["structure", "map", "info"].map(part => document.getElementById("chemiscope-" + part));
const [structure, map, info] = boxes.map(box => box.getBoundingClientRect());
return map.height > 300 && structure.bottom <= map.top && map.bottom <= info.top
  && info.bottom <= document.getElementById("elements").getBoundingClientRect().top;
"""


@pytest.mark.slow
def test_on_a_phone_the_parts_of_the_viewer_stand_below_one_another(opened):
    opened.set_window_size(500, 900)  # the narrowest that headless Chromium takes
    assert opened.execute_script(OVERLAP)
