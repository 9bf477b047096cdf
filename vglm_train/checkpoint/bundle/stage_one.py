"""A bundle of an earlier run as the beginning of a new one: stage one's Q-Former into stage two."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vglm_train.checkpoint.bundle.format import CONFIG, DOCUMENT, TOWERS, read_document, read_trained
from vglm_train.config.load import load
from vglm_train.config.model import Model, Vision
from vglm_train.errors import UserError
from vglm_train.fingerprint import same_content
from vglm_train.folders import recover
from vglm_train.model.visual import VisualModel

logger = logging.getLogger(__name__)

# What stage two has no use for: the Q-Former's text branch, and the heads of stage one's losses.
STAGE_ONE_PARTS = (
    "qformer.embeddings.",
    "image_projection.",
    "text_projection.",
    "matching_head.",
    "caption_head.",
    "temperature",
)
TEXT_EMBEDDINGS = "qformer.embeddings."
NEW_PARTS = ("projection.",)  # what stage two adds


@dataclass(frozen=True, slots=True)
class InitReport:
    """What became of each tensor."""

    kept: list[str]
    dropped: list[str]
    new: list[str]

    def lines(self, folder: Path) -> list[str]:
        """For a person."""
        return [
            f"from {folder}: {len(self.kept)} tensors carried over",
            f"  dropped ({len(self.dropped)}): {', '.join(_folded(self.dropped)) or 'none'}",
            f"  new ({len(self.new)}): {', '.join(_folded(self.new)) or 'none'}",
        ]


def _folded(names: Sequence[str]) -> list[str]:
    """Names that differ in one number written as one: a.{0,1,2}.weight."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        head, number, tail = re.fullmatch(r"(\D*)(\d*)(.*)", name).groups()  # type: ignore[union-attr]
        groups.setdefault((head, tail), []).append(number)
    return [
        f"{head}{numbers[0] if len(numbers) == 1 else '{' + ','.join(sorted(numbers, key=int)) + '}'}{tail}"
        for (head, tail), numbers in groups.items()
    ]


def is_bundle(path: str | None) -> bool:
    """Whether model.qformer.weights names a bundle rather than BERT's weights."""
    if path is None:
        return False
    recover(Path(path))
    return (Path(path) / DOCUMENT).exists()


def bundle_vision(config: Model) -> str | None:
    """The image encoder that stands in the bundle `config` starts from; None if it does not, or starts from none.

    Raises UserError where the bundle was trained behind an encoder of another shape.
    """
    if not is_bundle(config.qformer.weights):
        return None
    folder = Path(str(config.qformer.weights))
    trained, wanted = load(folder / CONFIG).model.vision, config.vision
    if _shape(trained) != _shape(wanted):
        raise UserError(
            f"model.qformer.weights: {folder} was trained behind an image encoder of another shape. Copy its "
            f"model.vision from {folder}/config.yaml."
        )
    reference = read_document(folder)["towers"]["vision"]
    inside = "fingerprint" not in reference
    if wanted.weights is None and not inside:
        raise UserError(
            f"model.vision.weights: {folder} was trained behind {reference['file']}; a random encoder would make its "
            "Q-Former useless. Name that file here."
        )
    if inside:
        return str(folder / reference["file"])
    file = Path(str(wanted.weights))
    if file.exists() and not same_content(file, reference["fingerprint"]):
        logger.warning(
            "model.vision.weights: %s is not the file that %s was trained behind (%s): their fingerprints differ. "
            "The same weights in another file are no harm.",
            file,
            folder,
            reference["file"],
        )
    return None


def _shape(vision: Vision) -> Vision:
    """What must be equal where two encoders are one."""
    return replace(vision, weights=None, config=None, dtype="fp32")


def compare(model: VisualModel, folder: Path) -> InitReport:
    """What `init_from_bundle` would do.

    Raises UserError for a folder that is no bundle, and for names or shapes that do not belong together.
    """
    return _compare(model, _trained(folder), folder)


def init_from_bundle(model: VisualModel, folder: Path) -> InitReport:
    """Copy what `folder`, a bundle, has trained into `model`; the rest of `model` stays as it is.

    Raises UserError as `compare` does, before anything is copied.
    """
    tensors = _trained(folder)
    carried = _compare(model, tensors, folder)
    state = model.state_dict()
    with torch.no_grad():
        for name in carried.kept:
            state[name].copy_(tensors[name])
    for line in carried.lines(folder):
        logger.info(line)
    return carried


def load_text_side(model: VisualModel, folder: Path) -> None:
    """Copy the text side of the Q-Former of `folder`, a stage-one bundle, into a Q-Former that reads the question.

    The blocks' self-attention, which queries and text share, stays the model's. UserError where it does not fit.
    """
    tensors, state = _trained(folder, "model.qformer.text_weights"), model.state_dict()
    wanted = [name for name in state if _of_text(name)]
    wrong = [name for name in wanted if name not in tensors or tensors[name].shape != state[name].shape]
    if wrong:
        shape = list(tensors[wrong[0]].shape) if wrong[0] in tensors else "missing"
        raise UserError(
            f"model.qformer.text_weights: {folder} does not fit: {wrong[0]} is {shape}, the model has "
            f"{list(state[wrong[0]].shape)}. Name a stage-one bundle, and copy its model.qformer and model.text."
        )
    with torch.no_grad():
        for name in wanted:
            state[name].copy_(tensors[name])
    logger.info("from %s: %d tensors of the Q-Former's text side", folder, len(wanted))


def _of_text(name: str) -> bool:
    return name.startswith(TEXT_EMBEDDINGS) or ".text_mlp." in name


def _trained(folder: Path, field: str = "model.qformer.weights") -> dict[str, Tensor]:
    try:
        read_document(folder)
        return read_trained(folder)
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def _compare(model: VisualModel, tensors: dict[str, Tensor], folder: Path) -> InitReport:
    wanted = {name: value for name, value in model.state_dict().items() if not name.startswith(tuple(TOWERS.values()))}
    dropped, new = sorted(set(tensors) - set(wanted)), sorted(set(wanted) - set(tensors))
    kept = sorted(set(tensors) & set(wanted))
    bare = not any(name.startswith(TEXT_EMBEDDINGS) for name in tensors)  # the earlier Q-Former read no text
    lost = [
        name
        for name in dropped
        if not (name.startswith(STAGE_ONE_PARTS) or ".text_mlp." in name or name == "temperature")
    ]
    unmet = [name for name in new if not name.startswith(NEW_PARTS) and not (bare and _of_text(name))]
    shapes = [
        f"{name} is {list(tensors[name].shape)}, the model has {list(wanted[name].shape)}"
        for name in kept
        if tensors[name].shape != wanted[name].shape
    ]
    problems = [
        *(f"no place for {name}" for name in lost),
        *(f"nothing for {name}" for name in unmet),
        *shapes,
    ]
    if problems:
        raise UserError(
            f"model.qformer.weights: {folder} does not fit the configured model: {'; '.join(problems[:8])}. "
            f"Copy model.qformer from {folder}/config.yaml."
        )
    return InitReport(kept, dropped, new)
