"""The resume folder: complete or absent, whatever happens while it is written.

    checkpoints/step-00000100/state.json          RunState and what the run was
                             /tensors.safetensors trained weights and Adam moments by name, full fp32
    checkpoints/latest                            name of the newest complete folder

A folder holds only what trains, in one format for every number of ranks.
"""

import json
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vglm_train.checkpoint.load.finite import is_finite
from vglm_train.errors import UserError
from vglm_train.files import write_text
from vglm_train.folders import replace_folder

_STEP = re.compile(r"step-(\d{8})")
_WEIGHT = "weight/"  # before the name of a trained weight; others are the optimizer's
_TENSORS, _STATE, _LATEST = "tensors.safetensors", "state.json", "latest"


class Checkpoints:
    """The `checkpoints/` folder of one run. Only rank 0 writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None for a run that has none yet.

        Raises UserError if `latest` names a folder that does not exist.
        """
        pointer = self.folder / _LATEST
        if not pointer.exists():
            return None
        path = self.folder / pointer.read_text().strip()
        if not (path / _STATE).exists():
            raise UserError(
                f"{pointer} names {path.name}, which is not a complete checkpoint. Write the name of a complete one "
                f"into it (there are: {', '.join(p.name for p in self.steps()) or 'none'}), or delete it to start anew."
            )
        return path

    def of(self, step: int) -> Path:
        """The path of the checkpoint of a step, whether there is one or not."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        steps = sorted(p for p in self.folder.glob("step-*") if _STEP.fullmatch(p.name))
        return [p for p in steps if (p / _STATE).exists()]

    def write(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
        """Write a checkpoint beside the others and make it the latest in one rename.

        Raises UserError where the disk is full; the checkpoints before it are whole.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.of(step)
        if self.latest() == final:  # a function of the step, so it holds the same already
            return final
        try:
            with replace_folder(final) as new:  # one that latest does not name may be older than this state
                save_tensors(tensors, new / _TENSORS)
                (new / _STATE).write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", "utf-8")
            write_text(self.folder / _LATEST, final.name + "\n")
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{final}: the checkpoint could not be written ({error}). Make room; the same command then continues "
                "from the one before."
            ) from error
        return final

    def prune(self, keep: int, also: Iterable[int] = ()) -> None:
        """Delete all but the newest `keep` checkpoints and those of the steps in `also`, and what a kill left."""
        kept = {p.name for p in self.steps()[-keep:]} | {self.of(step).name for step in also}
        latest = self.latest()
        for path in self.folder.glob("step-*"):
            if path.name not in kept and path != latest:
                shutil.rmtree(path, ignore_errors=True)


def read_state(path: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint folder. Raises UserError if it cannot be read."""
    try:
        state: dict[str, Any] = json.loads((path / _STATE).read_text())
        return state
    except (OSError, ValueError) as error:
        raise UserError(f"{path / _STATE}: cannot be read ({error}). Point `latest` to another checkpoint.") from error


def read_tensors(path: Path, trained: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of a checkpoint folder whose weights must be exactly those of `trained` (name -> shape).

    Raises UserError naming the file and what differs, or which weights are not finite.
    """
    check_tensors(path, trained)
    try:
        tensors = load_file(path / _TENSORS)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path / _TENSORS, error) from error
    broken = [name for name in sorted(tensors) if name.startswith(_WEIGHT) and not is_finite(tensors[name])]
    if broken:
        named = _some([name.removeprefix(_WEIGHT) for name in broken])
        others = ", ".join(each.name for each in Checkpoints(path.parent).steps() if each != path)
        raise UserError(
            f"{path / _TENSORS} holds NaN or infinite values in {named}, and nothing can be trained from there. Write "
            f"the name of an earlier checkpoint into {path.parent / _LATEST} (there are: {others or 'none'}), or begin "
            "a new run."
        )
    return tensors


def check_tensors(path: Path, trained: Mapping[str, tuple[int, ...]]) -> None:
    """The weights of a checkpoint folder are exactly those of `trained`; none of them is read. UserError as
    `read_tensors`."""
    file = path / _TENSORS
    try:
        with safe_open(file, "pt") as content:
            names = [name for name in content.keys() if name.startswith(_WEIGHT)]  # noqa: SIM118  (no mapping)
            saved = {name.removeprefix(_WEIGHT): tuple(content.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise _unreadable(file, error) from error
    missing, extra = sorted(trained.keys() - saved.keys()), sorted(saved.keys() - trained.keys())
    reshaped = sorted(name for name in trained.keys() & saved.keys() if trained[name] != saved[name])
    if missing or extra or reshaped:
        raise UserError(
            f"{file} does not fit this run's model: {len(missing)} trained weights are not in it ({_some(missing)}), "
            f"{len(extra)} are unknown ({_some(extra)}), {len(reshaped)} have another shape ({_some(reshaped)}). "
            "Resume with the configuration it was made with, or use another run.folder."
        )


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"{file}: cannot be read ({error}). Point `latest` to another checkpoint.")


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """A safetensors file that others may read as they may any new file; the library's is for its owner alone."""
    path.touch()
    mode = path.stat().st_mode  # os.umask would tell it by changing it, for all threads
    save_file(tensors, path)
    path.chmod(stat.S_IMODE(mode))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"
