#!/usr/bin/env bash
# Train on several machines through the deepspeed launcher.
#
#   launch/multinode.sh HOSTFILE CONFIG.yaml [section.key=value ...]
#
# HOSTFILE has a line a machine: NAME slots=GPUS. This repository, its environment, the shards and the run folder must
# have the same paths on all of them.
#
# With ssh: run it once, on any machine that has pdsh and reaches the others by ssh without a password.
# Without ssh: run it on every machine with NODE_RANK=0 on the first of HOSTFILE, NODE_RANK=1 on the second, and so on.
#
# NODE_RANK=I        this machine's number in HOSTFILE: nothing is started elsewhere, no ssh, no pdsh
# MASTER_ADDR=HOST   where the processes meet (default: the first machine of HOSTFILE)
# MASTER_PORT=N      its port (default: 29500)
# PYTHON=...         the interpreter (default: .venv/bin/python of this repository, else python)
#
# Variables that begin with NCCL or PYTHON reach the other machines by themselves, others through ~/.deepspeed_env.
# The same command continues a run that was stopped.
set -euo pipefail

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }
case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    "" | -*) usage >&2; exit 2 ;;
esac
[ $# -ge 2 ] || { usage >&2; exit 2; }

hostfile=$1
shift
stop() { echo "error: $*" >&2; exit 2; }
[ -f "$hostfile" ] || stop "$hostfile: no such hostfile; it has a line a machine: NAME slots=GPUS"
first=$(awk '!/^[[:space:]]*(#|$)/ {print $1; exit}' "$hostfile")
[ -n "$first" ] || stop "$hostfile: names no machine; it has a line a machine: NAME slots=GPUS"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$([ -x "$root/.venv/bin/python" ] && echo "$root/.venv/bin/python" || echo python)}

options=(--hostfile "$hostfile" --master_addr "${MASTER_ADDR:-$first}" --master_port "${MASTER_PORT:-29500}")
options+=(--no_local_rank) # the environment says it
if [ -n "${NODE_RANK:-}" ]; then
    options+=(--no_ssh --node_rank "$NODE_RANK")
else
    command -v pdsh >/dev/null ||
        stop "pdsh is not installed: apt-get install pdsh, or run this on every machine with NODE_RANK set"
    options+=(--force_multi) # a hostfile of one other machine means that machine, not this one
fi

exec "$python" -m deepspeed.launcher.runner "${options[@]}" "$root/train.py" "$@"
