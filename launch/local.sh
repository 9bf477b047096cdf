#!/usr/bin/env bash
# Train on this machine, one process per GPU.
#
#   launch/local.sh CONFIG.yaml [section.key=value ...]
#
# PROCESSES=N    how many processes (default: GPUs of this machine that are visible, at least 1)
# PYTHON=...     the interpreter (default: .venv/bin/python of this repository, else python)
#
# The same command continues a run that was stopped.
set -euo pipefail

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }
case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    "" | -*) usage >&2; exit 2 ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$([ -x "$root/.venv/bin/python" ] && echo "$root/.venv/bin/python" || echo python)}

visible_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true
    else
        echo 0
    fi
}

processes=${PROCESSES:-$(visible_gpus)}
[ "$processes" -ge 1 ] || processes=1
# torchrun would give each process one thread, which starves image decoding and CPU runs
cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}

[ "$processes" -gt 1 ] || exec "$python" "$root/train.py" "$@"
exec "$python" -m torch.distributed.run --standalone --nproc-per-node "$processes" "$root/train.py" "$@"
