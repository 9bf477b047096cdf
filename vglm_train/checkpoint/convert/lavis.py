"""LAVIS: `Blip2Qformer` (stage one), `Blip2OPT` and `Blip2T5` (stage two), as its runner saves them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from vglm_train.checkpoint.convert.source import (
    Options,
    SourceModel,
    base_model,
    blip2_prompt,
    built_in,
    check,
    dtype_name,
    expected,
    mapped,
    open_tensors,
    resized,
    run_config,
    shaped,
    tokenizer_of,
)
from vglm_train.checkpoint.convert.towers import as_loaded, config_of, hugging_face_language, vision_tensors
from vglm_train.checkpoint.convert.writers import progress, replaced, write_torch
from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyMapError
from vglm_train.checkpoint.keymaps.lavis import LAVIS_STAGE1, lavis_stage2
from vglm_train.checkpoint.load.lazy_tensors import Lazy, Tensors, below, convert, of_tensors, prefixed, total
from vglm_train.config.data import Image
from vglm_train.config.language import Language
from vglm_train.config.model import QFormer, Vision
from vglm_train.errors import UserError

VISION, LAYER = "visual_encoder.", "Qformer.bert.encoder.layer."
RELEASED_HEADS = {768: 12, 1024: 16, 1408: 16}  # width -> heads, which no shape tells
POSITION_IDS = "Qformer.bert.embeddings.position_ids"
Family = Literal["causal", "seq2seq"]
PROJECTIONS: dict[str, Family] = {"opt_proj.weight": "causal", "t5_proj.weight": "seq2seq"}


def is_lavis(names: Mapping[str, object] | set[str]) -> bool:
    """Whether these are names of a LAVIS file with a Q-Former."""
    return "query_tokens" in names and any(name.startswith(LAYER) for name in names)


def read(path: Path, options: Options) -> SourceModel:
    """A LAVIS file of either stage. Frozen parts that it lacks are named by `options.vision` and `.language`."""
    raw = open_tensors(path)
    family = next((family for key, family in PROJECTIONS.items() if key in raw), None)
    table = LAVIS_STAGE1 if family is None else lavis_stage2(family)
    vision, qformer = _vision(raw, options), _qformer(raw, options)
    width = raw["vision_proj.weight"].shape[0] if "vision_proj.weight" in raw else None
    model = shaped(base_model(options), vision, qformer, width)
    source = SourceModel(path, "lavis", run_config(path, model, "align", options), mapped(table, raw, path))
    source.dropped = sorted(name for name in raw if table.dropped(name))
    if family is not None:
        _language(source, family, options)
    _frozen_vision(source, options)
    source.tensors, vision, notes = resized(source.tensors, source.config.model.vision, options.image_size)
    source.config = replace(source.config, model=replace(source.config.model, vision=vision))
    source.notes += notes
    model = expected(source.config, source.language)
    if source.language is not None:
        language, useless = as_loaded(below(source.tensors, "language."), model.language)
        source.dropped += useless
        rest = {name: tensor for name, tensor in source.tensors.items() if not name.startswith("language.")}
        source.tensors = rest | prefixed(language, "language.")
    check(source.tensors, model.state_dict(), table, list(raw), path)
    source.tokenizer = tokenizer_of(options.language, options)
    return source


def table_of(source: SourceModel) -> KeyMap:
    """Ours -> LAVIS's."""
    language = source.config.model.language
    return (LAVIS_STAGE1 if language is None else lavis_stage2(language.family)).inverse()


def write(source: SourceModel, out: Path, force: bool) -> list[str]:
    """One `.pth` file as LAVIS's runner writes it: what is trained, and frozen parts that the bundle holds itself.

    The language model of stage two is never part of it. `config` stands beside, with the numbers that LAVIS builds by.
    """
    language = source.config.model.language
    if source.config.model.vision.family != "eva" or (language is not None and language.family == "chatglm"):
        raise UserError(f"{source.path}: LAVIS has EVA encoders, and OPT or T5 as language models.")
    tensors = {name: tensor for name, tensor in source.tensors.items() if not name.startswith("language.")}
    if "vision" in source.towers:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("vision.encoder.")}
    renamed = to_lavis(table_of(source), tensors, source.path)
    # a buffer that LAVIS's BERT saves and wants back
    positions = torch.arange(source.config.model.qformer.positions)[None]
    renamed |= of_tensors({POSITION_IDS: positions})
    with replaced(out, total(renamed), force) as new, progress(renamed, out.name) as bar:
        write_torch(new, renamed, "model", bar, {"config": {"model": model_config(source)}})
    return [
        f"{len(renamed)} tensors under `model`",
        *([] if language is None else ["the frozen language model is not in it, as in LAVIS's own"]),
        *_built_in(source),
    ]


def model_config(source: SourceModel) -> dict[str, Any]:
    """The section `model` of LAVIS's configuration, by which it builds this model."""
    model, prompt = source.config.model, source.config.prompt
    family = "" if model.language is None else model.language.family
    arch = {"": "blip2", "causal": "blip2_opt", "seq2seq": "blip2_t5"}[family]
    content = {"arch": arch, "vit_model": "eva_clip_g", "image_size": model.vision.image_size, "freeze_vit": True,
               "vit_precision": "fp32" if model.vision.dtype == "fp32" else "fp16", "drop_path_rate": 0,
               "num_query_token": model.qformer.queries}  # fmt: skip
    if model.language is None:
        return content | {"cross_attention_freq": model.qformer.cross_every, "max_txt_len": model.text.max_length}
    return content | {"max_txt_len": prompt.max_answer}


def _built_in(source: SourceModel) -> list[str]:
    """What LAVIS has as constants, where this model differs."""
    model, image = source.config.model, source.config.data.image
    vision, qformer = model.vision, model.qformer
    encoder = (vision.depth, vision.width, vision.heads, vision.mlp_width, vision.patch)
    bert = (qformer.layers, qformer.width, qformer.heads, qformer.mlp_width, qformer.positions)
    names = "layers, width, heads, width of the feed-forwards"
    pairs: dict[str, tuple[object, object]]
    pairs = {f"encoder ({names}, patch)": ((39, 1408, 16, 6144, 14), encoder),
             f"Q-Former ({names}, positions)": ((12, 768, 12, 3072, 512), bert),
             "image mean": (Image().mean, tuple(image.mean)),
             "image standard deviation": (Image().std, tuple(image.std)),
             "squeeze, resize, resample of data.image":
                 ((True, None, "bicubic"), (image.squeeze, image.resize, image.resample))}  # fmt: skip
    if model.language is None:
        words = source.tensors["qformer.embeddings.words.weight"].shape[0]
        pairs |= {"vocabulary": (30523, words), "contrastive width": (256, model.contrastive_width)}
    else:
        pairs["every how many blocks look at the image"] = (2, qformer.cross_every)
    return built_in("LAVIS", pairs)


def to_lavis(table: KeyMap, tensors: Tensors, path: Path) -> Tensors:
    try:
        return convert(table, tensors)
    except KeyMapError as error:
        raise UserError(f"{path} cannot become a LAVIS file: {error}.") from error


def _language(source: SourceModel, family: Family, options: Options) -> None:
    """The language model, which stands elsewhere, or in the file with its shape elsewhere."""
    inside = any(name.startswith("language.") for name in source.tensors)
    if options.language is None:
        raise UserError(
            f"{source.path} holds what stage two trained, for a frozen {'OPT' if family == 'causal' else 'T5'} that "
            "stands elsewhere: give its Hugging Face folder with --language."
        )
    source.language = config_of(options.language)
    if not inside:
        source.towers["language"] = options.language
        source.tensors |= prefixed(hugging_face_language(options.language), "language.")
    tensors = {name: tensor for name, tensor in source.tensors.items() if name.startswith("language.")}
    folder = str(options.language.resolve())
    language = Language(family=family, weights=folder, dtype=dtype_name(tensors))
    config = source.config
    source.config = replace(
        config,
        run=replace(config.run, stage="generate"),
        model=replace(config.model, language=language),
        prompt=blip2_prompt(language, tokenizer_of(options.language, options), options),
    )


def _frozen_vision(source: SourceModel, options: Options) -> None:
    """The image encoder, where the file does not hold it."""
    if any(name.startswith("vision.encoder.") for name in source.tensors):
        return
    if options.vision is None:
        raise UserError(
            f"{source.path} does not hold the frozen image encoder: give its file with --vision (LAVIS's is "
            "eva_vit_g.pth)."
        )
    config = source.config
    frozen = vision_tensors(options.vision, config.model.vision)
    source.tensors |= prefixed(frozen, "vision.encoder.")
    vision = replace(config.model.vision, dtype=dtype_name(frozen))
    if options.image_size is None:
        source.towers["vision"] = options.vision
        vision = replace(vision, weights=str(options.vision.resolve()))
    source.config = replace(config, model=replace(config.model, vision=vision))


def _vision(raw: Mapping[str, Lazy], options: Options) -> Vision:
    base = base_model(options).vision
    if f"{VISION}cls_token" not in raw:
        return replace(base, weights=None)
    width, patch = raw[f"{VISION}cls_token"].shape[-1], raw[f"{VISION}patch_embed.proj.weight"].shape[-1]
    inside = {name: tensor for name, tensor in raw.items() if name.startswith(VISION)}
    return replace(
        base, family="eva", weights=None, width=width, patch=patch, heads=_heads(base.heads, width, "vision", options),
        image_size=patch * round((raw[f"{VISION}pos_embed"].shape[1] - 1) ** 0.5),
        depth=_count(raw, f"{VISION}blocks."), mlp_width=_rows(raw, f"{VISION}blocks.0.mlp.fc1.weight", base.mlp_width),
        dtype=dtype_name(inside),
    )  # fmt: skip


def _qformer(raw: Mapping[str, Lazy], options: Options) -> QFormer:
    base = base_model(options).qformer
    layers = _count(raw, LAYER)
    crossing = sorted({int(name.removeprefix(LAYER).partition(".")[0]) for name in raw if ".crossattention." in name})
    _, queries, width = raw["query_tokens"].shape
    words, positions = (f"Qformer.bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position"))
    saved = raw[POSITION_IDS].shape[-1] if POSITION_IDS in raw else base.positions  # stage two has no table
    return replace(
        base, weights=None, layers=layers, width=width, queries=queries,
        heads=_heads(base.heads, width, "qformer", options),
        mlp_width=_rows(raw, f"{LAYER}0.intermediate_query.dense.weight", base.mlp_width),
        cross_every=crossing[1] if len(crossing) > 1 else layers,
        positions=_rows(raw, positions, saved), vocabulary=_rows(raw, words, 0) or None,
    )  # fmt: skip


def _heads(configured: int, width: int, section: str, options: Options) -> int:
    """Attention heads, which no shape says."""
    if options.config is not None:
        return configured
    if width not in RELEASED_HEADS:
        raise UserError(
            f"a {section} of width {width} is none of BLIP-2's, and shapes do not tell its attention heads: give a "
            f"configuration with model.{section}.heads by --config."
        )
    return RELEASED_HEADS[width]


def _count(raw: Mapping[str, Lazy], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).partition(".")[0]) for name in raw if name.startswith(prefix))


def _rows(raw: Mapping[str, Lazy], name: str, default: int) -> int:
    return raw[name].shape[0] if name in raw else default
