"""Combinations across sections that cannot be, each refused with its reason and what would work."""

import pytest

from vglm_train.config.check import check, check_length, check_vocabulary, moves_blocks, split
from vglm_train.config.load import errors_with_location, load
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
    [(1, None, (24, 1)), (2, None, (12, 1)), (24, None, (1, 1)), (2, 4, (4, 3)), (4, 6, (6, 1)), (1, 8, (8, 3))],
)
def test_the_global_batch_is_shared_whole(run, world, micro, expected):
    cut = split(run(f"engine.micro_batch={micro or 'null'}"), world)
    assert (cut.micro, cut.accumulation) == expected
    assert cut.micro * cut.accumulation * world == 24


def test_a_batch_that_does_not_divide_names_what_would(run):
    error = refusal(run(), world=7)
    assert error.fields[0] == "data.global_batch"
    assert error.reason == "24 cannot be shared evenly by 7 processes. Nearest that can: 21 or 28"
    error = refusal(run("engine.micro_batch=5"), world=2)
    assert "2 processes x engine.micro_batch 5" in error.reason
    assert "20 or 30; or engine.micro_batch 4" in error.reason
    assert "Nearest that can: 32" in refusal(run(), world=32).reason


def test_the_error_names_the_line(run):
    config = run()
    with pytest.raises(UserError) as caught, errors_with_location("run.yaml"):
        check(config, 7)
    assert str(caught.value).startswith("run.yaml:7: data.global_batch: 24 cannot be shared")
    config = run("engine.micro_batch=5")
    with pytest.raises(UserError) as caught, errors_with_location("run.yaml", ["engine.micro_batch=5"]):
        check(config, 1)
    assert str(caught.value).startswith("override engine.micro_batch=5: data.global_batch: 24 cannot be shared")


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


def test_rows_that_run_at_once_come_from_one_source(run):
    config = run("data.mix=batch", "data.mix_rows=4", "data.global_batch=8", "engine.micro_batch=4")
    check(config, 1)
    with pytest.raises(FieldError, match="give a multiple of 8"):
        check(config, 2)


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


def test_graphs_record_what_has_one_shape_and_is_kept(run):
    check(run("engine.graphs=true"), 1)
    refused = refusal(run("engine.graphs=true", "engine.recompute=true"))
    assert refused.fields == ("engine.graphs", "engine.recompute")
    refused = refusal(run("engine.graphs=true", "run.stage=generate", "model.language={tokenizer: ice_text.model}"))
    assert refused.fields == ("engine.graphs",)
    assert "stage align" in str(refused)
