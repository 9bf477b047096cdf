"""Recalls by hand: pictures without a caption, pictures that are there twice, re-ranking, chance."""

from pathlib import Path

import pytest
import torch
from known_pictures import KnownModel, embedder, item
from torch import Tensor

from vglm_train.config.metric_names import RECALLS
from vglm_train.data.eval_captions import EvalItem
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.retrieval.evaluator import RetrievalEvaluator
from vglm_train.evaluate.retrieval.scores import captioned, chance, ranks, recall


def evaluate(folder: Path, items: list[EvalItem], model: KnownModel | None = None, **changes) -> dict[str, float]:
    given = {"languages": ("en", "zh"), "rerank": 4, "examples": 0, "ranks": Ranks(), **changes}
    return RetrievalEvaluator(embedder(folder, model), items, **given)()[0]


def test_a_picture_without_a_caption_in_a_language_is_no_query_of_it(tmp_path: Path) -> None:
    scores = evaluate(tmp_path, [item(n, zh=n % 2) for n in range(20)])
    below = {name: value for name, value in scores.items() if "shuffled" not in name and value != 100}
    assert below == {"eval/en_images": 20, "eval/zh_images": 10}
    assert scores["eval/r_mean"] == 100
    assert scores["eval/zh_shuffled_i2t_r1"] == scores["eval/en_shuffled_t2i_r1"] == 0
    assert scores["eval/zh_shuffled_itm_accuracy"] == 50


def test_pictures_that_are_there_twice_are_right_for_each_other(tmp_path: Path) -> None:
    """Also where only one of the two has a caption: then it alone is looked for and found."""
    items = [item(n) for n in range(6)] + [item(10 + n, picture=n) for n in range(6)] + [item(30, zh=0, picture=3)]
    scores = evaluate(tmp_path, items)
    assert all(scores[f"eval/{language}_{name}"] == 100 for language in ("en", "zh") for name in RECALLS)
    assert scores["eval/zh_shuffled_t2i_r1"] == 0, "the neighbour is another picture"
    by_chance = chance(items, "en")
    assert by_chance["t2i_r1"] == pytest.approx(100 * (2 * 10 + 3 * 3) / 13 / 13)
    assert by_chance["i2t_r1"] == pytest.approx(100 * (2 * 10 + 3 * 3) / 13 / 13)


def test_chance_is_what_a_random_ranking_gets() -> None:
    items = [item(n, en=n % 4, zh=1) for n in range(12)] + [item(20 + n, en=2, picture=n) for n in range(3)]
    own = captioned(items, "en")
    assert len(own) == 12
    owners = torch.tensor([index for index in own for _ in items[index].captions["en"]])
    pictures = torch.tensor([each.image_id for each in items])
    correct = pictures[own][:, None] == pictures[owners][None]
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(3000):
        scores: Tensor = torch.rand(correct.shape, generator=generator)
        found.append([*recall(ranks(scores, scores, correct)).values()])
    means = torch.tensor(found).mean(0)
    assert list(chance(items, "en").values()) == pytest.approx(means.tolist(), abs=1.0)  # 3000 rankings: 0.3
    assert chance(items[:1], "en") == chance(items, "de") == {}


def test_a_language_needs_two_pictures(tmp_path: Path) -> None:
    scores = evaluate(tmp_path, [item(n, zh=int(n == 3)) for n in range(5)])
    assert not any(name.startswith("eval/zh") for name in scores), "one of one is no recall"
    assert scores["eval/r_mean"] == 100
    same = [item(n, en=0, picture=7) for n in range(3)]
    for items in ([], [item(1)], same):
        with pytest.raises(UserError, match=f"of {len(items)} usable pictures .* needs two different ones"):
            evaluate(tmp_path, items)


def test_what_the_data_gives_is_known_before_the_first_step(tmp_path: Path) -> None:
    for rerank in (0, 4):
        items = [item(n, zh=int(n == 3)) for n in range(5)]
        given = RetrievalEvaluator(embedder(tmp_path), items, ("en", "zh"), rerank, 0, Ranks())
        names = {name for name in given()[0] if "shuffled" not in name}
        assert set(given.available_metrics()) == names - {"eval/en_images"}


@pytest.mark.parametrize(("score", "right"), [("match", 0.0), ("log_odds", 100.0)])
def test_lavis_adds_the_logit_of_match_alone(tmp_path: Path, score: str, right: float) -> None:
    """The wrong pair has the larger logit of match, and the even larger one of no match."""
    pairs = {(a, b): (-1.0, 2.0) if a == b else (6.0, 4.0) for a in range(2) for b in range(2)}
    scores = evaluate(tmp_path, [item(0), item(1)], KnownModel(pairs), rerank_score=score)
    assert {scores[f"eval/en_rerank_{name}"] for name in ("i2t_r1", "t2i_r1")} == {right}
    assert scores["eval/en_i2t_r1"] == 100
    assert scores["eval/en_itm_accuracy"] == 100, "which is by the log odds"


def test_the_similarity_decides_where_itm_is_even(tmp_path: Path) -> None:
    pairs = {(a, b): (0.0, 1.0) for a in range(6) for b in range(6)}
    scores = evaluate(tmp_path, [item(n) for n in range(6)], KnownModel(pairs))
    assert scores["eval/en_rerank_i2t_r1"] == scores["eval/en_rerank_t2i_r1"] == 100
    close = {pair: (0.0, 1.0 + 0.9 * (pair[0] != pair[1])) for pair in pairs}
    scores = evaluate(tmp_path, [item(n) for n in range(6)], KnownModel(close))
    assert scores["eval/en_rerank_i2t_r1"] == 100, "a cosine of 1 more outweighs 0.9: it has no temperature"


def test_candidates_that_are_not_reranked_follow_in_their_order(tmp_path: Path) -> None:
    """ITM puts the right one of two candidates last; the others cannot come before it by chance."""
    wrong = {(n, n): (0.0, -50.0) for n in range(8)}
    scores = evaluate(tmp_path, [item(n) for n in range(8)], KnownModel(wrong), rerank=2)
    assert scores["eval/en_rerank_i2t_r1"] == 0
    assert scores["eval/en_rerank_i2t_r5"] == 100

    class Shy(KnownModel):
        """Similar to all, the right one least."""

        def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
            return 1 - super().embed_texts(ids, mask)

    scores = evaluate(tmp_path, [item(n) for n in range(12)], Shy(), rerank=2)
    assert scores["eval/en_rerank_i2t_r10"] == scores["eval/en_i2t_r10"] == 0, "ties among the rest found it before"


def test_a_model_of_nan_finds_nothing(tmp_path: Path) -> None:
    class Broken(KnownModel):
        def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
            return super().embed_texts(ids, mask) * torch.nan

    scores = evaluate(tmp_path, [item(n) for n in range(12)], Broken())
    assert all(scores[f"eval/en_{name}"] == 0 for name in RECALLS)


def test_every_captioned_picture_is_asked_by_itm(tmp_path: Path) -> None:
    """All answers about one of them are wrong: its own text, the far one, and its text as another's far one."""
    wrong = {(a, b): (-5.0, 5.0) if a != b else (5.0, -5.0) for a in range(8) for b in range(8) if 3 in (a, b)}
    items = [item(n, zh=n % 2) for n in range(8)]
    scores = evaluate(tmp_path, items, KnownModel(wrong))
    assert scores["eval/en_itm_accuracy"] == 100 * (1 - 3 / 16)
    assert scores["eval/zh_itm_accuracy"] == 100 * (1 - 3 / 8), "of the four that have a caption in it"


def test_examples_are_of_all_sources(tmp_path: Path) -> None:
    items = [EvalItem(i.key, i.image_id, i.pixels, i.captions, "large" if n < 20 else "small") for n, i in
             enumerate(item(n, zh=0) for n in range(22))]  # fmt: skip
    _, (table,) = RetrievalEvaluator(embedder(tmp_path), items, ("en", "zh"), 0, 4, Ranks())()
    numbers = [int(row[2].rsplit(" ", 1)[1]) for row in table.rows]
    assert len(numbers) == 4
    assert sum(number >= 20 for number in numbers) == 2
    assert all(row[2] == row[3] for row in table.rows)
