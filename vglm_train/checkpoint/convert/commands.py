"""Any format into a bundle."""

from pathlib import Path

import torch

from vglm_train.checkpoint.convert import bundle
from vglm_train.checkpoint.convert.lazy_tensors import of_tensors
from vglm_train.checkpoint.convert.registry import FORMATS, recognise
from vglm_train.checkpoint.convert.report import listed, size
from vglm_train.checkpoint.convert.source import Options, Source
from vglm_train.checkpoint.convert.writers import check_target
from vglm_train.errors import UserError
from vglm_train.model.alignment import TEMPERATURE, CaptionHead


def read(path: Path, kind: str, options: Options) -> Source:
    """Open a model of any format, or `auto`. Nothing is in memory but what the format has no place for."""
    kind = recognise(path) if kind == "auto" else kind
    source = FORMATS[kind].read(path, options)
    if options.config is None and options.image_size is not None and kind == "bundle":
        raise UserError("--image-size: a bundle keeps its size; give the weights that it came from.")
    return source


def import_weights(path: Path, out: Path, kind: str, options: Options, force: bool) -> list[str]:
    """Write `path` as a bundle. Returns the report."""
    check_target(out, 0, force)
    kind = recognise(path) if kind == "auto" else kind
    if kind == "bundle":
        raise UserError(f"{path} is a bundle already: `export` turns it into another format.")
    source = read(path, kind, options)
    if kind == "hf-blip2-retrieval":
        _begin(source)
    bundle.write(source, out, force)
    return [*describe(source), f"wrote {out}: stage {source.stage}, {size_of(out)}"]


def describe(source: Source) -> list[str]:
    """What was found, what became of every key."""
    places = [f"  {tower} stays where it is: {place}" for tower, place in source.towers.items()]
    tokenizer = source.tokenizer or "none found; converting needs none, to evaluate or chat give --tokenizer"
    model = source.config.model
    shape = f"encoder {model.vision.family} {model.vision.depth} x {model.vision.width}, {model.vision.image_size} px"
    shape += f"; Q-Former {model.qformer.layers} x {model.qformer.width}, {model.qformer.queries} queries"
    return [
        f"{source.path}: {FORMATS[source.kind].what} ({source.kind})",
        f"  {size(source.tensors)}",
        f"  {shape}",
        listed("dropped", source.dropped),
        listed("new", source.fresh),
        *(f"  {note}" for note in source.notes),
        *places,
        f"  tokenizer: {tokenizer}",
    ]


def size_of(folder: Path) -> str:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 2**20:.1f} MiB in {len(files)} files"


def _begin(source: Source) -> None:
    """What retrieval's class lacks, as a run begins it: the temperature, and a random captioning head."""
    shape = source.config.model.qformer
    assert shape.vocabulary is not None
    torch.manual_seed(source.config.run.seed)
    head = CaptionHead(shape.width, shape.vocabulary, shape.spread)
    begun = {f"caption_head.{name}": value for name, value in head.state_dict().items()}
    source.tensors |= of_tensors(begun | {"temperature": torch.full((1,), TEMPERATURE)})
