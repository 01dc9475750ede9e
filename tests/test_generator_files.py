"""Generators of other projects. Names, shapes and numbers: their authors' classes
(`fixtures/network/NOTES.md`)."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tiny_generators import (
    CONFIGS,
    SCALES,
    STORED,
    official_weights,
    stored,
    write_official,
)

from MaskGIL.decoding import decode
from MaskGIL.plans import make_plan
from MaskGIL.predictor import CausalPredictor
from MaskGIL.sampling import SamplingConfig
from MaskGIL.weights import load_network
from Network import build_network
from Network.condition import Captions
from Network.config import NetworkConfig, UserError
from Network.context import KVCache
from Network.generator_files import LAYOUTS, our_state, read_generator, tell_layout

MASKED = ("published", "vit", "halton")
EVERY = pytest.mark.parametrize(("scale", "suffix", "tolerance"), SCALES)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Our network of a tiny official file, each read once."""
    kept = {}

    def load(name, scale):
        if (name, scale) not in kept:
            file = tmp_path_factory.mktemp("official") / f"{name}.pt"
            container = "model" if "llamagen" in name else "model_state_dict"
            kept[name, scale] = load_network(
                write_official(file, name, scale, container), CONFIGS[name]
            )
        return kept[name, scale]

    return load


def labels_of(golden, null):
    return torch.where(golden["drop_label"], null, golden["labels"])


def streams(network, run):
    """Hidden states in front of the blocks and behind each, of every pass that `run` makes."""
    seen = [[] for _ in range(len(network.blocks) + 1)]

    def keep(block, given, made):
        index = list(network.blocks).index(block)
        if index == 0:
            seen[0].append(given[0])
        seen[index + 1].append(made[0] if isinstance(made, tuple) else made)

    hooks = [block.register_forward_hook(keep) for block in network.blocks]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return seen


def close(found, expected, tolerance):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# What the authors' classes compute


@EVERY
@pytest.mark.parametrize("name", MASKED)
def test_logits_of_masked_generators(load, name, scale, suffix, tolerance):
    network, golden = load(name, scale), stored(name)
    with torch.no_grad():
        dropped = network(golden["idx"], labels_of(golden, network.null_label))
        close(dropped, golden[f"logits{suffix}"][:, :64, :32], tolerance)
        if name == "published":
            kept = network(golden["idx"], golden["labels"])
            close(kept, golden[f"logits_keep{suffix}"][:, :64, :32], tolerance)


@EVERY
@pytest.mark.parametrize("name", ["published", "halton"])
def test_hidden_states_of_masked_generators(load, name, scale, suffix, tolerance):
    network, golden = load(name, scale), stored(name)
    kept = golden["labels"]  # of the published one, its last run: no label dropped
    labels = kept if name == "published" else labels_of(golden, network.null_label)
    seen = streams(network, lambda: network(golden["idx"], labels))
    for index, (found,) in enumerate(seen):
        close(found, golden[f"h{index}{suffix}"], tolerance)


@EVERY
@pytest.mark.parametrize("chunk", [None, 1, 16])
def test_logits_of_llamagen(load, scale, suffix, tolerance, chunk):
    network, golden = load("llamagen_c2i", scale), stored("llamagen_c2i")
    tokens = golden["idx"]
    with torch.no_grad():
        context = network.encode(golden["labels"], causal=True)
        if chunk:
            cache = KVCache(64)
            parts = torch.arange(64).expand(2, -1).split(chunk, 1)
            hidden = [network.hidden(tokens, context, part, True, cache) for part in parts]
        else:
            hidden = [network.hidden(tokens, context, causal=True)]
        found = network.head(torch.cat(hidden, 1))
    close(found, golden[f"logits{suffix}"][:, :64], tolerance)
    close(found, golden[f"logits_kv{suffix}"], tolerance)


@EVERY
def test_hidden_states_of_llamagen(load, scale, suffix, tolerance):
    """Condition and tokens are two passes here; the last token predicts nothing."""
    network, golden = load("llamagen_c2i", scale), stored("llamagen_c2i")
    seen = streams(network, lambda: network(golden["idx"], golden["labels"], causal=True))
    for index, passes in enumerate(seen):
        close(torch.cat(passes, 1)[:, :64], golden[f"h{index}{suffix}"][:, :64], tolerance)


def greedy(network, condition, null, scale, num_tokens):
    """The likeliest token of guided logits, one after the other, through a cache."""
    with torch.no_grad():
        contexts = [network.encode(each, causal=True) for each in (condition, null)]
        context, cache = type(contexts[0]).cat(contexts), KVCache(num_tokens)
        tokens = torch.full((4, num_tokens), network.mask_id)
        for row in range(num_tokens):
            rows = torch.full((4, 1), row)
            logits = network.head(network.hidden(tokens, context, rows, True, cache))
            conditional, free = logits[:, 0].chunk(2)
            tokens[:, row] = (free + scale * (conditional - free)).argmax(-1).repeat(2)
    return tokens[:2]


@EVERY
def test_guided_tokens_of_llamagen(load, scale, suffix, tolerance):
    network, golden = load("llamagen_c2i", scale), stored("llamagen_c2i")
    labels = golden["labels"]
    found = greedy(network, labels, torch.full_like(labels, network.null_label), 2, 64)
    assert torch.equal(found, golden[f"greedy_cfg2{suffix}"])


# Captions


def padded(golden):
    """LlamaGen multiplies the features by its mask, which is 1 where there is a word."""
    there = golden["emb_masks"]
    return Captions(golden["caption"] * there[..., None], there == 0)


@EVERY
def test_logits_of_captions(load, scale, suffix, tolerance):
    network, golden = load("llamagen_t2i", scale), stored("llamagen_t2i")
    with torch.no_grad():
        found = network(golden["idx"], Captions(golden["caption"]), causal=True)
    close(found, golden[f"logits{suffix}"][:, :16], tolerance)


def test_hidden_states_of_captions(load):
    network, golden = load("llamagen_t2i", 0.02), stored("llamagen_t2i")
    captions = Captions(golden["caption"])
    seen = streams(network, lambda: network(golden["idx"], captions, causal=True))
    for index, passes in enumerate(seen):
        close(torch.cat(passes, 1), golden[f"h{index}"][:, :135], 1e-5)


@EVERY
@pytest.mark.parametrize("cached", [True, False])
def test_logits_of_padded_captions(load, scale, suffix, tolerance, cached):
    network, golden = load("llamagen_t2i", scale), stored("llamagen_t2i")
    tokens, captions, cache = golden["idx"], padded(golden), KVCache(16)
    assert captions.mask.any()
    with torch.no_grad():
        if cached:
            context = network.encode(captions, causal=True)
            rows = torch.arange(16).expand(2, -1).split(1, 1)
            parts = [network.hidden(tokens, context, row, True, cache) for row in rows]
            found = network.head(torch.cat(parts, 1))
        else:
            found = network(tokens, captions, causal=True)
    close(found, golden[f"logits_masked_kv{suffix}"], tolerance)


@EVERY
def test_guided_tokens_of_padded_captions(load, scale, suffix, tolerance):
    network, golden = load("llamagen_t2i", scale), stored("llamagen_t2i")
    captions = padded(golden)
    found = greedy(network, captions, network.condition.without(captions), 3, 16)
    assert torch.equal(found, golden[f"greedy_cfg3_masked{suffix}"])


@EVERY
@pytest.mark.parametrize(
    ("name", "grid", "guidance", "tokens"),
    [("llamagen_c2i", 8, 2, "greedy_cfg2"), ("llamagen_t2i", 4, 3, "greedy_cfg3_masked")],
)
def test_our_sampler_draws_the_guided_tokens_of_llamagen(
    load, name, grid, guidance, tokens, scale, suffix, tolerance
):
    """The whole way of decoding: plan, predictor with its cache, guidance and draws."""
    network, golden = load(name, scale), stored(name)
    condition = padded(golden) if "caption" in golden else golden["labels"]
    settings = SamplingConfig(guidance="constant", guidance_scale=guidance, temperature=0)
    found = decode(
        CausalPredictor(network, condition, settings),
        torch.full((2, grid, grid), network.mask_id),
        make_plan(grid**2, settings, "ar"),
        torch.arange(2),
        mask_id=network.mask_id,
        sampling=settings,
    )
    assert torch.equal(found.flatten(1), golden[f"{tokens}{suffix}"])


# Full sizes

SHAPES = json.loads((STORED / "generator_shapes.json").read_text("utf-8"))
TOLD = {
    **{f"maskgil-{size}": {"size": size, "rotary": "published"} for size in ("B", "L", "XL")},
    "maskgil-XXL": {"size": "XXL", "rotary": "published"},
    **{f"llamagen-{size} c2i": {"size": size, "rotary": "llamagen", "num_classes": 1000}
       for size in ("B", "L", "XL", "XXL", "3B")},
    "llamagen-XL t2i": {"size": "XL", "caption_width": 2048, "num_classes": 0},
    **{f"halton {size}": {"kind": "halton", "size": size, "grid": (16, 16)}
       for size in ("tiny", "small", "base", "large", "xlarge")},
    "vit default": {"kind": "vit", "size": "small", "codebook_size": 1024, "mlp_width": 3072},
    "vit small": {"kind": "vit", "size": "small", "codebook_size": 16384, "heads": 16},
    "vit big": {"kind": "vit", "size": "big", "codebook_size": 1024, "mlp_width": 3072},
    "vit huge": {"kind": "vit", "size": "huge", "depth": 48, "heads": 16},
}  # fmt: skip


def official_shapes(name):
    """The names and shapes of a full-size file; a * stands for the number of every block."""
    rows = SHAPES[name]
    return {
        key.replace("*", str(block)): shape
        for key, shape in rows["tensors"].items()
        for block in range(rows["blocks"] if "*" in key else 1)
    }


@pytest.mark.parametrize("name", TOLD)
def test_names_shapes_and_totals_of_full_sizes(name, tmp_path, monkeypatch):
    """The whole way of a file, its tensors without memory."""
    shapes = official_shapes(name)
    with torch.device("meta"):
        contents = {"state_dict": {key: torch.empty(shape) for key, shape in shapes.items()}}
    monkeypatch.setattr("Network.generator_files.read_contents", lambda path: contents)
    config, state, objective = read_generator("a.pt")
    assert objective == ("ar" if "llamagen" in name else "mar")
    assert {key: getattr(config, key) for key in TOLD[name]} == TOLD[name]
    with torch.device("meta"):
        network = build_network(config)
    ours = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == ours
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == SHAPES[name]["elements"]
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found + _left_out(name, config) == SHAPES[name]["parameters"]


def _left_out(name, config):
    """Numbers of theirs that say nothing of a code: what predicts the mask token or a class."""
    codes, classes, width = config.codebook_size, config.num_classes, config.width
    if "llamagen" in name:
        return -width  # they have no mask token
    if "maskgil" in name:
        return width
    if "halton" in name:
        return 1
    num_tokens = config.grid[0] * config.grid[1]
    return (num_tokens + 1) * (codes + classes + 2) - num_tokens * codes


def shared_keys(tensors, heads, kv_heads):
    """LlamaGen's tensors with n_kv_head: of its rows of k and of v the first heads alone."""
    made = dict(tensors)
    for name, rows in tensors.items():
        if ".wqkv." in name:
            width = len(rows) // 3
            q, *others = rows.split(width)
            made[name] = torch.cat([q, *(part[: width // heads * kv_heads] for part in others)])
    return made


@pytest.mark.parametrize("kv_heads", [0, 3])
def test_a_size_with_fewer_heads_of_keys_is_told(kv_heads, monkeypatch):
    with torch.device("meta"):
        shapes = official_shapes("llamagen-B c2i")
        contents = {key: torch.empty(shape) for key, shape in shapes.items()}
    contents = shared_keys(contents, 12, kv_heads or 12)
    monkeypatch.setattr("Network.generator_files.read_contents", lambda path: {"model": contents})
    config, state, _ = read_generator("a.pt")
    assert (config.size, config.kv_heads) == ("B", kv_heads)
    with torch.device("meta"):
        ours = build_network(config).state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == {
        key: tensor.shape for key, tensor in ours.items()
    }


def test_llamagen_with_fewer_heads_of_keys_is_one_that_has_them_twice(tmp_path):
    """Its `repeat_interleave` of keys and values, written into the file."""
    shared = shared_keys(official_weights("llamagen_c2i", 0.2), 4, 2)
    twice = dict(shared)
    for name, rows in shared.items():
        if ".wqkv." in name:
            q, k, v = rows.split([64, 32, 32])
            k, v = (part.unflatten(0, (2, 16)).repeat_interleave(2, 0) for part in (k, v))
            twice[name] = torch.cat([q, k.flatten(0, 1), v.flatten(0, 1)])
    torch.save({"model": shared}, tmp_path / "shared.pt")
    torch.save({"model": twice}, tmp_path / "twice.pt")
    config, golden = CONFIGS["llamagen_c2i"], stored("llamagen_c2i")
    networks = [
        load_network(tmp_path / "shared.pt", replace(config, kv_heads=2)),
        load_network(tmp_path / "twice.pt", config),
    ]
    with torch.no_grad():
        found, expected = (each(golden["idx"], golden["labels"], True) for each in networks)
    close(found, expected, 1e-5)
    assert "do not fit" in sentence(load_network, tmp_path / "shared.pt", config)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_official_tensor_is_used(name):
    """Doubling any one of them changes the state that we load."""
    weights = official_weights(name)
    layout = LAYOUTS[tell_layout(weights, "a.pt")]
    weights.pop("head.weight", None)  # the embedding, twice in the file
    before = our_state(layout, weights, CONFIGS[name])
    for key in weights:
        after = our_state(layout, weights | {key: 2 * weights[key]}, CONFIGS[name])
        assert any(not torch.equal(after[ours], before[ours]) for ours in before), key


# Files


@pytest.mark.parametrize("container", ["model", "module", "model_state_dict", "state_dict", ""])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_every_container(tmp_path, container, wrapper):
    weights = {wrapper + name: t for name, t in official_weights("llamagen_c2i").items()}
    weights[f"{wrapper}freqs_cis"] = torch.zeros(65, 8, 2)
    file = tmp_path / "a.pt"
    torch.save({container: weights, "steps": 3} if container else weights, file)
    network = load_network(file, CONFIGS["llamagen_c2i"])
    table = network.token_embedding.weight
    assert torch.equal(table[:32], weights[f"{wrapper}tok_embeddings.weight"])
    close(table[32], table[:32].mean(0), 1e-7)  # the token that they do not have


def test_safetensors_too(tmp_path):
    weights = {key: t for key, t in official_weights("halton").items() if key != "head.weight"}
    save_file(weights, tmp_path / "a.safetensors")
    network = load_network(tmp_path / "a.safetensors", CONFIGS["halton"])
    assert torch.equal(network.bias, weights["head.bias"][:32])


def sentence(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_size_that_nobody_published(tmp_path):
    file = write_official(tmp_path / "a.pt", "published", container="model_state_dict")
    assert sentence(load_network, file) == (
        f"{file} has 2 blocks of width 64, which no published size of MaskGIL as published has; "
        "its heads cannot be told: load it with a NetworkConfig."
    )


def test_what_holds_no_generator(tmp_path):
    file = tmp_path / "a.pt"
    torch.save({"state_dict": {"encoder.conv_in.weight": torch.zeros(1)}}, file)
    assert sentence(load_network, file) == (
        f"{file} holds a tokenizer, no generator; give weights=RUN/weights."
    )
    torch.save({"model": {"a": torch.zeros(1)}}, file)
    assert sentence(load_network, file) == (
        f"{file} holds no generator that is known: LlamaGen, MaskGIL as published, MaskGIT's "
        "MaskTransformer, Halton-MaskGIT are."
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_that_lacks_a_tensor(tmp_path, name):
    """Each in turn, but for those that tell the layout."""
    weights = official_weights(name)
    weights.pop("head.weight", None)
    marks = {mark for layout in LAYOUTS.values() for mark in layout.marks}
    for key in sorted(weights.keys() - marks)[::3]:
        file = tmp_path / "a.pt"
        torch.save({other: t for other, t in weights.items() if other != key}, file)
        found = sentence(load_network, file, CONFIGS[name])
        assert "missing " in found or " lacks " in found or "do not fit" in found


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shape", [(), (3,), (1, 1, 1)])
def test_a_file_of_other_shapes(tmp_path, name, shape):
    """Told in one sentence, whichever tensor it is and however it fails."""
    weights = official_weights(name)
    for key in [*sorted(weights)[::4], *LAYOUTS[tell_layout(weights, "")].marks]:
        file = tmp_path / "a.pt"
        torch.save(weights | {key: torch.zeros(shape)}, file)
        if key == "head.weight":
            continue
        for config in (None, CONFIGS[name]):
            assert str(file) in sentence(load_network, file, config)


def test_a_configuration_of_another_architecture(tmp_path):
    file = write_official(tmp_path / "a.pt", "halton")
    assert sentence(load_network, file, NetworkConfig()) == (
        f"{file} has network.kind=halton, but network.kind=gpt is asked for; use "
        "network.kind=halton."
    )
    file = write_official(tmp_path / "b.pt", "llamagen_c2i")
    assert "network.rotary=grid2d is asked for" in sentence(load_network, file, NetworkConfig())
    found = sentence(load_network, file, NetworkConfig(rotary="llamagen"))
    assert "do not fit this architecture" in found
    assert found.count(";") == 4  # five of them are told


def test_a_damaged_file(tmp_path):
    file = write_official(tmp_path / "a.pt", "vit")
    file.write_bytes(file.read_bytes()[:-2000])
    assert "is not a whole file of weights" in sentence(load_network, file, CONFIGS["vit"])
    assert sentence(load_network, tmp_path / "none.pt").startswith("No such weights file: ")
