"""The script for SLURM: a shell reads it, torchrun knows its flags, doubles try its loop."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts/slurm.sh"


def test_a_shell_can_read_it():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", SCRIPT], check=True)


def test_torchrun_knows_its_flags():
    flags = set(re.findall(r"^ +(--[\w-]+)=", SCRIPT.read_text(), re.M))
    assert "--shutdown-timeout" in flags
    known = get_args_parser()._option_string_actions
    assert flags <= set(known)


def run(tmp_path, torchrun, *words, **variables):
    """Run the script where SLURM's commands and the interpreter are doubles."""
    doubles = {
        "scontrol": f'[ "$1" = show ] && echo node1 || echo "$@" >> {tmp_path}/requeued',
        "srun": f'while [[ $1 = --* ]]; do echo "$1" >> {tmp_path}/options; shift; done\nexec "$@"',
        "python": torchrun,
    }
    for name, text in doubles.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": str(tmp_path / "python")}
    environment |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node1"}
    environment |= variables
    return subprocess.run(
        ["bash", SCRIPT, *words], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_ends_is_not_queued_again(tmp_path, code):
    out = tmp_path / "run"
    out.mkdir()
    (out / "PREEMPTED").touch()  # of the time before
    done = run(tmp_path, f'echo "$@"; exit {code}', "a.yaml", f"out_dir={out}")
    assert done.returncode == code, done.stderr
    assert "--rdzv-id=7" in done.stdout
    assert f"main.py a.yaml out_dir={out}" in done.stdout
    assert not (tmp_path / "requeued").exists()


def test_a_job_whose_time_is_over_saves_and_is_queued_again(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    saves = f'trap "sleep 0.5; touch {out}/PREEMPTED; exit 143" TERM; kill -USR1 $PPID; '
    done = run(tmp_path, saves + "while true; do sleep 0.1; done", "a.yaml", f"out_dir={out}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_the_step_gets_the_cores_that_the_job_was_given(tmp_path):
    done = run(tmp_path, "exit 0", "a.yaml", f"out_dir={tmp_path}", SLURM_CPUS_PER_TASK="12")
    assert done.returncode == 0, done.stderr
    options = (tmp_path / "options").read_text().split()
    assert options == ["--kill-on-bad-exit=1", "--cpus-per-task=12"]


def test_it_asks_for_a_folder(tmp_path):
    done = run(tmp_path, "exit 0", "a.yaml")
    assert (done.returncode, done.stderr) == (
        2,
        "error: name the folder of the run, out_dir=runs/NAME.\n",
    )


def test_a_job_of_an_array_runs_a_part_of_a_study(tmp_path):
    done = run(tmp_path, 'echo "$@"', "a.yaml", f"out_dir={tmp_path}", SLURM_ARRAY_TASK_ID="3")
    assert f"main.py a.yaml out_dir={tmp_path} study.part=3\n" in done.stdout
