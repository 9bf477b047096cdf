"""Generated answers to questions about images: with the right image, with another one, and with a grey one.

A model that answers as well without the right image does not use it, whatever its score.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vglm_train.config.language import Decoding
from vglm_train.config.metric_names import BLANK, MODEL, SHUFFLED
from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.data.record import content_id
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.generator import Generator, as_many
from vglm_train.progress import Progress
from vglm_train.prompt.dialogue import Dialogue

CONDITIONS = (MODEL, SHUFFLED, BLANK)  # which images the model is shown: the item's, another item's, grey ones

ImageQuestion = tuple[Dialogue, Tensor]  # a question and its images [k,3,h,w] uint8


@dataclass(frozen=True, slots=True)
class AnswerGenerator:
    """Generates an answer for each item. The ranks share the questions, and every rank gets all answers."""

    generator: Generator
    items: Sequence[EvalQuestion]
    decoding: Decoding
    ranks: Ranks
    batch: int = 32  # sequences generated at once: questions times beams
    progress: bool = False  # show a bar on stderr, if that is a terminal
    image_pool: Sequence[EvalQuestion] = ()  # whose images SHUFFLED may show, beside those of `items`

    def __post_init__(self) -> None:
        """UserError if a question is too long, before anything is generated. It says which length would do.

        Nothing is cut, unlike in training: half a question has another answer.
        """
        template = self.generator.template
        lengths = [template.prompt_length(self._dialogue(item)) for item in self.items]
        limit, longest = template.prompt.max_prompt, max(lengths, default=0)
        if longest > limit:
            count, key = sum(length > limit for length in lengths), self.items[lengths.index(longest)].key
            history = " with their history" if any(item.dialogue.history for item in self.items) else ""
            raise UserError(
                f"{count} of {len(lengths)} questions are longer{history} than prompt.max_prompt, {limit} "
                f"ids; the longest, {key}, has {longest}. Raise it to {longest} (evaluate: --max-prompt {longest}), or "
                "leave them out."
            )
        self._check_positions(lengths)

    def _check_positions(self, prompt_lengths: Sequence[int]) -> None:
        """UserError if the language model has too few positions for a question, its images and its answer."""
        image_length = self.generator.template.image_length
        lengths = [length + len(item.pixels) * image_length for length, item in zip(prompt_lengths, self.items)]
        longest = max(lengths, default=0)
        try:
            self.generator.check_positions(longest, self.decoding.max_new)
        except UserError as error:
            key = self.items[lengths.index(longest)].key
            raise UserError(f"{key}: {error} Or leave it out (evaluate: --max-new, --exclude).") from error

    def outputs(self, conditions: Sequence[str] = CONDITIONS) -> dict[str, list[str]]:
        """Condition -> an answer for each item. SHUFFLED is left out if all items show the same image."""
        prompts = {name: each for name in conditions if (each := self._prompts(name)) is not None}
        jobs = {name: self._deduplicate(each) for name, each in prompts.items()}
        total = sum(len(distinct[self.ranks.rank :: self.ranks.world]) for distinct, _ in jobs.values())
        outputs = {}
        with Progress(total, "question", "answers", self.progress) as bar:
            for name, (distinct, indices) in jobs.items():
                answers = self._generate(distinct, bar)
                outputs[name] = [answers[index] for index in indices]
        return outputs

    def _prompts(self, condition: str) -> list[ImageQuestion] | None:
        if condition == MODEL:
            return [(self._dialogue(item), item.pixels) for item in self.items]
        if condition == BLANK:
            grey = (self.generator.model.mean.cpu() * 255).round().to(torch.uint8)  # zero, once it is normalised
            return [(self._dialogue(item), grey.expand_as(item.pixels)) for item in self.items]
        others = shuffle_images(self.items, self.image_pool)
        if others is None:
            return None
        return [
            (self._dialogue(item), as_many(other.pixels, len(item.pixels))) for item, other in zip(self.items, others)
        ]

    def _dialogue(self, item: EvalQuestion) -> Dialogue:
        """The item's dialogue; for images without a question, the question that training asks about them."""
        dialogue = item.dialogue
        return dialogue if dialogue.question else self.generator.dialogue(dialogue.language, None, dialogue.images)

    def _deduplicate(self, prompts: Sequence[ImageQuestion]) -> tuple[list[ImageQuestion], list[int]]:
        """(distinct prompts, for each of `prompts` its index among these).

        Equal questions about equal images are asked once, unless answers are sampled.
        """
        if self.decoding.sample:
            return list(prompts), list(range(len(prompts)))
        index_of: dict[tuple[Any, ...], int] = {}
        distinct: list[ImageQuestion] = []
        indices = []
        for dialogue, pixels in prompts:
            name = (dialogue, pixels.data_ptr(), pixels.shape)
            if name not in index_of:
                index_of[name] = len(distinct)
                distinct.append((dialogue, pixels))
            indices.append(index_of[name])
        return distinct, indices

    def _generate(self, prompts: Sequence[ImageQuestion], bar: Progress) -> list[str]:
        """The answers to `prompts`. Each rank generates its share, then every rank gets them all."""
        own = range(self.ranks.rank, len(prompts), self.ranks.world)
        generated: list[tuple[int, str]] = []
        with self.ranks.together():
            for part in _split(own, max(1, self.batch // self.decoding.beams)):
                dialogues = [prompts[index][0] for index in part]
                pixels = torch.cat([prompts[index][1] for index in part])
                generated += zip(part, self.generator.answers(dialogues, pixels, self.decoding))
                bar.update(len(part))
        gathered = sorted(pair for of_rank in self.ranks.gather_objects(generated) for pair in of_rank)
        return [text for _, text in gathered]


def shuffle_images(items: Sequence[EvalQuestion], pool: Sequence[EvalQuestion] = ()) -> list[EvalQuestion] | None:
    """For each item another item whose images it is shown instead; None if all items show the same image.

    The other item is of another group if there is one. The images of `items` and `pool` form a circle, ordered by a
    hash of their content, and each gets the next one. So the result depends neither on the order of the items nor on
    which of them are asked, as long as both together are the same. All questions about one image get the same other.
    """
    by_image: dict[int, EvalQuestion] = {}
    for item in sorted((*items, *pool), key=_most_images_last):
        by_image[item.image_id] = item
    circle = sorted(by_image.values(), key=lambda item: content_id(str(item.image_id).encode()))
    if len(circle) < 2:
        return None
    groups = [item.group or item.image_id for item in circle]
    following: dict[int, EvalQuestion] = {}
    of_other_group: EvalQuestion | None = None  # the next such item; in the second round it is known for all
    for index in reversed([*range(len(circle)), *range(len(circle))]):
        after = (index + 1) % len(circle)
        if groups[index] != groups[after]:
            of_other_group = circle[after]
        following[circle[index].image_id] = of_other_group or circle[after]
    return [following[item.image_id] for item in items]


def _most_images_last(item: EvalQuestion) -> tuple[int, str, int]:
    """Sort key for items with the same first image, whatever their rows: the last one shows most images."""
    return len(item.pixels), item.group or "", content_id(item.pixels[1:].contiguous().numpy().tobytes())


def _split(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (indices[start : start + size] for start in range(0, len(indices), size))
