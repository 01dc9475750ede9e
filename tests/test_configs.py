"""Every YAML file of MaskGIL/configs loads, opens with its command, and describes what fits."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import main
from MaskGIL.command import parse
from MaskGIL.config import leaves, load_config
from MaskGIL.data import SOURCES
from MaskGIL.data.crops import CROPS
from MaskGIL.data.sampler import split_ranks
from MaskGIL.device import DTYPES
from MaskGIL.generate import GenerateConfig
from MaskGIL.guidance import GUIDANCE
from MaskGIL.masking import SCHEDULES
from MaskGIL.orders import ORDERS, REMASK
from MaskGIL.plans import OBJECTIVES, PLANS, make_plan
from MaskGIL.values import choices
from Metrics.sample_config import SampleConfig
from Network import build_network, build_tokenizer
from Network.rotary import INTERPOLATIONS
from Network.sizes import SIZES_OF
from Network.tokenizer import FAMILIES
from Trainer.config import RunConfig
from Trainer.findings import TRAINERS
from Trainer.objective import grids_of
from Trainer.optim import learning_rate
from Trainer.throughput import example_condition
from Trainer.trackers import TRACKERS

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "MaskGIL" / "configs").rglob("*.yaml"))
PROGRAMS = {
    ("python", "main.py"): RunConfig,
    ("python", "FID_sample.py"): SampleConfig,
    ("python", "-m", "MaskGIL", "generate"): GenerateConfig,
}


def command(file):
    """The words of the command that the file's first comment names, and its schema."""
    first = file.read_text().partition("\n")[0]
    words = shlex.split(first[max(first.find("python "), first.find("torchrun ")) :])
    if words[0] == "torchrun":
        words = ["python", *(word for word in words[1:] if not word.startswith("-"))]
    for program, schema in PROGRAMS.items():
        if tuple(words[: len(program)]) == program:
            return words[len(program) :], schema
    raise AssertionError(f"{file} opens with {first!r}, which names no program of ours")


def load(file):
    words, schema = command(file)
    _, overrides, _ = parse(schema, words)
    return load_config(schema, file, overrides)


TABLES = {
    "job": main.JOBS,
    "objective": OBJECTIVES,
    "precision": ["auto", *DTYPES],
    "data.source": SOURCES,
    "loop.tracker": TRACKERS,
    "data.crops": CROPS,
    "network.kind": SIZES_OF,
    "tokenizer.family": FAMILIES,
    "masking.schedule": SCHEDULES,
    "sampling.plan": ["auto", *PLANS],
    "sampling.schedule": SCHEDULES,
    "sampling.order": ORDERS,
    "sampling.remask_by": REMASK,
    "sampling.guidance": GUIDANCE,
    "sampling.positions": INTERPOLATIONS,
    "data.cache_precision": ["fp32", "bf16"],
    "text.precision": ["fp32", "bf16"],
    "study.job": TRAINERS,
}
# What a branch in the code tells apart, not a table
BRANCHES = {"data.tokens", "network.norm", "network.null_condition", "network.rotary",
            "tokenizer.encoder_middle", "tokenizer.decoder_middle", "adversary.tokenizer_loss",
            "adversary.discriminator_loss", "loop.parallel"}  # fmt: skip


def test_every_choice_is_a_row_of_its_table():
    keys = [leaf for leaf in leaves(RunConfig) if not isinstance(leaf.default, bool)]
    found = {leaf.key: choices(leaf.type) for leaf in keys if choices(leaf.type)}
    assert found.keys() - BRANCHES == TABLES.keys()
    for key, table in TABLES.items():
        assert list(found[key]) == list(table), key


RUNS = [file for file in FILES if command(file)[1] is RunConfig]
GENERATORS = [file for file in RUNS if load(file).job == "generator"]
TOKENIZERS = [file for file in RUNS if load(file).job == "tokenizer"]
by_path = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
by_name = {"ids": lambda file: f"{file.parent.name}/{file.stem}"}


def test_there_are_some():
    assert GENERATORS
    assert TOKENIZERS
    assert len(FILES) > len(RUNS)


@by_path
def test_it_opens_with_a_command_that_names_it(file):
    assert file.read_text().startswith("# ")
    words, schema = command(file)
    path, overrides, flags = parse(schema, words)
    assert path == str(file.relative_to(ROOT))
    assert all("=" in word for word in overrides)
    assert flags == set()


@pytest.mark.parametrize("file", sorted((ROOT / "MaskGIL/configs").glob("*.yaml")), ids=str)
def test_a_recipe_of_a_size_tells_hardware_memory_and_hours(file):
    comment = [line for line in file.read_text().splitlines() if line.startswith("#")]
    header = " ".join(line.strip("# ") for line in comment)
    assert re.search(r"(A100|4090) of \d+ GB", header)
    assert re.search(r"\d GB", header)
    assert re.search(r"\d hours", header)
    assert "derived" in header


@by_path
def test_it_loads(file):
    assert load(file) == load_config(command(file)[1], file, command(file)[0][1:])


@pytest.mark.parametrize("file", TOKENIZERS, **by_name)
def test_its_tokenizer_builds_and_fits_the_images(file):
    run = load(file)
    with torch.device("meta"):
        tokenizer = build_tokenizer(run.tokenizer)
        size = run.data.image_size
        tokens = tokenizer.encode(torch.empty(1, 3, size, size))
        assert tokenizer.decode(tokens).shape == (1, 3, size, size)


@pytest.mark.parametrize("file", GENERATORS, **by_name)
def test_its_network_builds_and_answers_its_grid(file):
    run = load(file)
    with torch.device("meta"):
        network = build_network(run.network)
    for height, width in {run.network.grid, *grids_of(run)}:
        with torch.device("meta"):
            tokens = torch.empty(2, height, width, dtype=torch.int64)
            logits = network(tokens, example_condition(run.network, tokens))
        assert logits.shape == (2, height * width, run.network.codebook_size)
        assert make_plan(height * width, run.sampling, run.objective)
    assert run.objective in network.objectives


@pytest.mark.parametrize("file", GENERATORS, **by_name)
def test_a_generator_fits_the_tokenizer_it_names(file):
    run = load(file)
    ours = {f"{tokenizer.out_dir}/weights": tokenizer for tokenizer in map(load, TOKENIZERS)}
    if not run.tokenizer.weights.startswith("runs/"):
        pytest.skip("its tokenizer is a public one")
    tokenizer = ours[run.tokenizer.weights]
    assert run.network.codebook_size == tokenizer.tokenizer.codebook_size
    assert run.data.source == tokenizer.data.source
    assert run.data.image_size >= tokenizer.data.image_size  # it is convolutional: larger is fine
    with torch.device("meta"):
        stride = build_tokenizer(tokenizer.tokenizer).stride
    assert run.network.grid == (run.data.image_size // stride,) * 2


@pytest.mark.parametrize("file", RUNS, **by_name)
def test_its_loop_is_sound(file):
    run = load(file)
    loop, optim = run.loop, run.optim
    parts = loop.accumulation or 1  # 0: as many as the memory of the day asks for
    assert len(split_ranks(optim.batch, 1, parts)[0]) == parts
    assert 0 < optim.warmup < loop.steps
    assert learning_rate(optim.warmup, loop.steps, optim) == optim.lr
    assert loop.save_every <= loop.steps
    assert run.out_dir.startswith("runs/")


def test_the_demo_goes_from_one_file_to_the_next():
    demo = ROOT / "MaskGIL" / "configs" / "demo"
    weights = f"{load(demo / 'generator.yaml').out_dir}/weights"
    for name in ("score", "pictures"):
        assert load(demo / f"{name}.yaml").weights == weights
