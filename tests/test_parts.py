"""Parts of a study: what they are made of, what their keys follow from, and that they run once."""

import json
import weakref

import pytest
import torch
from tiny_runs import CONFIGS, tokenizer_weights

from Metrics.sample_config import SampleConfig
from Network.config import UserError
from Trainer import findings
from Trainer.config import RunConfig, StudyConfig
from Trainer.parts import PROGRAMS, Parts, in_one_process, run_part, start_clock
from Trainer.stages import read_cells, read_stages

DEMO = CONFIGS / "demo"
STAGES = (
    f"tokenizer main.py {DEMO / 'tokenizer.yaml'}",
    "redraw FID_sample.py reconstruct=@tokenizer/weights reference=shapes:32 image_size=32",
    f"train main.py {DEMO / 'generator.yaml'} tokenizer.weights=@tokenizer/weights seed=@seed",
    "sample FID_sample.py weights=@train/weights num_images=32",
)


def grid(root, *shared, stages=STAGES, **rows):
    """The parts of each cell, by the name of the cell."""
    read = read_stages(stages)
    cells = read_cells(StudyConfig(**rows), read)
    parts = Parts(read, root, shared)
    return {cell.name: parts.of(cell) for cell in cells}


def only(root, *shared, **rows):
    (found,) = grid(root, *shared, **rows).values()
    return found


def test_a_part_is_a_plain_command_in_a_folder_of_its_own(tmp_path):
    found = only(tmp_path, "device=cpu", seeds=(3,))
    tokenizer, train, sample = (found[name] for name in ("tokenizer", "train", "sample"))
    assert tokenizer.folder == tmp_path / "tokenizer" / tokenizer.key[:8]
    assert train.folder == tmp_path / "train" / f"seed=3-{train.key[:8]}"
    assert train.needs == (tokenizer,)
    assert isinstance(train.config, RunConfig)
    assert (train.config.seed, train.config.device) == (3, "cpu")
    assert train.config.out_dir == str(train.folder)
    assert train.config.tokenizer.weights == f"{tokenizer.folder}/weights"
    assert isinstance(sample.config, SampleConfig)
    assert sample.config.out == str(sample.folder / "samples.npz")
    assert sample.command == (
        f"python FID_sample.py weights={train.folder}/weights num_images=32 device=cpu "
        f"out={sample.folder}/samples.npz"
    )
    assert [in_one_process(part) for part in found.values()] == [False, True, False, False]


def test_cells_share_what_they_do_not_change(tmp_path):
    found = grid(tmp_path, arms=("a", "b train:optim.lr=1"), seeds=(0, 1))
    counts = {name: len({each[name].key for each in found.values()}) for name in found["a_seed=0"]}
    assert counts == {"tokenizer": 1, "redraw": 1, "train": 4, "sample": 4}
    assert found["b_seed=1"]["sample"].folder.name.startswith("b_seed=1-")


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ("tokenizer:loop.steps=9", ["tokenizer", "redraw", "train", "sample"]),
        ("redraw:num_reference=3", ["redraw"]),
        ("train:network.depth=9", ["train", "sample"]),
        ("train:sampling.num_steps=3", ["train", "sample"]),
        ("train:data.path=other", ["train", "sample"]),
        ("train:data.cache=other", ["train", "sample"]),
        ("tokenizer:reconstruction.vgg=file", ["tokenizer", "redraw", "train", "sample"]),
        ("train:loop.validate_every=7", ["train", "sample"]),
        ("train:loop.score_every=7", ["train", "sample"]),
        ("train:loop.score_images=7", ["train", "sample"]),
        ("sample:num_images=33", ["sample"]),
        ("train:loop.log_every=9", []),
        ("train:data.workers=1", []),
        ("sample:device=cpu", []),
        ("train:loop.steps=4400", []),  # which is what the file says
    ],
)
def test_a_change_makes_new_what_stands_on_it_and_nothing_else(tmp_path, change, changed):
    before, after = only(tmp_path), only(tmp_path, changes=(change,))
    assert [name for name in before if before[name].key != after[name].key] == changed
    assert [name for name in before if before[name].folder != after[name].folder] == changed


def test_arms_that_come_to_the_same_share_a_part(tmp_path):
    found = grid(tmp_path, arms=("a", "b sample:num_images=32"))
    assert found["a_seed=0"]["sample"] is found["b_seed=0"]["sample"]


def test_a_free_key_that_an_axis_varies_makes_parts_apart(tmp_path):
    found = grid(tmp_path, axes=("train:loop.accumulation=1 2",))
    assert len({each["train"].key for each in found.values()}) == 2
    assert len({each["sample"].key for each in found.values()}) == 2


def test_keys_do_not_follow_from_places(tmp_path):
    here, there = only(tmp_path / "a"), only(tmp_path / "b", "device=cpu")
    assert [part.key for part in here.values()] == [part.key for part in there.values()]


def test_another_file_of_the_same_settings_is_the_same_part(tmp_path):
    copy = tmp_path / "copy.yaml"
    copy.write_text((DEMO / "tokenizer.yaml").read_text())
    same = only(tmp_path, arms=(f"a tokenizer={copy}",))["tokenizer"]
    assert same.key == only(tmp_path)["tokenizer"].key
    assert str(copy) in same.command


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ("train:optim.rl=1", "Unknown key 'optim.rl' on the command line. Did you mean "
                             "'optim.lr'?"),
        ("train:job=study", "it is a study itself; name a YAML of another job."),
    ],
)  # fmt: skip
def test_settings_that_do_not_load_are_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError) as error:
        only(tmp_path, arms=(f"a {changes}",))
    assert str(error.value) == f"The stage train of the cell a_seed=0: {sentence}"


def finish(part):
    part.folder.mkdir(parents=True)
    (part.folder / "part.json").write_text(json.dumps({"key": part.key}))


def test_a_finished_part_is_found_whatever_its_arm_is_called(tmp_path):
    arms = ("a train:optim.lr=1", "b train:optim.lr=2")
    before = grid(tmp_path, arms=arms, seeds=(0,))
    for part in {part.key: part for parts in before.values() for part in parts.values()}.values():
        finish(part)
    for other in (("c train:optim.lr=1",), arms[::-1], ("b train:optim.lr=1", arms[0])):
        for parts in grid(tmp_path, arms=other, seeds=(0,)).values():
            assert all(part.record() for part in parts.values())
    (alone,) = grid(tmp_path, changes=("train:optim.lr=1",), seeds=(0,)).values()
    assert alone["sample"].folder == before["a_seed=0"]["sample"].folder
    assert f"weights={before['a_seed=0']['train'].folder}/weights" in alone["sample"].command
    finish(bare := only(tmp_path / "bare")["tokenizer"])  # which no label reaches
    same = only(tmp_path / "bare", arms=("a tokenizer:seed=0",))["tokenizer"]
    assert (same.folder, same.words) == (bare.folder, (*bare.words[:-1], "seed=0", bare.words[-1]))


def test_a_part_that_is_not_finished_is_left_to_who_makes_it(tmp_path):
    first = only(tmp_path, arms=("a train:optim.lr=1",))["train"]
    first.folder.mkdir(parents=True)
    second = only(tmp_path, arms=("b train:optim.lr=1",))["train"]
    assert (second.key, second.folder.name) == (first.key, f"b_seed=0-{first.key[:8]}")


# Running one


TINY = (
    *("data.num_images=64", "loop.steps=2", "loop.tracker=none", "loop.sample_every=0"),
    *("loop.validate_every=0", "loop.save_every=1", "optim.warmup=0", "network.depth=1"),
)


@pytest.fixture
def train(tmp_path):
    weights = tokenizer_weights(tmp_path) / "weights"
    own = "network.width=32 network.heads=2 network.grid=4,4 network.codebook_size=32"
    row = f"train main.py {DEMO / 'generator.yaml'} tokenizer.weights={weights} {own}"
    stages = (f"{row} {' '.join(TINY)}", "again main.py init_from=@train/weights")
    return only(tmp_path / "study", "device=cpu", stages=stages)


def test_a_finished_part_is_read_and_not_run(train, monkeypatch):
    record = run_part(train["train"])
    assert json.loads((train["train"].folder / "part.json").read_text()) == record
    assert record["numbers"]["steps"] == 2
    assert record["seconds"].keys() == {"part", "idle"}
    monkeypatch.setattr(findings, "TRAINERS", {})
    assert run_part(train["train"]) == record


def test_a_record_of_another_key_is_none(train):
    part = train["train"]
    part.folder.mkdir(parents=True)
    (part.folder / "part.json").write_text(json.dumps({"key": part.key[:8]}))
    assert part.record() is None


def test_a_part_waits_for_what_it_stands_on(train):
    with pytest.raises(UserError, match=r"^again/\w+ stands on train/\w+, which is not finished; "):
        run_part(train["again"])


def test_the_memory_of_a_part_is_let_go(train, monkeypatch):
    made = []

    class Watched(findings.TRAINERS["generator"]):
        def prepare(self):
            super().prepare()
            made.append(weakref.ref(self.module))

    monkeypatch.setitem(findings.TRAINERS, "generator", Watched)
    run_part(train["train"])
    (module,) = made
    assert module() is None


@pytest.mark.gpu
def test_the_peak_of_a_part_is_its_own(train, monkeypatch):
    def find(config):
        torch.zeros(100_000_000, device="cuda")
        return {"numbers": {}}

    monkeypatch.setitem(PROGRAMS, "main.py", PROGRAMS["main.py"]._replace(find=find))
    run_part(train["train"])
    assert torch.cuda.max_memory_allocated() < 100_000_000


def test_idle_time_is_what_lies_between_parts(train, monkeypatch):
    seconds = iter([10.0, 14.0, 20.0])
    monkeypatch.setattr("Trainer.parts.time.monotonic", lambda: next(seconds))
    program = PROGRAMS["main.py"]._replace(find=lambda config: {"numbers": {}})
    monkeypatch.setitem(PROGRAMS, "main.py", program)
    start_clock()
    assert run_part(train["train"])["seconds"] == {"part": 6.0, "idle": 4.0}
