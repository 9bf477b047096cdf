"""The page of `stats`: one HTML file with histograms (SVG) and sample pictures inside; nothing is loaded."""

import io
from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np

from data_tools.stats.count import Counts
from vglm_train.errors import needs_extra
from vglm_train.report import html

with needs_extra("train", "the page of histograms"):
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

BINS = 40
HISTOGRAMS = ("width", "height", "aspect")  # and all counters of a language
KEPT_APART = ("source", "split", "languages", "format")
UNITS = {"width": "pixels", "height": "pixels", "aspect": "width / height"}


def page(title: str, found: dict[str, Any], counts: Counts) -> str:
    """The whole HTML text. found: as in the JSON."""
    parts = [f"<h1>{escape(title)}</h1>", _overview(found), "<h2>Histograms</h2>"]
    names = [*HISTOGRAMS, *sorted(name for name in counts.counters if "." in name)]
    parts += [_histogram(name, counts.counters[name]) for name in names if name in counts.counters]
    parts += [_table(name, counts.counters[name]) for name in KEPT_APART if name in counts.counters]
    parts += [_repeated(found), _damage(found), "<h2>Samples</h2>", '<div class="samples">']
    return html.document(title, [*parts, *map(_sample, counts.samples), "</div>"])


def _overview(found: dict[str, Any]) -> str:
    size = f"{found['bytes'] / 2**20:.1f}"
    rows = [("records", found["records"]), ("usable", found["usable"]), ("MiB", size)]
    rows += [(f"captions, {language}", count) for language, count in found["captions"].items()]
    rows += [
        (f"{name} that occur more than once", found[f"repeated_{name}"][name]) for name in ("pictures", "captions")
    ]
    return html.table(("all records", "number"), rows)


def _table(name: str, counter: Counter[str]) -> str:
    return f"<h2>{escape(name)}</h2>{html.table((name, 'records'), counter.most_common(BINS))}"


def _histogram(name: str, counter: Counter[str]) -> str:
    """Of a counter whose keys are numbers. The last bar holds what lies beyond the 99.5th percentile."""
    values = np.array(sorted(map(float, counter)))
    weights = np.array([count for _, count in sorted(counter.items(), key=lambda each: float(each[0]))])
    below = np.cumsum(weights)
    most = values[np.searchsorted(below, 0.995 * below[-1])]
    figure = Figure(figsize=(3.8, 2.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    low, high = values[0], max(most, values[0] + 1e-9)
    whole = not name.startswith("aspect") and high - low < BINS
    edges = np.arange(low - 0.5, high + 1) if whole else np.linspace(low, high, BINS + 1)
    axes.hist(values.clip(low, high), bins=list(edges), weights=weights)
    kind, _, language = name.partition(".")
    axes.set_title(f"{kind.replace('_', ' ')}{f', {language}' if language else ''}", fontsize=10)
    axes.set_xlabel(UNITS.get(kind, ""), fontsize=8)
    axes.tick_params(labelsize=8)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # else the ids in the page are random
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return f"<figure>{text[text.index('<svg') :]}</figure>"


def _repeated(found: dict[str, Any]) -> str:
    rows: list[tuple[str, str]] = []
    for name in ("pictures", "captions"):
        most = found[f"repeated_{name}"]["most"]
        rows += [(f"{each['times']} times", each.get("text") or f"{each['id']} ({each['place']})") for each in most]
    return f"<h2>Repeated most</h2>{html.table(('how often', 'what'), rows)}" if rows else ""


def _damage(found: dict[str, Any]) -> str:
    if not found["damage"]:
        return "<h2>Damage</h2><p>none</p>"
    counts = html.table(("cause", "records"), found["damage"].items())
    return f"<h2>Damage</h2>{counts}{html.table(('record', 'reason'), _damaged(found))}"


def _damaged(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for entry in found["damaged"]:
        yield entry["place"], f"{entry['cause']}: {entry['reason']}"


def _sample(sample: dict[str, Any]) -> str:
    texts = [text for captions in sample["captions"].values() for text in captions]
    lines = "".join(f"<p>{escape(text)}</p>" for text in texts)
    picture = f'<img alt="" src="data:image/jpeg;base64,{sample["jpeg"]}">'
    return f"<div>{picture}<b>{escape(sample['id'])}</b> {escape(sample['size'])}{lines}</div>"
