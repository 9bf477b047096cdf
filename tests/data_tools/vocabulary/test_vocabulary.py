"""One vocabulary for both languages: complete, in order, the same every time, and what the text encoder reads."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from data_tools.vocabulary.train import SPECIAL, count_words, measure, train, write
from vglm_train.config.model import Text
from vglm_train.errors import UserError
from vglm_train.prompt.qformer_text import build_text

ENGLISH = [
    "dog",
    "cats",
    "running",
    "runner",
    "walked",
    "walking",
    "café",
    "red",
    "blue",
    "greenish",
    "standing",
    "stand",
]
CHINESE = "一二三只红蓝绿色的狗猫鸟在跑走站着人山水"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    rng = random.Random(0)
    rows = []
    for number in range(200):
        texts = {"en": [" ".join(rng.sample(ENGLISH, 4)).title() + "."], "zh": ["".join(rng.sample(CHINESE, 6)) + "。"]}
        if number == 150:
            texts = {"en": ["qqq 龘"]}
        rows.append({"id": str(number), "captions": texts, "split": "test" if number == 150 else "train"})
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def learn(records: Path, size: int, split: str | None = "train") -> dict[str, int]:
    return train(records, size, split, count_words(records, split)[0])


def test_the_same_captions_give_the_same_pieces(records: Path) -> None:
    first = learn(records, 150)
    assert all(learn(records, 150) == first for _ in range(3))


def test_special_tokens_come_first_and_nothing_is_unknown(records: Path) -> None:
    vocabulary = learn(records, 300)
    assert [vocabulary[token] for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    words, total = count_words(records, "train")
    assert total == {"en": 199, "zh": 199}
    assert {language: unknown for language, (_, unknown) in measure(vocabulary, words).items()} == {"en": 0, "zh": 0}
    assert all(len(piece.removeprefix("##")) == 1 for piece in vocabulary if set(piece) & set(CHINESE))
    assert "walk" in vocabulary or "walked" in vocabulary


def test_only_the_split_is_learned(records: Path) -> None:
    assert not {"q", "龘"} & set(learn(records, 300))
    assert {"q", "龘"} <= set(learn(records, 300, None))


def test_with_little_room_the_rarest_characters_go(records: Path) -> None:
    rare = "".join(chr(0x5000 + number) for number in range(100))
    with open(records, "a") as file:
        file.write(json.dumps({"captions": {"zh": [rare]}, "split": "train"}) + "\n")
    vocabulary = learn(records, 100)
    assert len(vocabulary) <= 100
    assert set(CHINESE) <= set(vocabulary)
    assert any("##" in piece and len(piece) > 3 for piece in vocabulary), "no room was left for pieces"
    words, _ = count_words(records, "train")
    assert measure(vocabulary, words)["zh"][1] == len(set(rare) - set(vocabulary)) > 0


def test_the_text_encoder_reads_it(records: Path, tmp_path: Path) -> None:
    write(learn(records, 300), tmp_path / "v" / "vocab.txt")
    text = build_text(Text(tokenizer=str(tmp_path / "v" / "vocab.txt"), processor="plain"), ("en", "zh"))
    for language, caption in (("en", "cats walked running"), ("zh", "红色的狗在跑")):
        ids = text.encode(caption, language)
        assert text.tokenizer.unk_token_id not in ids
        assert text.decode(ids) == caption


def test_mistakes_are_named(records: Path, tmp_path: Path, tool: Callable[..., CompletedProcess[str]]) -> None:
    with pytest.raises(UserError, match="no captions of split 'val'"):
        count_words(records, "val")
    with pytest.raises(UserError, match="--size 50: too small"):
        learn(records, 50)
    with open(records, "a") as file:
        file.write('{"id": "x", "captions": {}}\n')
    with pytest.raises(UserError, match=r"r\.jsonl: line 201: no caption"):
        learn(records, 300)
    done = tool("vocabulary", tmp_path / "none.jsonl", "--out", tmp_path / "vocab.txt")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def test_real_captions_in_two_languages(shared: Path, tmp_path: Path) -> None:
    rows = [
        json.loads(line) for line in (shared / "data" / "flickr" / "captions.jsonl").read_text("utf-8").splitlines()
    ]
    path = tmp_path / "r.jsonl"
    rows = [{"captions": {"en": row["captions_en"], "zh": row["captions_zh"]}, "split": row["split"]} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    vocabulary = learn(path, 8000)
    shares = {}
    for split in ("train", "test"):
        measured = measure(vocabulary, count_words(path, split)[0])
        shares[split] = {language: unknown / tokens for language, (tokens, unknown) in measured.items()}
    assert max(shares["train"].values()) == 0
    assert max(shares["test"].values()) < 0.01
