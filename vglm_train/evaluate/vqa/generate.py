"""Answers to questions about pictures: with the right picture, with another one, and with none.

A model that answers as well without the right picture does not look at it, whatever its score.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from vglm_train.config.language import Decoding
from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.data.record import content_id
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.generator import Generator
from vglm_train.prompt.dialogue import Dialogue

MODEL, SHUFFLED, BLANK = "model", "shuffled", "blank"
SEEN = (MODEL, SHUFFLED, BLANK)  # what is shown: the pictures, another item's, one grey

Pair = tuple[Dialogue, Tensor]  # a question and its pictures [k,3,h,w]


@dataclass(frozen=True, slots=True)
class Answerer:
    """Shares the questions out over the ranks; every rank gets all answers."""

    speaker: Generator
    items: Sequence[EvalQuestion]
    decoding: Decoding
    ranks: Ranks
    batch: int = 32  # questions at once; beams share it
    progress: bool = False  # a bar on stderr, if that is a terminal
    others: Sequence[EvalQuestion] = ()  # whose pictures are shown instead, beside the items' own

    def __post_init__(self) -> None:
        """UserError before anything is generated where questions are too long, with all that is needed to mend it.

        Nothing is cut, as training does: half a question has another answer.
        """
        template = self.speaker.template
        rooms = [template.room(self._asked(item)) for item in self.items]
        most, longest = template.prompt.max_prompt, max(rooms, default=0)
        if longest > most:
            count, key = sum(room > most for room in rooms), self.items[rooms.index(longest)].key
            raise UserError(
                f"{count} of {len(rooms)} questions are longer with their history than prompt.max_prompt, {most} ids; "
                f"the longest, {key}, has {longest}. Raise it to {longest} (evaluate: --max-prompt {longest}), or "
                "leave them out."
            )
        self._check_places(rooms)

    def _check_places(self, rooms: Sequence[int]) -> None:
        """UserError where the language model has no places for a question and its answer."""
        template, new = self.speaker.template, self.decoding.max_new
        places = [room + len(item.pixels) * template.image_length for room, item in zip(rooms, self.items)]
        longest = max(places, default=0)
        try:
            need = max(longest, new + 1) if template.separate_answer else longest + new
            self.speaker.model.language.check_length(need)
        except UserError as error:
            key = self.items[places.index(longest)].key
            raise UserError(f"{key}: {error} Or leave it out (evaluate: --max-new, --exclude).") from error

    def outputs(self, seen: Sequence[str] = SEEN) -> dict[str, list[str]]:
        """An answer an item, by what is shown. `shuffled` is left out where there is one picture only."""
        shown = {name: pairs for name in seen if (pairs := self._pairs(name)) is not None}
        jobs = {name: self._distinct(pairs) for name, pairs in shown.items()}
        total = sum(len(pairs[self.ranks.rank :: self.ranks.world]) for pairs, _ in jobs.values())
        found = {}
        with tqdm(total=total, desc="answers", unit="question", disable=None if self.progress else True) as bar:
            for name, (pairs, places) in jobs.items():
                answers = self._answers(pairs, bar)
                found[name] = [answers[place] for place in places]
        return found

    def _pairs(self, name: str) -> list[Pair] | None:
        if name == MODEL:
            return [(self._asked(item), item.pixels) for item in self.items]
        if name == BLANK:
            grey = (self.speaker.model.mean.cpu() * 255).round().to(torch.uint8)  # nothing, once it is normalised
            return [(self._asked(item), grey.expand_as(item.pixels)) for item in self.items]
        others = swapped(self.items, self.others)
        if others is None:
            return None
        return [
            (self._asked(item), _as_many(other.pixels, len(item.pixels))) for item, other in zip(self.items, others)
        ]

    def _asked(self, item: EvalQuestion) -> Dialogue:
        """What training asks of pictures that come without a question."""
        dialogue = item.dialogue
        return dialogue if dialogue.question else self.speaker.dialogue(dialogue.language, None, dialogue.images)

    def _distinct(self, pairs: Sequence[Pair]) -> tuple[list[Pair], list[int]]:
        """Equal questions about equal pictures are asked once, unless answers are drawn. Pairs, and whose is whose."""
        if self.decoding.sample:
            return list(pairs), list(range(len(pairs)))
        first: dict[tuple, int] = {}
        kept: list[Pair] = []
        places = []
        for dialogue, pixels in pairs:
            name = (dialogue, pixels.data_ptr(), pixels.shape)
            if name not in first:
                first[name] = len(kept)
                kept.append((dialogue, pixels))
            places.append(first[name])
        return kept, places

    def _answers(self, pairs: Sequence[Pair], bar: tqdm) -> list[str]:
        own = range(self.ranks.rank, len(pairs), self.ranks.world)
        made: list[tuple[int, str]] = []
        for part in _split(own, max(1, self.batch // self.decoding.beams)):
            dialogues = [pairs[place][0] for place in part]
            pixels = torch.cat([pairs[place][1] for place in part])
            made += zip(part, self.speaker.answers(dialogues, pixels, self.decoding))
            bar.update(len(part))
        gathered = sorted(pair for share in self.ranks.gather_objects(made) for pair in share)
        return [text for _, text in gathered]


def swapped(items: Sequence[EvalQuestion], others: Sequence[EvalQuestion] = ()) -> list[EvalQuestion] | None:
    """For each item one with another picture, of another group if that can be; None if all show the same picture.

    The pictures of `items` and `others` stand in a circle, ordered by a hash of what they are; each gets the next one.
    Neither the order of the items nor which of them are asked changes that, as long as both together are the same. All
    questions about one picture get the same other one.
    """
    shown: dict[int, EvalQuestion] = {}
    for item in sorted((*items, *others), key=_several):
        shown[item.image_id] = item
    circle = sorted(shown.values(), key=lambda item: content_id(str(item.image_id).encode()))
    if len(circle) < 2:
        return None
    groups = [item.group or item.image_id for item in circle]
    following: dict[int, EvalQuestion] = {}
    stranger: EvalQuestion | None = None  # the next one of another group; the second time around it is known for all
    for place in reversed([*range(len(circle)), *range(len(circle))]):
        after = (place + 1) % len(circle)
        if groups[place] != groups[after]:
            stranger = circle[after]
        following[circle[place].image_id] = stranger or circle[after]
    return [following[item.image_id] for item in items]


def _several(item: EvalQuestion) -> tuple[int, str, int]:
    """Orders items of one first picture whatever their rows: the last one shows most."""
    return len(item.pixels), item.group or "", content_id(item.pixels[1:].contiguous().numpy().tobytes())


def _as_many(pixels: Tensor, count: int) -> Tensor:
    """Another item's pictures, repeated or cut to `count`."""
    return pixels if len(pixels) == count else pixels[torch.arange(count) % len(pixels)]


def _split(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (places[start : start + size] for start in range(0, len(places), size))
