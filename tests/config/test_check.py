"""Combinations across sections that cannot be, each refused with its reason and what would work."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vglm_train.config.batch_split import split
from vglm_train.config.check import check, check_length, check_vocabulary, moves_blocks
from vglm_train.config.data import Data
from vglm_train.config.load import errors_with_location, load
from vglm_train.config.run import Config, Engine, Run
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError

RUN = """\
run:
  name: small
  length: {steps: 100}
data:
  train:
    - {name: photos, shards: shards/photos}
  global_batch: 24
optim:
  warmup: {steps: 10}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Load the run above, with overrides."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)
    return lambda *overrides: load("run.yaml", overrides)


def refusal(config, world=1) -> FieldError:
    with pytest.raises(FieldError) as caught:
        check(config, world)
    return caught.value


@pytest.mark.parametrize(
    ("world", "micro", "expected"),
    [
        (1, None, (24, 1, 0)), (2, None, (12, 1, 0)), (24, None, (1, 1, 0)), (2, 4, (4, 3, 0)), (4, 6, (6, 1, 0)),
        (1, 8, (8, 3, 0)),
        (7, None, (4, 1, 4)), (32, None, (1, 1, 8)), (2, 5, (4, 3, 0)), (7, 2, (2, 2, 4)), (5, 4, (3, 2, 6)),
    ],
)  # fmt: skip
def test_the_global_batch_is_shared_whole(run, world, micro, expected):
    cut = split(run(f"engine.micro_batch={micro or 'null'}"), world)
    assert (cut.micro, cut.accumulation, cut.empty) == expected


SHARES = st.tuples(
    st.integers(1, 40), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 12)), st.sampled_from([0, 1, 2, 3])
)


@given(SHARES)
@example((1600, 56, None, 0))
@example((17, 8, 1, 0))
def test_every_row_has_one_place_in_order(shares: tuple[int, int, int | None, int]) -> None:
    """Of any batch, over any number of processes, micro-batches and turns of sources."""
    turn, world, micro, turns = shares
    data = Data(global_batch=turn * max(1, turns), mix="batch" if turns else "sample", mix_rows=turn if turns else None)
    cut = split(Config(run=Run(name="any"), data=data, engine=Engine(micro_batch=micro)), world)
    places = [[cut.rows(part, rank) for rank in range(world)] for part in range(cut.accumulation)]
    assert [row for part in places for rows in part for row in rows] == list(range(cut.batch))
    at_once = [sum(map(len, part)) for part in places]
    assert max(at_once) == cut.together
    assert max(at_once) - min(at_once) <= 1
    assert all(len(rows) <= cut.micro <= (micro or cut.batch) for part in places for rows in part)
    assert sum(bool(rows) for part in places for rows in part) == cut.used
    assert world * cut.micro * cut.accumulation == cut.batch + cut.empty
    for part in places:
        first = part[0].start
        assert [rows.start for rows in part] == [first + rank * cut.micro for rank in range(world)]
        assert len({row // turn for rows in part for row in rows}) == 1, "one turn of one source"


def test_the_error_names_the_line(run):
    run()
    Path("run.yaml").write_text(RUN.replace("global_batch: 24", "global_batch: 1"))
    with pytest.raises(UserError) as caught, errors_with_location("run.yaml"):
        check(load("run.yaml"), 7)
    assert str(caught.value).startswith("run.yaml:7: data.global_batch: one row at a time has no other row")
    config = run("engine.micro_batch=1")
    with pytest.raises(UserError) as caught, errors_with_location("run.yaml", ["engine.micro_batch=1"]):
        check(config, 1)
    assert str(caught.value).startswith("override engine.micro_batch=1: engine.micro_batch: one row at a time has no")


def test_no_training_source(run):
    assert refusal(run("data.train=[]")).fields == ("data.train",)


def test_warm_up_longer_than_the_run(run):
    error = refusal(run("optim.warmup={steps: 101}"))
    assert error.fields[0] == "optim.warmup"
    assert "101 steps is longer than the run of 100 steps" in error.reason
    assert error.reason.endswith("try optim.warmup={steps: 10}")
    assert refusal(run("optim.warmup={samples: 2401}")).fields[0] == "optim.warmup"
    check(run("optim.warmup={samples: 2400}"), 1)


def test_lengths_in_epochs_wait_for_the_data(run):
    config = run("run.length={epochs: 2}")
    check(config, 1)
    check_length(config, epoch_samples=120)
    with pytest.raises(FieldError, match="longer than the run of 2 epochs") as caught:
        check_length(config, epoch_samples=119)
    assert caught.value.fields == ("optim.warmup", "run.length")
    with pytest.raises(FieldError, match="less than one step of"):
        check_length(run("run.length={epochs: 0.5}", "optim.warmup={steps: 0}"), epoch_samples=40)


def test_a_run_of_less_than_a_step(run):
    assert "less than one step" in refusal(run("run.length={samples: 23}")).reason


def test_chinese_needs_a_text_side_that_knows_it(run):
    error = refusal(run("data.languages=[en, zh]"))
    assert error.fields[0] == "model.text.processor"
    assert "English only" in error.reason
    assert error.reason.endswith("so use plain")
    error = refusal(run("data.languages=[zh]", "model.text.processor=plain"))
    assert error.fields[0] == "model.text.tokenizer"
    assert "[UNK]" in error.reason
    check(run("data.languages=[zh]", "model.text.processor=plain", "model.text.tokenizer=bert-base-chinese"), 1)


def test_evaluation_during_training_needs_data(run):
    assert refusal(run("evaluate.every=10")).fields[0] == "data.validation"
    validation = "data.validation=[{name: photos, shards: b}]"
    assert refusal(run("checkpoint.best=eval/r_mean", validation)).fields == ("checkpoint.best", "evaluate.every")
    every = "evaluate.every=10"
    error = refusal(run("checkpoint.best=eval/en_12t_r1", validation, every))
    assert "'eval/en_12t_r1' is none of this run's evaluation scores; did you mean eval/en_i2t_r1?" in error.reason
    assert "? They are: eval/r_mean, eval/en_i2t_r1, " in error.reason
    for best, words in (
        ("en_i2t_r1", "; its whole name is eval/en_i2t_r1. They are: "),
        ("en_cider", "; runs of stage generate have it. They are: "),
        ("eval/vqa_accuracy", "; runs of stage finetune with evaluate.task vqa have it. They are: "),
        ("accuracy", "; name one of these. They are: "),
    ):
        assert words in refusal(run(f"checkpoint.best={best}", validation, every)).reason
    assert "shuffled" not in error.reason
    assert refusal(run("checkpoint.best=eval/zh_i2t_r1", validation, every)).fields[0] == "checkpoint.best"
    assert refusal(run("checkpoint.best=eval/en_rerank_i2t_r1", validation, every, "evaluate.rerank=0")).reason
    for best in ("eval/r_mean", "eval/en_t2i_r10", "eval/en_rerank_i2t_r1", "eval/en_itm_accuracy"):
        check(run(f"checkpoint.best={best}", validation, every), 1)


def test_one_row_at_a_time_has_no_negatives(run):
    assert refusal(run("engine.micro_batch=1")).fields[0] == "engine.micro_batch"
    assert refusal(run("data.global_batch=1")).fields[0] == "data.global_batch"
    check(run("engine.micro_batch=1"), 2)
    check(run("engine.micro_batch=1", "objective.itc.weight=0", "objective.itm.weight=0"), 1)


def test_a_contrastive_batch_is_whole_micro_batches_and_fills_the_step(run):
    batch = ("data.global_batch=64", "engine.micro_batch=4")
    check(run(*batch, "objective.itc.batch=16"), 4)
    check(run("data.global_batch=64", "objective.itc.batch=64"), 4)
    check(run(*batch, "engine.micro_batch=1", "objective.itc.batch=2"), 1)
    for overrides, world, fields, words in (
        (("objective.itc.batch=48",), 1, ("objective.itc.batch", "data.global_batch"), "48 does not divide"),
        (("objective.itc.batch=16", "objective.mean=micro"), 1, ("objective.itc.batch", "objective.mean"), "global"),
        (("objective.itc.batch=16", "objective.itc.gather=lavis"), 1, ("objective.itc.batch", "objective.itc.gather"),
         "exact"),
        (("objective.itc.batch=32", "data.mix=batch", "data.mix_rows=16"), 1, ("data.mix_rows", "objective.itc.batch"),
         "compares 32: give a multiple of 32"),
    ):  # fmt: skip
        with pytest.raises(FieldError, match=words) as caught:
            check(run(*batch, *overrides), world)
        assert caught.value.fields == fields


@pytest.mark.parametrize("world", range(1, 9))
def test_a_group_fills_its_micro_batches_in_order_for_any_world(run, world):
    cut = split(run("data.global_batch=64", "engine.micro_batch=4", "objective.itc.batch=32"), world)
    shares = [cut.rows(part, rank) for part in range(cut.accumulation) for rank in range(world)]
    assert [row for rows in shares for row in rows] == list(range(64))
    assert {rows.start for rows in shares if rows} == set(range(0, 64, 4))
    assert cut.together == min(32, 4 * world)


def test_features_are_of_an_encoder_that_stays(run):
    stored = ("data.features={folder: f}", "data.image={crop_scale: [1, 1], flip: false}")
    check(run(*stored), 1)
    assert refusal(run(*stored, "tuning.vision_blocks={last: 2}")).fields == ("data.features", "tuning.vision_blocks")


def test_a_word_table_too_small_for_the_tokenizer(run):
    with pytest.raises(FieldError, match=r"the 30523 tokens of .*bert-base-uncased") as caught:
        check_vocabulary(run("model.qformer.vocabulary=30522"), 30523)
    assert caught.value.fields[0] == "model.qformer.vocabulary"
    check_vocabulary(run("model.qformer.vocabulary=30523"), 30523)
    check_vocabulary(run(), 30523)


def test_fine_tuning_wants_rows_it_has_not_seen(run):
    tuned = ("run.stage=finetune", "model.language={family: causal, weights: opt}", "data.languages=[en]")
    refused = refusal(run(*tuned, "data.train=[{name: few, table: few.json}]"))
    assert refused.fields == ("data.holdout", "data.validation")
    assert "holdout: {by: group}" in refused.reason
    cut = "data.holdout={by: image}"
    check(run(*tuned, "data.train=[{name: few, table: few.json}]", cut), 1)
    check(run(*tuned, "data.validation=[{name: other, shards: shards/other}]"), 1)
    assert "shards only" in refusal(run(*tuned, cut)).reason


def test_combinations_that_are_allowed(run):
    check(run("model.text.language_token=true"), 1)
    check(run("model.vision.dtype=fp16", "engine.precision=fp32"), 1)
    check(run("data.validation=[{name: photos, shards: shards/photos}]"), 1)


@pytest.mark.parametrize("words", ["engine.zero=3", "engine.offload=cpu"])
def test_frozen_blocks_are_divided_where_steps_run_them(run, words):
    features = "data.features={folder: features, views: 2}"
    check(run(words), 2)
    check(run(words, features, "run.stage=generate", "model.language={tokenizer: ice_text.model}"), 2)
    refused = refusal(run(words, features), 2)
    assert refused.fields == (words.partition("=")[0], "data.features")


def test_a_process_alone_divides_nothing(run):
    assert not moves_blocks(run("engine.zero=3"), 1)
    assert moves_blocks(run("engine.zero=3"), 2)
    assert moves_blocks(run("engine.offload=cpu"), 1)


def test_graphs_record_what_is_kept(run):
    check(run("engine.graphs=true"), 1)
    check(run("engine.graphs=true", "run.stage=generate", "model.language={tokenizer: ice_text.model}"), 1)
    refused = refusal(run("engine.graphs=true", "engine.recompute=true"))
    assert refused.fields == ("engine.graphs", "engine.recompute")
