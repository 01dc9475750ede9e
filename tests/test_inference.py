import functools
import shutil

import pytest
import tiny
import torch
from tiny_weights import save_tiny_weights
from torch import nn
from torch._dynamo.testing import CompileCounter

from MaskGIL.decoding import decode
from MaskGIL.inference import cast_matrices, compile_blocks, loaded_fingerprint, make_ready
from MaskGIL.pipeline import Pipeline
from MaskGIL.plans import ar_plan, mar_plan
from MaskGIL.predictor import PREDICTORS
from MaskGIL.sampling import SamplingConfig
from Network import build_network
from Network.config import UserError
from Network.files import fingerprint

CPU = torch.device("cpu")
KINDS = {
    "gpt": {},
    "in parts": {"codebook_size": 12, "low_bits": 2},
    "vit": {"kind": "vit"},
    "halton": {"kind": "halton"},
    "published": {"rotary": "published"},
}


def sample(network, kind="mar", batch=3, num_steps=6, **changes):
    """Tokens (batch, 4, 4)."""
    settings = SamplingConfig(num_steps=num_steps, **changes)
    predictor = PREDICTORS[kind](network, torch.arange(batch) % 3, settings)
    plan = ar_plan(16) if kind == "ar" else mar_plan(16, num_steps)
    empty, seeds = torch.full((batch, 4, 4), network.mask_id), torch.arange(batch)
    return decode(predictor, empty, plan, seeds, mask_id=network.mask_id, sampling=settings)


# Cast once


@torch.no_grad()
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_cast_matrices_compute_what_autocast_computes(changes):
    network, tokens, labels = tiny.network(**changes).float(), tiny.tokens(), torch.tensor([0, 3])
    with torch.autocast("cpu", torch.bfloat16):
        expected = network(tokens, labels)
        cast_matrices(network, torch.bfloat16)
        found = network(tokens, labels)
    assert torch.equal(found, expected)


def test_matrices_alone_are_cast():
    network = build_network(tiny.network_config(depth=8))
    bytes_before = sum(p.nbytes for p in network.parameters())
    cast_matrices(network, torch.bfloat16)
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            wide = not isinstance(module, nn.Linear)
            assert (parameter.dtype == torch.float32) == wide, module
    assert sum(p.nbytes for p in network.parameters()) < 0.51 * bytes_before


def test_a_cast_network_tells_what_was_loaded():
    network = tiny.network().float()
    loaded = fingerprint(network.state_dict())
    assert loaded_fingerprint(network) == loaded
    cast_matrices(network, torch.bfloat16)
    assert loaded_fingerprint(network) == loaded != fingerprint(network.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_is_made_ready_when_it_is_opened(tmp_path, dtype):
    pipe = Pipeline.from_pretrained(save_tiny_weights(tmp_path / "weights"), "cpu", dtype)
    assert pipe.network.blocks[0].attention.qkv.weight.dtype == dtype
    assert pipe.network.blocks[0].attention_norm_out.weight.dtype == torch.float32
    assert not pipe.compiled


# Compiled


@pytest.fixture
def counter(monkeypatch):
    """Counts the graphs, and fails where PyTorch gives up to make more of them."""
    counter = CompileCounter()
    counted = functools.partial(torch.compile, backend=counter)
    monkeypatch.setattr("MaskGIL.inference.torch.compile", counted)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield counter


CALLS = [
    {"batch": 3},
    {"batch": 5, "num_steps": 7, "guidance": "constant"},
    {"batch": 4, "num_steps": 16, "guidance_from": 0.5},
    {"batch": 2, "num_steps": 3, "guidance_scale": 1.0, "two_passes": True},
    {"batch": 1, "num_steps": 5},
]


@pytest.mark.parametrize(
    ("kind", "graphs"),
    [
        # Batch 1 or more; one token, or those that the null branch has missed
        ("ar", 4),
        # Batch 1 or more; all rows, one row or some
        pytest.param("mar", 6, marks=pytest.mark.slow),
    ],
)
def test_graphs_do_not_grow_with_sizes_steps_or_depth(counter, kind, graphs):
    network = tiny.network(depth=10).float()
    expected = [sample(network, kind, **call) for call in CALLS]
    names = list(network.state_dict())
    compile_blocks(network)
    for call, tokens in zip(CALLS, expected):
        assert torch.equal(sample(network, kind, **call), tokens)
    assert counter.frame_count <= graphs
    assert list(network.state_dict()) == names


@pytest.mark.slow
@pytest.mark.parametrize("changes", list(KINDS.values())[1:], ids=list(KINDS)[1:])
def test_networks_of_all_kinds_are_compiled(counter, changes):
    network = tiny.network(**changes).float()
    expected = sample(network)
    compile_blocks(network)
    assert torch.equal(sample(network), expected)
    assert counter.frame_count > 0


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_machine_code(dtype):
    network, tokens = tiny.network().float(), tiny.tokens(3)
    labels, rows = torch.tensor([0, 2, 3]), torch.tensor([[3, 0], [1, 15], [7, 7]])
    cast_matrices(network, dtype)

    def logits():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            return network.head(network.hidden(tokens, network.encode(labels), rows)).float()

    expected = logits()
    make_ready(network, dtype, compile=True)
    close = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(logits(), expected, rtol=close, atol=close * expected.std().item())


def test_compiling_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError) as error:
        make_ready(tiny.network(), torch.float32, compile=True)
    assert str(error.value) == (
        "compile=true needs a C++ compiler, and there is no no-such-compiler here; install it, "
        "name another in the variable CXX, or use compile=false."
    )
