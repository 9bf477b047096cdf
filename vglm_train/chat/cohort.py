"""Requests that are decoded together, a row each, every one with its own way of choosing.

r rows, t ids written, v vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vglm_train.chat.request import Put, Request
from vglm_train.chat.text import TextStream
from vglm_train.model.language.decoding import Decoder, penalise_repetition, sample
from vglm_train.prompt.template import Template


class Row:
    """A request from asking to its answer."""

    def __init__(self, request: Request, template: Template, put: Put, asked: float, deadline: float) -> None:
        """`asked` and `deadline` are seconds of the monotonic clock."""
        self.request, self.put, self.asked, self.deadline = request, put, asked, deadline
        self.stream = TextStream(template, request.stops)
        self.cancelled = False
        # on the CPU, and its own: the same draws on every device and in any company
        self.generator = torch.Generator().manual_seed(request.decoding.seed)

    @property
    def written(self) -> int:
        """Ids of the answer so far."""
        return len(self.stream.ids)


class Cohort:
    """Rows over one decoder. `newest` [r] int64 are the ids chosen last."""

    newest: Tensor

    def __init__(self, decoder: Decoder, rows: Sequence[Row]) -> None:
        """Reads the prompts, and chooses the first ids."""
        self.decoder, self.rows = decoder, list(rows)
        logits = decoder.start()
        self.written = torch.empty(len(self.rows), 0, dtype=torch.int64, device=logits.device)
        self._choose(logits)

    def step(self) -> None:
        """One more id for every row."""
        self._choose(self.decoder.step(self.newest))

    def join(self, other: "Cohort") -> None:
        """Take the rows of another cohort, whose decoder has just read its prompts."""
        self.decoder.join(other.decoder)
        self.rows += other.rows
        self.newest = torch.cat((self.newest, other.newest))
        longest = max(self.written.shape[1], other.written.shape[1])
        self.written = torch.cat([_repeat_first(each.written, longest) for each in (self, other)])

    def keep(self, staying: Callable[[Row], bool]) -> None:
        """Let the other rows go, with the memory that they alone needed."""
        places = [place for place, row in enumerate(self.rows) if staying(row)]
        if len(places) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in places]
        if not places:
            return
        index = torch.tensor(places, device=self.newest.device)
        self.decoder.select(index)
        longest = max(row.written for row in self.rows)
        self.newest, self.written = self.newest[index], self.written[index, -longest:]

    @property
    def longest(self) -> int:
        """Tokens that the longest row may come to."""
        return max((row.request.length for row in self.rows), default=0)

    def _choose(self, logits: Tensor) -> None:
        """Logits [r,v] -> `newest`: each row by its own penalty, temperature, top-k, top-p and draw."""
        decodings = [row.request.decoding for row in self.rows]
        logits = logits.float()
        penalties = [decoding.repetition_penalty for decoding in decodings]
        if any(penalty != 1 for penalty in penalties):
            column = torch.tensor(penalties, dtype=logits.dtype, device=logits.device)[:, None]
            logits = penalise_repetition(logits, self.written, column)
        newest = logits.argmax(-1)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, decoding in enumerate(decodings):
            if decoding.sample:
                groups.setdefault((decoding.temperature, decoding.top_p, decoding.top_k), []).append(place)
        for places in groups.values():
            draws = [torch.rand((), generator=self.rows[place].generator, dtype=torch.float64) for place in places]
            index = torch.tensor(places, device=logits.device)
            newest[index] = sample(logits[index], decodings[places[0]], torch.stack(draws)[:, None])
        self.newest, self.written = newest, torch.cat((self.written, newest[:, None]), 1)


def _repeat_first(written: Tensor, length: int) -> Tensor:
    """[r,t] -> [r,length], with the first id again on the left: for the penalty, an id counts once."""
    return torch.cat((written[:, :1].expand(-1, length - written.shape[1]), written), 1)
