"""Curves of several runs as one PNG: the sections and panels of `panels.py`."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from vglm_train.errors import needs_extra
from vglm_train.log.tongues import Text, Tongue
from vglm_train.report import charts, reference
from vglm_train.report.runs import LoggedRun, Series
from vglm_train.report.verdict import is_stage_two

with needs_extra("train", "drawing curves"):
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ft2font import FT2Font

COLUMNS = 3
BESIDE = Text("Beside a public run", "与公开训练对比")
BY_EPOCHS, BY_STEPS = Text("loss, by epochs", "总 loss，按轮数"), Text("loss, by steps", "总 loss，按步数")
PUBLIC = Text("public run: BLIText, batch 1024", "公开训练：BLIText，批大小 1024")
MEANS = Text("means of its epochs", "其各轮的平均")
STEP, EPOCHS, BLIND = Text("step", "步数"), Text("epochs", "轮数"), Text("blind", "瞎猜")
STYLES = ("-", "--", ":", "-.")
LATIN = "DejaVu Sans"  # comes with matplotlib
CHINESE = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Heiti TC",
    "Arial Unicode MS",
)  # fmt: skip


def draw_curves(runs: Sequence[LoggedRun], path: Path, language: Tongue = "en") -> None:
    """Write the curves of `runs` to the PNG `path`, section by section; a panel without a metric of any is left out.

    In Chinese only where a Chinese font is installed.
    """
    if len(fonts()) == 1:
        language = "en"
    sections = charts.charts(set().union(*(run.names() for run in runs)))
    labels = [label(number, run) for number, run in enumerate(runs, 1)]
    parts: list[tuple[str, list[Callable[[Axes], None]]]] = []
    for section, found in sections:
        if found:
            title = section.zh if language == "zh" else section.en
            parts.append((title, [partial(_draw_panel, chart, runs, language) for chart in found]))
    beside = any(not is_stage_two(run) for run in runs)  # the public run is one of stage one
    if beside:
        units = ("epochs", "steps")
        parts.insert(
            0, (BESIDE.of(language), [partial(_draw_with_reference, runs, labels, unit, language) for unit in units])
        )
    with matplotlib.rc_context({"font.family": fonts(), "axes.formatter.useoffset": False}):
        rows = [math.ceil(len(drawings) / COLUMNS) for _, drawings in parts]
        figure = Figure(figsize=(6 * COLUMNS, 3.8 * sum(rows) + 0.5 * len(parts)), layout="constrained")
        FigureCanvasAgg(figure)
        areas = figure.subfigures(len(parts), 1, squeeze=False, height_ratios=rows)[:, 0]
        for area, count, (title, drawings) in zip(areas, rows, parts):
            area.suptitle(title, fontsize="x-large", fontweight="bold", x=0.01, horizontalalignment="left")
            axes = list(area.subplots(count, COLUMNS, squeeze=False).flat)
            for ax, draw in zip(axes, drawings):
                draw(ax)
            for ax in axes[len(drawings) :]:
                ax.set_axis_off()
            if area is areas[0] and not beside:
                _name_runs(axes[0], labels)
        figure.savefig(path, dpi=90)


def _name_runs(axes: Axes, labels: Sequence[str]) -> None:
    for number, text in enumerate(labels):
        axes.plot([], [], color=f"C{number % 10}", label=text)
    axes.legend(fontsize="small")


def label(number: int, run: LoggedRun) -> str:
    """`1: name`, or `run 1` if no installed font has its characters. Dollar signs are escaped: they start a formula."""
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


def _draw_panel(chart: charts.Chart, runs: Sequence[LoggedRun], language: Tongue, axes: Axes) -> None:
    panel, blind = chart.panel, BLIND.of(language)
    for number, run in enumerate(runs):
        for style, name in enumerate(chart.names):
            legend = name.partition("/")[2] if number == 0 and len(chart.names) > 1 else None
            color_and_style = f"C{number % 10}", STYLES[style % len(STYLES)]
            _draw_line(axes, run.series(name), color_and_style, legend, panel.noisy)
    if panel.band is not None:
        axes.axhspan(*panel.band, color="grey", alpha=0.2, label=f"{blind}: {panel.band[0]}-{panel.band[1]}")
    if panel.level is not None:
        axes.axhline(panel.level, color="grey", linestyle=":", label=blind)
    axes.set_title(panel.zh if language == "zh" else panel.en)
    axes.set_xlabel(STEP.of(language))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize="small")


def _draw_line(
    axes: Axes, series: Series, color_and_style: tuple[str, str], legend: str | None, noisy: bool = True
) -> None:
    """Draw a metric; if it is noisy and has many values, as a faint line under its running mean."""
    steps, values = series
    color, style = color_and_style
    smooth = running_mean(values) if noisy else None
    if smooth is not None:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    marker = "o" if len(values) < 30 else None
    axes.plot(steps, smooth or values, color=color, linestyle=style, marker=marker, markersize=3, label=legend)


def running_mean(values: Sequence[float]) -> list[float] | None:
    """Mean of each value and those before it, over a fiftieth of the run; None for fewer than 100 values."""
    if len(values) < 100:
        return None
    width = len(values) // 50
    means, window = [], 0.0
    for index, value in enumerate(values):
        window += value - (values[index - width] if index >= width else 0.0)
        means.append(window / min(index + 1, width))
    return means


def _draw_with_reference(
    runs: Sequence[LoggedRun], labels: Sequence[str], unit: str, language: Tongue, axes: Axes
) -> None:
    """Draw the total loss over `unit`, epochs or steps (logarithmic), with the public curve.

    A run without facts.json has no line over epochs, because the length of its epochs is unknown.
    """
    for number, (run, text) in enumerate(zip(runs, labels)):
        steps, losses = run.series("train/loss")
        if unit == "epochs":
            info = run.info
            x = [step * info.global_batch / info.epoch_samples for step in steps] if info else []
            losses = losses if info else []
        else:
            x = steps
        _draw_line(axes, (x, losses), (f"C{number % 10}", "-"), text)
    scale = reference.STEPS_PER_EPOCH if unit == "epochs" else 1
    curve = [
        (max(step, unit != "epochs") / scale, loss) for step, loss in reference.curve()
    ]  # a logarithm has no step 0
    axes.plot(*zip(*curve), color="black", linestyle="--", marker=".", label=PUBLIC.of(language))
    middles = [(epoch + 0.5) * reference.STEPS_PER_EPOCH / scale for epoch in range(len(reference.EPOCH_MEANS))]
    axes.plot(middles, reference.EPOCH_MEANS, "kx", markersize=5, label=MEANS.of(language))
    axes.set_title((BY_EPOCHS if unit == "epochs" else BY_STEPS).of(language))
    axes.set_xlabel((EPOCHS if unit == "epochs" else STEP).of(language))
    if unit != "epochs":
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
