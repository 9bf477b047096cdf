#!/usr/bin/env bash
# Make a folder of wheels, from which a machine without internet installs this project.
#
#   launch/wheels.sh --out FOLDER [--python python3.11] [--cuda cu126] [--extras train,chat,eval]
#
# --out FOLDER      what to make; it must not exist yet
# --python PROGRAM  an interpreter of the version and system that the other machine has (default: python3)
# --cuda BUILD      PyTorch's build for the other machine's driver: cu126, cu128, cpu, ... (default: the index's own)
# --extras NAMES    what the other machine will do (default: train,chat,eval)
#
# FOLDER/INSTALL.txt says how to install from it. launch/Dockerfile makes an image of it.
set -euo pipefail

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }
fail() { echo "error: $*" >&2; exit 2; }

out= python=python3 cuda= extras=train,chat,eval
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --out | --python | --cuda | --extras)
            [ $# -ge 2 ] || fail "$1 needs a value"
            declare "${1#--}=$2"; shift 2 ;;
        *) usage >&2; exit 2 ;;
    esac
done
[ -n "$out" ] || fail "give --out FOLDER"
[ ! -e "$out" ] || fail "$out is there already; give another folder"
command -v "$python" >/dev/null || fail "$python is not here; give --python an interpreter of the other machine's version"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case "$version" in 3.11 | 3.12) ;; *) fail "$python is Python $version; this project runs on 3.11 and 3.12" ;; esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/wheels" "$work/source"
# a copy, because setuptools leaves a folder `build` where it works
(cd "$root" && tar cf - vglm_train data_tools benchmarks configs setup.py pyproject.toml README.md LICENSE) | tar xf - -C "$work/source"
"$python" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip "$@"; }

# PyTorch comes first: its build is chosen here, and what is published as source needs it to be built
index=()
[ -z "$cuda" ] || index=(--index-url "https://download.pytorch.org/whl/$cuda")
pip wheel -q -c "$root/constraints.txt" "${index[@]}" -w "$work/wheels" torch
pip install -q -c "$root/constraints.txt" --find-links "$work/wheels" torch numpy setuptools wheel
torch=$("$work/venv/bin/python" -c 'from importlib.metadata import version; print(version("torch"))')
echo "torch==$torch" >"$work/torch.txt"
DS_BUILD_OPS=0 pip wheel -q --no-build-isolation -c "$root/constraints.txt" -c "$work/torch.txt" \
    --find-links "$work/wheels" -w "$work/wheels" "$work/source[$extras]"
chatglm=
case ",$extras," in
    *,train,*) ;; # brings it
    *,chat,*)     # ChatGLM's layers, without what they list for training alone
        pip wheel -q --no-deps -c "$root/constraints.txt" -w "$work/wheels" SwissArmyTransformer
        chatglm=$'\n'"vglm/bin/python -m pip install --no-index --no-deps --find-links . SwissArmyTransformer   # for ChatGLM" ;;
esac

# nothing is missing: what the other machine will do, without an index
env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL "$work/venv/bin/python" -m pip install -q --ignore-installed --dry-run \
    --no-index --find-links "$work/wheels" "vglm_train[$extras]"

system=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_platform())')
cat >"$work/wheels/INSTALL.txt" <<TEXT
vglm_train with $extras, for Python $version on $system, with torch $torch.

1. Copy this folder to the other machine. To see that it arrived whole, in the folder: sha256sum -c SHA256SUMS
2. Make an environment and install, which asks no index:

python$version -m venv vglm
vglm/bin/python -m pip install --no-index --find-links . "vglm_train[$extras]"$chatglm

3. vglm/bin/vglm env says what the machine has, and vglm/bin/vglm train --list which presets there are.
TEXT
(cd "$work/wheels" && sha256sum -- *.whl >SHA256SUMS)
mkdir -p "$(dirname "$out")"
mv "$work/wheels" "$out"
echo "$out: $(find "$out" -name '*.whl' | wc -l) wheels, $(du -sh "$out" | cut -f1); INSTALL.txt says how to install from it"
