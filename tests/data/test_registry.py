import hashlib
from collections import Counter

import pytest
from ase.io import write

from mekrr.data import DatasetEntry, datasets, fetch, load_dataset, registry, validate
from mekrr.errors import DataError

GOOD = {
    "name": "a-b",
    "description": "d",
    "licence": "MIT",
    "citation": "c",
    "n_structures": 1,
    "n_atoms": "1",
    "size_mb": 1.0,
}


def test_entries_are_complete():
    names = [entry.name for entry in datasets()]
    assert {"cu-formate-mini", "cu-formate"} <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "value"),
    [("name", "A b"), ("licence", ""), ("citation", ""), ("url", "http://x"), ("sha256", "12"), ("n_structures", 0)],
)
def test_schema(name, value):
    DatasetEntry(**GOOD)
    with pytest.raises(ValueError, match=f"missing or malformed {name}"):
        DatasetEntry(**(GOOD | {name: value}))


def test_unknown_names_list_the_known():
    with pytest.raises(DataError, match="unknown data set 'nothing': choose one of cu-formate-mini"):
        load_dataset("nothing")
    with pytest.raises(DataError, match="no part 'd9'"):
        load_dataset("cu-formate-mini", "d9")
    with pytest.raises(DataError, match="is embedded in mekrr"):
        fetch("cu-formate-mini")


def test_embedded_parts():
    (entry,) = [entry for entry in datasets() if entry.name == "cu-formate-mini"]
    if not entry.parts:
        pytest.skip("the embedded data files are not there yet")
    everything = load_dataset("cu-formate-mini")
    assert Counter(s.source for s in everything) == {f"cu-formate-mini {part}": n for part, n in entry.parts.items()}
    assert not [issue for issue in validate(everything) if issue.level == "error"]


def test_parts_are_found_and_counted(tmp_path, frames, monkeypatch):
    (tmp_path / "embedded").mkdir()
    write(tmp_path / "embedded" / "a-b-d2.extxyz.gz", frames)
    write(tmp_path / "embedded" / "a-b-d1.extxyz.gz", frames[:2])
    monkeypatch.setattr(registry.resources, "files", lambda package: tmp_path)
    entry = DatasetEntry(**GOOD)
    monkeypatch.setattr(registry, "_ENTRIES", (entry,))
    assert entry.parts == {"d1": 2, "d2": 5}
    assert [s.source for s in load_dataset("a-b")] == ["a-b d1"] * 2 + ["a-b d2"] * 5
    assert len(load_dataset("a-b", ["d1"])) == 2


def test_fetched_file_is_used_where_it_lies(tmp_path, frames, monkeypatch):
    target = tmp_path / "a-b.xyz"
    write(target, frames, format="extxyz")
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    entry = DatasetEntry(**GOOD, url="https://mekrr.invalid/a.xyz", sha256=digest)
    monkeypatch.setattr(registry, "_ENTRIES", (entry,))
    assert len(load_dataset("a-b", cache=tmp_path)) == 5


@pytest.mark.parametrize("make", [lambda path: path.write_text("my notes"), lambda path: path.mkdir()])
def test_another_file_of_the_same_name_is_refused_and_kept(tmp_path, monkeypatch, make):
    target = tmp_path / "a-b.xyz"
    make(target)
    entry = DatasetEntry(**GOOD, url="https://mekrr.invalid/a.xyz", sha256="0" * 64)
    monkeypatch.setattr(registry, "_ENTRIES", (entry,))
    with pytest.raises(DataError, match=r"a-b\.xyz is (another file|no regular file).*--cache"):
        fetch("a-b", tmp_path)
    assert target.is_dir() or target.read_text() == "my notes"


def test_no_network_is_explained(tmp_path, monkeypatch):
    entry = DatasetEntry(**GOOD, url="https://mekrr.invalid/a.xyz")
    monkeypatch.setattr(registry, "_ENTRIES", (entry,))
    with pytest.raises(DataError, match=r"could not be fetched from https://mekrr\.invalid/a\.xyz.*put it at"):
        load_dataset("a-b", cache=tmp_path)
