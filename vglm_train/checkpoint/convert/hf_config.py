"""What stands beside the weights of a BLIP-2 folder of transformers: config.json, the processor's files, the tokenizer.

Every size is the model's, and every id the tokenizer's: transformers puts the image's tokens at one id, starts and ends
an answer by others, and looks for all of them in these files.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vglm_train.checkpoint.convert.source import TOKENIZER_FILES, SourceModel, dtype_name
from vglm_train.checkpoint.load.lazy_tensors import Tensors
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.prompt.build import build_template
from vglm_train.prompt.tokenizers import HfTokenizer, build_tokenizer, check_tokenizer
from vglm_train.weights.pixels import FILTERS

# transformers' defaults, which config.json may leave out
CODES = {name: code for code, name in FILTERS.items()}
VISION = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16,
          "image_size": 224, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6}  # fmt: skip
QFORMER = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
           "max_position_embeddings": 512, "cross_attention_frequency": 2, "vocab_size": 30522, "hidden_act": "gelu",
           "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1, "encoder_hidden_size": 1408}  # fmt: skip
KEPT = ("generation_config.json", "preprocessor_config.json", "processor_config.json")
RETRIEVAL = "Blip2ForImageTextRetrieval"
IMAGE = "<image>"  # the token that transformers' processor writes for each of the image's tokens
FULL_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
NOT_OURS = ("auto_map", "_name_or_path", "torch_dtype", "transformers_version")  # of a language model's config.json


class Words(NamedTuple):
    """A language model's tokenizer as transformers' processor will use it."""

    image: int | None  # the id where the image's tokens go; None: none is needed
    ids: dict[str, int]  # eos_token_id and its like
    tokenizer: HfTokenizer | None  # None: the files are copied as they are


def words_of(source: SourceModel, rows: int) -> Words:
    """The ids that transformers needs. `rows`: of the language model's embeddings; stage one has none.

    The image's id is that of <image>, which is added where the tokenizer lacks it, as transformers' processor does.
    Without a tokenizer it is the one that the imported folder had, or the last.
    UserError where the tokenizer is not the model's.
    """
    known, config = source.origin.get("image_token_index"), source.config
    language = config.model.language
    if language is None:
        return Words(known, {}, None)
    if source.tokenizer is None:
        return Words(rows - 1 if known is None else int(known), {}, None)
    tokenizer = build_tokenizer(replace(language, tokenizer=str(source.tokenizer)))
    assert isinstance(tokenizer, HfTokenizer)
    check_tokenizer(tokenizer, rows, str(source.path))
    template = build_template(config.prompt, language, tokenizer, config.model.qformer.queries)
    ids = {"eos_token_id": template.end_id, "pad_token_id": tokenizer.pad_id}
    if len(tokenizer.prefix_ids) == 1:
        ids["bos_token_id"] = tokenizer.prefix_ids[0]  # where there is no prompt, transformers writes this one
    image = tokenizer.find(IMAGE)
    if image is not None:
        return Words(image, ids, None)
    return Words(tokenizer.add_special(IMAGE), ids, tokenizer)


def write_beside(folder: Path, source: SourceModel, renamed: Tensors, words: Words, rows: int) -> None:
    """All files of the folder but its weights. What an imported folder had is kept, with this model's numbers."""
    kept, queries = source.origin.get("kept", {}), source.config.model.qformer.queries
    _write_json(folder / "config.json", configuration(source, renamed, words, rows))
    pictures = {**preprocessor(source.config), **image_processor(kept), **numbers(source.config)}
    _write_json(folder / "preprocessor_config.json", pictures)
    processor = {"processor_class": "Blip2Processor", **kept.get("processor_config.json", {})}
    if "image_processor" in processor:
        processor["image_processor"] = pictures
    shown = None if words.image is None else queries  # else the processor writes ids that the model takes for words
    _write_json(folder / "processor_config.json", {**processor, "num_query_tokens": shown})
    if source.stage != "align":
        ids = {name: value for name, value in (source.language or {}).items() if name.endswith("_token_id")}
        answers = kept.get("generation_config.json", {"_from_model_config": True, **ids})
        _write_json(folder / "generation_config.json", {**answers, **words.ids})
    if words.tokenizer is not None:
        words.tokenizer.save(folder)
    elif source.tokenizer is not None and source.tokenizer.is_dir():
        for name in (name for name in TOKENIZER_FILES if (source.tokenizer / name).is_file()):
            shutil.copyfile(source.tokenizer / name, folder / name)


def configuration(source: SourceModel, renamed: Tensors, words: Words, rows: int) -> dict[str, Any]:
    """config.json. `rows`: embeddings that the language model has in this folder."""
    config, retrieval = source.config, source.stage == "align"
    vision, qformer = config.model.vision, config.model.qformer
    text = source.tensors.get("qformer.embeddings.words.weight")
    content: dict[str, Any] = {
        "architectures": [RETRIEVAL if retrieval else "Blip2ForConditionalGeneration"],
        "model_type": "blip-2",
        "dtype": FULL_NAMES[dtype_name(renamed)],
        "num_query_tokens": qformer.queries,
        "image_text_hidden_size": config.model.contrastive_width,
        "image_token_index": words.image,
        "vision_config": {
            **VISION, "model_type": "blip_2_vision_model", "hidden_size": vision.width, "qkv_bias": True,
            "intermediate_size": vision.mlp_width, "num_hidden_layers": vision.depth, "patch_size": vision.patch,
            "num_attention_heads": vision.heads, "image_size": vision.image_size,
        },
        "qformer_config": {
            **QFORMER, "model_type": "blip_2_qformer", "hidden_size": qformer.width,
            "num_hidden_layers": qformer.layers, "num_attention_heads": qformer.heads,
            "intermediate_size": qformer.mlp_width, "max_position_embeddings": qformer.positions,
            "cross_attention_frequency": qformer.cross_every, "encoder_hidden_size": vision.width,
            "vocab_size": text.shape[0] if text else QFORMER["vocab_size"], "hidden_dropout_prob": qformer.dropout,
            "attention_probs_dropout_prob": qformer.dropout, "use_qformer_text_input": retrieval,
        },
    }  # fmt: skip
    if not retrieval:
        own = {key: value for key, value in (source.language or {}).items() if key not in NOT_OURS}
        inside = {name: tensor for name, tensor in renamed.items() if name.startswith("language_model.")}
        sizes = {"dtype": FULL_NAMES[dtype_name(inside)], "vocab_size": rows}
        content["text_config"] = own | sizes | words.ids
    return content


def preprocessor(config: Config) -> dict[str, Any]:
    """What transformers does to a picture, as we do it in evaluation."""
    return {"image_processor_type": "BlipImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
            "do_convert_rgb": True, "resample": CODES[config.data.image.resample], "rescale_factor": 1 / 255,
            **numbers(config)}  # fmt: skip


def image_processor(files: Mapping[str, Any]) -> dict[str, Any]:
    """What the files of KEPT say about pictures. transformers 5 writes it into processor_config.json."""
    inside = files.get("processor_config.json", {}).get("image_processor", {})
    return {**files.get("preprocessor_config.json", {}), **inside}


def numbers(config: Config) -> dict[str, Any]:
    """Of preprocessor_config.json: this model's picture size, mean and standard deviation.

    UserError where its class cannot make these pixels.
    """
    size, image = config.model.vision.image_size, config.data.image
    if not image.squeeze or image.resize not in (None, size):
        raise UserError(
            "data.image.squeeze, data.image.resize: transformers' BLIP-2 squeezes the whole picture into its square; "
            "this model was trained on the centre of one, which it has no place for."
        )
    return {"size": {"height": size, "width": size}, "image_mean": list(image.mean), "image_std": list(image.std)}


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
