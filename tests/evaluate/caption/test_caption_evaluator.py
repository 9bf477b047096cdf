"""Captioning: losses a row, the gap that shows whether a model looks, names, and ranks that share the work."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import small_generators
import tiny
import torch
from small_generators import caption_evaluator, items, small_generator
from torch.nn import functional

from vglm_train.config.data import Data
from vglm_train.config.language import Decoding, Questions
from vglm_train.config.metric_names import BEST_CAPTION_SCORES as BEST
from vglm_train.config.metric_names import CAPTION_SCORES, best_metrics
from vglm_train.config.run import Run
from vglm_train.errors import UserError
from vglm_train.evaluate import metrics
from vglm_train.evaluate.caption.evaluator import derangement
from vglm_train.evaluate.generator import Generator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
FAMILIES = ("chatglm", "causal", "seq2seq")
ALWAYS = {"distinct", "loss", "shuffled_loss", "loss_gap", "loss_gap_low", "loss_gap_high", "images"}
EN = {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider"}
ZH = {"bleu4", "bleu4_word", "bleu4_corpus", "rouge_1", "rouge_2", "rouge_l", "rouge_l_char", "cider", "cider_char"}


@pytest.fixture(autouse=True)
def no_java(monkeypatch, tmp_path):
    """METEOR takes seconds to start, and is tested in test_text_scores.py."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def untaught(tmp_path_factory):
    return small_generator(tmp_path_factory.mktemp("untaught"))


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    pupil = small_generator(tmp_path_factory.mktemp("taught"))
    small_generators.teach(pupil)
    return pupil


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_do_not_depend_on_their_neighbours(tmp_path, family):
    own, pictures = small_generator(tmp_path, family), items()
    pixels, texts = (
        torch.stack([item.pixels for item in pictures]),
        [item.captions["en"][n % 2] for n, item in enumerate(pictures)],
    )
    losses = own.losses(pixels[:, None], texts, "en")
    outputs = own.captions(pixels[:, None], "en", small_generators.DECODING)
    assert len(set(losses)) == len(outputs) == len(pictures)
    for n, text in enumerate(texts):
        assert own.losses(pixels[None, n : n + 1], [text], "en") == pytest.approx([losses[n]], rel=1e-4)
        assert own.captions(pixels[None, n : n + 1], "en", small_generators.DECODING) == [outputs[n]]


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_the_mean_over_a_captions_own_targets(tmp_path, family):
    own, item = small_generator(tmp_path, family), items()[0]
    rows = [own.template.encode(own.dialogue("en", item.captions["en"][0]))]
    batch = own.template.batch(rows, item.pixels[None])
    logits, targets = own.model.score(batch)
    expected = functional.cross_entropy(logits, targets).item()
    assert own.losses([item.pictures], [item.captions["en"][0]], "en") == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_pictures_of_an_item_are_shown(tmp_path, family):
    own, (first, second, *others) = small_generator(tmp_path, family), items()
    pair = replace(first, more=(second.pixels,))
    result = caption_evaluator(own, items=[pair, *others]).measure().captions["en"][0]
    text = pair.captions["en"][0]
    row = own.template.encode(own.dialogue("en", text, 2))
    batch = own.template.batch([row], torch.stack([first.pixels, second.pixels]))
    assert batch.visual_mask.sum() == 2 * own.template.image_length
    logits, targets = own.model.score(batch)
    assert result.loss == pytest.approx(functional.cross_entropy(logits, targets).item(), rel=1e-4)
    turned = own.losses([pair.pictures.flip(0)], [text], "en")
    assert turned != pytest.approx([result.loss], rel=1e-6), "their order matters"
    assert own.losses([first.pictures], [text], "en") != pytest.approx([result.loss], rel=1e-6)


def test_a_model_that_learned_to_look(taught):
    scores, tables = caption_evaluator(taught)()
    assert scores.keys() == {f"eval/en_{n}" for n in ALWAYS | EN} | {f"eval/zh_{n}" for n in ALWAYS | ZH}
    config = tiny.config(run=Run(name="tiny", stage="generate"), data=Data(languages=("en", "zh")))
    assert set(best_metrics(config)) <= scores.keys()
    assert set(CAPTION_SCORES) == ALWAYS - {"images"}
    assert (scores["eval/en_images"], scores["eval/zh_images"]) == (6, 5)
    assert set(caption_evaluator(taught).available_metrics()) == set(best_metrics(config))
    for language in small_generators.LANGUAGES:
        assert scores[f"eval/{language}_distinct"] == 100
        assert scores[f"eval/{language}_loss"] < 0.1
        low, gap, high = (scores[f"eval/{language}_loss_gap{end}"] for end in ("_low", "", "_high"))
        assert 0.1 < low < gap < high
        assert gap == pytest.approx(scores[f"eval/{language}_shuffled_loss"] - scores[f"eval/{language}_loss"])
        assert scores[f"eval/{language}_rouge_l"] > 99
    assert scores["eval/en_cider"] > 100
    assert [table.name for table in tables] == ["captions_en", "captions_zh"]
    for table, language in zip(tables, small_generators.LANGUAGES):
        assert table.columns == ("image", "reference", "output")
        assert len(table.rows) == 2
        for (image, reference, output), item in zip(table.rows, items()):
            assert image.getpixel((0, 0)) == tuple(item.pixels[:, 0, 0].tolist())
            assert reference == output == item.captions[language][0]


def test_a_model_that_cannot_look_has_no_gap(tmp_path):
    blind = small_generator(tmp_path)
    torch.nn.init.zeros_(blind.model.projection.weight)
    scores, _ = caption_evaluator(blind)()
    for language in small_generators.LANGUAGES:
        assert scores[f"eval/{language}_distinct"] == pytest.approx(100 / (6 if language == "en" else 5))
        assert [scores[f"eval/{language}_loss_gap{end}"] for end in ("_low", "", "_high")] == pytest.approx(
            [0] * 3, abs=1e-6
        )


def test_each_caption_is_told_with_its_losses(untaught):
    result = caption_evaluator(untaught, batch=4).measure()
    whole = items()
    assert [caption.item for caption in result.captions["en"]] == [0, 1, 2, 3, 4, 5]
    assert [caption.item for caption in result.captions["zh"]] == [0, 1, 2, 3, 4]
    other = derangement([item.image_id for item in whole])
    for caption in result.captions["en"]:
        item = whole[caption.item]
        texts = [item.captions["en"][0]]
        assert caption.output == untaught.captions([item.pictures], "en", small_generators.DECODING)[0]
        assert [caption.loss] == pytest.approx(untaught.losses([item.pictures], texts, "en"), rel=1e-4)
        shown = whole[other[caption.item]].pixels[None]
        assert [caption.shuffled_loss] == pytest.approx(untaught.losses([shown], texts, "en"), rel=1e-4)
    assert "jieba" in result.made_by["zh"]["segmenter"]
    assert "tokenizer" in result.made_by["en"]
    assert "java" in result.notes["en"][0]


def test_beams_share_the_batch_and_the_model_keeps_its_random_state(untaught):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    beams = caption_evaluator(untaught, decoding=Decoding(max_new=6, beams=3), batch=4, languages=("zh",)).measure()
    assert len(beams.captions["zh"]) == 5
    sampled = caption_evaluator(untaught, decoding=Decoding(max_new=6, sample=True, seed=3), languages=("zh",))
    assert sampled.measure().captions == sampled.measure().captions
    assert torch.equal(before, torch.random.get_rng_state())


def test_one_picture_alone_has_no_gap(untaught):
    scores, tables = caption_evaluator(untaught, items=items()[:1])()
    assert {"eval/en_loss", "eval/en_bleu4"} <= scores.keys()
    assert not any("gap" in name or "shuffled" in name for name in scores)
    assert not any("cider" in name for name in scores), "it weighs words by how few images have them: 0 of one image"
    assert len(tables[0].rows) == 1
    available = caption_evaluator(untaught, items=items()[:1]).available_metrics()
    assert set(available) == {f"eval/{language}_{name}" for language in ("en", "zh") for name in BEST} & scores.keys()


def test_few_pictures_have_a_gap_without_an_interval(untaught):
    scores, _ = caption_evaluator(untaught, items=items()[:4])()
    assert "eval/en_loss_gap" in scores
    assert "eval/en_loss_gap_low" not in scores, "four say nothing of the next ones"


def test_examples_take_turns_among_sources(untaught):
    own = [replace(item, source="large" if n < 4 else "small") for n, item in enumerate(items())]
    _, tables = caption_evaluator(untaught, items=own)()
    shown = {row[1] for row in tables[0].rows}
    assert len(shown & {item.captions["en"][0] for item in own[4:]}) == 1


def test_without_the_libraries_losses_are_given_and_the_log_says_why_once(untaught, monkeypatch, caplog):
    monkeypatch.setitem(metrics.LIBRARIES, "no_such_library", "no-such-library")
    with caplog.at_level(logging.WARNING):
        own = caption_evaluator(untaught)
        first, tables = own()
        own()
    assert first.keys() == {f"eval/{language}_{name}" for language in small_generators.LANGUAGES for name in ALWAYS}
    assert len(tables) == 2
    assert len([record for record in caplog.records if "no-such-library" in record.message]) == 1


def test_what_java_would_add_is_said_once(untaught, caplog):
    with caplog.at_level(logging.WARNING):
        own = caption_evaluator(untaught, languages=("en",))
        own()
        own()
    assert len([record for record in caplog.records if "java" in record.message]) == 1


def test_a_question_too_long_is_known_at_once(untaught):
    own = Generator(untaught.model, untaught.template, Questions(en="a wall " * 50), untaught.device)
    with pytest.raises(UserError, match="max_prompt"):
        caption_evaluator(own)


def test_derangement():
    for count in (2, 3, 10, 101):
        found = derangement(range(count))
        assert sorted(found) == list(range(count))
        assert all(here != there for here, there in enumerate(found))
        assert found == derangement(range(count))
    ids = [0, 0, 1, 2, 3, 4, 5, 6]  # a picture that is there twice
    assert all(ids[there] != ids[here] for here, there in enumerate(derangement(ids)))
    assert derangement([7]) == [None]
    assert derangement([7, 7]) == [None, None]
    assert derangement([]) == []


def test_two_ranks_find_what_one_finds(tmp_path):
    found = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": "/nothing", "OMP_NUM_THREADS": "1", "PYTHONPATH": found}
    environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE.parent / "small_generators.py"), str(tmp_path)],
            env={**environment, "RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    (tmp_path / "alone").mkdir()
    alone = caption_evaluator(small_generator(tmp_path / "alone", "causal")).measure()
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found["scores"] == pytest.approx(alone.scores, rel=1e-4, abs=1e-5)
        assert found["made"].count("GeneratedCaption(") == 11


def _free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
