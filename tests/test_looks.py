"""Looks at a run; when which of them is due is in test_trainer.py."""

from test_trainer import FP32, Line
from tiny_runs import config


def test_a_picture_that_has_no_room_is_left_out(tmp_path, capsys):
    class Painter(Line):
        def picture(self, path):
            path.write_text("half a pict")
            raise OSError(28, "No space left on device")

    Painter(config("tokenizer", tmp_path, FP32, "loop.steps=2", "loop.sample_every=2")).fit()
    picture = tmp_path / "tokenizer" / "samples" / "step-0000002.png"
    sentence = f"warning: the disk is full, so {picture} is left out; training goes on."
    assert sentence in capsys.readouterr().out.splitlines()
    assert not picture.exists()
