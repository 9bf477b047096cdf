"""Published weights into a new model: the frozen encoder's, and BERT's for the Q-Former."""

import logging
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from vglm_train.checkpoint.keymaps.bert import BERT
from vglm_train.checkpoint.keymaps.encoders import EVA, HF_VISION
from vglm_train.checkpoint.keymaps.keymap import KeyMapError
from vglm_train.checkpoint.load.fill import copy_tensor
from vglm_train.checkpoint.load.hf_vision import vision_folder
from vglm_train.checkpoint.load.tensor_files import open_weights
from vglm_train.config.model import Model, Vision
from vglm_train.errors import UserError
from vglm_train.model.alignment import Alignment
from vglm_train.weights.identify import FIELDS, Part, require

logger = logging.getLogger(__name__)
NEW_TOKENS = 3  # at most [DEC], [EN] and [ZH] are added to a published vocabulary


def load_pretrained(model: Alignment, config: Model) -> None:
    """Read model.vision.weights and model.qformer.weights, where they are given, into `model`.

    Raises UserError naming the file and every key or shape that does not fit.
    """
    if config.vision.weights:
        load_vision(model.vision.encoder, config.vision)
    if config.qformer.weights:
        load_bert(model, Path(config.qformer.weights))


def load_vision(encoder: nn.Module, config: Vision) -> None:
    """The weights that `config` names into the bare encoder: our own names, or the publisher's.

    EVA: LAVIS's names, alone or under `visual_encoder.`. CLIP, SigLIP, auto: a Hugging Face folder. Blocks beyond
    its depth, and what follows the last block, are left out.
    """
    path = Path(str(config.weights))
    _require(path, "vision")
    if config.family == "auto":
        load_strictly(encoder, {name: tensor.read() for name, tensor in vision_folder(path, encoder).items()}, path)
        return
    weights = _cut(read_weights(path), config.depth)
    if set(weights) != set(encoder.state_dict()):
        weights = _convert_vision(weights, config.family, path)
    load_strictly(encoder, weights, path)


def load_bert(model: Alignment, path: Path) -> None:
    """BERT weights into the Q-Former and the caption head; the queries' feed-forwards start as copies of the text's.

    Tokens that the tokenizer adds get fresh rows; cross-attention, queries and other heads stay as initialised.
    """
    _require(path, "bert")
    raw = {key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): value
           for key, value in read_weights(path).items()}  # fmt: skip
    if not any(key.startswith("bert.") for key in raw):
        raw = {key if key.startswith("cls.") else f"bert.{key}": value for key, value in raw.items()}
    try:
        weights = BERT.apply(raw)
    except KeyMapError as error:
        raise UserError(f"{path}: these are not BERT weights: {error}") from error
    state = model.state_dict()
    for name in ("qformer.embeddings.words.weight", "caption_head.bias"):
        if name in weights:
            weights[name] = _grow(weights[name], state[name], path)
    for name in [name for name in weights if ".text_mlp." in name]:
        weights[name.replace(".text_mlp.", ".query_mlp.")] = weights[name]
    fresh = {name for name in state if not name.startswith(("qformer.blocks.", "qformer.embeddings.", "qformer.norm."))}
    fresh |= {name for name in state if ".cross." in name}
    load_strictly(model, weights, path, optional=fresh)


def _require(path: Path, part: Part) -> None:
    """As `require`, and UserError where nothing is there."""
    require(path, part)
    if not path.exists():
        raise UserError(f"{FIELDS[part]}: no such file or folder: {path}. Correct the path.")


def load_strictly(module: nn.Module, weights: dict[str, Tensor], path: Path, optional: set[str] | None = None) -> None:
    """Copy weights into a module's tensors, each cast to the dtype it has there.

    Raises UserError naming all missing, unexpected and misshapen keys; `optional` ones may be missing.
    """
    state = module.state_dict(keep_vars=True)
    problems = []
    if missing := sorted(set(state) - set(weights) - (optional or set())):
        problems.append(f"missing: {', '.join(missing)}")
    if unexpected := sorted(set(weights) - set(state)):
        problems.append(f"unexpected: {', '.join(unexpected)}")
    for key in sorted(set(weights) & set(state)):
        if weights[key].shape != state[key].shape:
            problems.append(f"{key} is {list(weights[key].shape)}, the model has {list(state[key].shape)}")
    if problems:
        raise UserError(f"{path} does not fit the configured model: {'; '.join(problems)}. Check the model section.")
    for key, value in weights.items():
        copy_tensor(module, key, state[key], value, key, path)
    logger.info("%s: read %d tensors", path, len(weights))


def read_weights(path: Path) -> dict[str, Tensor]:
    """A file or Hugging Face folder, safetensors or torch files; tensors are mapped, not loaded.

    Raises UserError if it cannot be read without running its code.
    """
    return {key: shard.read(key) for shard in open_weights(path) for key in shard.shapes}


def _cut(weights: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Without the image encoder's blocks from number `depth` on."""
    kept = {}
    for key, value in weights.items():
        block = re.search(r"^(?!text_model).*?(?:blocks|layers)\.(\d+)\.", key)
        if not block or int(block[1]) < depth:
            kept[key] = value
    if dropped := sorted(set(weights) - set(kept)):
        logger.info("left out %d tensors of blocks beyond model.vision.depth=%d", len(dropped), depth)
    return kept


def _convert_vision(weights: dict[str, Tensor], family: str, path: Path) -> dict[str, Tensor]:
    table, prefix = (EVA, "visual_encoder.") if family == "eva" else (HF_VISION, "")
    if any(key.startswith(prefix) for key in weights):
        weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    if family != "eva" and not any(key.startswith("vision_model.") for key in weights):
        weights = {f"vision_model.{key}": value for key, value in weights.items()}
    try:
        return table.apply(weights)
    except KeyMapError as error:
        raise UserError(f"{path}: these are not weights of the family {family}: {error}") from error


def _grow(weights: Tensor, new: Tensor, path: Path) -> Tensor:
    """The rows of `weights`, followed by the rows of the new table [v,...] for tokens added to the vocabulary."""
    rows, vocabulary = weights.shape[0], new.shape[0]
    if not 0 <= vocabulary - rows <= NEW_TOKENS:
        raise UserError(
            f"{path} has a vocabulary of {rows} tokens, the tokenizer with its added tokens one of {vocabulary}: "
            "they do not belong together. Set model.text.tokenizer to the tokenizer of these weights."
        )
    return torch.cat((weights, new[rows:].to(weights)))
