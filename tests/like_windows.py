"""A process that lacks what Windows lacks, and every package that the extra `train` brings.

    python like_windows.py BUNDLE PICTURES TABLE OUT

Answers a question from Python and in the terminal, evaluates with two workers, checks and converts a table. Prints
JSON.
"""

import builtins
import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from types import ModuleType
from typing import Any

ABSENT = ("fcntl", "resource", "pwd", "grp", "termios", "readline", "posix")
FUNCTIONS = ("pread", "preadv", "pwrite", "pwritev", "sched_getaffinity", "sysconf", "fork", "forkpty", "getuid",
             "geteuid", "getgid", "killpg", "getpgid", "setsid", "statvfs", "mkfifo", "nice")  # fmt: skip
SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGHUP", "SIGQUIT", "alarm", "setitimer", "pthread_sigmask", "pause")
EXTRA = ("deepspeed", "wandb", "datasets", "webdataset", "matplotlib", "braceexpand", "boto3", "botocore", "sat")
_import = builtins.__import__


def _without(name: str, globals: Mapping[str, Any] | None = None, *more: Any, **named: Any) -> ModuleType:
    """The standard library of this system may import its own parts."""
    importer = str((globals or {}).get("__name__", "")).partition(".")[0]
    if name in ABSENT and importer not in sys.stdlib_module_names:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _import(name, globals, *more, **named)


def become_windows() -> None:
    """From now on: no fork, no pread, no SIGUSR1, ..."""
    os.environ["USERNAME"] = "someone"  # Windows sets it
    builtins.__import__ = _without  # type: ignore[assignment]
    for owner, names in ((os, FUNCTIONS), (signal, SIGNALS)):
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)
    multiprocessing.set_start_method("spawn", force=True)
    multiprocessing.get_all_start_methods = lambda: ["spawn"]  # type: ignore[method-assign]
    multiprocessing.context._concrete_contexts.pop("fork", None)  # type: ignore[attr-defined]
    multiprocessing.context._concrete_contexts.pop("forkserver", None)  # type: ignore[attr-defined]
    sys.modules.update(dict.fromkeys(EXTRA))  # type: ignore[arg-type]


import asyncio  # noqa: E402, F401  (which picks its part for this system when it is imported)

with contextlib.suppress(ImportError):
    import psutil  # noqa: F401  (which transformers looks for, and which has another part for Windows)
become_windows()  # in spawned processes too, which import this file


def printed(main: Any, *words: object, typed: str = "") -> str:
    """What a command prints. RuntimeError where it fails."""
    out, sys.stdin = io.StringIO(), io.StringIO(typed)
    with contextlib.redirect_stdout(out):
        status = main([*map(str, words)])
    if status:
        raise RuntimeError(f"status {status} of {words}")
    return out.getvalue()


def main(bundle: str, pictures: str, table: str, out: str) -> None:
    import vglm_train
    from data_tools.check_table.__main__ import main as check_table
    from data_tools.convert.__main__ import main as convert
    from vglm_train.__main__ import main as vglm

    found: dict[str, Any] = {}
    greedy: dict[str, Any] = {"sample": False, "repetition_penalty": 1.0, "max_new": 8}
    os.chdir(Path(pictures).parent)
    with vglm_train.load(bundle, device="cpu") as model:
        found["python"] = model.chat(PureWindowsPath(Path(pictures).name, "0.png"), "what number", **greedy)[0]
    options = ["--device", "cpu", "--temperature", "0", "--repetition-penalty", "1", "--max-new", "8"]
    found["terminal"] = printed(vglm, "chat", bundle, *options, "--image", f"{pictures}/0.png", typed="what number\n")
    for workers in (0, 2):
        file = Path(out) / f"{workers}.json"
        printed(vglm, "evaluate", bundle, "--task", "vqa", "--data", table, "--workers", workers, "--out", file,
                "--max-new", 4)  # fmt: skip
        found[f"scores {workers}"] = json.loads(file.read_text("utf-8"))["scores"]
    sys.argv = ["check_table", table, "--workers", "2"]
    found["check_table"] = printed(lambda _: check_table())
    sys.argv = ["convert", table, "--out", f"{out}/records.jsonl"]
    printed(lambda _: convert())
    found["records"] = len(Path(out, "records.jsonl").read_text("utf-8").splitlines())
    found["absent"] = [name for name in ("fcntl", "resource") if name in vars(sys.modules["vglm_train.files"])]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
