"""Folders of weights by their files and config.json, and what may be given for which part of a model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vglm_train.errors import UserError
from vglm_train.folders import recover
from vglm_train.weights.encoders import REFUSED, TAKEN, encoder_type, why_refused
from vglm_train.weights.found import ENDINGS, MERGE, UNFINISHED, Found, damaged, look_at_file, read_object

Part = Literal["vision", "language", "bert"]
FORMATS = {
    "bundle": "a bundle of this project",
    "lavis": "LAVIS's BLIP-2: stage one, or stage two with OPT or T5",
    "hf-blip2": "Hugging Face Blip2ForConditionalGeneration",
    "hf-blip2-retrieval": "Hugging Face Blip2ForImageTextRetrieval",
    "visualglm-sat": "VisualGLM as SAT folder",
    "visualglm-hub": "VisualGLM in the hub's layout",
    "eva": "an EVA ViT alone",
    "clip": "Hugging Face CLIP",
    "siglip": "Hugging Face SigLIP",
    "hf-vision": "a Hugging Face image encoder",
    "bert": "Hugging Face BERT",
    "chatglm-sat": "ChatGLM as SAT folder",
    "chatglm-hub": "ChatGLM-6B in the hub's layout",
    "hf-language": "a Hugging Face language model",
}
"""Formats that are read here, by name."""
FIELDS: dict[Part, str] = {"vision": "model.vision.weights", "language": "model.language.weights",
                           "bert": "model.qformer.weights"}  # fmt: skip
PARTS: dict[str, tuple[Part, ...]] = {
    "eva": ("vision",), "clip": ("vision",), "siglip": ("vision",), "hf-vision": ("vision",),
    "bert": ("bert",), "lavis": ("vision",),
    "chatglm-sat": ("language",), "chatglm-hub": ("language",), "visualglm-sat": ("language",),
    "visualglm-hub": ("language",), "hf-language": ("language",),
}  # fmt: skip
"""For which parts a format may be given."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
PICTURES = ("image_size", "patch_size", "num_channels")  # keys of an image encoder's config.json
SOUNDS = ("num_mel_bins", "audio_config", "feat_extract_norm", "num_conv_pos_embeddings")
ENCODERS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForPreTraining")
ELSEWHERE = "It has no place here"


def identify(path: Path) -> Found:
    """What a file or folder is. UserError if it is not there."""
    recover(path)
    if not path.exists():
        raise UserError(f"{path} is not there.")
    if path.is_file():
        return look_at_file(path)
    return _by_files(path) or _by_config(path)


def require(path: Path, part: Part) -> None:
    """UserError unless `path` may hold the weights of that part of a model, as far as names tell.

    What is known to be another thing is named, and what to do with it.
    """
    recover(path)
    if not path.exists():  # its reader says so
        return
    found = identify(path)
    if found.advice:
        raise UserError(f"{FIELDS[part]}: {found.sentence(path)}")
    if found.kind is None or part in PARTS.get(found.kind, ()):
        return
    others = [FIELDS[other] for other in PARTS.get(found.kind, ())]
    if found.kind == "bundle":
        others = ["model.qformer.weights, of stage two, or model.bundle"]
    where = f"It goes to {', '.join(others)}" if others else "Import it, and start from the bundle"
    raise UserError(f"{FIELDS[part]}: {path} is {found.what}. {where}.")


def weight_files(folder: Path) -> list[Path]:
    """Files of a Hugging Face folder: safetensors or else torch files, whole or in parts; empty if neither is there.

    UserError naming every part that the index lists and the folder lacks.
    """
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index, whole = folder / f"{stem}{suffix}.index.json", folder / f"{stem}{suffix}"
        if index.exists():
            return _parts(folder, index)
        if whole.exists():
            return [whole]
    return []


def _parts(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read {index}: {error}. Download the folder again.") from error
    if absent := [name for name in names if not (folder / name).exists()]:
        raise UserError(f"{folder} lacks {', '.join(absent)}, which {index.name} lists. Complete the download.")
    return [folder / name for name in names]


def _by_files(folder: Path) -> Found | None:
    """What names of files tell; None if config.json is to tell the rest."""
    has = {file.name for file in folder.iterdir()}
    if "bundle.json" in has:
        return Found("bundle", FORMATS["bundle"])
    if "adapter.json" in has:
        return Found(
            None, "an adapter of this project", "Give it with --adapter, beside the bundle that it was trained on"
        )
    if "adapter_config.json" in has and not has & set(WEIGHTS):
        return _peft(read_object(folder / "adapter_config.json"))
    if "bundle" in has and "config.yaml" in has:
        return Found(None, "the folder of a run", f"Give its bundle, {folder / 'bundle'}")
    if "snapshots" in has and {"refs", "blobs"} & has:
        inside = ", ".join(map(str, sorted(folder.glob("snapshots/*")))) or "there is none"
        return Found(None, "a cache of the hub's", f"Give the snapshot in it: {inside}")
    if "model_index.json" in has:
        return Found(None, "a diffusers pipeline, which draws pictures", ELSEWHERE)
    if has & {"modules.json", "config_sentence_transformers.json"}:
        return Found(None, "a sentence-transformers model, which makes vectors of sentences", ELSEWHERE)
    if has & {"latest", "model_config.json"}:
        kind = "visualglm-sat" if read_object(folder / "model_config.json").get("eva_args") else "chatglm-sat"
        return Found(kind, FORMATS[kind])
    if "open_clip_config.json" in has and not ("config.json" in has and has & set(WEIGHTS)):
        return Found(None, "a model in OpenCLIP's own layout", "Take its release for transformers, a CLIP's")
    return _without_config(folder, has) if "config.json" not in has else None


def _without_config(folder: Path, has: set[str]) -> Found:
    if problem := _unfinished(folder, has):
        return problem
    if "params.json" in has:
        return Found(None, "a language model in its publisher's own layout (params.json)",
                     "Take its release for transformers, with a config.json")  # fmt: skip
    if other := _other_formats(folder):
        return other
    if has & set(WEIGHTS):  # BERT's and EVA's need no config.json
        return Found(None, "a folder of weights without a config.json")
    if has & {*TOKENIZERS, "ice_text.model"}:
        where = "model.language.tokenizer or model.text.tokenizer"
        return Found(None, "a tokenizer without weights", f"It goes to {where}; give the folder of the weights")
    return damaged("a folder without weights" if has else "an empty folder", "Give the folder that holds the weights")


def _unfinished(folder: Path, has: set[str]) -> Found | None:
    """Downloads that were not finished, and weights that are not what their names say."""
    cut = [name for name in sorted(has) if name.endswith(UNFINISHED)]
    cut += [str(file.relative_to(folder)) for file in folder.glob(".cache/huggingface/download/**/*.incomplete")]
    if cut and not has & set(WEIGHTS):
        return damaged(f"a download that was not finished ({', '.join(cut[:3])})", "Complete the download")
    for file in (folder / name for name in sorted(has) if name.endswith((".safetensors", ".bin")) and name[0] != "."):
        if file.is_file() and (found := look_at_file(file)).damaged:
            return replace(found, file=file)
    return None


def _other_formats(folder: Path) -> Found | None:
    """Weights of other programs alone."""
    for file in sorted((*folder.glob("*"), *folder.glob("onnx/*"))):
        if file.suffix in ENDINGS and file.suffix != ".json":
            return Found(None, f"a folder with {ENDINGS[file.suffix][0]} ({file.name})", ENDINGS[file.suffix][1])
    return None


def _peft(content: dict[str, Any]) -> Found:
    kind = str(content.get("peft_type") or "unknown kind")
    rank = f", rank {content['r']}" if "r" in content else ""
    base = content.get("base_model_name_or_path") or "a base that it does not name"
    return Found(None, f"a PEFT adapter ({kind}{rank}) of {base}", MERGE)


def _by_config(folder: Path) -> Found:
    """A folder of transformers' layout."""
    content, has = read_object(folder / "config.json"), {file.name for file in folder.iterdir()}
    if not content:
        return damaged("a folder whose config.json is not a JSON object")
    found = _model(content)
    if found.kind is None and not found.advice:
        return found
    method = content.get("quantization_config")
    method = method.get("quant_method") if isinstance(method, dict) else method
    if method or has & {"quantize_config.json", "quant_config.json"}:
        return Found(None, f"{found.what}, quantised by its publisher ({method or 'GPTQ or AWQ'})",
                     "Take its bf16 or fp16 release; tuning.quantize puts it into four bits here")  # fmt: skip
    if found.advice:
        return found
    if problem := _unfinished(folder, has):
        return problem
    try:
        files = weight_files(folder)
    except UserError as error:
        reason = str(error).removeprefix(f"{folder} ").removesuffix(". Complete the download.")
        return damaged(f"{found.what}, but {reason}", "Complete the download")
    if files:
        return found
    if other := _other_formats(folder):
        return Found(None, f"{found.what}, but {other.what}", other.advice)
    missing = " or ".join(WEIGHTS[:2])
    return damaged(f"the config.json of {found.what}, without weights", f"Complete the download: {missing} is missing")


def _model(content: dict[str, Any]) -> Found:
    """By config.json alone."""
    kind, classes = str(content.get("model_type")), [str(name) for name in content.get("architectures") or ()]
    if format_ := _format(kind, content, classes):
        named = {"hf-language": f" ({kind})", "hf-vision": f" ({TAKEN.get(encoder_type(content))})"}.get(format_, "")
        return Found(format_, f"{FORMATS[format_]}{named}")
    if "pretrained_cfg" in content or ("architecture" in content and kind == "None"):
        return Found(None, f"a timm model ({content.get('architecture')})", "Take its release for transformers")
    if not content.get("model_type"):  # its reader may know it all the same
        return Found(None, "a folder whose config.json names no model")
    if any(key in content for key in SOUNDS):
        return Found(None, f"a model of sounds ({kind})", ELSEWHERE)
    if "vision_config" in content and not _is_contrastive(content):
        return Found(None, f"a model that reads pictures itself ({kind})", "Give the language model inside it")
    if kind in REFUSED or _is_image_encoder(content) or _is_contrastive(content):
        reason = why_refused(encoder_type(content))
        return Found(None, f"an image encoder that is not built here ({kind})", f"{reason[:1].upper()}{reason[1:]}")
    if _is_text_encoder(content, classes):
        return Found(None, f"an encoder of texts ({kind})", "It writes no text; BERT alone is read, for the Q-Former")
    return Found(None, f"a model of another kind ({kind})", ELSEWHERE)


def _format(kind: str, content: dict[str, Any], classes: list[str]) -> str | None:
    """The format that is read here, if it is one."""
    if kind == "blip-2":
        return "hf-blip2-retrieval" if "Blip2ForImageTextRetrieval" in classes else "hf-blip2"
    if kind == "chatglm":
        return "visualglm-hub" if content.get("eva_config") else "chatglm-hub"
    if kind in ("bert", "clip", "clip_vision_model", "siglip", "siglip_vision_model"):
        return kind.partition("_")[0]
    if encoder_type(content) in TAKEN and ("vision_config" not in content or _is_contrastive(content)):
        return "hf-vision"
    named = bool(classes) or any(key in content for key in ("hidden_size", "d_model", "n_embd"))
    others = "vision_config" in content or any(key in content for key in SOUNDS) or "pretrained_cfg" in content
    if named and not (others or _is_image_encoder(content) or _is_text_encoder(content, classes)):
        return "hf-language"
    return None


def _is_image_encoder(content: dict[str, Any]) -> bool:
    return any(key in content for key in PICTURES) and "vocab_size" not in content


def _is_contrastive(content: dict[str, Any]) -> bool:
    """A CLIP of another family: encoders of pictures and texts into one space."""
    return "vision_config" in content and ("projection_dim" in content or "logit_scale_init_value" in content)


def _is_text_encoder(content: dict[str, Any], classes: list[str]) -> bool:
    return any(name.endswith(ENCODERS) for name in classes) and not content.get("is_decoder")
