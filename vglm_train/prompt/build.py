"""Builds the prompt template of a language model's family."""

from vglm_train.config.language import Language, Prompt
from vglm_train.config.validation import FieldError
from vglm_train.prompt.blip2 import CausalTemplate, SeqToSeqTemplate
from vglm_train.prompt.qformer_text import QFormerTokenizer
from vglm_train.prompt.template import Template
from vglm_train.prompt.tokenizers import HfTokenizer, Tokenizer
from vglm_train.prompt.visualglm import VisualGLMTemplate


def build_template(
    prompt: Prompt, language: Language, tokenizer: Tokenizer, image_length: int, text: QFormerTokenizer | None = None
) -> Template:
    """The template for `language`; see `Template` for the last two arguments.

    FieldError, a UserError, if the sections `prompt` and `model.language` do not fit each other.
    """
    style = "visualglm" if language.family == "chatglm" else "blip2"
    if prompt.style != style:
        reason = f"a language model of family {language.family} is prompted with style {style}, not {prompt.style}"
        raise FieldError("prompt.style", "model.language.family", reason=reason)
    if prompt.prefix_split and language.family != "seq2seq":
        reason = f"needs a seq2seq language model, which reads the first words apart; family is {language.family}"
        raise FieldError("prompt.prefix_split", "model.language.family", reason=reason)
    if language.family == "chatglm":
        return VisualGLMTemplate(prompt, tokenizer, image_length, text)
    assert isinstance(tokenizer, HfTokenizer)
    template = CausalTemplate if language.family == "causal" else SeqToSeqTemplate
    return template(prompt, tokenizer, image_length, text)
