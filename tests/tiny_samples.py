"""FID_sample.py as a function, for tests that type its commands."""

from FID_sample import main
from MaskGIL.command import run_command
from Metrics.sample_config import SampleConfig


def commanded(capsys, *usual):
    """A function of the words behind the `usual` ones: (exit code, what it told, its errors)."""

    def fid_sample(*words):
        given = [*usual, *words]
        code = run_command(main, SampleConfig, given, program="FID_sample.py", about="")
        return code, *capsys.readouterr()

    return fid_sample
