"""The benchmarks time what they say: the demo's network, the trainer's batches, equal ways."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

from benchmarks.plain import plain_copy, unfused_attention
from MaskGIL.config import load_config
from Trainer.config import RunConfig

ROOT = Path(__file__).parent.parent
SHORT = ("rounds=1", "seconds=0.001")


@pytest.fixture
def bench(tmp_path):
    """Runs a copy, so that the results that are kept stay as they are."""
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    (tmp_path / "MaskGIL").symlink_to(ROOT / "MaskGIL")  # for the recipe of the demo

    def bench(name, *words):
        command = [sys.executable, f"benchmarks/{name}.py", *words]
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return bench


def test_demo_is_the_network_of_the_demo(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from networks import BATCHES, NETWORKS

    demo = load_config(RunConfig, ROOT / "MaskGIL/configs/demo/generator.yaml", [])
    assert (NETWORKS["demo"], BATCHES["demo"]) == (demo.network, demo.optim.batch)


def test_unfused_attention_changes_no_logits():
    ours = tiny.network(grid=(3, 5)).float()
    tokens, labels = tiny.tokens(grid=(3, 5)), torch.tensor([1, 3])
    expected = plain_copy(ours, ours.config)(tokens, labels)
    found = plain_copy(ours, ours.config, unfused_attention)(tokens, labels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_share_is_of_the_best_product_in_the_same_dtype(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import paired

    monkeypatch.setitem(paired.MATMUL, "cpu", 64)
    factors = {"ours": torch.ones(128, 128).bfloat16(), "plain": torch.ones(128, 128)}
    ways = {name: partial(torch.mm, factor, factor) for name, factor in factors.items()}
    others = {"ours": torch.bfloat16}
    case = paired.compare(ways, torch.float32, torch.device("cpu"), 1, 0.01, others)
    for name, product in (("ours", "matmul bfloat16"), ("plain", "matmul")):
        reached = 2 * 128**3 / 1e9 / case[name]["seconds"]["median"]  # gigaflops per second
        expected = reached / case[product]["gigaflops_per_second"]
        assert case[name]["share_of_matmul_peak"] == pytest.approx(expected, rel=0.1, abs=2e-3)
    usual = paired.compare(ways, torch.float32, torch.device("cpu"), 1, 0.001)
    assert usual.keys() == {"ours", "plain", "matmul"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "ways"),
    [
        (
            "train",
            ["sizes=demo", "batch=4", "device=cpu"],
            ["ours", "plain", "plain, same rows", "plain, unfused attention"],
        ),
        (
            "decode",
            ["batch=2", "num_steps=2", "device=cpu"],
            ["ours", "published", "published, unfused attention"],
        ),
        ("tokenizer", ["image_size=32", "batch=1", "device=cpu"], ["ours", "plain"]),
        ("images", [], ["ours", "ours, draft", "plain", "decoded alone"]),
        (
            "cache",
            ["num_rows=600"],
            [
                "ours",
                "ours, tokens alone",
                "plain, whole batch",
                "plain, by item",
                "plain, by item, 2 workers",
            ],
        ),
    ],
)
def test_every_way_is_timed(bench, name, words, ways):
    table = bench(name, *words, *SHORT)
    for way in ways:
        assert f"{way}  " in table
