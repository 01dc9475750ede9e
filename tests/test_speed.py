import sys
import time

import pytest
import torch

from Metrics.speed import peak_memory, seconds_alone

CPU = torch.device("cpu")


def test_an_image_alone_is_the_second_of_two():
    calls = []

    def sample():
        calls.append(time.sleep(0.5 if not calls else 0.01))
        return torch.zeros(1, 3, 4, 4)

    assert 0.01 <= seconds_alone(sample) < 0.4
    assert len(calls) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="nobody counts there")
def test_the_most_memory_grows_by_what_is_held():
    before = peak_memory(CPU)
    held = torch.ones(before // 4 + 50_000_000)  # beyond all that was ever held
    assert peak_memory(CPU) >= before + 150_000_000
    del held
    assert peak_memory(CPU) >= before + 150_000_000


@pytest.mark.gpu
def test_of_a_gpu_it_is_that_of_its_allocator():
    device = torch.device("cuda")
    held = torch.ones(1_000_000, device=device)
    assert peak_memory(device) >= held.nbytes
