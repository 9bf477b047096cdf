"""What is looked at of a run, section by section: every metric of `config/metric_meanings.py` is in a panel here.

Names may hold the same places as there. A metric without a panel and a panel without a metric fail a test.
"""

from dataclasses import dataclass
from typing import Literal

from vglm_train.config.metric_names import RERANK, SHUFFLED_IMAGES
from vglm_train.config.run import StageName

ALIGN: tuple[StageName, ...] = ("align",)
LATER: tuple[StageName, ...] = ("generate", "finetune")
FINETUNE: tuple[StageName, ...] = ("finetune",)
STAGES = ALIGN + LATER


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves of some metrics, or the newest of some tables."""

    title: str
    names: str  # with blanks between them
    stages: tuple[StageName, ...] = STAGES
    x: Literal["Step", "data/samples"] = "Step"
    kind: Literal["lines", "areas", "table"] = "lines"  # areas: shares that add up to one


@dataclass(frozen=True, slots=True)
class Section:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


SECTIONS = (
    Section(
        "Losses",
        (
            Panel("loss, by samples; stage one beside the public run", "train/loss", x="data/samples"),
            Panel("loss", "train/loss"),
            Panel("ITC loss", "train/loss_itc", ALIGN),
            Panel("ITM loss (blind: 0.637)", "train/loss_itm", ALIGN),
            Panel("ITG loss", "train/loss_itg", ALIGN),
            Panel("LM loss", "train/loss_lm", LATER),
        ),
    ),
    Section(
        "Is it learning?",
        (
            Panel("ITC: share right", "train/itc_accuracy", ALIGN),
            Panel("ITM: share right (blind: 0.667)", "train/itm_accuracy", ALIGN),
            Panel("LM: share of tokens right", "train/lm_accuracy", LATER),
            Panel("temperature", "train/temperature", ALIGN),
            Panel("learning rate", "train/lr"),
            Panel("gradient norm before clipping", "train/grad_norm"),
            Panel("steps that were not finite", "train/steps_not_finite"),
        ),
    ),
    Section(
        "Retrieval",
        (
            Panel("mean recall", "eval/r_mean", ALIGN),
            Panel("recall by ITC", "eval/{LANG}_{WAY}_r{K}", ALIGN),
            Panel("recall, re-ranked by ITM", f"eval/{{LANG}}_{RERANK}{{WAY}}_r{{K}}", ALIGN),
            Panel("recall, images shuffled: chance", f"eval/{{LANG}}_{SHUFFLED_IMAGES}{{WAY}}_r{{K}}", ALIGN),
            Panel(
                "held-out ITM: share right (blind: 50)",
                f"eval/{{LANG}}_itm_accuracy eval/{{LANG}}_{SHUFFLED_IMAGES}itm_accuracy",
                ALIGN,
            ),
            Panel("captions found, with pictures", "retrieval", ALIGN, kind="table"),
        ),
    ),
    Section(
        "Does it look at the picture?",
        (
            Panel(
                "loss gap with its 95 % interval (does not look: 0)",
                "eval/{LANG}_loss_gap eval/{LANG}_loss_gap_low eval/{LANG}_loss_gap_high",
                LATER,
            ),
            Panel("held-out loss, with its picture and another", "eval/{LANG}_loss eval/{LANG}_shuffled_loss", LATER),
        ),
    ),
    Section(
        "Captions",
        (
            Panel("captions with pictures", "captions_{LANG}", LATER, kind="table"),
            Panel(
                "English",
                "eval/en_bleu1 eval/en_bleu2 eval/en_bleu3 eval/en_bleu4 eval/en_rouge_l eval/en_cider eval/en_meteor",
                LATER,
            ),
            Panel("Chinese by characters", "eval/zh_bleu4 eval/zh_rouge_l_char eval/zh_cider_char", LATER),
            Panel(
                "Chinese by words",
                "eval/zh_bleu4_word eval/zh_rouge_1 eval/zh_rouge_2 eval/zh_rouge_l eval/zh_cider eval/zh_bleu4_corpus",
                LATER,
            ),
            Panel("share of different captions", "eval/{LANG}_distinct", LATER),
        ),
    ),
    Section(
        "Questions and reports",
        (
            Panel("answers with pictures", "answers_{TASK}", FINETUNE, kind="table"),
            Panel("answers", "eval/{TASK}_{ANSWER}", FINETUNE),
            Panel("answers without looking", "eval/{TASK}_{BASELINE}_{ANSWER}", FINETUNE),
            Panel("texts of reports", "eval/report_{TEXT} eval/report_{BASELINE}_{TEXT}", FINETUNE),
        ),
    ),
    Section(
        "Speed",
        (
            Panel("samples a second", "perf/samples_per_second"),
            Panel("text tokens a second", "perf/tokens_per_second"),
            Panel("against the floor: share of the GPUs' 16-bit peak", "perf/mfu"),
            Panel("share of time waiting for data", "perf/data_wait_fraction"),
            Panel("memory, GiB", "perf/memory_gib"),
            Panel(
                "seconds of each start, and their parts",
                "perf/start_seconds perf/start_imports perf/start_processes perf/start_inputs perf/start_model "
                "perf/start_weights perf/start_features perf/start_engine perf/start_checkpoint perf/start_outputs "
                "perf/start_first_batch perf/start_first_step",
            ),
        ),
    ),
    Section(
        "Data",
        (
            Panel("damaged samples by cause", "data/damaged data/damaged_{CAUSE}"),
            Panel("shares of sources and languages", "data/share_{SOURCE} data/share_{LANG}", kind="areas"),
            Panel("epochs and samples", "data/epoch data/samples"),
            Panel("share of padding", "train/padding", LATER),
            Panel("share of rows without a negative for ITM", "train/itm_left_out", ALIGN),
            Panel("pictures that were evaluated", "eval/{LANG}_images"),
            Panel("questions that were evaluated", "eval/{TASK}_questions", FINETUNE),
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
    found = [Section(each.title, tuple(p for p in each.panels if stage in p.stages)) for each in SECTIONS]
    return [section for section in found if section.panels]
