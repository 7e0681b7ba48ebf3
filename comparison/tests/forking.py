"""Processes that start at once, where it is not the point that they start anew."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import mekrr_comparison.runner as runner_module


@contextmanager
def forked() -> Iterator[None]:
    """Cells are computed in copies of this process, of one thread, since OpenMP survives no fork: seconds less each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, "START", multiprocessing.get_context("fork"))
        yield
    torch.set_num_threads(threads)
