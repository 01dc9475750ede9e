from dataclasses import replace

import pytest
import tiny
import torch
from tiny_runs import config, tokenizer_weights, train

from MaskGIL.masking import max_hidden
from Network import build_network
from Network.config import NetworkConfig
from Network.feed_forward import feed_forward_width
from Trainer.logger import format_value
from Trainer.throughput import attention_kernel, peak_flops, training_flops, use_of_card
from Trainer.vit import GeneratorTrainer, RowLogits

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


def by_hand(network, rows):
    """Two per multiply-add; N tokens attend to N + 1, and the condition to itself for nothing.

    The head is applied to `rows` of an image's tokens. Backward takes twice as many.
    """
    width, inner = network.width, feed_forward_width(network.width)
    num = network.grid[0] * network.grid[1]
    of_token = 2 * (3 * width * width + width * width + 3 * width * inner)  # qkv, out, SwiGLU
    attention = 2 * 2 * width * num * (num + 1)  # q k, p v
    blocks = network.depth * ((num + 1) * of_token + attention)
    return 3 * (blocks + 2 * rows * width * network.codebook_size)


@pytest.mark.parametrize("rows", [None, 5])
@pytest.mark.parametrize("shape", [(2, 32, 2, (4, 4)), (3, 48, 4, (2, 6))])
def test_flops_of_a_gpt_by_hand(shape, rows):
    depth, width, heads, grid = shape
    network = tiny.network_config(depth=depth, width=width, heads=heads, grid=grid)
    with torch.device("meta"):
        tokens = torch.empty(3, *grid, dtype=torch.int64)
        chosen = None if rows is None else torch.empty(3 * rows, dtype=torch.int64)
        found = training_flops(RowLogits(build_network(network)), (tokens, tokens[:, 0, 0], chosen))
    assert found == 3 * by_hand(network, grid[0] * grid[1] if rows is None else rows)


def test_flops_of_a_run_count_the_rows_of_a_part(tmp_path):
    run = config("generator", tokenizer_weights(tmp_path), "loop.accumulation=2")
    trainer = GeneratorTrainer(run)
    assert trainer.part == 8
    expected = by_hand(run.network, max_hidden("arccos", 16, 8, 16) / 8)
    assert trainer.flops_per_image() == pytest.approx(expected, rel=1e-9)
    assert expected < by_hand(run.network, 16)


@pytest.mark.parametrize(
    ("card", "peak"),  # as CUDA names them; TFLOP/s of NVIDIA's data sheets, dense
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-32GB", 112),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4060", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_the_peak_of_a_card(card, peak):
    assert peak_flops(card, torch.bfloat16) == (None if peak is None else peak * 1e12)
    assert peak_flops(card, torch.float32) is None


def test_what_is_logged_of_a_card(monkeypatch):
    """1,000 images of 98.9 GFLOP in a second are a tenth of an H100."""
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda device: 31.2e9)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda device: None)
    for card, expected in (("NVIDIA H100 80GB HBM3", 0.1), ("NVIDIA GeForce RTX 4060", None)):
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device, card=card: card)
        used = use_of_card(1000, lambda: 98.9e9, CARD, torch.bfloat16)
        assert used.get("mfu") == (expected and pytest.approx(expected))
        assert format_value("mem", used["mem"]) == "31.2G"
    assert format_value("mfu", 0.361) == "36.1%"
    assert use_of_card(1000, lambda: 98.9e9, CPU, torch.bfloat16) == {}
    assert "mfu" not in use_of_card(1000, lambda: 0.0, CARD, torch.bfloat16)  # nobody counted them


def test_the_attention_kernel_is_the_one_that_runs():
    network = NetworkConfig(size="B")
    assert attention_kernel(network, CPU, torch.float32) == (
        "scaled_dot_product_flash_attention_for_cpu"
    )
    assert attention_kernel(network, CPU, torch.bfloat16) == "products and a softmax"


def test_the_first_lines_name_the_kernel(tmp_path, capsys):
    train("generator", tokenizer_weights(tmp_path), "loop.steps=1", "precision=fp32")
    assert "attention  scaled_dot_product_flash_attention_for_cpu" in capsys.readouterr().out


@pytest.mark.parametrize("objective", ["ar", "both"])
def test_flops_of_a_run_in_raster_order_count_every_row(objective, tmp_path):
    words = [f"objective={objective}", "network.learned_positions=false"]
    run = config("generator", tokenizer_weights(tmp_path), *words)
    trainer = GeneratorTrainer(run)
    masked = by_hand(run.network, max_hidden("arccos", 16, 16, 16) / 16)
    # In raster order the last token is not read, and the condition's row answers for the first
    raster = by_hand(replace(run.network, grid=(1, 15)), 16)
    expected = raster if objective == "ar" else (masked + raster) / 2
    assert trainer.flops_per_image() == pytest.approx(expected, rel=0.01)


def test_the_kernel_of_a_network_that_predicts_in_parts():
    network = NetworkConfig(size="B", codebook_size=2**18, low_bits=6)
    assert attention_kernel(network, CPU, torch.bfloat16) == "products and a softmax"
