"""The memory of a process after `keep_freed_memory`."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from trex.training.host_memory import keep_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):  # as the activations of a step: all are kept, then all are freed
        made = [torch.ones(count * 2**18) for count in range(1, 30)]
        del made
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
usual = new_pages()
assert keep_freed_memory()
new_pages()
print(usual, new_pages())
"""


@pytest.mark.slow
def test_memory_of_freed_tensors_is_used_for_the_next_ones() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    usual, kept = map(int, done.stdout.split())
    assert usual > 20  # the system may give pages of 4 KiB or of 2 MiB
    assert kept < usual / 10
