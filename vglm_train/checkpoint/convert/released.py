"""What was released, opened as it is: imported once into the user's cache, and a bundle from then on.

    CACHE/imported/hf-blip2-0123456789abcdef        the bundle
    CACHE/imported/hf-blip2-0123456789abcdef.lock   held by the process that imports it; others wait

The name is made of the format and of the content of all files that the import reads. So a folder that moves is not
imported again, and one that changes is.
"""

import hashlib
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vglm_train.checkpoint.bundle.format import DOCUMENT, TOWERS
from vglm_train.checkpoint.convert import bundle as bundle_format
from vglm_train.checkpoint.convert.commands import read
from vglm_train.checkpoint.convert.registry import find
from vglm_train.checkpoint.convert.source import Options, SourceModel
from vglm_train.checkpoint.convert.summary import bytes_of
from vglm_train.checkpoint.load.lazy_tensors import checked, total
from vglm_train.errors import UserError
from vglm_train.files import lock, user_cache
from vglm_train.fingerprint import fingerprint, tokenizer_fingerprint
from vglm_train.folders import make_folder, recover
from vglm_train.weights.identify import FIELDS, FORMATS, PARTS

VERSION = 1  # raised when an import gives another bundle than before
TALK = ("hf-blip2", "visualglm-hub", "visualglm-sat", "lavis")
MODELS = "VisualGLM-6B, BLIP-2 or a bundle"
SPARE = 64 << 20  # bytes: the tokenizer, and what a file system adds


def as_bundle(
    path: Path, tokenizer: Path | None = None, vision: Path | None = None, language: Path | None = None
) -> Path:
    """`path` if it is a bundle; if it is a released model, the bundle of it in the user's cache.

    tokenizer: where the model has none of its own. vision, language: frozen towers that a LAVIS file lacks.
    UserError for what is no model to talk to, saying what it is, for one that is not whole, and for a full disk.
    """
    recover(path)
    if (path / DOCUMENT).exists() or not path.exists():
        return path  # whoever opens it says what is wrong
    kind = _talking(path)
    towers = [each for each in (vision, language) if each is not None and kind == "lavis"]
    out = user_cache() / "imported" / f"{kind}-{_key(path, towers, tokenizer)}"
    if not _is_whole(out):
        make_folder("VGLM_CACHE, the folder for what is imported", out.parent)
        with _alone(out, path):
            if not _is_whole(out):
                _import(path, kind, Options(tokenizer=tokenizer, vision=vision, language=language), out)
    return out


def _talking(path: Path) -> str:
    """The format. UserError if it is not one of a whole model with a language model."""
    found = find(path)
    if found.kind in TALK:
        return found.kind
    if found.kind is None:
        raise UserError(f"{found.sentence(path)} To talk, give {MODELS}.")
    if found.kind == "hf-blip2-retrieval":
        raise UserError(
            f"{path} is {FORMATS[found.kind]}, which compares pictures with texts and has no language model to talk "
            f"to. Give {MODELS}; `vglm checkpoint import` makes of this one a bundle to train stage two from."
        )
    part = PARTS[found.kind][0]
    alone = {"vision": "an image encoder alone, which writes no text", "bert": "an encoder of texts, which writes none",
             "language": "a language model alone, which has learned to look at no pictures"}[part]  # fmt: skip
    raise UserError(f"{path} is {found.what}: {alone}. Give {MODELS}; a run takes this one as {FIELDS[part]}.")


def _key(path: Path, towers: list[Path], tokenizer: Path | None) -> str:
    if tokenizer is not None and not tokenizer.exists():
        raise UserError(f"--tokenizer: no such file or folder: {tokenizer}")
    parts = [str(VERSION), str(tokenizer and tokenizer_fingerprint(tokenizer))]
    parts += [str(tower.resolve()) for tower in towers]  # the bundle names where they are
    for file in (path, *towers):
        parts += [fingerprint(file), tokenizer_fingerprint(file)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_whole(out: Path) -> bool:
    recover(out)
    return (out / DOCUMENT).exists()


@contextmanager
def _alone(out: Path, path: Path) -> Iterator[None]:
    """Within it no other process of this machine imports the same, where there are locks."""
    with open(out.with_name(f"{out.name}.lock"), "ab") as file:
        if lock(file) is False:
            _say(f"another process is importing {path}; waiting for it ...")
            lock(file, wait=True)
        yield


def _import(path: Path, kind: str, options: Options, out: Path) -> None:
    try:
        source = read(path, kind, options)
    except UserError as error:  # of `vglm checkpoint`, whose options have other names
        raise UserError(re.sub(r"--(language|vision)\b", r"--\1-weights", str(error))) from error
    _check(source)
    written = {name: tensor for name, tensor in source.tensors.items() if not name.startswith(_outside(source))}
    size, free = total(written) + SPARE, shutil.disk_usage(out.parent).free
    if size > free:
        raise UserError(
            f"{path} is imported once, which takes {bytes_of(size)}, and {out.parent} has {bytes_of(free)} left. Free "
            "some room, or name a folder on another disk in the environment variable VGLM_CACHE."
        )
    _say(f"{path} is {FORMATS[kind]}. It is imported once, {bytes_of(size)} into {out}")
    for name in source.towers:
        _say(f"its {name} stays where it is, in {source.towers[name]}")
    source.tensors = checked(source.tensors, path, *source.towers.values())
    try:
        bundle_format.write(source, out, force=True)
    except UserError as error:
        if not _is_whole(out):  # else another process was faster, where there are no locks
            advice = "name a folder on another disk in VGLM_CACHE"
            raise UserError(str(error).replace("give --out on another disk", advice)) from error


def _outside(source: SourceModel) -> tuple[str, ...]:
    return tuple(TOWERS[tower] for tower in source.towers)


def _check(source: SourceModel) -> None:
    """UserError where the model cannot talk as it is."""
    if source.stage == "align":
        raise UserError(
            f"{source.path} is of LAVIS's stage one and has no language model to talk to. Give {MODELS}; `vglm "
            "checkpoint import` makes of this one a bundle to train stage two from."
        )
    if source.tokenizer is None:
        family = source.config.model.language.family if source.config.model.language else "chatglm"
        files = "ice_text.model, of THUDM/visualglm-6b or THUDM/chatglm-6b" if family == "chatglm" else (
            "tokenizer.json, or vocab.json and merges.txt, or spiece.model, of the same release")  # fmt: skip
        raise UserError(
            f"{source.path} holds no tokenizer: copy {files}, into it, or name its file or folder with --tokenizer."
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
