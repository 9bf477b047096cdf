"""What a language model will read and learn: samples of stage two and of fine-tuning for a preview."""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any

from torch import Tensor

from vglm_train import stages
from vglm_train.batch import IGNORED
from vglm_train.config.run import Config
from vglm_train.data.eval_captions import EvalItem
from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.data.loader import build
from vglm_train.data.processors import Processor, SampleContext
from vglm_train.data.record import DamagedSample
from vglm_train.data.sample import Sample, StoredSample, read_sample, use_sample
from vglm_train.data.sampling.mixture import SampleRef
from vglm_train.data.shards.reader import ShardReader
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.prompt.dialogue import Dialogue
from vglm_train.prompt.template import Encoded
from vglm_train.stages.generate import Generate

COUNTED = 2000  # samples, spread over the source, whose sequences are measured
CUT = 0.02  # share of cut sequences above which the lengths do not fit


@dataclass(frozen=True, slots=True)
class PromptSample:
    """A sample as a language model meets it."""

    where: str  # shard and key
    image_id: int
    pixels: Tensor  # [k,3,h,w] uint8
    lines: tuple[str, ...]


def read_epoch(config: Config, processor: Processor, epoch: int) -> Iterator[tuple[SampleRef, Sample] | DamagedSample]:
    """The samples of an epoch in training's order, augmented, each with the text that training takes of it."""
    dataset = build(config, processor, Ranks()).dataset
    for number in range(dataset.epoch_samples):
        position = dataset.mixture.at(epoch * dataset.epoch_samples + number)
        try:
            yield position, read_sample(dataset.reader, position, dataset.builder)
        except DamagedSample as damage:
            yield damage


class PromptView:
    """Prompts with answers, of a run whose stage has a language model. UserError as training would raise it."""

    def __init__(self, config: Config) -> None:
        stage = stages.build(config)
        assert isinstance(stage, Generate)
        self.config, self.stage, self.template = config, stage, stage.template

    def samples(self, split: str, epoch: int) -> Iterator[PromptSample | DamagedSample]:
        """Those of training with their targets, those of validation as prompts."""
        return self._taught(epoch) if split == "train" else self._asked()

    def picture(self, shown: PromptSample) -> Tensor:
        """[k,3,h,w] uint8"""
        return shown.pixels

    def describe(self, shown: PromptSample) -> Iterator[str]:
        """The lines that stand beside the pictures."""
        yield f"{shown.where}   image_id {shown.image_id}"
        yield from shown.lines

    def closing(self, split: str) -> Iterator[str]:
        """How to read the lines, and whether sequences fit."""
        yield "«...» is learned, * marks its ids; tokens without text, such as a start, show in the ids alone."
        if split == "train":
            yield from self._lengths()

    def lines_of(self, row: Encoded, language: str) -> Iterator[str]:
        """A sequence in words and in ids, with what is learned of it."""
        learned = sum(label != IGNORED for label in row.labels)
        apart = self.template.separate_answer
        yield f"{language}: {len(row.input_ids)} ids are read, {learned} learned{', cut' if row.truncated else ''}"
        if row.question_ids and self.template.text is not None:
            yield f"Q-Former: {self.template.text.tokenizer.decode(row.question_ids, skip_special_tokens=True)}"
        labels = [] if apart else row.labels
        yield f"{'encoder' if apart else 'text'}: {self._words(row.input_ids, labels, row.image_starts)}"
        yield f"ids: {self._ids(row.input_ids, labels, row.image_starts)}"
        if apart and row.labels:
            yield f"decoder: {self._words(row.labels, row.labels, ())}"
            yield f"ids: {self._ids(row.labels, row.labels, ())}"

    def _taught(self, epoch: int) -> Iterator[PromptSample | DamagedSample]:
        for found in read_epoch(self.config, self.stage.processor, epoch):
            if isinstance(found, DamagedSample):
                yield found
                continue
            position, sample = found
            lines = tuple(self.lines_of(sample.processed.row, sample.processed.language))
            yield PromptSample(f"{position.shard.name} {sample.key}", sample.image_id, sample.pixels, lines)

    def _asked(self) -> Iterator[PromptSample | DamagedSample]:
        held = self.stage.held_out()
        if held is None:
            raise UserError("data.validation is empty and data.holdout keeps nothing; preview --split train")
        for item in held.items():
            if isinstance(item, EvalQuestion):
                lines = [*self._prompt(item.dialogue), f"right ({item.kind}): {' | '.join(item.answers)}"]
                yield PromptSample(item.key, item.image_id, item.pixels, tuple(lines))
            elif isinstance(item, EvalItem):
                yield PromptSample(item.key, item.image_id, item.pixels[None], tuple(self._captioned(item)))

    def _captioned(self, item: EvalItem) -> Iterator[str]:
        for language, captions in item.captions.items():
            yield from self._prompt(Dialogue(getattr(self.config.prompt.questions, language), None, language=language))
            yield f"right: {' | '.join(captions)}"

    def _prompt(self, dialogue: Dialogue) -> Iterator[str]:
        return self.lines_of(self.template.encode_prompt(dialogue), dialogue.language)

    def _words(self, ids: list[int], labels: list[int], visual: tuple[int, ...]) -> str:
        """Text with pictures where they are and «» around what is learned, the end that is learned as [end]."""
        said = (
            run[0] if kind == "picture" else f"«{self._decode(run)}»" if kind == "learned" else self._decode(run)
            for kind, run in _runs(ids, labels, visual, self.template.image_length)
        )
        return "".join(said).replace("\n", "\\n")

    def _decode(self, ids: list[Any]) -> str:
        end = self.template.end_id
        return f"{self.template.tokenizer.decode(ids)}[end]" if ids[-1] == end else self.template.tokenizer.decode(ids)

    def _ids(self, ids: list[int], labels: list[int], visual: tuple[int, ...]) -> str:
        said = []
        for kind, run in _runs(ids, labels, visual, self.template.image_length):
            said += [f"*{number}" if kind == "learned" else str(number) for number in run]
        return " ".join(said)

    def _lengths(self) -> Iterator[str]:
        """Of samples spread evenly over the source; their pictures are not decoded."""
        rows = list(islice(self._measured(), COUNTED))
        if not rows:
            return
        prompt, cut = self.config.prompt, sum(row.truncated for row in rows)
        read = [len(row.input_ids) for row in rows]
        learned = [sum(label != IGNORED for label in row.labels) for row in rows]
        yield (
            f"{len(rows)} samples: {sum(read) / len(rows):.1f} ids are read ({max(read)} at most), "
            f"{sum(learned) / len(rows):.1f} learned ({max(learned)} at most), {cut} samples are cut"
        )
        if cut > CUT * len(rows):
            yield (
                f"warning: {100 * cut / len(rows):.1f} % of the samples are cut at prompt.max_prompt "
                f"{prompt.max_prompt} or prompt.max_answer {prompt.max_answer}: what is cut is not learned. Raise them"
            )

    def _measured(self) -> Iterator[Encoded]:
        shards = build(self.config, self.stage.processor, Ranks()).dataset.mixture.shards()
        step, passed = -(-sum(shard.samples for shard in shards) // COUNTED), 0
        reader = ShardReader(2, self.config.data.cache)
        for shard in shards:
            for index in range(-passed % step, shard.samples, step):
                with suppress(DamagedSample):
                    yield use_sample(reader, shard, index, partial(self._processed, index))
            passed += shard.samples

    def _processed(self, seed: int, stored: StoredSample) -> Encoded:
        context = SampleContext(stored.key, 0, len(stored.images))
        row: Encoded = self.stage.processor.process(stored.record, random.Random(seed), None, context).row
        return row


def _runs(ids: list[int], labels: list[int], visual: tuple[int, ...], length: int) -> Iterator[tuple[str, list[Any]]]:
    """("picture", [its mark]), ("read", ids) and ("learned", labels) in turn.

    Where a label is another id than stands there (an earlier answer's end), it is followed by that id as read.
    """
    inside = {start + offset: number for number, start in enumerate(visual, 1) for offset in range(length)}
    marks: list[tuple[str, int | str]] = []
    for index, token in enumerate(ids):
        label = labels[index] if labels else IGNORED
        if index in inside:
            if index in visual:
                marks.append((f"picture {index}", f"[picture {inside[index]}, {length} tokens]"))
        elif label == IGNORED:
            marks.append(("read", token))
        else:
            marks += [("learned", label)] if label == token else [("learned", label), ("read", token)]
    for kind, run in groupby(marks, key=lambda mark: mark[0]):
        yield kind.partition(" ")[0], [said for _, said in run]
