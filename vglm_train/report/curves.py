"""Curves of several runs as one PNG: a panel for each training metric, and for each kind of evaluation metric."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from vglm_train.config.metric_names import (
    PREFIX,
)
from vglm_train.errors import needs_extra
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
STYLES = ("-", "--", ":", "-.")
LATIN = "DejaVu Sans"  # comes with matplotlib
CHINESE = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Heiti TC",
    "Arial Unicode MS",
)  # fmt: skip


def draw_curves(runs: Sequence[LoggedRun], path: Path) -> None:
    """Write the curves of `runs` to the PNG `path`. A panel without a metric of any run is left out."""
    names = set().union(*(run.names() for run in runs))
    panels = charts.panels(names)
    with matplotlib.rc_context({"font.family": fonts(), "axes.formatter.useoffset": False}):
        reference_panels = 2 * any(not is_stage_two(run) for run in runs)  # the public run is one of stage one
        rows = math.ceil((len(panels) + reference_panels) / COLUMNS)
        figure = Figure(figsize=(6 * COLUMNS, 3.8 * rows + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
        labels = [label(number, run) for number, run in enumerate(runs, 1)]
        for unit, ax in zip(("epochs", "steps")[:reference_panels], axes):
            _draw_with_reference(ax, runs, labels, unit)
        for panel, ax in zip(panels, axes[reference_panels:]):
            _draw_panel(ax, panel, runs)
        if not reference_panels:
            for number, text in enumerate(labels):
                axes[0].plot([], [], color=f"C{number % 10}", label=text)
            axes[0].legend(fontsize="small")
        for ax in axes[len(panels) + reference_panels :]:
            ax.set_axis_off()
        figure.savefig(path, dpi=90)


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


def _draw_panel(axes: Axes, panel: charts.Panel, runs: Sequence[LoggedRun]) -> None:
    for number, run in enumerate(runs):
        for style, name in enumerate(panel.names):
            legend = name.removeprefix(PREFIX) if number == 0 and len(panel.names) > 1 else None
            color_and_style = f"C{number % 10}", STYLES[style % len(STYLES)]
            _draw_line(axes, run.series(name), color_and_style, legend, panel.noisy)
    if panel.band is not None:
        axes.axhspan(*panel.band, color="grey", alpha=0.2, label=f"blind: {panel.band[0]}-{panel.band[1]}")
    if panel.level is not None:
        axes.axhline(panel.level[0], color="grey", linestyle=":", label=panel.level[1])
    axes.set_title(panel.title)
    axes.set_xlabel("step")
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


def _draw_with_reference(axes: Axes, runs: Sequence[LoggedRun], labels: Sequence[str], unit: str) -> None:
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
    axes.plot(*zip(*curve), color="black", linestyle="--", marker=".", label="public run: BLIText, batch 1024")
    middles = [(epoch + 0.5) * reference.STEPS_PER_EPOCH / scale for epoch in range(len(reference.EPOCH_MEANS))]
    axes.plot(middles, reference.EPOCH_MEANS, "kx", markersize=5, label="means of its epochs")
    axes.set_title(f"loss beside a public run, by {unit}")
    axes.set_xlabel(unit)
    if unit != "epochs":
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
