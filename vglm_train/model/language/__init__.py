"""Frozen language models."""

from vglm_train.config.language import Language
from vglm_train.model.language.base import LanguageModel

__all__ = ["LanguageModel", "build_language"]


def build_language(config: Language, sop_id: int | None = None) -> LanguageModel:
    """The language model of this configuration on torch's current default device (meta included), in its own dtype.

    Weights are random where `config.weights` is None; otherwise they are whatever memory held until
    `checkpoint.language.load_language` has read them. `sop_id`: ChatGLM's <sop> in a vocabulary that is not the
    released one; see `ChatGlm`.
    """
    # each family brings a library of its own: only the one in use is imported
    if config.family == "chatglm":
        from vglm_train.model.language.chatglm import ChatGlm

        return ChatGlm(config, sop_id)
    if config.family == "causal":
        from vglm_train.model.language.causal import CausalLanguage

        return CausalLanguage(config)
    from vglm_train.model.language.seq2seq import Seq2SeqLanguage

    return Seq2SeqLanguage(config)
