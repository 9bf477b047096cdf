"""Hugging Face BLIP-2: `Blip2ForConditionalGeneration` (any language model) and `Blip2ForImageTextRetrieval`.

What the two sides compute differently: transformers gives the norm behind the encoder the encoder's eps, 1e-6, LAVIS
and we 1e-5; see hf_blip2.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vglm_train.checkpoint.card.text import write_card
from vglm_train.checkpoint.convert.hf_config import (
    KEPT,
    QFORMER,
    RETRIEVAL,
    VISION,
    image_processor,
    words_of,
    write_beside,
)
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
from vglm_train.checkpoint.convert.towers import as_loaded, has_untied_head, repeated, with_rows
from vglm_train.checkpoint.convert.writers import progress, replaced, write_sharded
from vglm_train.checkpoint.keymaps.hf_blip2 import HF_BLIP2, HF_BLIP2_RETRIEVAL, TO_HF_BLIP2_RETRIEVAL
from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyMapError
from vglm_train.checkpoint.load.chatglm import read_json
from vglm_train.checkpoint.load.lazy_tensors import Tensors, below, convert, prefixed, total
from vglm_train.config.data import Image
from vglm_train.config.language import Language
from vglm_train.config.model import QFormer, Vision
from vglm_train.errors import UserError
from vglm_train.weights.pixels import FILTERS

FIXED = ("hidden_act", "layer_norm_eps")  # the same in every model here
NEW_IN_RETRIEVAL = ("temperature", "caption_head.")


def read(folder: Path, options: Options) -> SourceModel:
    """A BLIP-2 folder of either class, safetensors or .bin, in one file or several."""
    content, raw = read_json(folder / "config.json"), open_tensors(folder)
    retrieval = RETRIEVAL in content.get("architectures", ())
    table = HF_BLIP2_RETRIEVAL if retrieval else HF_BLIP2
    vision, qformer = _vision(content, raw, folder), _qformer(content, folder, retrieval)
    model = shaped(base_model(options), vision, qformer, content.get("image_text_hidden_size", 256))
    kept = {name: read_json(folder / name) for name in KEPT if (folder / name).is_file()}
    config = run_config(folder, model, "align", options, _image(kept))
    source = SourceModel(folder, "hf-blip2-retrieval" if retrieval else "hf-blip2", config, mapped(table, raw, folder))
    source.dropped = [name for name in raw if table.dropped(name)]
    source.tokenizer = tokenizer_of(folder, options)
    source.origin = {"kept": kept, "image_token_index": content.get("image_token_index")}
    if not retrieval:
        _language(source, content, options)
    source.tensors, vision, notes = resized(source.tensors, model.vision, options.image_size)
    source.config = replace(source.config, model=replace(source.config.model, vision=vision))
    source.notes += notes
    whole = expected(source.config, source.language)
    if not retrieval:
        language, useless = as_loaded(below(source.tensors, "language."), whole.language)
        source.dropped += [f"language_model.{key}" for key in useless]
        if source.language is not None and has_untied_head(language, whole.language):
            source.language["tie_word_embeddings"] = False  # Flan-T5's, which transformers 5 writes as true
        rest = {name: tensor for name, tensor in source.tensors.items() if not name.startswith("language.")}
        source.tensors = rest | prefixed(language, "language.")
    check(source.tensors, whole.state_dict(), table, list(raw), folder, NEW_IN_RETRIEVAL if retrieval else ())
    source.fresh = [name for name in whole.state_dict() if name not in source.tensors]
    return source


def write(source: SourceModel, out: Path, force: bool, limit: int) -> list[str]:
    """A folder that transformers' `from_pretrained` loads: weights, config.json, generation_config.json, tokenizer."""
    retrieval = source.stage == "align"
    if source.config.model.vision.family != "eva" or (not retrieval and source.language is None):
        raise UserError(
            f"{source.path}: transformers' BLIP-2 has EVA encoders, and language models of transformers; ChatGLM goes "
            "into a SAT folder (--format visualglm-sat)."
        )
    tensors, lost, rows = source.tensors, [], 0
    if retrieval:
        words = words_of(source, rows)
        lost = [name for name in tensors if TO_HF_BLIP2_RETRIEVAL.dropped(name)]
    else:
        model = expected(source.config, source.language)
        _check_language(model.language, source.path)
        rows = model.language.vocabulary
        words = words_of(source, rows)
        twice = repeated(below(tensors, "language."), model.language)
        tensors = {name: tensor for name, tensor in tensors.items() if name.removeprefix("language.") not in twice}
        if words.image is not None and words.image >= rows:
            tensors, rows = with_rows(tensors, model.language, words.image + 1), words.image + 1
    renamed = to_hugging_face(tensors, retrieval, source.path)
    with replaced(out, total(renamed), force) as new, progress(renamed, out.name) as bar:
        new.mkdir()
        write_sharded(new, renamed, bar, limit)
        write_beside(new, source, renamed, words, rows)
        write_card(source.path, new)
    return [
        f"{len(renamed)} tensors, {RETRIEVAL if retrieval else 'Blip2ForConditionalGeneration'}",
        *([] if words.image is None else [f"the image's tokens stand at id {words.image}"]),
        *([f"lost, as this class has no place for it: {', '.join(lost)}"] if lost else []),
        *built_in("transformers", {"language token before a text": (False, retrieval and _language_token(source))}),
    ]


def _check_language(language: Any, path: Path) -> None:
    """UserError where transformers' BLIP-2 would build another language model than this one."""
    from vglm_train.model.language.hf.causal import has_causal_class

    shape, reason = language.model.config, ""
    if shape.is_encoder_decoder and has_causal_class(shape):
        reason = "it takes every family that also has a decoder-only class for one, and would leave out the encoder"
    elif shape.hidden_size != language.embed_width:
        reason = (
            f"it projects images to the width of the blocks, {shape.hidden_size}, not to that of the embeddings, "
            f"{language.embed_width}"
        )
    if reason:
        raise UserError(f"{path}: transformers' BLIP-2 cannot hold this {shape.model_type}: {reason}.")


def _language_token(source: SourceModel) -> bool:
    return source.config.model.text.language_token


def to_hugging_face(tensors: Tensors, retrieval: bool, path: Path) -> Tensors:
    table: KeyMap = TO_HF_BLIP2_RETRIEVAL if retrieval else HF_BLIP2.inverse()
    try:
        return convert(table, tensors)
    except KeyMapError as error:
        raise UserError(f"{path} cannot become a BLIP-2 folder: {error}.") from error


def _language(source: SourceModel, content: dict[str, Any], options: Options) -> None:
    text = content.get("text_config") or {}
    source.language = {"model_type": "opt", **text}
    seq2seq = bool(text.get("is_encoder_decoder", source.language["model_type"] in ("t5", "mt5", "bart")))
    inside = {name: tensor for name, tensor in source.tensors.items() if name.startswith("language.")}
    language = Language(
        family="seq2seq" if seq2seq else "causal", config="tokenizer", tokenizer="tokenizer", dtype=dtype_name(inside)
    )
    config = source.config
    source.config = replace(
        config,
        run=replace(config.run, stage="generate"),
        model=replace(config.model, language=language),
        prompt=blip2_prompt(language, source.tokenizer, options),
    )


def _vision(content: dict[str, Any], raw: Tensors, folder: Path) -> Vision:
    section = {**VISION, **(content.get("vision_config") or {})}
    _check_fixed(section, VISION, "vision_config", folder)
    inside = {name: tensor for name, tensor in raw.items() if name.startswith("vision_model.")}
    return Vision(
        image_size=_side(section["image_size"], folder), patch=_side(section["patch_size"], folder),
        width=section["hidden_size"], depth=section["num_hidden_layers"], heads=section["num_attention_heads"],
        mlp_width=section["intermediate_size"], dtype=dtype_name(inside),
    )  # fmt: skip


def _side(size: int | list[int], folder: Path) -> int:
    """A number, or two that are equal: height and width."""
    sides = set(size) if isinstance(size, list) else {size}
    if len(sides) > 1:
        raise UserError(f"{folder}/config.json: pictures and patches are squares here, found {size}.")
    return sides.pop()


def _qformer(content: dict[str, Any], folder: Path, retrieval: bool) -> QFormer:
    section = {**QFORMER, **(content.get("qformer_config") or {})}
    _check_fixed(section, QFORMER, "qformer_config", folder)
    return QFormer(
        layers=section["num_hidden_layers"], width=section["hidden_size"], heads=section["num_attention_heads"],
        mlp_width=section["intermediate_size"], queries=content.get("num_query_tokens", 32),
        cross_every=section["cross_attention_frequency"], positions=section["max_position_embeddings"],
        dropout=section["hidden_dropout_prob"], vocabulary=section["vocab_size"] if retrieval else None,
    )  # fmt: skip


def _check_fixed(section: dict[str, Any], fixed: dict[str, Any], name: str, folder: Path) -> None:
    for key in FIXED:
        if section[key] != fixed[key]:
            raise UserError(f"{folder}/config.json: {name}.{key} is {section[key]}; BLIP-2's {fixed[key]} is built in.")


def _image(kept: Mapping[str, Any]) -> Image:
    content, image = image_processor(kept), Image()
    mean, std = tuple(content.get("image_mean", image.mean)), tuple(content.get("image_std", image.std))
    return replace(image, mean=mean, std=std, resample=FILTERS.get(int(content.get("resample") or 3), image.resample))
