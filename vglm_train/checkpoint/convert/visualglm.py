"""VisualGLM-6B: the SAT folder, and the Hugging Face folder of the hub (fused products of ChatGLM per head)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vglm_train.checkpoint.convert import qkv
from vglm_train.checkpoint.convert.source import (
    Options,
    SourceModel,
    base_model,
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
from vglm_train.checkpoint.convert.writers import progress, replaced, write_torch
from vglm_train.checkpoint.keymaps.keymap import KeyMap, KeyMapError
from vglm_train.checkpoint.keymaps.sat import IMAGE, Fused, image_rules, visualglm_table
from vglm_train.checkpoint.load.chatglm import CONFIG, HUB_CONFIG, hub_chatglm, read_json, sat_shard
from vglm_train.checkpoint.load.lazy_tensors import Tensors, below, convert, of_shards, total
from vglm_train.config.data import Image
from vglm_train.config.language import Language, Prompt
from vglm_train.config.model import QFormer, Vision
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.prompt.chatglm import RELEASED_SOP, build_chatglm
from vglm_train.prompt.tokenizers import check_tokenizer

HUB_IMAGE = "image_encoder."
FIXED = {"eva_args": 1e-6, "qformer_args": 1e-12, "": 1e-5}  # layer norm's eps, built in
SAT_VERSION = "0.4.12"  # whose order of queries, keys and values is written
IDS = ("bos_token_id", "mask_token_id", "gmask_token_id", "pad_token_id")


def read_sat(folder: Path, options: Options) -> SourceModel:
    """A SAT folder with image side and ChatGLM."""
    content = read_json(folder / CONFIG)
    raw = of_shards([sat_shard(folder)])
    if lora := next((name for name in raw if ".matrix_A." in name), None):
        raise UserError(
            f"{folder} holds LoRA beside the weights that it belongs to ({lora}), as SAT trains it. Merge it with the "
            "code that trained it: model.get_mixin('lora').merge_lora(), then save_checkpoint; give what that writes."
        )
    heads = {section: _heads(content, section, folder) for section in FIXED}
    fused, line = _order(raw, content, heads, folder, options)
    config = _config(content, folder, options, raw, IMAGE)
    table = visualglm_table(config.model.qformer.layers, heads, fused)
    source = SourceModel(folder, "visualglm-sat", config, mapped(table, raw, folder), notes=[line])
    return _finished(source, content, table, list(raw), options)


def read_hub(folder: Path, options: Options) -> SourceModel:
    """The hub's folder: ChatGLM's Hugging Face names per head, the image side under SAT's names in thirds."""
    content = read_json(folder / HUB_CONFIG)
    content |= {"eva_args": content.get("eva_config"), "qformer_args": content.get("qformer_config")}
    raw = open_tensors(folder)
    heads = {section: _heads(content, section, folder) for section in FIXED}
    language = {name: tensor for name, tensor in raw.items() if not name.startswith(HUB_IMAGE)}
    fused, line = qkv.choose_order(options.fused, "heads", qkv.measured_order(language, heads[""]), str(folder))
    image, second = qkv.choose_order(None, "thirds", _vision_order(raw, heads, HUB_IMAGE), f"{folder}, image side")
    config = _config(content, folder, options, raw, HUB_IMAGE)
    table = hub_table(config.model.qformer.layers, heads, fused, image)
    source = SourceModel(
        folder, "visualglm-hub", config, mapped(table, raw, folder), notes=[line, f"image side: {second}"]
    )
    return _finished(source, content, table, list(raw), options)


def hub_table(layers: int, heads: dict[str, int], fused: Fused = "heads", image: Fused = "thirds") -> KeyMap:
    """VisualGLM-6B's Hugging Face files -> `VisualLanguageModel`."""
    language = hub_chatglm(heads[""], fused)
    rules = tuple(replace(rule, targets=tuple(f"language.{name}" for name in rule.targets)) for rule in language.rules)
    ignored = tuple(name for name in language.ignored if not name.startswith(HUB_IMAGE))
    return KeyMap(rules=(*image_rules(layers, heads, image, HUB_IMAGE), *rules), ignored=ignored)


def write(source: SourceModel, out: Path, force: bool, fused: Fused | None) -> list[str]:
    """A SAT folder that VisualGLM's own code loads: latest, 1/mp_rank_00_model_states.pt, model_config.json.

    The tokenizer stands beside them, for whoever opens the folder: SAT reads none.
    """
    model = source.config.model
    if model.language is None or model.language.family != "chatglm" or model.vision.family != "eva":
        raise UserError(f"{source.path} is no VisualGLM: its language model is not ChatGLM, or its encoder not EVA.")
    order = fused or "thirds"
    content = model_config(source, order)
    renamed = to_sat(source, order)
    with replaced(out, total(renamed), force) as new, progress(renamed, out.name) as bar:
        (new / "1").mkdir(parents=True)
        (new / "latest").write_text("1", "utf-8")
        write_torch(new / "1" / "mp_rank_00_model_states.pt", renamed, "module", bar)
        (new / CONFIG).write_text(json.dumps(content, indent=4, ensure_ascii=False), "utf-8")
        if source.tokenizer is not None:
            build_chatglm(source.tokenizer).save(new)
    ids = ", ".join(f"{name} {content[name]}" for name in IDS)
    held = "the tokenizer stands beside" if source.tokenizer else "the folder holds no tokenizer"
    return [
        f"{len(renamed)} tensors under `module`",
        f"queries, keys and values: {order}",
        f"{ids}; {held}",
        *_built_in(source),
    ]


def _built_in(source: SourceModel) -> list[str]:
    """What VisualGLM has as constants (model/blip2.py, model/chat.py), where this model differs."""
    model, image = source.config.model, source.config.data.image
    assert model.language is not None
    pairs = {"queries": (32, model.qformer.queries), "width of the Q-Former": (768, model.qformer.width),
             "width of ChatGLM": (4096, model.language.width), "image size": (224, model.vision.image_size),
             "image mean": (Image().mean, tuple(image.mean)),
             "image standard deviation": (Image().std, tuple(image.std)),
             "squeeze, resize, resample of data.image":
                 ((True, None, "bicubic"), (image.squeeze, image.resize, image.resample))}  # fmt: skip
    return built_in("VisualGLM", pairs)


def token_ids(source: SourceModel) -> dict[str, int]:
    """The ids by which SAT's ChatGLM finds context and answer: the tokenizer's.

    Without a tokenizer: those that the imported folder recorded, or those of a released vocabulary, known by its size.
    UserError where none of these tells, or the tokenizer is not this model's.
    """
    language = source.config.model.language
    assert language is not None
    if source.tokenizer is not None:
        tokenizer = build_chatglm(source.tokenizer)
        check_tokenizer(tokenizer, language.vocabulary, str(source.path))
        mask_id = tokenizer.find("[MASK]")
        return dict(zip(IDS, (tokenizer.sop_id, tokenizer.gmask_id if mask_id is None else mask_id,
                              tokenizer.gmask_id, tokenizer.pad_id), strict=True))  # fmt: skip
    kept = source.origin.get("model_config", {})
    if all(name in kept for name in IDS):
        return {name: kept[name] for name in IDS}
    if language.vocabulary not in RELEASED_SOP:
        raise UserError(
            f"{source.path} holds no tokenizer, and ChatGLM-6B was not released with a vocabulary of "
            f"{language.vocabulary}: give the model's ice_text.model with --tokenizer."
        )
    sop = RELEASED_SOP[language.vocabulary]
    return dict(zip(IDS, (sop, sop - 4, sop - 3, sop - 130001), strict=True))


def to_sat(source: SourceModel, fused: Fused) -> Tensors:
    """Under SAT's names."""
    model = source.config.model
    assert model.language is not None
    heads = {"eva_args": model.vision.heads, "qformer_args": model.qformer.heads, "": model.language.heads}
    try:
        return convert(visualglm_table(model.qformer.layers, heads, fused).inverse(), source.tensors)
    except KeyMapError as error:
        raise UserError(f"{source.path} cannot become a SAT folder: {error}.") from error


def model_config(source: SourceModel, fused: Fused) -> dict[str, Any]:
    """model_config.json: the imported one where there was one, with this model's shapes and its tokenizer's ids."""
    model = source.config.model
    vision, qformer, language = model.vision, model.qformer, model.language
    assert language is not None
    kept = source.origin.get("model_config", {})
    common = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "model_parallel_size": 1}
    ids = token_ids(source)
    released = RELEASED_SOP.get(language.vocabulary) == ids["bos_token_id"]
    content = {
        "model_class": "VisualGLMModel", "layernorm_order": "post", **common,
        **({"tokenizer_type": "THUDM/chatglm-6b"} if released else {}), **kept, **ids,
        "num_layers": language.layers, "hidden_size": language.width, "num_attention_heads": language.heads,
        "inner_hidden_size": language.mlp_width, "vocab_size": language.vocabulary,
        "max_sequence_length": language.positions, "image_length": qformer.queries,
    }  # fmt: skip
    content["eva_args"] = {
        "vocab_size": 1, "layernorm_order": "pre", "use_final_layernorm": False, "layernorm_epsilon": 1e-6,
        "row_parallel_linear_final_bias": False, "pre_len": 1, "post_len": 0, "in_channels": 3, "num_classes": 1000,
        **common, **kept.get("eva_args", {}), "num_layers": vision.depth, "hidden_size": vision.width,
        "num_attention_heads": vision.heads, "inner_hidden_size": vision.mlp_width, "patch_size": vision.patch,
        "image_size": [vision.image_size, vision.image_size],
    }  # fmt: skip
    content["qformer_args"] = {
        "layernorm_order": "post", "max_sequence_length": 0, "layernorm_epsilon": 1e-12, **common,
        **kept.get("qformer_args", {}), "num_layers": qformer.layers, "hidden_size": qformer.width,
        "num_attention_heads": qformer.heads, "inner_hidden_size": qformer.mlp_width, "vocab_size": qformer.queries,
        "is_decoder": [number % qformer.cross_every == 0 for number in range(qformer.layers)],
        "cross_attn_hidden_size": vision.width,
    }  # fmt: skip
    return content | {"sat_version": SAT_VERSION if fused == "thirds" else "0.3.6"}


def _finished(
    source: SourceModel, content: dict[str, Any], table: KeyMap, names: list[str], options: Options
) -> SourceModel:
    source.dropped = sorted(name for name in names if table.dropped(name))
    source.tensors, vision, notes = resized(source.tensors, source.config.model.vision, options.image_size)
    source.config = replace(source.config, model=replace(source.config.model, vision=vision))
    source.notes += notes
    check(source.tensors, expected(source.config).state_dict(), table, names, source.path)
    source.tokenizer = tokenizer_of(source.path, options)
    sat = source.kind == "visualglm-sat"  # the hub's keys are transformers' own, but for the ids
    kept = {key: value for key, value in content.items() if key in IDS or (sat and not key.endswith("_config"))}
    source.origin = {"model_config": kept}
    _check_ids(source, kept)
    return source


def _check_ids(source: SourceModel, recorded: Mapping[str, Any]) -> None:
    """UserError where the tokenizer's ids are not those that the folder records for its weights."""
    if source.tokenizer is None:
        return
    for name, found in token_ids(source).items():
        if recorded.get(name, found) != found and name != "mask_token_id":  # the one that no prompt has
            raise UserError(
                f"{source.path}: {name} is {recorded[name]} in its configuration, but {found} in {source.tokenizer}, "
                "which is the tokenizer of other weights. Give theirs with --tokenizer."
            )


def _order(
    raw: Tensors, content: dict[str, Any], heads: dict[str, int], folder: Path, options: Options
) -> tuple[Fused, str]:
    """One order for the whole folder: the image side's zero biases show it best."""
    language = {name: tensor for name, tensor in raw.items() if not name.startswith(IMAGE)}
    measured = _vision_order(raw, heads, IMAGE) or qkv.measured_order(language, heads[""])
    return qkv.choose_order(options.fused, qkv.recorded_order(content), measured, str(folder))


def _vision_order(raw: Tensors, heads: dict[str, int], image: str) -> Fused | None:
    return qkv.measured_order(below(raw, f"{image}vit."), heads["eva_args"])


def _config(content: Mapping[str, Any], folder: Path, options: Options, raw: Tensors, image: str) -> Config:
    eva, q = content["eva_args"], content["qformer_args"]
    size = eva["image_size"]
    inside = {name: tensor for name, tensor in raw.items() if name.startswith(f"{image}vit.")}
    rest = {name: tensor for name, tensor in raw.items() if not name.startswith(image)}
    vision = Vision(
        image_size=size[0] if isinstance(size, list) else size, patch=eva["patch_size"], width=eva["hidden_size"],
        depth=eva["num_layers"], heads=eva["num_attention_heads"],
        mlp_width=eva.get("inner_hidden_size") or 4 * eva["hidden_size"], dtype=dtype_name(inside),
    )  # fmt: skip
    qformer = QFormer(
        layers=q["num_layers"], width=q["hidden_size"], heads=q["num_attention_heads"], queries=q["vocab_size"],
        mlp_width=q.get("inner_hidden_size") or 4 * q["hidden_size"], cross_every=_cross_every(q, folder),
    )  # fmt: skip
    language = Language(
        layers=content["num_layers"], width=content["hidden_size"], heads=content["num_attention_heads"],
        mlp_width=content.get("inner_hidden_size") or 4 * content["hidden_size"], vocabulary=content["vocab_size"],
        positions=content["max_sequence_length"], tokenizer="tokenizer", dtype=dtype_name(rest),
    )  # fmt: skip
    model = shaped(base_model(options), vision, qformer, None, language)
    config = run_config(folder, model, "generate", options)
    return config if options.config else replace(config, prompt=Prompt())


def _heads(content: Mapping[str, Any], section: str, folder: Path) -> int:
    """Heads of a section; what is built in is checked beside."""
    part = content if not section else content.get(section)
    if not isinstance(part, Mapping) or "num_attention_heads" not in part:
        raise UserError(f"{folder}: its configuration has no {section or 'shape of ChatGLM'}: it is no VisualGLM.")
    eps = part.get("layernorm_epsilon", FIXED[section])
    if eps != FIXED[section]:
        raise UserError(f"{folder}: {section or 'ChatGLM'}'s layernorm_epsilon is {eps}; {FIXED[section]} is built in.")
    return int(part["num_attention_heads"])


def _cross_every(qformer: Mapping[str, Any], folder: Path) -> int:
    """Every how many blocks the Q-Former looks at the image."""
    crossing = qformer.get("is_decoder", QFormer().cross_every)
    if not isinstance(crossing, list):  # SAT takes a boolean for all blocks
        return 1 if crossing is True else QFormer().cross_every
    every = next((number for number in range(1, len(crossing)) if crossing[number]), max(1, len(crossing)))
    if any(crosses != (number % every == 0) for number, crosses in enumerate(crossing)):
        raise UserError(f"{folder}: qformer_args.is_decoder is not every n-th block from the first on: {crossing}.")
    return every
