"""Sample a set of images from weights and score it: `python FID_sample.py weights=RUN/weights`.

Writes an .npz as the ADM evaluator reads, and a record beside it. Under torchrun the ranks share
the work, and the bytes stay the same. A run that was stopped goes on where it was, and a set that
is there already is only scored again.
`samples=FILE reference=...` scores images that others have made, `reconstruct=a,b reference=...`
compares tokenizers, `sweep=...` settings of the sampler, and `verify=ROW` measures a row of
results/ again.
"""

import sys

from MaskGIL.command import Flags, run_command
from Metrics.sample_config import SampleConfig
from Metrics.scored_set import sample_and_score
from Metrics.verify import open_row


def main(config: SampleConfig, flags: Flags) -> None:
    """Make and score a set, or measure a row of the registry again."""
    row = None
    if config.verify:
        row, config = open_row(config.verify, flags.words)
    sample_and_score(config, row, only_plan=flags.dry_run)


if __name__ == "__main__":
    sys.exit(
        run_command(
            main,
            SampleConfig,
            sys.argv[1:],
            program="FID_sample.py",
            about=__doc__ or "",
            lighter="give a smaller chunk, or two_passes=true",
        )
    )
