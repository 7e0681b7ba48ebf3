"""What a queueing system is told; no queue is needed for that."""

import pytest

from mekrr.cluster.jobqueue import read
from mekrr.errors import ClusterError

pytest.importorskip("yaml")

SLURM = """
jobs: 8
jobqueue:
  slurm:
    cores: 1
    memory: 4GB
    walltime: "02:00:00"
"""


def test_the_configuration_of_dask_jobqueue_is_read(tmp_path):
    path = tmp_path / "slurm.yaml"
    path.write_text(SLURM)
    assert read(path) == ("slurm", 8, {"cores": 1, "memory": "4GB", "walltime": "02:00:00"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs: [", "cannot be read as YAML"),
        ("jobs: 3", "under jobqueue there must be one of slurm, pbs, .*; there is nothing"),
        ("jobs: 3\njobqueue:\n  condor: {}", "there is condor"),
        ("jobqueue:\n  slurm: {}", "jobs must say how many jobs are submitted, from 1 on; got None"),
        ("jobs: 0\njobqueue:\n  slurm: {}", "got 0"),
        ("jobs: two\njobqueue:\n  slurm: {}", "got 'two'"),
        ("jobs: 1\njobqueue:\n  slurm: 4", "slurm must hold settings; there is 4"),
    ],
)
def test_what_it_lacks_is_said(tmp_path, text, message):
    path = tmp_path / "queue.yaml"
    path.write_text(text)
    with pytest.raises(ClusterError, match=message):
        read(path)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ClusterError, match=r"none\.yaml cannot be opened: No such file"):
        read(tmp_path / "none.yaml")
