"""Hugging Face BLIP-2: `Blip2ForConditionalGeneration` (any language model) and `Blip2ForImageTextRetrieval`.

What the two sides compute differently: transformers gives the norm behind the encoder the encoder's eps, 1e-6, LAVIS
and we 1e-5; see hf_blip2.py.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from vglm_train.checkpoint.convert.lazy_tensors import Tensors, below, convert, prefixed, total
from vglm_train.checkpoint.convert.source import (
    Options,
    SourceModel,
    base_model,
    blip2_prompt,
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
from vglm_train.checkpoint.convert.towers import has_untied_head, repeated, with_ties
from vglm_train.checkpoint.convert.writers import progress, replaced, write_sharded
from vglm_train.checkpoint.keymaps.hf_blip2 import HF_BLIP2, HF_BLIP2_RETRIEVAL, TO_HF_BLIP2_RETRIEVAL
from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyMapError
from vglm_train.checkpoint.load.chatglm import read_json
from vglm_train.checkpoint.load.hf_language import COMPUTED
from vglm_train.config.data import Image
from vglm_train.config.language import Language
from vglm_train.config.model import QFormer, Vision
from vglm_train.config.run import Config
from vglm_train.errors import UserError

# transformers' defaults, which config.json may leave out
VISION = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16,
          "image_size": 224, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6}  # fmt: skip
QFORMER = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
           "max_position_embeddings": 512, "cross_attention_frequency": 2, "vocab_size": 30522, "hidden_act": "gelu",
           "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1, "encoder_hidden_size": 1408}  # fmt: skip
FIXED = ("hidden_act", "layer_norm_eps")  # the same in every model here
KEPT = ("generation_config.json", "preprocessor_config.json", "processor_config.json")
RETRIEVAL = "Blip2ForImageTextRetrieval"
NEW_IN_RETRIEVAL = ("temperature", "caption_head.")


def kind_of(folder: Path) -> str | None:
    """hf-blip2, hf-blip2-retrieval, or None."""
    file = folder / "config.json"
    content = read_json(file) if file.is_file() else {}
    if content.get("model_type") != "blip-2":
        return None
    return "hf-blip2-retrieval" if RETRIEVAL in content.get("architectures", ()) else "hf-blip2"


def read(folder: Path, options: Options) -> SourceModel:
    """A BLIP-2 folder of either class, safetensors or .bin, in one file or several."""
    kind = kind_of(folder)
    content, raw = read_json(folder / "config.json"), open_tensors(folder)
    retrieval = kind == "hf-blip2-retrieval"
    table = HF_BLIP2_RETRIEVAL if retrieval else HF_BLIP2
    computed = [name for name in raw if name.startswith("language_model.") and COMPUTED.fullmatch(name)]
    raw = {name: tensor for name, tensor in raw.items() if name not in computed}
    vision, qformer = _vision(content, raw, folder), _qformer(content, folder, retrieval)
    model = shaped(base_model(options), vision, qformer, content.get("image_text_hidden_size", 256))
    config = run_config(folder, model, "align", options, _image(folder))
    source = SourceModel(folder, str(kind), config, mapped(table, raw, folder))
    source.dropped = [*computed, *(name for name in raw if table.dropped(name))]
    source.tokenizer = tokenizer_of(folder, options)
    source.origin = {"kept": {name: read_json(folder / name) for name in KEPT if (folder / name).is_file()}}
    if not retrieval:
        source.origin["image_token_index"] = content.get("image_token_index")
        _language(source, content, options)
    source.tensors, vision, notes = resized(source.tensors, model.vision, options.image_size)
    source.config = replace(source.config, model=replace(source.config.model, vision=vision))
    source.notes += notes
    whole = expected(source.config, source.language)
    if not retrieval:
        language = with_ties(below(source.tensors, "language."), whole.language)
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
    tensors, lost = source.tensors, []
    if retrieval:
        lost = [name for name in tensors if TO_HF_BLIP2_RETRIEVAL.dropped(name)]
    else:
        model = expected(source.config, source.language)
        twice = repeated(below(tensors, "language."), model.language)
        tensors = {name: tensor for name, tensor in tensors.items() if name.removeprefix("language.") not in twice}
    renamed = to_hugging_face(tensors, retrieval, source.path)
    with replaced(out, total(renamed), force) as new, progress(renamed, out.name) as bar:
        new.mkdir()
        write_sharded(new, renamed, bar, limit)
        _write_json(new / "config.json", configuration(source, renamed))
        for name, content in source.origin.get("kept", {}).items():
            _write_json(new / name, content)
        if source.tokenizer is not None and source.tokenizer.is_dir():
            for file in source.tokenizer.iterdir():
                if file.is_file() and file.name not in ("config.json", *KEPT):
                    shutil.copyfile(file, new / file.name)
        if not retrieval and not (new / "generation_config.json").exists():
            ids = {key: value for key, value in (source.language or {}).items() if key.endswith("_token_id")}
            _write_json(new / "generation_config.json", {"_from_model_config": True, **ids})
        if not (new / "preprocessor_config.json").exists():
            _write_json(new / "preprocessor_config.json", preprocessor(source.config))
        if not (new / "processor_config.json").exists():
            queries = source.config.model.qformer.queries
            _write_json(
                new / "processor_config.json", {"processor_class": "Blip2Processor", "num_query_tokens": queries}
            )
    notes = [f"{len(renamed)} tensors, {configuration(source, renamed)['architectures'][0]}"]
    return notes + ([f"lost, as this class has no place for it: {', '.join(lost)}"] if lost else [])


def to_hugging_face(tensors: Tensors, retrieval: bool, path: Path) -> Tensors:
    table: KeyMap = TO_HF_BLIP2_RETRIEVAL if retrieval else HF_BLIP2.inverse()
    try:
        return convert(table, tensors)
    except KeyMapError as error:
        raise UserError(f"{path} cannot become a BLIP-2 folder: {error}.") from error


def configuration(source: SourceModel, renamed: Tensors) -> dict[str, Any]:
    """config.json."""
    config, retrieval = source.config, source.stage == "align"
    vision, qformer = config.model.vision, config.model.qformer
    words = source.tensors.get("qformer.embeddings.words.weight")
    content: dict[str, Any] = {
        "architectures": [RETRIEVAL if retrieval else "Blip2ForConditionalGeneration"],
        "model_type": "blip-2",
        "dtype": {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[dtype_name(renamed)],
        "num_query_tokens": qformer.queries,
        "image_text_hidden_size": config.model.contrastive_width,
        "vision_config": {
            **VISION, "model_type": "blip_2_vision_model", "hidden_size": vision.width, "qkv_bias": True,
            "intermediate_size": vision.mlp_width, "num_hidden_layers": vision.depth, "patch_size": vision.patch,
            "num_attention_heads": vision.heads, "image_size": vision.image_size,
        },
        "qformer_config": {
            **QFORMER,
            "model_type": "blip_2_qformer",
            "hidden_size": qformer.width,
            "num_hidden_layers": qformer.layers,
            "num_attention_heads": qformer.heads,
            "intermediate_size": qformer.mlp_width,
            "max_position_embeddings": qformer.positions,
            "cross_attention_frequency": qformer.cross_every,
            "vocab_size": words.shape[0] if words else QFORMER["vocab_size"],
            "encoder_hidden_size": vision.width,
            "hidden_dropout_prob": qformer.dropout,
            "attention_probs_dropout_prob": qformer.dropout,
            "use_qformer_text_input": retrieval,
        },
    }  # fmt: skip
    if not retrieval:
        content["text_config"] = dict(source.language or {})
        content["image_token_index"] = image_token(source)
    return content


def image_token(source: SourceModel) -> int:
    """The id that transformers puts where the image's tokens go: the source's own, or the first that no word has."""
    known = source.origin.get("image_token_index")
    if known is not None:
        return int(known)
    words = next(tensor.shape[0] for name, tensor in source.tensors.items() if _is_embedding(name, tensor.shape))
    from vglm_train.prompt.tokenizers import build_tokenizer

    section = source.config.model.language
    assert section is not None
    if source.tokenizer is None:
        return words - 1
    tokenizer = build_tokenizer(replace(section, tokenizer=str(source.tokenizer)))
    return tokenizer.find("<image>") or min(tokenizer.vocabulary, words - 1)


def preprocessor(config: Config) -> dict[str, Any]:
    size, image = config.model.vision.image_size, config.data.image
    return {"image_processor_type": "BlipImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
            "do_convert_rgb": True, "resample": 3, "rescale_factor": 1 / 255, "size": {"height": size, "width": size},
            "image_mean": list(image.mean), "image_std": list(image.std)}  # fmt: skip


def _is_embedding(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and name.endswith(("embed_tokens.weight", "shared.weight", "wte.weight"))


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
        image_size=section["image_size"], patch=section["patch_size"], width=section["hidden_size"],
        depth=section["num_hidden_layers"], heads=section["num_attention_heads"],
        mlp_width=section["intermediate_size"], dtype=dtype_name(inside),
    )  # fmt: skip


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


def _image(folder: Path) -> Image:
    file = folder / "preprocessor_config.json"
    content = read_json(file) if file.is_file() else {}
    image = Image()
    return replace(
        image, mean=tuple(content.get("image_mean", image.mean)), std=tuple(content.get("image_std", image.std))
    )


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
