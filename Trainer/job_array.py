"""The parts of a study as job arrays of SLURM: a script that queues them, stage behind stage.

A cache that several parts would write at once is a job of its own, before their stage.

`scripts/slurm.sh` runs a part; how many machines and cards it gets, and for how long, is said there
or behind the name of the script that is written here.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from MaskGIL.durable import replace_file
from Network.config import UserError
from Trainer.parts import Part, in_one_process, missing_cache

NAME = "submit.sh"
_HEAD = """#!/usr/bin/env bash
# Queues the parts of this study that are missing, an array for each stage, then what gathers them.
# From the root of the repository: bash {script} --gpus-per-node=8 --time=24:00:00
# What stands behind the name goes to sbatch; stages that know one process only get one card.
set -euo pipefail
study=({study})
one=(--nodes=1 --gpus-per-node=1)
behind=()
"""
_STAGE = """
# {name}: {count} parts
job=$(sbatch --parsable "$@" {one}${{behind[@]+"${{behind[@]}}"}} \\
    --array={numbers} scripts/slurm.sh "${{study[@]}}")
behind=(--dependency="afterok:$job")
"""
_CACHE = """
# the token cache {cache}
job=$(sbatch --parsable "$@" ${{behind[@]+"${{behind[@]}}"}} \\
    scripts/slurm.sh {words})
behind=(--dependency="afterok:$job")
"""
_END = """
sbatch "$@" "${one[@]}" ${behind[@]+"${behind[@]}"} scripts/slurm.sh "${study[@]}"
"""


def write_job_array(folder: Path, parts: Sequence[Part]) -> Path:
    """Write FOLDER/submit.sh for the parts that are not finished; returns its path.

    Raises UserError where all are.
    """
    missing = [(number, part) for number, part in enumerate(parts, 1) if part.record() is None]
    if not missing:
        raise UserError(
            f"All parts in {folder} are finished; the command without study.slurm gathers them."
        )
    script = folder / NAME
    study = [str(folder / "config.yaml"), f"out_dir={folder}"]
    text = _HEAD.format(script=script, study=shlex.join(study))
    for name in dict.fromkeys(part.stage.name for _, part in missing):
        stage = [(number, part) for number, part in missing if part.stage.name == name]
        numbers = ",".join(str(number) for number, _ in stage)
        caches = {cache: part for _, part in stage if (cache := missing_cache(part))}
        for cache, part in caches.items():
            words = shlex.join([*part.arguments, "job=cache"])
            text += _CACHE.format(cache=cache, words=words)
        one = '"${one[@]}" ' if any(in_one_process(part) for _, part in stage) else ""
        text += _STAGE.format(name=name, count=len(stage), numbers=numbers, one=one)
    replace_file(script, (text + _END).encode())
    return script
