"""Dialogues from shards to batches: several turns, several pictures."""

import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from made_shards import jpeg, write_manifest, write_shard
from prompt.made_tokenizers import words_folder

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.data import Data, Image, Source
from vglm_train.config.language import Language, Prompt, Questions
from vglm_train.config.model import Model, Vision
from vglm_train.config.run import Config, Run
from vglm_train.data import loader
from vglm_train.data.processors import PromptProcessor, SampleContext
from vglm_train.data.record import RecordError, as_fields, parse
from vglm_train.data.rules import dialogue_of
from vglm_train.data.sample import SampleBuilder, sample_pixels
from vglm_train.data.shards.index import count_languages, index_path, make_index, read_index, write_index
from vglm_train.data.shards.reader import ShardReader
from vglm_train.distributed import Ranks
from vglm_train.image import crop_pixels
from vglm_train.prompt.build import build_template
from vglm_train.prompt.dialogue import Dialogue, Turn
from vglm_train.prompt.tokenizers import build_tokenizer

WORDS = [f"▁{word}" for word in ("Question:", "Answer:", "one", "two", "three", "four")] + ["Question:", "."]
ONE, TWO, THREE, FOUR = range(6, 10)
PLACES = 2


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": role, "text": text} for role, text in zip(("user", "assistant") * len(texts), texts)]


def member(record: dict) -> bytes:
    return json.dumps(record).encode()


TALK = {"image": ["a", "b"], "turns": turns("<image>one", "two", "<image>three", "four")}


def rows(folder: Path, family: str, **prompt) -> PromptProcessor:
    words_folder(folder, WORDS)
    language = Language(family=family, config="config.json", tokenizer=str(folder))
    template = build_template(
        Prompt(style="blip2", max_images=3, **prompt), language, build_tokenizer(language), PLACES
    )
    return PromptProcessor(template, Questions(en="one"), ("en",))


def learnt(row) -> list[int]:
    return [label for label in row.labels if label != IGNORED]


def test_a_record_of_turns_and_back() -> None:
    record = parse({**TALK, "id": "7", "kind": "open", "group": "g"})
    assert (record.image, record.more, record.captions) == ("a", ("b",), {})
    assert record.turns == (("<image>one", "two"), ("<image>three", "four"))
    assert (record.language, record.kind, record.caption_counts) == ("en", "open", {"en": 2})
    assert parse(as_fields(record)) == parse(json.dumps(as_fields(record))) == record
    alone = {"id": "", "image": "a", "image_id": None, "captions": {"en": ["x"]}, "source": None, "split": None}
    assert as_fields(parse({"image": "a", "captions": {"en": "x"}})) == {**alone, "group": None}


def test_the_language_of_turns() -> None:
    assert parse({"turns": turns("<image>狗？", "红")}).language == "zh"
    assert parse({"turns": turns("一只狗", "a dog")}).language == "zh"
    assert parse({"turns": turns("狗", "红"), "language": "en"}).language == "en"
    both = parse({"turns": turns("狗", "红"), "captions": {"en": ["a", "b"], "zh": ["狗"]}})
    assert both.caption_counts == {"en": 2, "zh": 2}


def test_a_question_that_nobody_answers_is_left_out() -> None:
    assert parse({"turns": turns("one", "two", "three")}).turns == (("one", "two"),)
    with pytest.raises(RecordError, match="no caption and no turn") as caught:
        parse({"turns": turns("one")})
    assert caught.value.cause == "caption"


@pytest.mark.parametrize(
    ("said", "cause", "reason"),
    [
        ("one", "record", "turns must be a list: found the text"),
        (["one"], "record", 'a turn must be {"role": "user", "text": ...}: turn 0 is one'),
        (turns("one", "two")[::-1], "record", 'a turn must be {"role": "user"'),
        ([*turns("one"), *turns("two")], "record", 'a turn must be {"role": "assistant", "text": ...}: turn 1'),
        ([{"role": "user", "text": None}], "record", ": turn 0 is"),
        (turns("one", " \n"), "caption", "an answer is empty: that of turn 1"),
    ],
)
def test_turns_that_cannot_be(said, cause, reason) -> None:
    with pytest.raises(RecordError) as caught:
        parse({"turns": said})
    assert caught.value.cause == cause
    assert reason in str(caught.value)


def test_dialogues_of_a_record() -> None:
    record = parse(TALK)
    first, second = Turn("<image>one", "two"), Turn("<image>three", "four")
    assert dialogue_of(record, 0, 2) == Dialogue(first.question, "two", (), "en", 1)
    assert dialogue_of(record, 1, 2) == dialogue_of(record, images=2)
    assert dialogue_of(record, 1, 2) == Dialogue(second.question, "four", (first,), "en", 2)
    unmarked = parse({"turns": turns("one", "two", "three", "four")})
    assert dialogue_of(unmarked, 0, 2).images == 2


def test_a_decoder_only_model_learns_all_answers_in_every_epoch(tmp_path: Path) -> None:
    made = rows(tmp_path, "causal")
    for epoch in range(3):
        drawn = made.process(parse(TALK), random.Random(0), None, SampleContext("key", epoch, 2))
        assert learnt(drawn.row) == [TWO, 3, FOUR, 3]
        assert (drawn.images, drawn.language, drawn.text) == (2, "en", "four")


def test_an_encoder_decoder_learns_one_answer_an_epoch_in_turn(tmp_path: Path) -> None:
    made = rows(tmp_path, "seq2seq")
    record = parse({"turns": turns("one", "two", "one", "three", "one", "four")})
    for key in ("a", "b", "c", "d"):
        found = [made.process(record, random.Random(0), None, SampleContext(key, epoch)).text for epoch in range(6)]
        assert sorted(found[:3]) == ["four", "three", "two"]
        assert found[3:] == found[:3]
    starts = Counter(made.process(record, random.Random(0), None, SampleContext(str(n))).text for n in range(300))
    assert min(starts.values()) > 70


def test_pictures_of_later_turns_are_not_shown(tmp_path: Path) -> None:
    made = rows(tmp_path, "seq2seq")
    drawn = [made.process(parse(TALK), random.Random(0), None, SampleContext("k", epoch, 2)) for epoch in range(2)]
    assert sorted((each.text, each.images, len(each.row.image_starts)) for each in drawn) == [
        ("four", 2, 2),
        ("two", 1, 1),
    ]


def test_a_dialogue_too_long_for_one_sequence_is_taught_in_parts(tmp_path: Path) -> None:
    made = rows(tmp_path, "causal", max_prompt=8)
    record = parse({"turns": turns("one", "two", "one", "three", "one", "four")})
    found = [learnt(made.process(record, random.Random(0), None, SampleContext("a", epoch)).row) for epoch in range(2)]
    assert sorted(label for labels in found for label in labels if label != 3) == [TWO, THREE, FOUR]


def test_captions_stay_as_they_were(tmp_path: Path) -> None:
    made = rows(tmp_path, "causal")
    drawn = made.process(parse({"captions": {"en": ["two"]}}), random.Random(0))
    assert (learnt(drawn.row), drawn.images, drawn.row.image_starts) == ([TWO, 3], 1, (0,))
    several = made.process(parse({"captions": {"en": ["two"]}}), random.Random(0), None, SampleContext(images=3))
    assert several.row.image_starts == (0, 2, 4)


@pytest.mark.parametrize(
    ("record", "images", "cause", "reason"),
    [
        (TALK, 3, "record", "2 <image> marks for 3 pictures"),
        ({"turns": turns("one", "two")}, 4, "record", r"it shows more pictures than prompt\.max_images, 3: 4"),
        ({"turns": turns("狗", "红")}, 1, "caption", r"its dialogue is in zh, data\.languages is \[en\]"),
        ({"turns": turns("狗", "红"), "captions": {"zh": ["红"]}}, 1, "caption", "its captions are in zh"),
    ],
)
def test_dialogues_that_cannot_be_learnt(tmp_path: Path, record, images, cause, reason) -> None:
    with pytest.raises(RecordError, match=reason) as caught:
        rows(tmp_path, "causal").process(parse(record), random.Random(0), None, SampleContext("k", 0, images))
    assert caught.value.cause == cause


def test_every_picture_has_its_crop_and_one_sample_its_side() -> None:
    pictures = [jpeg(number, (80, 60)) for number in range(3)]
    how = SampleBuilder(0, None, 16, Image(crop_scale=(0.3, 1.0)))
    sides = set()
    for seed in range(12):
        mine, same = random.Random(seed), random.Random(seed)
        found = sample_pixels(pictures, how.size, how.image, mine)
        first = crop_pixels(pictures[0], 16, (0.3, 1.0), True, same)
        assert torch.equal(found[0], first)
        assert torch.equal(sample_pixels(pictures[:1], how.size, how.image, random.Random(seed))[0], first)
        mirrored = not torch.equal(first, crop_pixels(pictures[0], 16, (0.3, 1.0), False, random.Random(seed)))
        for picture, pixels in zip(pictures[1:], found[1:]):
            crop = crop_pixels(picture, 16, (0.3, 1.0), False, same)
            assert torch.equal(pixels, crop.flip(-1) if mirrored else crop)
        sides.add(mirrored)
    assert sides == {True, False}


def several(folder: Path) -> Path:
    """Six samples, among them two pictures, three by number alone, one picture of which is missing, one damaged."""
    plain = {"turns": turns("one", "two")}
    pictures = {number: jpeg(number) for number in range(8)}
    named = {**TALK, "image": ["x", "y"]}
    samples = [
        {"jpg": pictures[0], "json": member(plain)},
        {"jpg": pictures[1], "1.jpg": pictures[2], "json": member(named)},
        {"10.jpg": pictures[5], "2.jpg": pictures[4], "0.png": pictures[3], "json": member(plain)},
        {"jpg": pictures[6], "json": member(named)},
        {"jpg": pictures[6], "1.jpg": b"no picture", "json": member(named)},
        {"jpg": pictures[7], "json": member({"captions": {"zh": ["狗"]}})},
    ]
    folder.mkdir(parents=True)
    write_shard(folder / "a.tar", [{"__key__": f"{n:03d}", **each} for n, each in enumerate(samples)])
    write_manifest(folder, {"a.tar": len(samples)})
    return folder


@pytest.mark.parametrize("indexed", [False, True])
def test_further_pictures_of_a_sample(tmp_path: Path, indexed: bool) -> None:
    several(tmp_path / "s")
    shard = write_manifest(tmp_path / "s", {"a.tar": 6}).shards[0]
    if indexed:
        table = make_index(shard.path)
        write_index(shard.path, table, shard.sha256)
        index = read_index(index_path(shard.path), shard.sha256)
        assert index is not None
        assert np.array_equal(index.more, table.more)
        assert count_languages(index) == {"en": 5, "zh": 1}
    reader = ShardReader(1)
    found = [reader.read(shard, number) for number in range(6)]
    assert [len(raw.more) for raw in found] == [0, 1, 2, 0, 1, 0]
    assert (found[1].image, found[1].more) == (jpeg(1), (jpeg(2),))
    assert (found[2].image, found[2].more, found[2].extension) == (jpeg(3), (jpeg(4), jpeg(5)), "png")


def test_an_index_cut_short_is_no_index(tmp_path: Path) -> None:
    shard = write_manifest(several(tmp_path / "s"), {"a.tar": 6}).shards[0]
    write_index(shard.path, make_index(shard.path), shard.sha256)
    path = index_path(shard.path)
    path.write_bytes(path.read_bytes()[:-8])
    assert read_index(path, shard.sha256) is None


def test_batches_hold_the_pictures_of_all_rows_in_turn(tmp_path: Path) -> None:
    config = Config(
        run=Run(name="test"),
        data=Data(
            train=(Source(name="s", shards=str(several(tmp_path / "s"))),),
            image=Image(crop_scale=(1.0, 1.0), flip=False),
            global_batch=6,
            workers=0,
        ),
        model=Model(vision=Vision(image_size=16, patch=8)),
    )
    made = loader.build(config, rows(tmp_path / "words", "causal"), Ranks())
    (batch,) = islice(made.batches(0), 1)
    assert isinstance(batch, PromptBatch)
    assert batch.damaged == {"image": 2, "caption": 1}
    assert batch.valid.sum() == 3
    counts = (batch.visual_mask.sum(1) // PLACES).tolist()
    assert sorted(counts) == [1, 1, 1, 1, 2, 3]
    assert batch.pixels.shape == (9, 3, 16, 16)
    images = batch.pixels.split(counts)
    assert [bool(pictures.any()) for pictures in images] == batch.valid.tolist()
    three = next(pictures for pictures in images if len(pictures) == 3)
    wanted = [crop_pixels(jpeg(n), 16, (1.0, 1.0), False, random.Random(0)) for n in (3, 4, 5)]
    assert torch.equal(three, torch.stack(wanted))
    assert not (batch.labels[~batch.valid] != IGNORED).any()
