"""The commands on weights: import, export and inspect."""

from collections.abc import Sequence
from pathlib import Path

import torch

from vglm_train.checkpoint.bundle.format import CONFIG, read_document
from vglm_train.checkpoint.convert import bundle as bundle_format
from vglm_train.checkpoint.convert import hugging_face, lavis, visualglm
from vglm_train.checkpoint.convert.hf_config import FULL_NAMES
from vglm_train.checkpoint.convert.registry import FORMATS, UNKNOWN, can_become, find, raw_tensors, recognise
from vglm_train.checkpoint.convert.source import Options, SourceModel, dtype_name
from vglm_train.checkpoint.convert.summary import bytes_of, groups, listed, size
from vglm_train.checkpoint.convert.writers import SHARD, check_target
from vglm_train.checkpoint.keymaps.sat import Fused
from vglm_train.checkpoint.load.lazy_tensors import Tensors, checked, of_tensors
from vglm_train.config.inherit import merge_first
from vglm_train.config.load import load
from vglm_train.errors import UserError
from vglm_train.folders import recover
from vglm_train.model.alignment import TEMPERATURE, CaptionHead
from vglm_train.weights.found import Found, read_object
from vglm_train.weights.identify import FORMATS as WHAT


def read(path: Path, kind: str, options: Options) -> SourceModel:
    """Open a model of any format, or `auto`. Nothing is in memory but what no file of it holds."""
    kind = _format_of(path, kind)
    source = FORMATS[kind].read(path, options)
    if options.config is None and options.image_size is not None and kind == "bundle":
        raise UserError("--image-size: a bundle keeps its size; give the weights that it came from.")
    return source


def import_weights(path: Path, out: Path, kind: str, options: Options, force: bool) -> list[str]:
    """Write `path` as a bundle. Returns the report."""
    check_target(out, 0, force)
    kind = _format_of(path, kind)
    if kind == "bundle":
        raise UserError(f"{path} is a bundle already: `export` turns it into another format.")
    source = read(path, kind, options)
    if kind == "hf-blip2-retrieval":
        _add_initial(source)
    source.tensors = checked(source.tensors, path, *source.towers.values())
    bundle_format.write(source, out, force)
    return [*describe(source), f"wrote {out}: stage {source.stage}, {size_of(out)}"]


def _format_of(path: Path, kind: str) -> str:
    recover(path)
    return recognise(path) if kind == "auto" else kind


def describe(source: SourceModel) -> list[str]:
    """What the source is, and what became of every key."""
    towers = [f"  {tower} stays where it is: {path}" for tower, path in source.towers.items()]
    tokenizer = source.tokenizer or "none found; converting needs none, to evaluate or chat give --tokenizer"
    model = source.config.model
    shape = f"encoder {model.vision.family} {model.vision.depth} x {model.vision.width}, {model.vision.image_size} px"
    shape += f"; Q-Former {model.qformer.layers} x {model.qformer.width}, {model.qformer.queries} queries"
    return [
        f"{source.path}: {WHAT[source.kind]} ({source.kind})",
        f"  {size(source.tensors)}",
        f"  {shape}",
        listed("dropped", source.dropped),
        listed("new", source.fresh),
        *(f"  {note}" for note in source.notes),
        *towers,
        f"  tokenizer: {tokenizer}",
    ]


def size_of(folder: Path) -> str:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 2**20:.1f} MiB in {len(files)} files"


def _add_initial(source: SourceModel) -> None:
    """What retrieval's class lacks, as a run initialises it: the temperature, and a random captioning head."""
    shape = source.config.model.qformer
    assert shape.vocabulary is not None
    torch.manual_seed(source.config.run.seed)
    head = CaptionHead(shape.width, shape.vocabulary, shape.spread)
    initial = {f"caption_head.{name}": value for name, value in head.state_dict().items()}
    source.tensors |= of_tensors(initial | {"temperature": torch.full((1,), TEMPERATURE)})


STAGES = {"hf-blip2": "generate", "hf-blip2-retrieval": "align", "visualglm-sat": "generate"}


def export_weights(
    bundle: Path, kind: str, out: Path, options: Options, force: bool, shard: int = SHARD, fused: Fused | None = None
) -> list[str]:
    """Write `bundle` in another format. Returns the report."""
    check_target(out, 0, force)
    source = bundle_format.read(bundle, options)
    wanted = STAGES.get(kind, source.stage)
    if source.stage != wanted:
        raise UserError(f"{bundle} is of stage {source.stage}; {kind} holds models of stage {wanted}.")
    if source.stage != "align" and source.config.model.qformer.reads_question:
        raise UserError(
            f"{bundle}: its Q-Former reads the question (model.qformer.reads_question); {kind} has no place for that."
        )
    source.tensors = checked(source.tensors, bundle, *source.towers.values())
    if kind == "lavis":
        lines = lavis.write(source, out, force)
    elif kind == "visualglm-sat":
        lines = visualglm.write(source, out, force, fused)
    else:
        lines = hugging_face.write(source, out, force, shard)
    return [f"{bundle}: stage {source.stage}, {size(source.tensors)}", *(f"  {line}" for line in lines), f"wrote {out}"]


def inspect(path: Path, kind: str = "auto") -> list[str]:
    """Format, files, sizes, dtypes, keys by group, what it can become; or what else it is, and what to do with it.

    UserError if it cannot be read, or is not whole.
    """
    recover(path)
    found = find(path) if kind == "auto" else Found(kind, WHAT[kind])
    if found.damaged or found.advice == UNKNOWN:
        raise UserError(found.sentence(path))
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{path}: {found.what}" + (f" ({found.kind})" if found.kind else "")]
    lines.append(f"  {len(files)} files, {bytes_of(sum(file.stat().st_size for file in files))} on disk")
    if found.kind is None:
        return [*lines, f"  {found.advice}"]
    return lines + _contents(path, found.kind, files)


def _contents(path: Path, kind: str, files: Sequence[Path]) -> list[str]:
    """What a format's tensors are, where its frozen towers stand, and what it can become."""
    tensors = raw_tensors(path, kind)
    lines = [f"  {size(tensors)}"]
    document = read_document(path) if kind == "bundle" else {}
    stage = document.get("stage")
    if document:
        lines.append(f"  stage {stage}")
        lines += [f"  {tower} stands elsewhere: {reference['file']}"
                  for tower, reference in document["towers"].items() if "fingerprint" in reference]  # fmt: skip
    lines += _recorded_dtype(path, tensors)
    if any(file.suffix in (".bin", ".pt", ".pth") for file in files):
        lines.append("  files of torch.save: they are read as tensors, and no code in them is run")
    width = max((len(name) for name in groups(tensors)), default=0)
    lines += [f"  {name:<{width}}  {size(group)}" for name, group in groups(tensors).items()]
    if stage == "finetune":
        return [*lines, f"  {merge_first(document, path)}"]
    encoder = load(path / CONFIG).model.vision.family if document else ""
    return [*lines, f"  can become: {', '.join(can_become(kind, stage, set(tensors), encoder))}"]


def _recorded_dtype(path: Path, tensors: Tensors) -> list[str]:
    """A line where config.json gives another dtype than the files have, `auto` included."""
    content = read_object(path / "config.json") if path.is_dir() else {}
    recorded, found = content.get("dtype") or content.get("torch_dtype"), FULL_NAMES[dtype_name(tensors)]
    if recorded in (None, found):
        return []
    return [f"  config.json says {recorded}; the files are {found}, and a run casts them to its own dtype"]
