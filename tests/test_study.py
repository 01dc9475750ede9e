"""Studies: run in stages, gathered, gone on with, and never done twice."""

import re
import shlex

import pytest
import torch
from tiny_runs import CONFIGS, tokenizer_weights, tree
from tiny_studies import ARMS, read, staged_file, tiny_study

import main as program
from MaskGIL.command import Failure, run_command
from MaskGIL.config import identity, load_config
from Network import build_network, build_tokenizer
from Network.config import UserError
from Trainer import findings, study
from Trainer.config import RunConfig
from Trainer.dry_run import dry_run
from Trainer.generator_data import write_caches
from Trainer.guard import Diverged
from Trainer.parts import missing_cache
from Trainer.study import grid_of, parts_in_order, run_study
from Trainer.vit import GeneratorTrainer

FILES = [(CONFIGS / "studies" / file.name) for file in (CONFIGS / "studies").glob("*.yaml")]
STUDIES = sorted(file for file in FILES if "study:" in file.read_text())
AXIS = "study.axes=optim.lr=1e-3 1e30"


@pytest.fixture
def folder(tmp_path):
    return tokenizer_weights(tmp_path)


def cells(run):
    return [cell for cell, _ in grid_of(run)]


def configs(run):
    return [parts["train"].config for _, parts in grid_of(run)]


def names(run):
    return [cell.name for cell in cells(run)]


def parts_of(folder):
    return sorted(folder.glob("grid/*/*/part.json"))


# Which parts there are


def test_without_stages_a_cell_takes_over_every_key_of_the_study(folder):
    run = tiny_study(folder, "study.seeds=5", "tokenizer.attention_levels=", "loop.log_every=2")
    (cell,) = configs(run)
    own = {"job": "generator", "seed": 5}
    assert identity(cell) == identity(run) | own
    assert cell.loop == run.loop
    assert cell.data == run.data
    assert cell.study == type(run.study)()


def test_without_stages_every_arm_meets_every_value_and_every_seed(folder):
    run = tiny_study(folder, ARMS, "study.axes=optim.lr=1 2", "study.seeds=0,7")
    found = configs(run)
    assert names(run)[:2] == ["plain_optim.lr=1_seed=0", "plain_optim.lr=1_seed=7"]
    assert len(found) == 8
    assert (found[-1].seed, found[-1].optim.lr, found[-1].network.qk_norm) == (7, 2.0, True)
    assert found[0].network.norm == "pre"


def test_a_size_can_be_an_axis(folder):
    base = "network.size=B"  # which fills in depth, width and heads
    sizes = configs(tiny_study(folder, *TINY_SIZES, base, "study.axes=network.size=L XL"))
    assert [cell.network.depth for cell in sizes] == [24, 36]  # Network.sizes.SIZES


TINY_SIZES = ("network.depth=0", "network.width=0", "network.heads=0")


BUILT = {
    "generator": lambda run: build_network(run.network),
    "tokenizer": lambda run: build_tokenizer(run.tokenizer),
}


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_the_parts_of_a_published_study_can_be_built(file):
    for part in parts_in_order(grid_of(load_config(RunConfig, file, []))):
        run = part.config
        if isinstance(run, RunConfig) and run.job in BUILT:
            with torch.device("meta"):
                BUILT[run.job](run)
            assert run.loop.save_every <= run.loop.steps
            assert run.optim.warmup < run.loop.steps


def test_a_key_beside_the_stages_is_refused(folder):
    run = load_config(RunConfig, staged_file(folder), ["optim.lr=1"])
    with pytest.raises(UserError) as error:
        run_study(run)
    assert str(error.value) == (
        "optim.lr has no effect on a study with stages; change it there, "
        "study.changes=STAGE:optim.lr=VALUE."
    )


def test_a_seed_beside_a_study_is_refused(folder):
    with pytest.raises(UserError) as error:
        run_study(tiny_study(folder, "seed=3"))
    assert str(error.value) == "seed=3 has no effect on a study; write study.seeds=3."


def test_a_row_that_cannot_be_read_writes_nothing(folder):
    before = tree(folder)
    with pytest.raises(UserError, match="Did you mean 'optim.lr'"):
        run_study(tiny_study(folder, "study.axes=optim.rl=1"))
    assert tree(folder) == before


# What is run, and recorded


def test_a_study_is_run_recorded_and_drawn(folder, capsys):
    run_study(tiny_study(folder, ARMS, AXIS, "precision=fp32", "loop.validate_every=3"))
    found = read(folder)
    assert [cell["name"] for cell in found["cells"]] == names(tiny_study(folder, ARMS, AXIS))
    assert {"torch", "commit", "threads"} <= found["environment"].keys()
    assert found["largest_stable"] == {"plain": "1e-3", "post + QK": "1e-3"}
    for cell in found["cells"]:
        train = cell["curves"]["train"]
        assert train["step"] == [1, 2, 3]
        assert len(cell["curves"]["validation"]["loss"]) == 1
        wild = cell["values"]["optim.lr"] == "1e30"  # beyond what float32 can take
        assert bool(cell["diverged"]) == wild
        assert not wild or train["loss"][-1] is None or train["loss"][-1] > train["loss"][0]
    assert (folder / "grid" / "study.png").stat().st_size > 5000
    assert (folder / "grid" / "numbers.png").stat().st_size > 5000
    assert (folder / "cache" / "train" / "index.json").exists()
    assert "\npart 4/4 train/post-+-QK_optim.lr=1e30_seed=0-" in capsys.readouterr().out


def test_stages_are_run_one_after_the_other(folder, capsys, monkeypatch):
    file = staged_file(folder)
    run_study(load_config(RunConfig, file, []))
    found = read(folder)
    assert [cell["name"] for cell in found["cells"]] == [
        "objective=mar_seed=0",
        "objective=ar_seed=0",
    ]
    masked, raster = (cell["numbers"] for cell in found["cells"])
    assert list(masked) == ["tokenizer", "redraw", "cache", "train", "sample"]
    assert masked["tokenizer"] == raster["tokenizer"]
    assert masked["redraw"]["PSNR (dB)"] > 5
    assert 0 < masked["train"]["bits per image"] != raster["train"]["bits per image"]
    assert masked["train"]["bits per token"] == pytest.approx(
        masked["train"]["bits per image"] / 16, rel=1e-4
    )
    assert raster["sample"]["shapesnet-1 distance"] > 0
    assert len(parts_of(folder)) == 1 + 1 + 1 + 2 + 2
    assert len(found["time"]["seconds"]) == 7
    assert 0 <= found["time"]["idle share"] < 0.5
    table = (folder / "grid" / "study.md").read_text()
    assert table.count("\npython main.py ") == 4
    monkeypatch.setattr(findings, "TRAINERS", {})
    monkeypatch.setattr(findings, "sample_and_score", None)
    run_study(load_config(RunConfig, file, []))  # nothing is done twice
    assert read(folder) == found


def test_a_changed_override_makes_new_what_depends_on_it(folder):
    file = staged_file(folder)
    run_study(load_config(RunConfig, file, []))
    before = set(parts_of(folder))
    run_study(load_config(RunConfig, file, ["study.changes=sample:num_images=40"]))
    new = set(parts_of(folder)) - before
    assert {part.parent.parent.name for part in new} == {"sample"}
    assert len(new) == 2


def test_studies_share_equal_parts(folder):
    file, shared = staged_file(folder), f"study.parts={folder / 'grid'}"  # as parts_of looks there
    run_study(load_config(RunConfig, file, ["study.axes=train:objective=mar", shared]))
    before = set(parts_of(folder))
    other = ["study.axes=train:objective=ar", "study.arms=again tokenizer:seed=0", shared]
    other += [f"out_dir={folder / 'other'}"]  # whose tokenizer has another name
    run_study(load_config(RunConfig, file, other))
    new = [part.parent.parent.name for part in sorted(set(parts_of(folder)) - before)]
    assert new == ["sample", "train"]
    assert {path.name for path in (folder / "other").iterdir()} > {"study.json", "config.yaml"}
    assert not any((folder / "other" / stage).exists() for stage in new)


def test_a_cache_that_parts_share_is_written_before_them(folder):
    tuned = tiny_study(folder, "init_from=weights", "init_skip=head")
    (part,) = parts_in_order(grid_of(tuned))
    assert missing_cache(part) == str(folder / "cache")
    write_caches(part.config)
    assert missing_cache(part) == ""
    own = parts_in_order(grid_of(tiny_study(folder, "data.cache=")))
    staged = parts_in_order(grid_of(load_config(RunConfig, staged_file(folder), [])))
    assert not any(map(missing_cache, [*own, *staged]))  # caches of their own, and of a stage


def test_the_cache_of_an_array_is_written_by_a_command(folder):
    run_study(tiny_study(folder, ARMS, "init_from=weights", "init_skip=head", "study.slurm=true"))
    lines = (folder / "grid" / "submit.sh").read_text().splitlines()
    (job,) = [line for line in lines if "job=cache" in line]
    words = shlex.split(job.strip().removesuffix(")"))[1:]
    assert run_command(program.main, RunConfig, words, program="main.py", about="") == 0
    run_study(tiny_study(folder, ARMS, "init_from=weights", "init_skip=head", "study.slurm=true"))
    assert "job=cache" not in (folder / "grid" / "submit.sh").read_text()


def test_parts_can_be_run_one_by_one(folder, capsys):
    file = staged_file(folder)
    with pytest.raises(UserError, match="which is not finished; run that first"):
        run_study(load_config(RunConfig, file, ["study.part=4"]))
    for number in (1, 2, 3, 4, 6):
        words = [str(file), f"study.part={number}"]
        assert run_command(program.main, RunConfig, words, program="main.py", about="") == 0
    assert load_config(RunConfig, folder / "grid" / "config.yaml", []).study.part == 0
    assert len(parts_of(folder)) == 5
    assert not (folder / "grid" / "study.json").exists()
    capsys.readouterr()
    dry_run(load_config(RunConfig, file, []))
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "study            2 cells, 7 parts, of which 5 are done"
    assert [line[17:22] for line in told[1:]] == [*["done:"] * 4, "to do", "done:", "to do"]
    with pytest.raises(UserError, match="study.part=8 is not there; the study has 7 parts"):
        run_study(load_config(RunConfig, file, ["study.part=8"]))


def test_ranks_do_not_share_a_job_of_one_process(folder, monkeypatch):
    monkeypatch.setattr(study, "world_size", lambda: 2)
    run = load_config(RunConfig, staged_file(folder), [])
    with pytest.raises(UserError, match="The stage redraw works in one process: start it with "):
        run_study(run)


def test_an_array_of_jobs_is_written_and_nothing_else(folder, capsys):
    run_study(load_config(RunConfig, staged_file(folder), ["study.slurm=true"]))
    assert sorted(path.name for path in (folder / "grid").iterdir()) == ["config.yaml", "submit.sh"]
    kept = load_config(RunConfig, folder / "grid" / "config.yaml", [])
    assert kept == load_config(RunConfig, folder / "study.yaml", [])
    assert "submit.sh: read it, then run it with bash" in capsys.readouterr().out


def test_cells_that_have_ended_are_not_run_again(folder, monkeypatch, capsys):
    run_study(tiny_study(folder, ARMS))
    before, record = {path: path.read_bytes() for path in parts_of(folder)}, read(folder)
    monkeypatch.setattr(findings, "TRAINERS", {})
    (folder / "grid" / "points.png").touch()  # of a record with a sweep
    assert "done already" not in capsys.readouterr().out
    run_study(tiny_study(folder, ARMS, "loop.log_every=2"))  # a free key
    assert capsys.readouterr().out.count(": done already, ") == 2
    assert not (folder / "grid" / "points.png").exists()
    assert {path: path.read_bytes() for path in parts_of(folder)} == before
    assert read(folder)["cells"] == record["cells"]
    with pytest.raises(KeyError):  # more of them are
        run_study(tiny_study(folder, ARMS, "study.seeds=0,1"))
    with pytest.raises(KeyError):
        run_study(tiny_study(folder, ARMS, "loop.steps=4"))


def test_a_part_that_was_stopped_goes_on(folder, monkeypatch):
    run = tiny_study(folder, "loop.save_every=1")

    def stopped(self, *arguments):
        if self.step == 2:
            self.checkpoints.wait()
            raise KeyboardInterrupt
        step(self, *arguments)

    step = GeneratorTrainer.train_step
    monkeypatch.setattr(GeneratorTrainer, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_study(run)
    assert not parts_of(folder)
    monkeypatch.undo()
    run_study(run)
    (part,) = parts_of(folder)
    assert "step 2 of 3" in (part.parent / "log.txt").read_text()
    (found,) = read(folder)["cells"]
    assert found["curves"]["train"]["step"] == [1, 2, 3]


@pytest.fixture
def end(monkeypatch):
    """Lets every run end at a step with an exception."""

    def end(last, exception):
        def ends(self, *arguments):
            if self.step == last:
                raise exception
            step(self, *arguments)

        step = GeneratorTrainer.train_step
        monkeypatch.setattr(GeneratorTrainer, "train_step", ends)

    return end


@pytest.mark.parametrize("last", [0, 1, 2])  # the first line of the log is that of step 2
def test_a_run_that_diverges_is_recorded(folder, end, last, capsys):
    end(last, Diverged("Enough is enough."))
    run_study(tiny_study(folder, "loop.log_every=2", "loop.validate_every=1"))
    (found,) = read(folder)["cells"]
    assert (found["diverged"], found["numbers"]["train"]) == ("Enough is enough.", {"steps": last})
    assert found["curves"]["train"]["step"] == [2] * (last == 2)
    assert ": Enough is enough., " in capsys.readouterr().out
    assert (folder / "grid" / "study.png").is_file()


def test_a_run_that_something_else_ends_is_not(folder, end, monkeypatch):
    end(2, Failure("The disk is full."))
    with pytest.raises(Failure, match="The disk is full"):
        run_study(tiny_study(folder))
    monkeypatch.undo()
    run_study(tiny_study(folder))
    (found,) = read(folder)["cells"]
    assert (found["diverged"], found["numbers"]["train"]["steps"]) == ("", 3)


def test_a_dry_run_lists_commands_and_writes_nothing(folder, capsys):
    before = tree(folder)
    dry_run(tiny_study(folder, ARMS))
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "study            2 cells, 2 parts, of which 0 are done"
    assert re.match(
        r"part 1 +to do: python main.py job=generator seed=0 .*network.norm=pre", told[1]
    )
    assert tree(folder) == before


def test_a_mistake_ends_a_study(folder):
    with pytest.raises(UserError, match="network.num_classes is 5"):
        run_study(tiny_study(folder, "network.num_classes=5"))


def test_torchrun_and_processes_do_not_mix(folder, monkeypatch):
    monkeypatch.setattr(study, "world_size", lambda: 2)
    with pytest.raises(UserError, match=r"study\.workers=2 starts processes of its own; leave "):
        run_study(tiny_study(folder, "study.workers=2"))
    run_study(tiny_study(folder, "study.workers=2", "study.part=1"))  # a job of an array
    assert len(parts_of(folder)) == 1
