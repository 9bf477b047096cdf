"""What is looked at of a run, section by section: for W&B's workspace, the live page and the picture of the report.

Every metric of `config/metric_meanings.py` is in a panel here. Names may hold the same places as there. A metric
without a panel and a panel without a metric fail a test of each page.
"""

from dataclasses import dataclass
from typing import Literal

from vglm_train.config.metric_names import RERANK, SHUFFLED_IMAGES
from vglm_train.config.run import StageName
from vglm_train.log.alarms import ITM_BAND, ITM_RIGHT

ALIGN: tuple[StageName, ...] = ("align",)
LATER: tuple[StageName, ...] = ("generate", "finetune")
FINETUNE: tuple[StageName, ...] = ("finetune",)
STAGES = ALIGN + LATER


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves of some metrics, or the newest of some tables. What W&B cannot draw is for the other pages alone."""

    en: str
    zh: str
    names: str  # with blanks between them
    stages: tuple[StageName, ...] = STAGES
    x: Literal["Step", "data/samples"] = "Step"  # by samples: in W&B, whose cursor is not shared by all panels
    kind: Literal["lines", "areas", "table"] = "lines"  # areas: shares that add up to one
    noisy: bool = False  # show a running mean; not in W&B, where each person chooses it
    level: float | None = None  # what a guess gives; not in W&B
    band: tuple[float, float] | None = None  # the same with its noise


@dataclass(frozen=True, slots=True)
class Section:
    """Panels that answer one question."""

    en: str
    zh: str
    panels: tuple[Panel, ...]


SECTIONS = (
    Section(
        "Losses",
        "损失",
        (
            Panel(
                "loss, by samples; stage one beside the public run",
                "总 loss，按样本数；第一阶段与公开训练对比",
                "train/loss",
                x="data/samples",
            ),
            Panel("loss", "总 loss", "train/loss", noisy=True),
            Panel("ITC loss", "ITC loss", "train/loss_itc", ALIGN, noisy=True),
            Panel(
                "ITM loss (blind: 0.637)", "ITM loss（瞎猜：0.637）", "train/loss_itm", ALIGN, noisy=True, band=ITM_BAND
            ),
            Panel("ITG loss", "ITG loss", "train/loss_itg", ALIGN, noisy=True),
            Panel("LM loss", "LM loss", "train/loss_lm", LATER, noisy=True),
        ),
    ),
    Section(
        "Is it learning?",
        "在学习吗？",
        (
            Panel("ITC: share right", "ITC：正确率", "train/itc_accuracy", ALIGN, noisy=True),
            Panel(
                "ITM: share right (blind: 0.667)",
                "ITM：正确率（瞎猜：0.667）",
                "train/itm_accuracy",
                ALIGN,
                noisy=True,
                level=ITM_RIGHT,
            ),
            Panel("LM: share of tokens right", "LM：词元正确率", "train/lm_accuracy", LATER, noisy=True),
            Panel("temperature", "温度", "train/temperature", ALIGN),
            Panel("learning rate", "学习率", "train/lr"),
            Panel("gradient norm before clipping", "裁剪前的梯度范数", "train/grad_norm", noisy=True),
            Panel("steps that were not finite", "非有限数的步", "train/steps_not_finite"),
        ),
    ),
    Section(
        "Retrieval",
        "检索",
        (
            Panel("mean recall", "平均召回率", "eval/r_mean", ALIGN),
            Panel("recall at 1 by ITC", "ITC 的前 1 名召回率", "eval/{LANG}_{WAY}_r1", ALIGN),
            Panel(
                "recall at 5 and 10 by ITC",
                "ITC 的前 5、10 名召回率",
                "eval/{LANG}_{WAY}_r5 eval/{LANG}_{WAY}_r10",
                ALIGN,
            ),
            Panel(
                "recall at 1, re-ranked by ITM",
                "经 ITM 重排的前 1 名召回率",
                f"eval/{{LANG}}_{RERANK}{{WAY}}_r1",
                ALIGN,
            ),
            Panel(
                "recall at 5 and 10, re-ranked by ITM",
                "经 ITM 重排的前 5、10 名召回率",
                f"eval/{{LANG}}_{RERANK}{{WAY}}_r5 eval/{{LANG}}_{RERANK}{{WAY}}_r10",
                ALIGN,
            ),
            Panel(
                "recall, images shuffled: chance",
                "打乱图片后的召回率：应为随机水平",
                f"eval/{{LANG}}_{SHUFFLED_IMAGES}{{WAY}}_r{{K}}",
                ALIGN,
            ),
            Panel(
                "held-out ITM: share right (blind: 50)",
                "留出集 ITM：正确率（瞎猜：50）",
                f"eval/{{LANG}}_itm_accuracy eval/{{LANG}}_{SHUFFLED_IMAGES}itm_accuracy",
                ALIGN,
                level=50.0,
            ),
            Panel("captions found, with pictures", "检索到的描述，附图片", "retrieval", ALIGN, kind="table"),
        ),
    ),
    Section(
        "Does it look at the picture?",
        "它看图片吗？",
        (
            Panel(
                "loss gap with its 95 % interval (does not look: 0)",
                "loss 差及其 95 % 区间（不看图：0）",
                "eval/{LANG}_loss_gap eval/{LANG}_loss_gap_low eval/{LANG}_loss_gap_high",
                LATER,
                level=0.0,
            ),
            Panel(
                "held-out loss, with its picture and another",
                "留出集 loss，用自己的图片和另一张图片",
                "eval/{LANG}_loss eval/{LANG}_shuffled_loss",
                LATER,
            ),
        ),
    ),
    Section(
        "Captions",
        "图片描述",
        (
            Panel("captions with pictures", "描述，附图片", "captions_{LANG}", LATER, kind="table"),
            Panel(
                "English",
                "英文",
                "eval/en_bleu1 eval/en_bleu2 eval/en_bleu3 eval/en_bleu4 eval/en_rouge_l eval/en_cider eval/en_meteor",
                LATER,
            ),
            Panel(
                "Chinese by characters", "中文，按字", "eval/zh_bleu4 eval/zh_rouge_l_char eval/zh_cider_char", LATER
            ),
            Panel(
                "Chinese by words",
                "中文，按词",
                "eval/zh_bleu4_word eval/zh_rouge_1 eval/zh_rouge_2 eval/zh_rouge_l eval/zh_cider eval/zh_bleu4_corpus",
                LATER,
            ),
            Panel("share of different captions", "互不相同的描述的比例", "eval/{LANG}_distinct", LATER),
        ),
    ),
    Section(
        "Questions and reports",
        "问答与报告",
        (
            Panel("answers with pictures", "回答，附图片", "answers_{TASK}", FINETUNE, kind="table"),
            Panel("answers", "回答", "eval/{TASK}_{ANSWER}", FINETUNE),
            Panel("answers without looking", "不看图的回答", "eval/{TASK}_{BASELINE}_{ANSWER}", FINETUNE),
            Panel("texts of reports", "报告的文字", "eval/report_{TEXT} eval/report_{BASELINE}_{TEXT}", FINETUNE),
        ),
    ),
    Section(
        "Speed",
        "速度",
        (
            Panel("samples a second", "每秒样本数", "perf/samples_per_second", noisy=True),
            Panel("text tokens a second", "每秒文字词元数", "perf/tokens_per_second", noisy=True),
            Panel(
                "against the floor: share of the GPUs' 16-bit peak",
                "与下限相比：占 GPU 16 位峰值的比例",
                "perf/mfu",
                noisy=True,
            ),
            Panel("share of time waiting for data", "等待数据的时间比例", "perf/data_wait_fraction", noisy=True),
            Panel("memory, GiB", "内存（GiB）", "perf/memory_gib"),
            Panel(
                "seconds of each start, and their parts",
                "每次启动的秒数及其各部分",
                "perf/start_seconds perf/start_imports perf/start_processes perf/start_inputs perf/start_model "
                "perf/start_weights perf/start_features perf/start_engine perf/start_checkpoint perf/start_outputs "
                "perf/start_first_batch perf/start_first_step",
            ),
        ),
    ),
    Section(
        "Data",
        "数据",
        (
            Panel("damaged samples by cause", "损坏样本数，按原因", "data/damaged data/damaged_{CAUSE}"),
            Panel(
                "shares of sources and languages",
                "各来源与语言的比例",
                "data/share_{SOURCE} data/share_{LANG}",
                kind="areas",
            ),
            Panel("epochs", "轮数", "data/epoch"),
            Panel("samples", "样本数", "data/samples"),
            Panel("share of padding", "填充比例", "train/padding", LATER, noisy=True),
            Panel(
                "share of rows without a negative for ITM",
                "找不到 ITM 负样本的行的比例",
                "train/itm_left_out",
                ALIGN,
                noisy=True,
            ),
            Panel("pictures that were evaluated", "评测了多少张图片", "eval/{LANG}_images"),
            Panel("questions that were evaluated", "评测了多少个问题", "eval/{TASK}_questions", FINETUNE),
        ),
    ),
)

# what runs are compared by: the best value of each
COMPARED = (
    "train/loss", "eval/r_mean", "eval/en_cider", "eval/zh_cider", "eval/en_loss_gap", "eval/zh_loss_gap",
    "eval/vqa_accuracy", "eval/report_f1", "perf/samples_per_second",
)  # fmt: skip
# what runs differ in: the questions of configs/sweeps
ASKED = ("optim.lr", "data.global_batch", "objective.itc.batch", "tuning.lora.rank")


def sections(stage: StageName) -> list[Section]:
    """Those with panels of the stage, each with those panels only."""
    found = [Section(each.en, each.zh, tuple(p for p in each.panels if stage in p.stages)) for each in SECTIONS]
    return [section for section in found if section.panels]
