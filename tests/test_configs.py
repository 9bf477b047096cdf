"""Every shipped YAML loads, survives being written out, keeps all rules, and builds what was published."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

from vglm_train.checkpoint.bundle import VERSION
from vglm_train.config.check import check, check_length, scores, split
from vglm_train.config.data import Data
from vglm_train.config.load import dump, load
from vglm_train.config.model import Text
from vglm_train.config.run import Config, Evaluate
from vglm_train.data.evalset import EvalItem
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.retrieval import Embedder, Retrieval
from vglm_train.model.alignment import Alignment, build_alignment
from vglm_train.model.tuning import apply_tuning
from vglm_train.model.visual_language import VisualLanguageModel, build_visual_language
from vglm_train.prompt.text import build_text

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
YAMLS = sorted(CONFIGS.rglob("*.yaml"))
PRESETS = sorted((CONFIGS / "pretrain").glob("*_stage1.yaml"))
STAGE_TWO = sorted((CONFIGS / "pretrain").glob("*_stage2*.yaml"))
FINETUNE = sorted((CONFIGS / "finetune").glob("*.yaml"))
BASES = {
    "weights/visualglm": "pretrain/visualglm_stage2.yaml",
    "weights/blip2-opt-2.7b": "pretrain/blip2_paper_stage2_opt.yaml",
    "weights/blip2-flan-t5-xl": "pretrain/blip2_paper_stage2_flan_t5.yaml",
    "demo_run/run2/bundle": "demo_stage2.yaml",
}
BERT_UNCASED = 30522 + 1  # and [DEC]
BERT_MULTILINGUAL = 119547 + 3  # and [DEC], [EN], [ZH]
VOCABULARIES = {"bert-base-uncased": BERT_UNCASED, "bert-base-multilingual-cased": BERT_MULTILINGUAL}


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


Read = Callable[[Path], Config]


def begins_with(path: Path) -> str | None:
    """The bundle that a YAML names."""
    found = re.search(r"^  bundle: (\S+)$", path.read_text("utf-8"), re.MULTILINE)
    return found.group(1) if found else None


def write_description(folder: Path, recipe: Path) -> None:
    """Of a bundle of stage two what is read before its weights: configuration, shape, and where the towers are."""
    config = load(recipe)
    towers = {tower: getattr(config.model, tower).weights for tower in ("vision", "language")}
    named = {tower: {"file": file, "fingerprint": "not computed"} for tower, file in towers.items()}
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "bundle.json").write_text(json.dumps({"version": VERSION, "stage": "generate", "towers": named}))
    (folder / "config.yaml").write_text(dump(config), "utf-8")
    if config.model.language.config:
        shutil.copy(CONFIGS.parent / config.model.language.config / "config.json", folder / "tokenizer")


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """`load`; where a YAML begins with a bundle, that one's description lies elsewhere."""
    folder = tmp_path_factory.mktemp("bundles")
    places = {name: folder / str(number) for number, name in enumerate(BASES)}
    for name, recipe in BASES.items():
        write_description(places[name], CONFIGS / recipe)

    def read(path: Path) -> Config:
        bundle = begins_with(path)
        return load(path, [f"model.bundle={places[bundle]}"] if bundle else [])

    return read


def meta_model(config: Config, vocabulary: int) -> Alignment:
    with torch.device("meta"):
        return build_alignment(config.model, vocabulary, config.data.image.mean, config.data.image.std)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def norm(width: int) -> int:
    return 2 * width


def eva_g() -> int:
    """EVA ViT-g/14 at 224 px without its last block and its final norm."""
    width, mlp, tokens = 1408, 6144, 1 + (224 // 14) ** 2
    block = linear(width, 3 * width) + linear(width, width) + linear(width, mlp) + linear(mlp, width) + 2 * norm(width)
    return 3 * 14 * 14 * width + width + width + tokens * width + 39 * block


def qformer_query_side() -> int:
    """What a Q-Former without text is made of: queries, shared attention, query feed-forwards, 6 cross-attentions."""
    width, mlp = 768, 3072
    attention = 4 * linear(width, width) + norm(width)
    feed_forward = linear(width, mlp) + linear(mlp, width) + norm(width)
    cross = 2 * linear(width, width) + 2 * linear(1408, width) + norm(width)
    return 32 * width + norm(width) + 12 * (attention + feed_forward) + 6 * cross


def qformer_text_side(vocabulary: int) -> int:
    """Words, positions and a feed-forward of its own in each block; attention is shared with the queries."""
    width, mlp = 768, 3072
    return (vocabulary + 512) * width + 12 * (linear(width, mlp) + linear(mlp, width) + norm(width))


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
    methods = ("chatglm_lora", "chatglm_qlora", "chatglm_ptuning", "opt", "flan_t5")
    wanted = {f"xray_{task}_{method}" for task in ("vqa", "report") for method in methods}
    assert {path.stem for path in FINETUNE} == {"marks", *wanted}
    assert {begins_with(path) for path in FINETUNE} == set(BASES)


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
        assert all(name.endswith(ADDED) for name, _ in trained_language(model))
    else:
        model = meta_language(config)
        assert not any(parameter.requires_grad for parameter in model.language.parameters())
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in model.vision.parameters())


def meta_language(config: Config) -> VisualLanguageModel:
    with torch.device("meta"):
        image, four_bits = config.data.image, config.tuning.quantize
        return build_visual_language(config.model, image.mean, image.std, quantize=four_bits)


ADDED = (".lora_a", ".lora_b", ".prefix_keys", ".prefix_values")


def tuned(config: Config) -> VisualLanguageModel:
    model = meta_language(config)
    apply_tuning(model, config.tuning)
    return model


def trained_language(model: VisualLanguageModel) -> list[tuple[str, torch.nn.Parameter]]:
    return [(n, parameter) for n, parameter in model.language.named_parameters() if parameter.requires_grad]


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


def lora_pair(rank: int, inputs: int, outputs: int) -> int:
    return rank * (inputs + outputs)


ADAPTED = {
    "lora": 2 * (lora_pair(10, 4096, 3 * 4096) + lora_pair(10, 4096, 4096)),  # rank 10, two blocks, both products
    "ptuning": 28 * 4 * 2 * 4096,  # a key and a value for each of 4 places in 28 blocks
    "opt": qformer_query_side() + norm(1408) + linear(768, 2560),
    "t5": qformer_query_side() + norm(1408) + linear(768, 2048),
}
ADAPTED["qlora"] = ADAPTED["lora"]


@pytest.mark.parametrize("path", [path for path in FINETUNE if path.stem.startswith("xray_")], ids=name)
def test_fine_tuning_trains_what_was_published(path, read):
    """VisualGLM's script: rank 10 on blocks 0 and 14, or 4 places before every block; BLIP-2: what stage two trains."""
    model = tuned(read(path))
    assert sum(parameter.numel() for _, parameter in model.trained_parameters()) == ADAPTED[path.stem.split("_")[-1]]


def test_fine_tuning_sizes_in_figures():
    assert ADAPTED["lora"] == 491_520  # 1.97 MB in fp32, beside 15 GB that VisualGLM's script saves
    assert ADAPTED["ptuning"] == 917_504
    assert ADAPTED["opt"] == 107_133_696


@pytest.mark.parametrize("path", FINETUNE, ids=name)
def test_fine_tuning_is_judged_by_others_and_mirrors_nothing(path, read):
    config = read(path)
    assert not config.data.image.flip  # X-rays have a left side
    assert config.data.holdout.by == "group"
    assert config.checkpoint.best in scores(config)
    assert config.evaluate.patience is not None


@pytest.mark.parametrize("path", FINETUNE, ids=name)
def test_fine_tuning_says_where_a_bundle_is_missing(path, monkeypatch, tmp_path):
    """One line that names the bundle; the first lines of the file say how it is made."""
    monkeypatch.chdir(tmp_path)
    bundle = begins_with(path)
    with pytest.raises(UserError, match=rf"model\.bundle: {bundle} is no bundle"):
        load(path)
    head = path.read_text("utf-8").split("run:")[0]
    assert bundle in head or "make demo" in head


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


def test_the_scores_a_run_may_choose_by_are_those_that_evaluation_gives(tmp_path):
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
        given, _ = Retrieval(embedder, items, config.data.languages, rerank, 0, Ranks())()
        assert set(scores(config)) == {name for name in given if "_shuffled_" not in name}
