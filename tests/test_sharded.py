"""FSDP2 on two processes equals DDP and one process, and each goes on where another stopped.

A short sharded run is in test_ranks.py, among the fast ones.
"""

import functools

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import losses, records, run_ranks, text_weights, train

from MaskGIL.weights import load_weights

pytestmark = pytest.mark.slow
# Some dimensions are odd: 17 labels and 33 tokens, with the null label and the mask token
WORDS = ("precision=fp32", "loop.steps=6", "loop.save_every=3", "network.dropout=0")
LOOKS = ("loop.validate_every=3", "loop.sample_every=3", "loop.score_every=3")
LOOKS += ("loop.score_images=16",)
FSDP = "loop.parallel=fsdp"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = text_weights(tmp_path_factory.mktemp("sharded"))
    cache, captioned = (f"data.cache={folder / name}" for name in ("cache", "captioned"))

    def call(name, *words, stop=None, job="generator"):
        return functools.partial(
            train, job, folder, *WORDS, *LOOKS, cache, *words,
            f"out_dir={folder / name}", stop=stop,
        )  # fmt: skip

    call("one")()
    call("one, then sharded", stop=5)()
    white = "network.caption_whitening=true"
    call("text", captioned, white, job="text")()
    begins = f"init_from={folder / 'one' / 'weights'}"
    call("begun", begins)()
    run_ranks(
        2,
        [
            call("ddp"),
            call("ddp, then sharded", stop=5),
            call("ddp, then sharded", FSDP),
            call("fsdp", FSDP),
            call("parts of fsdp", FSDP, "loop.accumulation=2", "loop.checkpoint_blocks=0.5"),
            call("one, then sharded", FSDP),
            call("sharded, then one", FSDP, stop=5),
            call("scaled", FSDP, job="scaled"),
            call("text, sharded", FSDP, captioned, white, job="text"),
            call("begun, sharded", FSDP, begins),
        ],
    )
    call("sharded, then one")()
    return folder


NAMES = ["ddp", "fsdp", "parts of fsdp", "one, then sharded", "ddp, then sharded"]
NAMES += ["sharded, then one"]


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_norms_are_those_of_one_process(runs, name):
    expected = losses(runs / "one")
    torch.testing.assert_close(losses(runs / name), expected, atol=1e-5, rtol=0)
    assert expected[0] - expected[-1] > 1e-2  # it learned far more than that
    assert_close(records(runs / name), records(runs / "one"))


def test_gradients_that_overflow_under_a_scale_move_no_share(runs):
    """As in fp16: all ranks compute the step again, with the loss scaled by half as much."""
    torch.testing.assert_close(losses(runs / "scaled"), losses(runs / "one"), atol=1e-5, rtol=0)
    first, *others = records(runs / "scaled")
    assert first["overflows"] >= 1
    assert [other["overflows"] for other in others] == [0] * (len(others))


def test_captions_in_several_shapes_are_learned_as_by_one_process(runs):
    one, sharded = runs / "text", runs / "text, sharded"
    torch.testing.assert_close(losses(sharded), losses(one), atol=1e-5, rtol=0)
    for kind in ("train", "validation", "score"):
        assert_close(records(sharded, kind), records(one, kind))
    assert losses(one)[0] - losses(one)[-1] > 1e-2


def test_a_sharded_run_begins_with_weights_as_one_process_does(runs):
    """Rank 0 reads them and hands out shares; no other rank has any."""
    assert_close(records(runs / "begun, sharded"), records(runs / "begun"))
    assert abs(losses(runs / "begun")[0] - losses(runs / "one")[0]) > 1e-2  # they know something


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.pop("kind") == other.pop("kind")
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", ["model", "ema", "optim"])
def test_weights_averages_and_moments_are_those_of_one_process(runs, name, file):
    one, found = (
        load_file(runs / n / "checkpoints/step-0000006" / f"{file}.safetensors")
        for n in ("one", name)
    )
    assert found.keys() == one.keys()
    for key, expected in one.items():
        torch.testing.assert_close(found[key], expected, atol=1e-4, rtol=0, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_seen_with_averaged_weights_is_that_of_one_process(runs, name):
    """Rank 0 draws pictures alone, and neither waits."""
    for kind in ("validation", "score"):
        assert_close(records(runs / name, kind), records(runs / "one", kind))
    assert (runs / name / "samples/step-0000006.png").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_weights_for_users_are_whole(runs, name):
    for ema, file in ((True, "ema"), (False, "model")):
        network = load_weights(runs / name / "weights", ema=ema).network
        saved = load_file(runs / name / "checkpoints/step-0000006" / f"{file}.safetensors")
        assert all(torch.equal(saved[key], t) for key, t in network.state_dict().items())
