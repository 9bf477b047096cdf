"""Which records a stage with a language model can learn, whatever its tokenizer: one rule for all who ask."""

from collections.abc import Sequence
from dataclasses import dataclass

from vglm_train.data.record import Record, RecordError
from vglm_train.prompt.dialogue import Dialogue, ImageMarkMismatch, Turn, image_turns


def learns_dialogue(record: Record, images: int, languages: Sequence[str], max_images: int | None = None) -> bool:
    """Whether its dialogue is learned, else one of its captions. `images`: pictures the record has.

    RecordError where neither is in one of `languages`, questions have marks for another number of pictures, or these
    are more than `max_images`.
    """
    dialogue = bool(record.turns) and (record.language in languages or not record.captions)
    if not dialogue:
        captions_in(record, languages)
    elif record.language not in languages:
        reason = f"its dialogue is in {record.language}, data.languages is [{', '.join(languages)}]"
        raise RecordError("caption", reason)
    else:
        try:
            dialogue_of(record, images=images)
        except ImageMarkMismatch as error:
            raise RecordError("record", str(error)) from None
    if max_images is not None and images > max_images:
        raise RecordError("record", f"it shows more pictures than prompt.max_images, {max_images}: {images}")
    return dialogue


def captions_in(record: Record, languages: Sequence[str]) -> list[tuple[str, str]]:
    """Language and text of its captions in `languages`. RecordError where there is none."""
    found = [(language, text) for language in languages for text in record.captions.get(language, ())]
    if not found:
        raise no_caption(record, languages)
    return found


def no_caption(record: Record, languages: Sequence[str]) -> RecordError:
    """What is wrong with a record without a caption in `languages`."""
    present, wanted = ", ".join(record.captions) or "no language", ", ".join(languages)
    return RecordError("caption", f"its captions are in {present}, data.languages is [{wanted}]")


@dataclass(frozen=True, slots=True)
class LanguageCheck:
    """`RecordCheck` without a configuration: nothing is known but the languages that there are."""

    languages: tuple[str, ...]

    def check(self, record: Record, images: int) -> int:
        learns_dialogue(record, images, self.languages)
        return images


def dialogue_of(record: Record, turn: int = -1, images: int = 1) -> Dialogue:
    """The record's dialogue up to `turn`, whose answer is to be given; later turns and their pictures are left out.

    `images`: pictures the record has. ImageMarkMismatch where its questions have marks for another number of them.
    """
    turns = [Turn(question, answer) for question, answer in record.turns]
    last = turns[turn]
    whole = Dialogue(turns[-1].question, None, tuple(turns[:-1]), images=images)
    history = tuple(turns[: range(len(turns))[turn]])
    seen = sum(len(placed.image_offsets) for placed in image_turns(whole)[: len(history) + 1])
    return Dialogue(last.question, last.answer, history, record.language or "en", seen)
