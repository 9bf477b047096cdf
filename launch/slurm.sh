#!/usr/bin/env bash
#SBATCH --job-name=vglm_train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
# Train under Slurm, one task per GPU. Submit from the repository:
#
#   sbatch [--nodes=N --ntasks-per-node=G --gpus-per-node=G ...] launch/slurm.sh CONFIG.yaml [section.key=value ...]
#
# ntasks-per-node must equal gpus-per-node. Five minutes before the time limit the run is asked to stop, and saves; the
# same sbatch command continues it, and a job that Slurm requeues continues by itself.
#
# MASTER_PORT=N  where the processes meet, on the first node (default: from the job's number)
# PYTHON=...     the interpreter (default: .venv/bin/python of the repository, else python)
set -euo pipefail

usage() { sed -n '/^# Train/,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }
case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    "" | -*) usage >&2; exit 2 ;;
esac
[ -n "${SLURM_JOB_ID:-}" ] || { echo "error: no Slurm job: submit this script with sbatch" >&2; usage >&2; exit 2; }

# sbatch runs a copy of this file, so its own folder says nothing
root=${SLURM_SUBMIT_DIR:-$PWD}
[ -f "$root/train.py" ] || { echo "error: $root: no train.py in it; submit from the repository's folder" >&2; exit 2; }
PYTHON=${PYTHON:-$([ -x "$root/.venv/bin/python" ] && echo "$root/.venv/bin/python" || echo python)}

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export PYTHON MASTER_ADDR MASTER_PORT OMP_NUM_THREADS
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun no longer takes it from sbatch

# all tasks see all GPUs of their node, each takes the one of its local number
# shellcheck disable=SC2016  # expanded by each task
exec srun --kill-on-bad-exit=1 --gpu-bind=none bash -c '
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
    exec "$PYTHON" "$0" "$@"' "$root/train.py" "$@"
