"""Rows of a study: stages, and the cells that arms, axes and seeds make."""

import pytest

from MaskGIL.config import load_config
from Network.config import UserError
from Trainer.config import RunConfig, StudyConfig
from Trainer.stages import Change, file_name, read_cells, read_stages

ROWS = (
    "tokenizer main.py a/tokenizer.yaml seed=7",
    "train main.py a/generator.yaml tokenizer.weights=@tokenizer/weights seed=@seed",
    "sample FID_sample.py weights=@train/weights",
)
STAGES = read_stages(ROWS)


def cells(stages=STAGES, **rows):
    return read_cells(StudyConfig(**rows), stages)


def changes(cell):
    return [(c.stage, c.key, c.value) for choice in cell.choices for c in choice.changes]


def test_a_stage_is_a_command():
    tokenizer, train, sample = STAGES
    assert (tokenizer.name, tokenizer.program, tokenizer.file) == (
        "tokenizer",
        "main.py",
        "a/tokenizer.yaml",
    )
    assert train.words == ("tokenizer.weights=@tokenizer/weights", "seed=@seed")
    assert (sample.program, sample.file) == ("FID_sample.py", None)


def test_every_arm_meets_every_value_and_every_seed():
    found = cells(
        arms=("plain train:network.norm=pre", "post + QK train:network.norm=post seeds=0,7"),
        axes=("train:optim.lr=1 2", "sample,train:seed=3"),
        seeds=(5,),
    )
    assert [cell.name for cell in found] == [
        "plain_optim.lr=1_seed=3_seed=5",
        "plain_optim.lr=2_seed=3_seed=5",
        "post-+-QK_optim.lr=1_seed=3_seed=0",
        "post-+-QK_optim.lr=1_seed=3_seed=7",
        "post-+-QK_optim.lr=2_seed=3_seed=0",
        "post-+-QK_optim.lr=2_seed=3_seed=7",
    ]
    last = found[-1]
    assert (last.arm, last.seed) == ("post + QK", 7)
    assert last.values == {"optim.lr": "2", "seed": "3"}
    assert changes(last) == [
        ("train", "network.norm", "post"),
        ("train", "optim.lr", "2"),
        ("sample", "seed", "3"),
        ("train", "seed", "3"),
    ]


def test_changes_of_all_cells_come_first_and_have_no_name():
    (cell,) = cells(changes=("train:loop.steps=3",), arms=("a train:loop.steps=4",))
    assert changes(cell) == [("train", "loop.steps", "3"), ("train", "loop.steps", "4")]
    assert cell.name == "a_seed=0"


def test_a_stage_may_take_another_file():
    first, second = cells(axes=("train=a/b.yaml c/ar-b.yaml",))
    assert first.values == {"train": "b"}
    assert second.choices[-1].changes == (Change("train", "", "c/ar-b.yaml"),)
    assert second.name == "train=ar-b_seed=0"


def test_files_of_one_name_are_told_apart_by_their_folders():
    first, second, third = cells(axes=("train=a/b.yaml c/b.yaml d.yaml",))
    assert (first.values, third.values) == ({"train": "a/b.yaml"}, {"train": "d"})
    assert second.name == "train=c-b.yaml_seed=0"


def test_of_one_stage_the_name_may_miss():
    (cell,) = cells(read_stages(ROWS[:1]), arms=("wide tokenizer.width=4",))
    assert changes(cell) == [("tokenizer", "tokenizer.width", "4")]


def test_names_of_files_have_no_blanks():
    assert file_name(["a b/c", "", "x=1e-3"]) == "a-b-c_x=1e-3"


@pytest.mark.parametrize("name", ["long" * 40, "長い" * 40])
def test_long_names_differ_by_seed_and_fit_into_a_folder(name):
    found = [cell.name for cell in cells(arms=(name,), seeds=(0, 1))]
    assert len(set(found)) == 2
    for each in found:
        assert each.startswith(name[:20])
        assert len(f"{each}-12345678".encode()) < 255  # the most that a file system takes


def test_rows_of_a_yaml_file_may_have_lists(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("study:\n  stages:\n    - a main.py network.grid=4,4 data.path=@seed,@seed\n")
    (stage,) = read_stages(load_config(RunConfig, file, []).study.stages)
    assert stage.words == ("network.grid=4,4", "data.path=@seed,@seed")


SEEDS = "; seeds are whole numbers, each once, seeds=0,1,2."
FORM = "; write NAME PROGRAM FILE.yaml KEY=VALUE ..., PROGRAM one of main.py, FID_sample.py."


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a", f"study.stages has a row 'a'{FORM}"),
        ("", f"study.stages has a row ''{FORM}"),
        ("a 'b", 'The study has "a \'b", whose quotes are not closed.'),
        ("a run.py b.yaml", f"study.stages has a row 'a run.py b.yaml'{FORM}"),
        ("a main.py b.yaml c", f"study.stages has a row 'a main.py b.yaml c'{FORM}"),
        ("1 main.py b.yaml", f"study.stages has a row '1 main.py b.yaml'{FORM}"),
        ("seed main.py", "study.stages has a row 'seed main.py', whose name is taken; find one."),
        ("train main.py", "study.stages has a row 'train main.py', whose name is taken; find one."),
        (
            "score FID_sample.py weights=@trian/weights",
            "'weights=@trian/weights' stands on @trian, which does not come before; known there: "
            "@tokenizer, @train, @seed.",
        ),
    ],
)
def test_a_stage_that_cannot_be_read_is_one_sentence(row, sentence):
    with pytest.raises(UserError) as error:
        read_stages([*ROWS[:2], row])
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            {"arms": ("train:network.norm=pre",)},
            "study.arms has a row 'train:network.norm=pre'; write NAME KEY=VALUE KEY=VALUE.",
        ),
        (
            {"arms": ("pre train:network.norm=pre norm",)},
            "study.arms has a row 'pre train:network.norm=pre norm'; write NAME KEY=VALUE "
            "KEY=VALUE.",
        ),
        ({"arms": ("a seeds=1,x",)}, f"study.arms has 'seeds=1,x'{SEEDS}"),
        ({"arms": ("a seeds=1,01",)}, f"study.arms has 'seeds=1,01'{SEEDS}"),
        ({"seeds": (0, 1, 0)}, "study.seeds takes one seed or several, each once: "
                               "study.seeds=0,1,2."),
        ({"seeds": ()}, "study.seeds takes one seed or several, each once: study.seeds=0,1,2."),
        ({"axes": ("optim.lr",)}, "study.axes has a row 'optim.lr'; write KEY=VALUE VALUE VALUE."),
        ({"axes": ("lr=",)}, "study.axes has a row 'lr='; write KEY=VALUE VALUE VALUE."),
        (
            {"axes": ("train:optim.lr=1 1",)},
            "study.arms and study.axes make two cells optim.lr=1_seed=0; name them apart.",
        ),
        (
            {"axes": ("train:seed=1", "sample:seed=1")},
            "study.axes has two rows of seed; write its values in one.",
        ),
        (
            {"axes": ("optim.lr=1",)},
            "'optim.lr=1' does not say of which stage; write STAGE:optim.lr=1, STAGE one or "
            "several of tokenizer,train,sample.",
        ),
        ({"changes": ("train:=1",)}, "'train:=1' changes nothing; write STAGE:KEY=VALUE."),
        ({"changes": ("train:seed",)}, "'train:seed' changes nothing; write STAGE:KEY=VALUE."),
        (
            {"changes": ("trian:seed=1",)},
            "'trian:seed=1' is of no stage of the study. Did you mean 'train'?",
        ),
        (
            {"changes": ("xyz:seed=1",)},
            "'xyz:seed=1' is of no stage of the study. Stages are tokenizer, train, sample.",
        ),
        (
            {"changes": ("tokenizer:init_from=@train",)},
            "'tokenizer:init_from=@train' stands on @train, which does not come before; known "
            "there: @seed.",
        ),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_one_sentence(rows, sentence):
    with pytest.raises(UserError) as error:
        cells(**rows)
    assert str(error.value) == sentence
