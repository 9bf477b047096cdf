"""Words by ids, as a run keeps them."""

from pathlib import Path

import pytest

from vglm_train.checkpoint.vocabulary import Vocabulary, check_words, keep
from vglm_train.errors import UserError

KEY = "model.language.tokenizer"


def check(run: Path, old: list[str], new: list[str]) -> list[str]:
    before = Vocabulary("there", old)
    keep(run, {KEY: before})
    return check_words(run, "step-1", {KEY: before.digest}, {KEY: Vocabulary("here", new)}, "--accept")


def test_words_at_the_end_are_told(tmp_path: Path) -> None:
    assert check(tmp_path, ["a", "b"], ["a", "b"]) == []
    assert check(tmp_path, ["a", "b"], ["a", "b", "c"]) == [
        "model.language.tokenizer: here has 3 words, 2 when step-1 was written; those that it had keep their ids"
    ]


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (["b", "a"], '2 words and has 2, added ones included; 2 ids mean something else now: 0 was "a" and is "b", '
                     '1 was "b" and is "a".'),
        (["a"], '2 words and has 1, added ones included; 1 id means something else now: 1 was "b" and is no word.'),
        (["a", ""], '1 id means something else now: 1 was "b" and is no word.'),
    ],
)  # fmt: skip
def test_ids_that_mean_something_else(tmp_path: Path, new: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        check(tmp_path, ["a", "b"], new)
    assert said in str(error.value)


def test_a_checkpoint_that_does_not_know_is_not_compared(tmp_path: Path) -> None:
    assert check_words(tmp_path, "step-1", {}, {KEY: Vocabulary("here", ["a"])}, "--accept") == []
