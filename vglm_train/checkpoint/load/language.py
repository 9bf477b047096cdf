"""Published weights into a frozen language model, of whichever family and layout."""

from contextlib import nullcontext
from pathlib import Path

from vglm_train.checkpoint.keymaps.keymap import KeyMap, rename
from vglm_train.checkpoint.keymaps.sat import Fused
from vglm_train.checkpoint.load.chatglm import chatglm_files
from vglm_train.checkpoint.load.fill import fill
from vglm_train.checkpoint.load.hf_language import load_hf_language
from vglm_train.checkpoint.load.tensor_files import open_shard
from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.model.language.base import LanguageModel
from vglm_train.weights.identify import require

OWN = "language.safetensors"  # of a bundle, under our names
SAME_NAMES = KeyMap((rename("*", "*"),))


def load_language(model: LanguageModel, config: Language, fused: Fused | None = None) -> None:
    """Read `config.weights` into `model`; nothing if it is None.

    ChatGLM: a SAT folder (the language part of VisualGLM's will do) or ChatGLM-6B's Hugging Face folder. `fused` says
    how the files hold queries, keys and values, if not as the layout has it today; see `keymaps.sat.Fused`.
    Raises UserError naming the folder and everything that does not fit; then nothing has been changed.
    """
    if config.weights is None:
        return
    with model.home or nullcontext():
        _load(model, config, Path(config.weights), fused)
    if model.home is not None:
        model.to(model.home)  # tables that no file holds


def _load(model: LanguageModel, config: Language, path: Path, fused: Fused | None) -> None:
    if path.name == OWN:
        if config.family == "chatglm":
            fill(model, [open_shard(path)], SAME_NAMES, path)
        else:
            load_hf_language(model, path)
        return
    require(path, "language")
    if not path.is_dir():
        raise UserError(f"model.language.weights: {path} is not a folder. Give the folder with the whole model.")
    if config.family == "chatglm":
        fill(model, *chatglm_files(model, config, path, fused), path)
    else:
        load_hf_language(model, path)
