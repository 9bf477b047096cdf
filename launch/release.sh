#!/usr/bin/env bash
# Walk through what must hold before a version is tagged. It changes nothing, and ends with the commands that do.
#
#   launch/release.sh [--quick]
#
# --quick   only what takes seconds: no gates, no wheel
#
# Before it: write the version into vglm_train/version.py, its day into CHANGELOG.md, and commit both.
# The exit status is 1 where something does not hold. The environment variable PYTHON names another interpreter than
# .venv's.
set -uo pipefail

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }
quick= failed=
case "${1:-}" in
    '') ;;
    --quick) quick=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-$PWD/.venv/bin/python}
command -v "$python" >/dev/null || { echo "error: $python is not here; make install makes it" >&2; exit 2; }

holds() { echo "ok    $*"; }
fails() { echo "NOT   $*"; failed=yes; }
stop_if_failed() { [ -z "$failed" ] || { echo "Not ready: mend what is marked NOT, and start again."; exit 1; }; }

tree_is_clean() {
    local changed
    changed=$(git status --porcelain) || { fails "git cannot read this folder; release from a checkout"; return; }
    if [ -z "$changed" ]; then
        holds "everything is committed: $(git describe --always --abbrev=12 --exclude='*')"
    else
        fails "commit or remove these first:"$'\n'"$changed"
    fi
}

version_is_said_once() {
    local others
    others=$(git grep -nE '^__version__ *=' -- '*.py' ':!vglm_train/version.py'; grep -nE '^version *= *"' pyproject.toml)
    if [[ ! $version =~ ^[0-9]+\.[0-9]+\.[0-9]+((a|b|rc)[0-9]+)?$ ]]; then
        fails "vglm_train/version.py: the version is '$version', not MAJOR.MINOR.PATCH"
    elif [ -n "$others" ]; then
        fails "the version is in vglm_train/version.py alone; remove it here:"$'\n'"$others"
    else
        holds "version $version, in vglm_train/version.py alone"
    fi
}

changelog_has_it() {
    local heading
    heading=$(grep -m 1 '^## \[' CHANGELOG.md)
    if [[ $heading =~ ^"## [$version] - "[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]]; then
        holds "CHANGELOG.md begins with it: $heading"
    else
        fails "CHANGELOG.md begins with '$heading', not with '## [$version] - YYYY-MM-DD'"
    fi
}

tag_is_free() {
    if git rev-parse -q --verify "refs/tags/v$version" >/dev/null; then
        fails "the tag v$version is there already; raise the version"
    else
        holds "the tag v$version is free"
    fi
}

gates_pass() { if .ci/run; then holds "the gates of .ci/run, make docs among them"; else fails "the gates of .ci/run"; fi; }

wheel_is_whole() {
    # what is in it, and that it converts, packs, trains, evaluates and reports from an empty folder
    if "$python" -m pytest -q -m "slow or not slow" tests/test_wheel.py; then
        holds "the wheel has every file, and trains from an empty folder"
    else
        fails "the wheel: tests/test_wheel.py"
    fi
}

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' vglm_train/version.py)
tree_is_clean
version_is_said_once
changelog_has_it
tag_is_free
stop_if_failed
if [ -z "$quick" ]; then
    gates_pass
    wheel_is_whole
    tree_is_clean # the gates wrote nothing that is committed, such as pages of the reference
    stop_if_failed
fi
echo
echo "${quick:+Without gates and wheel. }Ready. The tag, and the wheel from it:"
echo "git tag -a v$version -m 'vglm_train $version' && git push origin v$version"
echo "git archive v$version --prefix=release/ | tar x -C /tmp && $python -m pip wheel --no-deps --no-build-isolation -w dist /tmp/release"
