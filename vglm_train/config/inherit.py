"""`model.bundle: FOLDER`: model, prompt and image normalisation of a finished run, as if they were written out.

What the YAML says beside it goes over what the bundle says. The resolved configuration names files and no bundle.
"""

import json
from pathlib import Path
from typing import Any

from vglm_train.config.yaml_tree import YamlNode, read
from vglm_train.errors import UserError
from vglm_train.folders import recover

KEY = "bundle"
DEFAULT = "align"  # run.stage
QUESTIONS = "question_tokenizer"  # see checkpoint.bundle
PIXELS = ("mean", "std", "squeeze", "resize", "resample")  # of data.image: what the encoder was trained on
MERGE = "vglm checkpoint merge {} --adapter {} --out MERGED"


def inherit(root: YamlNode) -> YamlNode:
    """The document with `model.bundle` replaced by what that bundle was made with. UserError where it is none."""
    model = root.step("model")
    node = model.step(KEY) if model else None
    if model is None or node is None:
        return root
    assert isinstance(model.value, dict)
    del model.value[KEY]
    if node.value is None:
        return root
    folder, origin = Path(str(node.value)), f"{node.where}: model.{KEY}"
    document = _document(folder, origin)
    if reason := _unfit(document, root, folder):
        raise UserError(f"{origin}: {folder} {reason}")
    bundle_root = read(folder / "config.yaml")
    _point(bundle_root, folder, document)
    base = _pick(bundle_root, node)
    return _over(base, root)


def _document(folder: Path, origin: str) -> dict[str, Any]:
    recover(folder)
    try:
        document: dict[str, Any] = json.loads((folder / "bundle.json").read_text("utf-8"))
        if not isinstance(document["towers"], dict) or not isinstance(document["stage"], str):
            raise TypeError("no stage")
    except (OSError, ValueError, KeyError, TypeError):
        reason = "is no bundle: it holds no bundle.json that can be read. A run writes one to RUN/bundle when it ends"
        raise UserError(f"{origin}: {folder} {reason}") from None
    return document


def _unfit(document: dict[str, Any], root: YamlNode, folder: Path) -> str | None:
    """Why a run of the stage that `root` asks for cannot begin with the bundle, if it cannot."""
    stage, language = _below(root, "run.stage"), _below(root, "model.language")
    wanted = DEFAULT if stage is None else stage.value
    if document["stage"] == "finetune":
        return merge_first(document, folder)
    if document["stage"] == "align" and wanted == "finetune":
        return "is of stage align and has no language model; fine-tuning begins with a bundle of stage generate"
    if document["stage"] != "align" and wanted == "align" and (language is None or language.value is not None):
        how = "run.stage is align" if stage is not None else "run.stage is not given, so it is align"
        return (
            f"is of stage {document['stage']} and has a language model, and {how}, which trains none. Set run.stage: "
            "finetune to adapt the bundle to a domain, or generate to train it further on captions"
        )
    return None


def merge_first(document: dict[str, Any], folder: Path) -> str:
    """What to say where a whole model is needed and the bundle at `folder` is a fine-tuning's: a sentence's end."""
    how = MERGE.format(document.get("base", "BASE"), folder)
    return f"is what a fine-tuning added to another bundle: merge it first, {how}"


def _point(root: YamlNode, folder: Path, document: dict[str, Any]) -> None:
    """Weights and tokenizers to where they lie now."""
    for tower, reference in document["towers"].items():
        file = reference["file"] if "fingerprint" in reference else str(folder / reference["file"])
        _set(root, f"model.{tower}.weights", file)
    _set(root, "model.qformer.weights", str(folder))
    if document["stage"] == "align":
        _set(root, "model.text.tokenizer", str(folder / "tokenizer"))
        return
    _set(root, "model.language.tokenizer", str(folder / "tokenizer"))
    _set(root, "model.qformer.text_weights", None)  # what they were is among what the bundle trained
    if (folder / QUESTIONS).is_dir():
        _set(root, "model.text.tokenizer", str(folder / QUESTIONS))
    family = _below(root, "model.language.family")
    if family is not None and family.value != "chatglm":
        _set(root, "model.language.config", str(folder / "tokenizer"))


def _below(item: YamlNode | None, path: str) -> YamlNode | None:
    for part in path.split("."):
        item = item.step(part) if item else None
    return item


def _set(root: YamlNode, path: str, value: str | None) -> None:
    parent, _, name = path.rpartition(".")
    section = _below(root, parent)
    if section is not None and isinstance(section.value, dict):
        section.value[name] = YamlNode(value, section.where, section.order)


def _pick(root: YamlNode, node: YamlNode) -> YamlNode:
    """What a run takes over: sections model and prompt, and of data the languages and how pixels are made."""
    image = {name: _below(root, f"data.image.{name}") for name in PIXELS}
    kept = {name: item for name, item in image.items() if item is not None}
    data: dict[str, YamlNode] = {"image": YamlNode(kept, node.where, node.order)}
    if languages := _below(root, "data.languages"):
        data["languages"] = languages
    sections = {name: item for name in ("model", "prompt") if (item := root.step(name)) is not None}
    return YamlNode({**sections, "data": YamlNode(data, node.where, node.order)}, node.where, node.order)


def _over(base: YamlNode, top: YamlNode) -> YamlNode:
    """Mappings are joined, everything else of `top` takes the place of `base`'s."""
    if not isinstance(base.value, dict) or not isinstance(top.value, dict):
        return top
    joined = dict(base.value)
    for name, item in top.value.items():
        joined[name] = _over(joined[name], item) if name in joined else item
    return YamlNode(joined, top.where, top.order)
