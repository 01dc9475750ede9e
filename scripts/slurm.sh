#!/usr/bin/env bash
# A run on several machines under SLURM, which goes on by itself when its time is over:
#   sbatch --nodes=2 scripts/slurm.sh MaskGIL/configs/xxl.yaml data.path=IMAGENET out_dir=runs/xxl
# Submit from the root of the repository; out_dir must be on a disk that all machines share.
# SLURM sends SIGUSR1 five minutes before the time is over. The run then saves, writes
# out_dir/PREEMPTED and ends; because of that file the job is queued again, and resumes.
#SBATCH --job-name=maskgil
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

out_dir=""
for word in "$@"; do
    case "$word" in
        out_dir=*) out_dir="${word#out_dir=}" ;;
    esac
done
if [[ -z "$out_dir" ]]; then
    echo "error: name the folder of the run, out_dir=runs/NAME." >&2
    exit 2
fi
rm -f "$out_dir/PREEMPTED"
if [[ -n "${SLURM_ARRAY_TASK_ID:-}" ]]; then # a part of a study, see its submit.sh
    set -- "$@" "study.part=$SLURM_ARRAY_TASK_ID"
fi

meeting=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
python=${PYTHON:-.venv/bin/python}

# In the background, so that this shell hears the signal; torchrun tells its ranks by SIGTERM and
# leaves them time to save. Compiling (loop.compile=true) may hold that up: a run hears it when its
# first step is done. From SLURM 22.05 on srun does not take over the cores that sbatch was asked for
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-64}" \
    "$python" -m torch.distributed.run \
    --nnodes="$SLURM_JOB_NUM_NODES" \
    --nproc-per-node="${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$meeting:$port" \
    --rdzv-id="$SLURM_JOB_ID" \
    --shutdown-timeout=240 \
    --max-restarts=0 \
    main.py "$@" &
step=$!
asked=""
trap 'asked=yes; kill -TERM "$step"' USR1 TERM

code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do # a signal ends `wait` before the step has ended
    code=0
    wait "$step" || code=$?
done

# Before its first step a run, and a cache or a study at any time, ends without that file
if [[ -e "$out_dir/PREEMPTED" || (-n "$asked" && "$code" -ne 0) ]]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
