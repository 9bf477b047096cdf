"""What a page says when something could not be done, in its language."""

import logging

from vglm_train.chat.intake import TooLarge
from vglm_train.chat.request import Busy, Closed
from vglm_train.errors import UserError
from vglm_train.image import ImageError
from vglm_train.prompt.template import TooLong
from vglm_train.web.conversation import TooMany, Writing
from vglm_train.web.words import Words

logger = logging.getLogger("vglm_train")


def reason(words: Words, error: Exception) -> str:
    """Why there is no answer. What is no mistake of the person's is logged, without what was asked."""
    match error:
        case Busy():
            return words.full.format(f"{error.retry_after:.0f}")
        case Closed():
            return words.closed
        case Writing():
            return words.writing
        case TooLong():
            return words.problem.format(words.long.format(error))
        case UserError():
            return words.problem.format(error)
    logger.error("an answer failed: %s", type(error).__name__)
    return words.broken


def picture_reason(words: Words, error: UserError) -> str:
    """Why a picture was not taken. What exactly is wrong with the file is told in English only."""
    cause = error.__cause__
    if isinstance(error, TooMany):
        return words.too_many.format(error.most)
    if isinstance(error, TooLarge) or (isinstance(cause, ImageError) and cause.cause == "bomb"):
        return words.unusable.format(words.large.format(error))
    if isinstance(cause, ImageError):
        return words.unusable.format(words.no_picture.format(error))
    return words.unusable.format(error)
