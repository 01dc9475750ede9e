"""Train a generator, a tokenizer, or a grid of them; cache tokens: `main.py CONFIG.yaml KEY=VALUE`.

Under torchrun every rank runs this file. The same command again resumes the run of out_dir.
"""

import sys
from pathlib import Path

from MaskGIL.command import Flags, run_command
from MaskGIL.device import choose_device
from MaskGIL.distributed import process_group
from Trainer.config import RunConfig
from Trainer.dry_run import dry_run
from Trainer.generator_data import write_caches
from Trainer.report import compare, write_report
from Trainer.run_folder import check_run_folder
from Trainer.study import run_study
from Trainer.vit import GeneratorTrainer
from Trainer.vqgan import TokenizerTrainer

JOBS = {
    "generator": lambda config: GeneratorTrainer(config).fit(),
    "tokenizer": lambda config: TokenizerTrainer(config).fit(),
    "cache": write_caches,
    "study": run_study,
}


def main(config: RunConfig, flags: Flags) -> None:
    """Do the job of `config`, or say what it would take."""
    if config.report:
        print("wrote", *write_report(Path(config.report)))
        return
    if config.compare:
        print(compare(config.compare))
        return
    with process_group(choose_device(config.device)):
        check_run_folder(config)
        if flags.dry_run:
            dry_run(config)
        else:
            JOBS[config.job](config)


if __name__ == "__main__":
    sys.exit(
        run_command(
            main,
            RunConfig,
            sys.argv[1:],
            program="main.py",
            about=__doc__ or "",
            lighter="loop.accumulation=0 computes a step in as few parts as fit, and "
            "loop.checkpoint_blocks=1 computes a generator's blocks again instead of keeping them",
        )
    )
