"""What reading a format gives: a run configuration and tensors under our names."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyMapError
from vglm_train.checkpoint.keymaps.sat import Fused
from vglm_train.checkpoint.load.lazy_tensors import Lazy, Tensors, changed, convert, of_shards
from vglm_train.checkpoint.load.tensor_files import open_weights
from vglm_train.config.data import Data, Image
from vglm_train.config.language import Language, Prompt
from vglm_train.config.model import Model, QFormer, Vision
from vglm_train.config.run import Config, Run
from vglm_train.errors import UserError
from vglm_train.model.alignment import build_alignment
from vglm_train.model.visual_language import build_visual_language
from vglm_train.prompt.tokenizers import build_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                   "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "ice_text.model",
                   "chat_template.jinja")  # fmt: skip
Dtype = Literal["bf16", "fp16", "fp32"]
Stage = Literal["align", "generate"]
POSITIONS = "vision.encoder.positions"


@dataclass(frozen=True, slots=True)
class Options:
    """What a person says about a source beyond its path."""

    config: Config | None = None  # what the source does not say is taken from it
    fused: Fused | None = None
    image_size: int | None = None
    vision: Path | None = None  # frozen towers with files of their own
    language: Path | None = None
    tokenizer: Path | None = None


@dataclass(slots=True)
class SourceModel:
    """A model in any format. Nothing of it is in memory."""

    path: Path
    kind: str  # the format's name
    config: Config
    tensors: Tensors  # under our names
    dropped: list[str] = field(default_factory=list)  # names in the file that have no counterpart in our model
    fresh: list[str] = field(default_factory=list)  # names in our model that have no counterpart in the file
    notes: list[str] = field(default_factory=list)
    language: dict[str, Any] | None = None  # config.json of a Hugging Face language model
    tokenizer: Path | None = None  # folder or file
    towers: dict[str, Path] = field(default_factory=dict)  # frozen towers that stay where they are
    origin: dict[str, Any] = field(default_factory=dict)  # what else an export wants to know

    @property
    def stage(self) -> str:
        return self.config.run.stage


def run_config(path: Path, model: Model, stage: Stage, options: Options, image: Image | None = None) -> Config:
    """The configuration of an import: the person's, or defaults, with this model."""
    name = path.resolve().name.partition(".")[0] or "imported"
    base = options.config or Config(run=Run(name=name), data=Data(global_batch=64))
    data = base.data if image is None or options.config else replace(base.data, image=image)
    return replace(base, run=replace(base.run, stage=stage), model=model, data=data)


def base_model(options: Options) -> Model:
    return options.config.model if options.config else Model()


def shaped(base: Model, vision: Vision, qformer: QFormer, width: int | None, language: Language | None = None) -> Model:
    """`base` with the shapes of a source; captions are no longer than its position table. width: contrastive."""
    text = replace(base.text, max_length=min(base.text.max_length, qformer.positions))
    width = base.contrastive_width if width is None else width
    return replace(base, vision=vision, qformer=qformer, text=text, contrastive_width=width, language=language)


def expected(config: Config, language: Mapping[str, Any] | None = None, vocabulary: int | None = None) -> Any:
    """The configured model on the meta device. `language`: config.json of a Hugging Face language model."""
    image = config.data.image
    with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        if config.run.stage == "align":
            size = config.model.qformer.vocabulary or vocabulary
            assert size is not None
            return build_alignment(config.model, size, image.mean, image.std)
        section = config.model.language
        assert section is not None
        if language is not None:
            file = Path(folder) / "config.json"
            file.write_text(json.dumps(language), "utf-8")
            section = replace(section, config=str(file), weights=None, tokenizer="none")
        return build_visual_language(replace(config.model, language=section), image.mean, image.std, words=vocabulary)


def mapped(table: KeyMap, tensors: Mapping[str, Lazy], path: Path) -> Tensors:
    """`table` applied. UserError naming everything that it does not fit."""
    try:
        return convert(table, tensors)
    except KeyMapError as error:
        raise UserError(f"{path} is not what it seems to be: {error}. Nothing was written.") from error


def check(tensors: Mapping[str, Lazy], wanted: Mapping[str, Tensor], table: KeyMap, names: Sequence[str], path: Path,
          absent: Sequence[str] = ()) -> None:  # fmt: skip
    """Raises UserError unless `tensors` are all of `wanted` in name and shape; the message has the file's names.

    names: those in the file. absent: beginnings of our names that may be missing.
    """
    problems = []
    missing = [name for name in wanted if name not in tensors and not name.startswith(tuple(absent))]
    if lost := sorted({key for name in missing for key in _file_names(table, name, wanted[name]) if key not in names}):
        problems.append(f"missing: {', '.join(lost)}")
    if unexpected := sorted(
        {key for name in tensors if name not in wanted for key in _file_names(table, name, tensors[name].meta)}
    ):
        problems.append(f"unexpected: {', '.join(unexpected)}")
    for name in (name for name in wanted if name in tensors and tensors[name].shape != tuple(wanted[name].shape)):
        keys = sorted(_file_names(table, name, tensors[name].meta))
        problems.append(f"{', '.join(keys)}: {list(tensors[name].shape)} here, {list(wanted[name].shape)} expected")
    if problems:
        raise UserError(f"{path} does not fit the model that it describes: {'; '.join(problems)}. Nothing was written.")


def _file_names(table: KeyMap, name: str, value: Tensor) -> list[str]:
    """Names in the file of a tensor of ours; our own where it has none, or has it with others only."""
    try:
        return list(table.inverse().apply({name: torch.empty(value.shape, device="meta")}))
    except (KeyMapError, RuntimeError):
        return [name]


def resized(tensors: Tensors, vision: Vision, size: int | None) -> tuple[Tensors, Vision, list[str]]:
    """Position embeddings for pictures of `size` pixels a side.

    Bicubic interpolation (align_corners False) on the grid of patches in fp32; the class token's stays as it is. This
    is LAVIS's `interpolate_pos_embed` and transformers' `interpolate_pos_encoding`.
    """
    if size is None or size == vision.image_size:
        return tensors, vision, []
    if vision.family != "eva" or POSITIONS not in tensors:
        raise UserError(f"--image-size: {vision.family} encoders that stay in their own folder keep their size.")
    if size % vision.patch:
        raise UserError(f"--image-size: {size} is not a whole number of patches of {vision.patch} pixels.")
    old, new = vision.image_size // vision.patch, size // vision.patch
    lazy = tensors[POSITIONS]
    shape = (1 + new * new, lazy.shape[1])
    note = f"{POSITIONS}: {list(lazy.shape)} -> {list(shape)}, bicubic on the grid, class token kept"
    changes = {POSITIONS: changed(lazy, lambda x: interpolate(x, old, new), shape)}
    return tensors | changes, replace(vision, image_size=size), [note]


def interpolate(positions: Tensor, old: int, new: int) -> Tensor:
    """[1 + old*old, c] -> [1 + new*new, c]."""
    grid = positions[1:].float().T.reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat((positions[:1], grid[0].flatten(1).T.to(positions.dtype)))


def open_tensors(path: Path) -> Tensors:
    """Those of a file or Hugging Face folder."""
    return of_shards(open_weights(path))


def built_in(client: str, pairs: Mapping[str, tuple[object, object]]) -> list[str]:
    """A line on what a client's code has as constants, where a model differs. `pairs`: name -> (there, here)."""
    other = [f"{name} {there}, here {here}" for name, (there, here) in pairs.items() if here != there]
    return [f"built into {client}'s own code, to be changed there: {'; '.join(other)}"] if other else []


def dtype_name(tensors: Mapping[str, Lazy]) -> Dtype:
    """What most of the numbers are, as a configuration names it."""
    counts: dict[Dtype, int] = {}
    names: dict[torch.dtype, Dtype] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    for tensor in tensors.values():
        name = names.get(tensor.dtype, "fp32")
        counts[name] = counts.get(name, 0) + tensor.size
    return max(counts, key=counts.__getitem__) if counts else "fp32"


def blip2_prompt(language: Language, tokenizer: Path | None, options: Options) -> Prompt:
    """The person's, or BLIP-2's: OPT was taught to end an answer with a new line, where its tokenizer has one."""
    if options.config is not None:
        return options.config.prompt
    if language.family != "causal" or tokenizer is None:
        return Prompt(style="blip2")
    words = build_tokenizer(replace(language, tokenizer=str(tokenizer)))
    ids = words.encode("\n")
    return Prompt(style="blip2", end="\n" if len(ids) == 1 and words.decode(ids) == "\n" else None)


def tokenizer_of(folder: Path | None, options: Options) -> Path | None:
    """The person's, or a folder's own, if it has one."""
    if options.tokenizer is not None:
        if not options.tokenizer.exists():
            raise UserError(f"--tokenizer: no such file or folder: {options.tokenizer}")
        return options.tokenizer
    usable = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "ice_text.model")
    return folder if folder is not None and any((folder / name).is_file() for name in usable) else None
