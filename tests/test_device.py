import re
import warnings

import pytest
import torch

from MaskGIL import device
from MaskGIL.device import (
    autocast,
    choose_device,
    choose_precision,
    decoder_dtype,
    is_out_of_memory,
)
from Network.config import UserError

CPU, CUDA, MPS = (torch.device(kind) for kind in ("cpu", "cuda", "mps"))


@pytest.fixture
def machine(monkeypatch):
    """Pretend what this machine has."""

    def pretend(cuda=False, mps=False, cuda_bf16=False, cpu_bf16=False, built=True):
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cuda, "init", lambda: None)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: cuda_bf16)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.setattr(torch.cuda, "set_device", lambda chosen: None)
        monkeypatch.setattr(device, "_cpu_has_bf16", lambda: cpu_bf16)

    return pretend


@pytest.mark.parametrize(
    ("here", "chosen"),
    [({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": True, "mps": True}, "cuda:0")],
)
def test_auto_takes_the_best_that_is_there(machine, here, chosen):
    machine(**here)
    assert choose_device("auto") == torch.device(chosen)
    assert choose_device("cpu") == CPU


def test_each_rank_has_its_own_gpu(machine, monkeypatch):
    machine(cuda=True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda", 3)
    assert choose_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cuda", "No cuda device here; use device=cpu (slow) or device=auto."),
        ("cuda:1", "No cuda device here; use device=cpu (slow) or device=auto."),
        ("mps", "No mps device here; use device=cpu (slow) or device=auto."),
        ("gpu", "Unknown device 'gpu'. Known: auto, cuda, mps, cpu."),
    ],
)
def test_sentences_for_devices(machine, name, sentence):
    machine()
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        choose_device(name)


def test_a_pytorch_without_cuda_is_told(machine):
    machine(built=False)
    with pytest.raises(
        UserError, match=r"^device=cuda needs another PyTorch, as this one is built"
    ):
        choose_device("cuda")
    assert choose_device("auto") == CPU


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_has_run_out(error, is_told):
    assert is_out_of_memory(error) is is_told


@pytest.mark.parametrize("name", ["cuda:4", "cuda:x"])
def test_a_gpu_that_is_not_there(machine, name):
    machine(cuda=True)
    with pytest.raises(UserError, match=f"^There is no device {name}, only 4 of them; "):
        choose_device(name)


def test_more_processes_than_gpus(machine, monkeypatch):
    machine(cuda=True)
    monkeypatch.setenv("LOCAL_RANK", "5")
    with pytest.raises(UserError, match="cuda:5, only 4 of them; .* at most 4 processes"):
        choose_device("auto")


def test_one_gpu_for_all_processes_is_refused(machine, monkeypatch):
    machine(cuda=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^device=cuda:1 would put all processes on one; use "):
        choose_device("cuda:1")


# A driver that is too old: PyTorch then warns, once in a process, and sees no GPU


@pytest.fixture
def driver(machine, monkeypatch):
    """Pretend a GPU whose driver PyTorch 2.15 with CUDA 13.2 does not take."""

    def pretend(version, trouble="The NVIDIA driver on your system is too old"):
        told = f"{trouble} (found version {version}). Please update your GPU driver."
        warned = []

        def is_available():
            if not warned:
                warned.append(told)
                warnings.warn(f"CUDA initialization: {told}", stacklevel=2)
            return False

        def init():
            raise RuntimeError(told)

        machine()
        monkeypatch.setattr(torch.cuda, "is_available", is_available)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.version, "cuda", "13.2")

    return pretend


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (12040, "CUDA 12.4, this PyTorch for CUDA 13.2; update the driver, run make setup "
         'TORCH="torch==2.10.0 torchvision" or use device=cpu (slow).'),
        (11080, "CUDA 11.8, this PyTorch for CUDA 13.2; update the driver or use device=cpu "
         "(slow)."),
    ],
)  # fmt: skip
def test_a_driver_that_is_too_old_is_one_sentence_every_time(driver, recwarn, version, sentence):
    driver(version)
    for name in ("auto", "cuda", "cuda:1", "auto"):
        with pytest.raises(UserError) as error:
            choose_device(name)
        assert str(error.value) == f"The NVIDIA driver is for {sentence}"
    assert choose_device("cpu") == CPU
    assert not recwarn


def test_other_trouble_with_cuda_stays_a_warning(driver):
    driver(12040, "Found no NVIDIA driver on your system")
    with pytest.warns(UserWarning, match="CUDA initialization: Found no NVIDIA driver"):
        assert choose_device("auto") == CPU


def test_a_build_without_cuda_asks_no_driver(driver, monkeypatch, recwarn):
    driver(12040)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert choose_device("auto") == CPU


@pytest.mark.parametrize(
    ("place", "here", "chosen"),
    [
        (CUDA, {"cuda_bf16": True}, torch.bfloat16),
        (CUDA, {"cuda_bf16": False}, torch.float16),
        (CPU, {"cpu_bf16": True}, torch.bfloat16),
        (CPU, {"cpu_bf16": False}, torch.float32),
        (MPS, {"cpu_bf16": True}, torch.float32),
    ],
)
def test_auto_precision_is_what_the_hardware_has(machine, place, here, chosen):
    machine(**here)
    assert choose_precision("auto", place) == chosen


def test_precision_by_name(machine):
    machine()
    assert choose_precision("fp32", CUDA) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16
    assert choose_precision("fp16", CUDA) == torch.float16
    for place in (CPU, MPS):
        with pytest.raises(
            UserError, match=r"^precision=fp16 needs a CUDA device; use precision=au"
        ):
            choose_precision("fp16", place)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_autocast_narrows_products_only(dtype):
    narrow = dtype == torch.bfloat16
    with autocast(CPU, dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (dtype if narrow else torch.float32)
        assert torch.ones(2).add(1).dtype == torch.float32


def test_the_decoder_never_runs_in_fp16():
    assert decoder_dtype(torch.float16) == torch.float32
    for dtype in (torch.float32, torch.bfloat16):
        assert decoder_dtype(dtype) == dtype


def test_asking_the_processor_answers_yes_or_no():
    assert device._cpu_has_bf16() in (True, False)
