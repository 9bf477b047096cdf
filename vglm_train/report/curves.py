"""Curves of several runs as one PNG."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from vglm_train.log.alarms import ITM_BAND
from vglm_train.report import reference
from vglm_train.report.runs import LoggedRun, Series
from vglm_train.report.verdict import speaks

COLUMNS = 3
STYLES = ("-", "--", ":", "-.")
LATIN = "DejaVu Sans"  # comes with matplotlib
CHINESE = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Heiti TC",
    "Arial Unicode MS",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: metrics over steps, a line of its own style for each."""

    title: str
    names: Sequence[str]
    level: tuple[float, str] | None = None  # a horizontal line and what it means
    band: tuple[float, float] | None = None
    noisy: bool = True  # show a running mean


PANELS = (
    Panel("loss", ["train/loss"]),
    Panel("ITC loss", ["train/loss_itc"]),
    Panel("ITM loss", ["train/loss_itm"], band=ITM_BAND),
    Panel("ITG loss", ["train/loss_itg"]),
    Panel("LM loss", ["train/loss_lm"]),
    Panel("LM accuracy", ["train/lm_accuracy"]),
    Panel("share of padding", ["train/padding"]),
    Panel("ITC accuracy", ["train/itc_accuracy"]),
    Panel("ITM accuracy", ["train/itm_accuracy"], level=(2 / 3, "blind guess")),
    Panel("temperature", ["train/temperature"], noisy=False),
    Panel("learning rate", ["train/lr"], noisy=False),
    Panel("gradient norm", ["train/grad_norm"]),
    Panel("samples a second", ["perf/samples_per_second"]),
    Panel("share of time waiting for data", ["perf/data_wait_fraction"]),
    Panel("memory, GiB", ["perf/memory_gib"], noisy=False),
    Panel("damaged samples", ["data/skipped"], noisy=False),
)
RECALL = re.compile(r"eval/[a-z]+_((?:rerank_|shuffled_)?)(?:i2t|t2i)_r(\d+)")
SPOKEN = re.compile(r"eval/[a-z]+_(?:shuffled_)?(distinct|cider|bleu\d|rouge_\w|meteor|loss)\w*")
KINDS = {"": "ITC", "rerank_": "re-ranked by ITM", "shuffled_": "images shuffled"}


def draw(runs: Sequence[LoggedRun], path: Path) -> None:
    """Write the curves of `runs` to the PNG `path`; panels that no run has are left out."""
    names = set().union(*(run.names() for run in runs))
    panels = [panel for panel in [*PANELS, *_evaluations(names)] if names & set(panel.names)]
    with matplotlib.rc_context({"font.family": fonts(), "axes.formatter.useoffset": False}):
        beside = 2 * any(not speaks(run) for run in runs)  # the public run is one of stage one
        rows = math.ceil((len(panels) + beside) / COLUMNS)
        figure = Figure(figsize=(6 * COLUMNS, 3.8 * rows + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
        labels = [label(number, run) for number, run in enumerate(runs, 1)]
        for unit, place in zip(("epochs", "steps")[:beside], axes):
            _beside_reference(place, runs, labels, unit)
        for panel, place in zip(panels, axes[beside:]):
            _panel(place, panel, runs)
        if not beside:
            for number, text in enumerate(labels):
                axes[0].plot([], [], color=f"C{number % 10}", label=text)
            axes[0].legend(fontsize="small")
        for place in axes[len(panels) + beside :]:
            place.set_axis_off()
        figure.savefig(path, dpi=90)


def label(number: int, run: LoggedRun) -> str:
    """`1: name`, or `run 1` where no font at hand can write it. Dollar signs would start a formula."""
    known = set().union(*(_characters(font) for font in _files(fonts())))
    readable = all(ord(character) in known for character in run.label)
    return f"{number}: {run.label}".replace("$", r"\$") if readable else f"run {number}"


def fonts() -> list[str]:
    """The Latin font, then the first Chinese one that is installed."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return [LATIN, *[name for name in CHINESE if name in installed][:1]]


def _files(families: Iterable[str]) -> list[str]:
    return [font_manager.findfont(family) for family in families]


def _characters(font: str) -> set[int]:
    return set(FT2Font(font).get_charmap())


def _evaluations(names: Iterable[str]) -> list[Panel]:
    """Recall at 1 by kind, ITM accuracy, scores of captions by kind, and every other score that is no recall."""
    groups: dict[str, list[str]] = {}
    for name in sorted(name for name in names if name.startswith("eval/")):
        match, spoken = RECALL.fullmatch(name), SPOKEN.fullmatch(name)
        if spoken:
            kind = "loss gap" if "_loss_gap" in name else spoken[1]
            groups.setdefault(f"held-out {kind}", []).append(name)
        elif match is None:
            title = "held-out ITM accuracy, %" if name.endswith("itm_accuracy") else f"held-out {name[5:]}"
            groups.setdefault(title, []).append(name)
        elif match[2] == "1":
            groups.setdefault(f"held-out R@1, %, {KINDS[match[1]]}", []).append(name)
    return [Panel(title, members, noisy=False) for title, members in groups.items()]


def _panel(axes: Axes, panel: Panel, runs: Sequence[LoggedRun]) -> None:
    for number, run in enumerate(runs):
        for style, name in enumerate(panel.names):
            shown = name.removeprefix("eval/") if number == 0 and len(panel.names) > 1 else None
            look = f"C{number % 10}", STYLES[style % len(STYLES)]
            _line(axes, run.series(name), look, shown, panel.noisy)
    if panel.band is not None:
        axes.axhspan(*panel.band, color="grey", alpha=0.2, label=f"blind: {panel.band[0]}-{panel.band[1]}")
    if panel.level is not None:
        axes.axhline(panel.level[0], color="grey", linestyle=":", label=panel.level[1])
    axes.set_title(panel.title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize="small")


def _line(axes: Axes, series: Series, look: tuple[str, str], shown: str | None, noisy: bool = True) -> None:
    """Few points as they are; many and noisy ones as a faint line under their running mean. `look`: colour, style."""
    steps, values = series
    color, style = look
    smooth = running_mean(values) if noisy else None
    if smooth is not None:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    mark = "o" if len(values) < 30 else None
    axes.plot(steps, smooth or values, color=color, linestyle=style, marker=mark, markersize=3, label=shown)


def running_mean(values: Sequence[float]) -> list[float] | None:
    """Mean of each value and those just before it, a fiftieth of the run; None below 100 values."""
    if len(values) < 100:
        return None
    width = len(values) // 50
    means, window = [], 0.0
    for index, value in enumerate(values):
        window += value - (values[index - width] if index >= width else 0.0)
        means.append(window / min(index + 1, width))
    return means


def _beside_reference(axes: Axes, runs: Sequence[LoggedRun], labels: Sequence[str], unit: str) -> None:
    """Total loss over epochs or steps (log), with the public curve; a run of unknown epoch has no line over epochs."""
    for number, (run, text) in enumerate(zip(runs, labels)):
        steps, losses = run.series("train/loss")
        if unit == "epochs":
            facts = run.facts
            x = [step * facts.global_batch / facts.epoch_samples for step in steps] if facts else []
            losses = losses if facts else []
        else:
            x = steps
        _line(axes, (x, losses), (f"C{number % 10}", "-"), text)
    scale = reference.STEPS_PER_EPOCH if unit == "epochs" else 1
    curve = [(max(step, unit != "epochs") / scale, loss) for step, loss in reference.curve()]  # log: step 0 stands at 1
    axes.plot(*zip(*curve), color="black", linestyle="--", marker=".", label="public run: BLIText, batch 1024")
    middles = [(epoch + 0.5) * reference.STEPS_PER_EPOCH / scale for epoch in range(len(reference.EPOCH_MEANS))]
    axes.plot(middles, reference.EPOCH_MEANS, "kx", markersize=5, label="means of its epochs")
    axes.set_title(f"loss beside a public run, by {unit}")
    axes.set_xlabel(unit)
    if unit != "epochs":
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
