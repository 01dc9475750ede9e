"""The benchmarks time what they say: the demo's network, the trainer's batches, equal ways."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from tiny_weights import save_tiny_weights

from benchmarks.plain import plain_copy, unfused_attention
from MaskGIL.config import load_config
from MaskGIL.data import open_images
from MaskGIL.data.shapes import CLASSES, Object, Shapes
from MaskGIL.weights import save_weights
from Network import build_tokenizer
from Trainer.config import RunConfig
from Trainer.study import grid_of

ROOT = Path(__file__).parent.parent
SHORT = ("rounds=1", "seconds=0.001")
SIZE = (32, 32)  # of the demo's pictures


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


def test_a_table_has_room_for_long_names(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from paired import spread, table

    facts = {"seconds": spread([1.0, 2.0, 3.0])}
    titles, first, second = table(
        {"a million captions": {"ours": facts}, "B": {"a way of a long name, cached": facts}}
    ).splitlines()
    assert first.startswith("a million captions  ours  ")
    assert second.startswith("B                   a way of a long name, cached   ")
    ends = [line.index("1.00") + 4 for line in (first, second)]
    assert ends == [len(titles) - 9] * 2  # behind x ours; nothing of a peak


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


def test_the_most_memory_that_is_held_at_once(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import paired

    given = torch.ones(1000)

    def way():
        two = given.view(10, 100) + 1  # 4,000 bytes
        three = two * 2  # 8,000 are held
        del two
        three.mul_(2).view(-1)[:500].neg()  # 2,000 more in place of the first
        return three.t().contiguous()  # 8,000 again

    for _ in range(2):
        assert paired.peak_bytes(way, torch.device("cpu")) == 8000
    assert paired.peak_bytes(lambda: given[:10], torch.device("cpu")) == 0


def test_fine_tuning_draws_classes_that_nobody_has_seen(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import fine_tuning

    config = fine_tuning.FineTuningBenchmark(folder=str(tmp_path), pictures=8)
    fine_tuning.draw(tmp_path / "pictures" / "old", fine_tuning.OLD, 8)
    fine_tuning.draw(tmp_path / "pictures" / "new", fine_tuning.NEW, 8)
    before, study = fine_tuning.before(config), fine_tuning.study(config)
    scratch, tuned = (parts["train"].config for cell, parts in grid_of(study) if cell.seed == 0)
    for run, count in ((before, 14), (scratch, 2), (tuned, 2)):
        train, val = (open_images(run.data, split) for split in ("train", "val"))
        assert len(train.classes) == run.network.num_classes == count
        assert (len(train), len(val)) == (8 * count, count)
    classes = [set(open_images(run.data, "train").classes) for run in (before, study)]
    assert not classes[0] & classes[1]
    assert tuned == replace(scratch, out_dir=tuned.out_dir, init_from=f"{before.out_dir}/weights")


@pytest.fixture
def editing(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import editing

    return editing


def test_an_edit_is_judged_by_what_it_shows(editing):
    scenes = list(map(Shapes("val", 64, SIZE).scene, range(64)))
    scene, (main,) = scenes[3], scenes[3].objects
    others = [each.background for each in scenes if each.background.kind != scene.background.kind]

    def with_main(**changes):
        return replace(scene, objects=(replace(main, **changes),))

    shown = {
        "itself": scene,
        "another class": with_main(colour="red", shape="ring", rgb=None),
        "moved": with_main(column=main.column + 1.01 / 8),
        "moved a little": with_main(row=main.row - 0.7 / 8),
        "one more": replace(scene, objects=(main, Object("circle", "red", 0.88, 0.88, 0.22))),
        "nothing": replace(scene, objects=()),
        "another background": replace(scene, background=others[0]),
    }
    images, own = editing.drawn(list(shown.values()), SIZE), f"{main.colour} {main.shape}"
    asked = torch.full((len(shown),), CLASSES.index(own))
    verdicts = dict(zip(shown, editing.judge(images, [scene] * len(shown), asked)))
    assert own != "red ring"
    assert all(verdicts["itself"].values())
    wrong = {name: {key for key, value in each.items() if not value}
             for name, each in verdicts.items()}  # fmt: skip
    assert "asked class" in wrong["another class"]
    assert "all others" not in wrong["another class"]
    assert wrong["moved"] == {"all others", "place", "place, to half a token"}
    assert wrong["moved a little"] == {"place, to half a token"}
    assert {"all others", "no other object"} <= wrong["one more"]
    assert {"asked class", "all others", "no other object", "place"} <= wrong["nothing"]
    assert wrong["another background"] == {"all others", "background"}


def test_a_spot_of_another_background_is_seen(editing):
    scenes = list(map(Shapes("val", 64, SIZE).scene, range(64)))
    scene = scenes[3]
    other = next(each for each in scenes if each.background.kind != scene.background.kind)
    images = editing.drawn([scene, scene], SIZE)
    images[1, :, :4, :4] = editing.drawn([replace(other, objects=())], SIZE)[0, :, :4, :4]
    found = editing.read_objects(images.permute(0, 2, 3, 1))
    assert editing.background_stays(images, [scene, scene], found).tolist() == [True, False]


def test_masks_cover_the_objects_and_other_classes_are_asked(editing):
    scenes = list(map(Shapes("val", 64, SIZE).scene, range(8)))
    exact, wide = (editing.covered(scenes, SIZE, margin) for margin in (0, 2))
    empty = editing.drawn([replace(scene, objects=()) for scene in scenes], SIZE)
    pictures = editing.drawn(scenes, SIZE)
    assert torch.equal(torch.where(exact[:, None], empty, pictures), empty)
    assert (exact < wide).any()
    assert (exact <= wide).all()
    labels = torch.arange(16).repeat(400)
    asked = editing.another_class(labels, 0)
    assert (asked != labels).all()
    counts = torch.bincount(16 * labels + asked, minlength=256).view(16, 16)
    assert counts.sum(1).tolist() == [400] * 16
    off = counts[~torch.eye(16, dtype=torch.bool)]
    assert off.min() > 5  # 400 / 15 = 26.7 expected, four standard deviations below


def test_intervals_are_wilsons(editing):
    """Its ends are the p whose distance to the share is 1.96 of their own standard deviations."""
    found = editing.share([True] * 81 + [False] * 182)
    part, count, normal = 81 / 263, 263, 1.96
    for end in (found["low"], found["high"]):
        assert abs(end - part) / (end * (1 - end) / count) ** 0.5 == pytest.approx(normal, abs=5e-3)
    assert editing.share([True] * 50)["high"] == 1
    assert editing.share([True] * 50)["low"] == pytest.approx(50 / (50 + normal**2), abs=1e-4)


@pytest.mark.slow
def test_editing_writes_a_record(bench, tmp_path):
    weights = save_tiny_weights(tmp_path / "weights")
    told = bench("editing", f"weights={weights}", "num_images=16", "device=cpu")
    assert "asked class" in told
    record = json.loads((tmp_path / "benchmarks/results/editing.json").read_text())
    assert record["edited"].keys() == record["reconstructions"].keys()
    assert record["edited"]["asked class"]["count"] == 16
    assert 0 < record["hidden share of tokens"] < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "ways"),
    [
        (
            "train",
            ["sizes=demo", "batch=4", "device=cpu"],
            [
                *("ours", "plain", "plain, same rows", "plain, unfused attention"),
                *("ours, with EMA", "published recipe", "published recipe, fp32", "plain, fp32"),
            ],
        ),
        (
            "cached",
            ["size=demo", "batch=2", "device=cpu"],
            ["ours", "ours, encoding", "published recipe, encoding, fp32"],
        ),
        (
            "decode",
            ["batch=2", "num_steps=2", "device=cpu"],
            ["ours", "published", "published, fp32"],
        ),
        (
            "decode",
            ["text=true", "samplers=ramp", "batch=2", "num_steps=2", "device=cpu"],
            ["ours", "of captions", "of 120 tokens"],
        ),
        (
            "mfu",
            ["sizes=demo", "images=2", "ways=eager", "precision=fp32", "peak=1", "device=cpu"],
            ["eager"],
        ),
        ("tokenizer", ["image_size=32", "batch=1", "device=cpu"], ["ours", "plain"]),
        ("images", [], ["ours", "ours, draft", "plain", "decoded alone"]),
        (
            "metrics",
            ["width=16", "num_real=40", "num_generated=50", "batch=1", "device=cpu"],
            ["ours", "ours, from covariances", "scipy sqrtm", "torch-fidelity"],
        ),
        (
            "captions",
            ["num_captions=256", "device=cpu"],
            ["ours", "ours, open and verify", "plain", "plain, one by one"],
        ),
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


@pytest.mark.slow
def test_fine_tuning_goes_from_pictures_to_a_record(bench, tmp_path):
    demo = load_config(RunConfig, ROOT / "MaskGIL/configs/demo/tokenizer.yaml", [])
    save_weights(tmp_path / "weights", tiny.fill(build_tokenizer(demo.tokenizer)))
    words = [f"tokenizer={tmp_path / 'weights'}", "folder=runs", "pictures=8", "device=cpu"]
    told = bench("fine_tuning", *words, "seeds=0", "old_steps=1", "new_steps=40")
    assert f"begun with {Path('runs/old/weights')}, but for condition.table.weight" in told
    record = json.loads((tmp_path / "benchmarks/results/fine-tuning.json").read_text())
    assert [cell["arm"] for cell in record["cells"]] == ["from scratch", "fine-tuned"]
    assert record["cells"][0]["curves"]["validation"]["step"] == [20, 40]
    assert (tmp_path / "images/fine-tuning.png").stat().st_size > 5000


def test_a_recipe_is_reckoned_with_its_own_network_batch_and_steps(bench):
    recipe = "MaskGIL/configs/demo/generator.yaml"
    table = bench("plan", f"recipes={recipe}", "machines=8x80 GB,1x8 GB").splitlines()
    assert table[0] == "| size | 8x80 GB | 1x8 GB |"
    name, many, one = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert name == "generator"
    assert many.startswith("2 images, ddp, ")  # a batch of 16
    assert one.startswith("16 images, ")
