"""Presets by name: `vglm train lavis_stage1` takes the YAML of that name in `configs/`."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vglm_train.config.yaml_tree import YamlNode
from vglm_train.errors import UserError
from vglm_train.shipped import shipped_folder

FOLDER = "configs"
SWEEPS = "sweeps"  # folder below it, of files for `wandb sweep`
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Found:
    """The YAML that a command's argument means. `note`: what to tell where a name was given, or a file hides one."""

    path: Path
    note: str | None = None


def presets() -> dict[str, Path]:
    """Name -> file of every preset, in alphabetical order."""
    found = (path for path in shipped_folder(FOLDER).rglob("*.yaml") if path.parent.name != SWEEPS)
    return {path.stem: path for path in sorted(found, key=lambda path: path.stem)}


def find_config(given: str) -> Found:
    """The file `given`, or else the preset of that name.

    A file NAME or NAME.yaml in the current folder comes before a preset of that name. `configs/NAME.yaml`, as the
    documentation writes it, is the preset in every folder that has no such file. Raises UserError where the argument
    is a plain name that neither has; any other path is left to the reader, which knows the folder.
    """
    known, path = presets(), Path(given)
    plain = path.name == given and path.suffix not in SUFFIXES
    local = [file for file in (path, path.with_name(f"{path.name}.yaml")) if plain and file.is_file()]
    if local:
        hidden = known.get(given)
        return Found(local[0], f"{given} is the file {local[0]} here, not the preset {hidden}" if hidden else None)
    if given in known:
        return Found(known[given], f"{given} is the preset {known[given]}")
    if plain and not path.exists():
        near = difflib.get_close_matches(given, known, 1, 0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"{given}: no file and no preset has this name.{hint} The presets are: {', '.join(known)}")
    preset = _shipped_path(given)
    return Found(preset, f"{given} is not in this folder; it is the preset {preset}") if preset else Found(path)


def describe_presets() -> Iterator[str]:
    """A line for each preset: its name and the first line of its comment."""
    known = presets()
    width = max(map(len, known), default=0)
    for name, path in known.items():
        comments = (line.lstrip("# ") for line in path.read_text("utf-8").splitlines() if line.startswith("# "))
        yield f"{name:<{width}}  {next((text for text in comments if not text.startswith('yaml-language')), '')}"


def point_into_presets(root: YamlNode) -> None:
    """`config: configs/...` of a preset's towers works from any folder: it is taken from where presets are."""
    model = root.step("model")
    for tower in ("language", "vision"):
        section = model.step(tower) if model else None
        item = section.step("config") if section else None
        preset = _shipped_path(item.value) if item and isinstance(item.value, str) else None
        if item and preset:
            item.value = str(preset)


def _shipped_path(given: str) -> Path | None:
    """Where `configs/...` is shipped, if it is, and if nothing of that path is in the current folder."""
    start, *rest = Path(given).parts or ("",)
    file = shipped_folder(FOLDER).joinpath(*rest)
    return file if start == FOLDER and rest and file.exists() and not Path(given).exists() else None
