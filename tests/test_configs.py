"""Every shipped YAML loads, survives being written out, keeps all rules, and builds what was published."""

import dataclasses

import pytest
import tiny
import torch
from shipped import (
    CONFIGS,
    PRESETS,
    STAGE_TWO,
    YAMLS,
    Read,
    count,
    eva_g,
    linear,
    meta_language,
    name,
    norm,
    qformer_query_side,
    qformer_text_side,
    reader,
    tuned,
)

from vglm_train.config.batch_split import split
from vglm_train.config.check import check, check_length
from vglm_train.config.data import Data
from vglm_train.config.load import dump, load
from vglm_train.config.metric_names import best_metrics
from vglm_train.config.model import Text
from vglm_train.config.run import Config, Evaluate
from vglm_train.data.eval_captions import EvalItem
from vglm_train.distributed import Ranks
from vglm_train.evaluate.retrieval.evaluator import Embedder, RetrievalEvaluator
from vglm_train.model.alignment import Alignment, build_alignment
from vglm_train.prompt.qformer_text import build_text

BERT_UNCASED = 30522 + 1  # and [DEC]
BERT_MULTILINGUAL = 119547 + 3  # and [DEC], [EN], [ZH]
VOCABULARIES = {"bert-base-uncased": BERT_UNCASED, "bert-base-multilingual-cased": BERT_MULTILINGUAL}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    return reader(tmp_path_factory.mktemp("bundles"))


def meta_model(config: Config, vocabulary: int) -> Alignment:
    with torch.device("meta"):
        return build_alignment(config.model, vocabulary, config.data.image.mean, config.data.image.std)


def heads(vocabulary: int) -> int:
    """Image norm, two contrastive projections, matching, captioning tied to the words, temperature."""
    captioning = linear(768, 768) + norm(768) + vocabulary
    return norm(1408) + 2 * linear(768, 256) + linear(768, 2) + captioning + 1


def test_there_are_configs_to_test():
    assert {name(path) for path in PRESETS} == {
        f"pretrain/{recipe}_stage1.yaml" for recipe in ("blip2_paper", "lavis", "visualglm")
    }
    assert {path.stem for path in STAGE_TWO} == {
        "blip2_paper_stage2_opt",
        "blip2_paper_stage2_flan_t5",
        "lavis_stage2_opt",
        "visualglm_stage2",
    }


@pytest.mark.parametrize("path", YAMLS, ids=name)
def test_loads_writes_out_and_keeps_the_rules(path, read, tmp_path):
    config = read(path)
    check(config, world=1)
    check_length(config, epoch_samples=100 * config.data.global_batch * 1000)
    written = tmp_path / "config.yaml"
    written.write_text(dump(config), encoding="utf-8")
    assert load(written) == config
    assert dump(load(written)) == dump(config)


@pytest.mark.parametrize("path", YAMLS, ids=name)
def test_writing_out_keeps_every_single_change(path, read, tmp_path):
    """Equality above could hold by defaults alone: change each leaf that may change freely and look again."""
    config = read(path)
    written = tmp_path / "config.yaml"
    for changed in one_leaf_changed(config):
        written.write_text(dump(changed), encoding="utf-8")
        assert load(written) == changed
        assert changed != config


def one_leaf_changed(config: Config):
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        for field in dataclasses.fields(value):
            leaf = getattr(value, field.name)
            other = {bool: lambda x: not x, str: lambda x: x + " 照片: #1", float: lambda x: x * 0.7 or 1e-9}.get(
                type(leaf)
            )
            if other is None or "Literal" in str(field.type):
                continue
            try:
                yield dataclasses.replace(
                    config, **{section.name: dataclasses.replace(value, **{field.name: other(leaf)})}
                )
            except ValueError:  # out of range now
                continue


@pytest.mark.parametrize("path", YAMLS, ids=name)
def test_builds_on_the_meta_device(path, read):
    config = read(path)
    if config.run.stage == "align":
        model = meta_model(config, VOCABULARIES.get(config.model.text.tokenizer, BERT_UNCASED))
    elif config.run.stage == "finetune":
        model = tuned(config)
    else:
        model = meta_language(config)
        assert not any(parameter.requires_grad for parameter in model.language.parameters())
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in model.vision.parameters())


OPT = (
    50272 * 2560
    + (2048 + 2) * 2560
    + norm(2560)
    + 32 * (4 * linear(2560, 2560) + linear(2560, 10240) + linear(10240, 2560) + 2 * norm(2560))
)
T5_STACK = 24 * (3 * 2048 * 5120 + 4 * 2048 * 2048 + 2 * 2048) + 32 * 32 + 2048
T5 = 2 * 32128 * 2048 + 2 * T5_STACK + 24 * (4 * 2048 * 2048 + 2048)
GLM = (
    2 * 130528 * 4096
    + 28 * (linear(4096, 3 * 4096) + linear(4096, 4096) + linear(4096, 16384) + linear(16384, 4096) + 2 * norm(4096))
    + norm(4096)
)


@pytest.mark.parametrize("path", STAGE_TWO, ids=name)
def test_stage_two_has_the_published_sizes(path):
    config = load(path)
    model = meta_language(config)
    width = {"causal": 2560, "seq2seq": 2048, "chatglm": 4096}[config.model.language.family]
    assert count(model.language) == {"causal": OPT, "seq2seq": T5, "chatglm": GLM}[config.model.language.family]
    assert count(model.vision) == eva_g()
    trained = sum(parameter.numel() for _, parameter in model.trained_parameters())
    assert trained == qformer_query_side() + norm(1408) + linear(768, width)
    if width == 2560:
        assert trained == 107_133_696  # what a public reproduction of BLIP-2 with OPT-2.7B logs


def test_stage_two_sizes_in_figures():
    assert OPT == 2_651_596_800  # "2.7 B"
    assert pytest.approx(2.85e9, rel=1e-2) == T5  # Flan-T5-XL
    whole = GLM + eva_g() + qformer_query_side() + linear(768, 4096)
    assert whole == pytest.approx(7.8e9, rel=2e-3)  # VisualGLM-6B, "7.8 billion parameters"


@pytest.mark.parametrize("path", PRESETS, ids=name)
def test_presets_have_the_published_sizes(path):
    config = load(path)
    vocabulary = VOCABULARIES[config.model.text.tokenizer]
    assert config.model.qformer.vocabulary == vocabulary  # said, so that the size is known without the tokenizer
    model = meta_model(config, vocabulary)
    assert count(model.vision) == eva_g() == 985_949_440  # "EVA about 986 M", VisualGLM-6B
    assert count(model.qformer) == qformer_query_side() + qformer_text_side(vocabulary)
    trained = sum(parameter.numel() for _, parameter in model.trained_parameters())
    assert trained == count(model.qformer) + heads(vocabulary)
    assert trained == count(model) - count(model.vision)


def test_published_sizes_in_figures():
    assert qformer_query_side() == pytest.approx(105.2e6, rel=1e-3)  # released VisualGLM-6B, query side only
    trained = qformer_query_side() + qformer_text_side(BERT_UNCASED) + heads(BERT_UNCASED)
    assert trained == 186_705_470
    assert trained == pytest.approx(188e6, rel=0.01)  # BLIP-2 paper, in round millions


PUBLISHED = {
    "blip2_paper": {
        "run.length.steps": 250_000,
        "data.global_batch": 1680,
        "data.image.flip": True,
        "data.image.crop_scale": (0.5, 1.0),
        "data.languages": ("en",),
        "model.vision.image_size": 224,
        "model.qformer.queries": 32,
        "model.text.max_length": 32,
        "model.text.processor": "blip",
        "objective.itc.gather": "exact",
        "objective.mean": "global",
        "optim.lr": 1e-4,
        "optim.min_lr": 1e-5,
        "optim.warmup.steps": 2000,
        "optim.decay": "cosine",
        "optim.betas": (0.9, 0.98),
        "optim.weight_decay": 0.05,
        "optim.clip": None,
    },
    "lavis": {
        "run.length.epochs": 10,
        "run.seed": 42,
        "data.global_batch": 1600,
        "data.workers": 4,
        "model.vision.dtype": "fp16",
        "objective.itc.gather": "lavis",
        "objective.itc.smoothing": 0.1,
        "objective.itg.smoothing": 0.1,
        "objective.mean": "micro",
        "optim.lr": 1e-4,
        "optim.min_lr": 1e-5,
        "optim.warmup_lr": 1e-6,
        "optim.warmup.steps": 5000,
        "optim.decay": "cosine_per_epoch",
        "optim.betas": (0.9, 0.999),
        "optim.weight_decay": 0.05,
        "optim.decay_rule": "lavis",
        "optim.clip": None,
    },
    "visualglm": {
        "data.languages": ("en", "zh"),
        "model.text.processor": "plain",
        "model.text.language_token": True,
        "model.vision.width": 1408,
        "model.vision.depth": 39,
        "model.vision.heads": 16,
        "model.vision.mlp_width": 6144,
        "model.qformer.layers": 12,
        "model.qformer.width": 768,
        "model.qformer.queries": 32,
        "model.qformer.cross_every": 2,
        "data.global_batch": 1680,
        "optim.betas": (0.9, 0.98),
    },
}


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_presets_hold_the_published_values(recipe):
    config = load(CONFIGS / "pretrain" / f"{recipe}_stage1.yaml")
    for key, value in PUBLISHED[recipe].items():
        found = config
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value, key


@pytest.mark.parametrize(
    ("recipe", "rows"),
    [
        ("blip2_paper_stage1", 105),
        ("lavis_stage1", 100),
        ("visualglm_stage1", 105),
        ("blip2_paper_stage2_opt", 120),
        ("blip2_paper_stage2_flan_t5", 95),
        ("lavis_stage2_opt", 64),
    ],
)
def test_presets_run_on_the_published_sixteen_gpus(recipe, rows):
    config = load(CONFIGS / "pretrain" / f"{recipe}.yaml")
    check(config, world=16)
    assert split(config, world=16).micro == rows


def test_a_run_may_choose_its_best_step_by_every_score_of_an_evaluation(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh猫狗鸟鱼"]), encoding="utf-8"
    )
    text = build_text(Text(tokenizer=str(vocabulary), max_length=8, processor="plain"))
    model = tiny.alignment()
    items = [
        EvalItem(
            key=c,
            image_id=i,
            pixels=torch.full((3, 16, 16), 40 * i, dtype=torch.uint8),
            captions={"en": (c,), "zh": (z,)},
        )
        for i, (c, z) in enumerate(zip("abcd", "猫狗鸟鱼"))
    ]
    for rerank in (0, 2):
        config = tiny.config(data=Data(languages=("en", "zh")), evaluate=Evaluate(rerank=rerank))
        embedder = Embedder(model.eval(), text, torch.device("cpu"))
        given, _ = RetrievalEvaluator(embedder, items, config.data.languages, rerank, 0, Ranks())()
        names = {name for name in given if "_shuffled_" not in name and not name.endswith("_images")}
        assert set(best_metrics(config)) == names
