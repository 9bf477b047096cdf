"""Frozen language models: `glm/` on SwissArmyTransformer, `hf/` on transformers, and what both share."""

import torch

from vglm_train.config.language import Language
from vglm_train.model.language.base import LanguageModel
from vglm_train.model.language.linears import Quantize, init_weights, quantize_blocks

__all__ = ["LanguageModel", "Quantize", "build_language"]


def build_language(config: Language, sop_id: int | None = None, quantize: Quantize | None = None) -> LanguageModel:
    """The language model of this configuration on torch's current default device (meta included), in its own dtype.

    Weights are random where `config.weights` is None; otherwise they are uninitialised memory until
    `checkpoint.load.language.load_language` has read them. `sop_id`: ChatGLM's <sop> in a vocabulary that is not the
    released one; see `ChatGlm`.
    With `quantize` the blocks' linear layers are quantised (`PackedLinear`), and at most one of them is ever held in
    full precision. A model whose weights will be read stays on the meta device until then, see `LanguageModel.home`.
    """
    if quantize is None:
        return _build(config, sop_id)
    device = torch.get_default_device()
    with torch.device("meta"):
        model = _build(config, sop_id)
    quantize_blocks(model, quantize)
    model.home = device
    if config.weights is None and device.type != "meta":
        init_weights(model, device)
    return model


def _build(config: Language, sop_id: int | None) -> LanguageModel:
    # each family needs its own library: only the one in use is imported
    if config.family == "chatglm":
        from vglm_train.model.language.glm.chatglm import ChatGlm

        return ChatGlm(config, sop_id)
    if config.family == "causal":
        from vglm_train.model.language.hf.causal import CausalLanguage

        return CausalLanguage(config)
    from vglm_train.model.language.hf.seq2seq import Seq2SeqLanguage

    return Seq2SeqLanguage(config)
