"use strict";
// Charts: one uPlot a panel, all with the same range of steps and the same cursor.
const COLORS = ["#3b82f6", "#ef6c00", "#16a34a", "#c026d3", "#dc2626", "#0891b2", "#a16207", "#7c3aed", "#db2777", "#4d7c0f"];
const DASHES = [[], [6, 4], [2, 3], [8, 3, 2, 3], [12, 4], [4, 2], [1, 4], [10, 2]];
const HEIGHT = 220;
const sync = uPlot.sync("steps");

function smoothed(values) {
  // as the picture of the report: the mean of each value and those before it, over a fiftieth
  if (values.length < 100) return values;
  const width = Math.floor(values.length / 50), out = new Array(values.length);
  let sum = 0;
  for (let i = 0; i < values.length; i++) {
    sum += values[i] - (i >= width ? values[i - width] : 0);
    out[i] = sum / Math.min(i + 1, width);
  }
  return out;
}

function short(value) {
  if (value == null) return "";
  const size = Math.abs(value);
  if (size >= 1e5) return +(value / 1e3).toPrecision(4) + "k";
  return size !== 0 && size < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(4));
}

function shortStep(step) {
  if (step >= 1e6) return +(step / 1e6).toPrecision(4) + "M";
  return step >= 1e4 ? +(step / 1e3).toPrecision(4) + "k" : String(+step.toPrecision(6));
}

class Chart {
  constructor(panel, onZoom) {
    this.title = panel.title.en;
    this.element = document.createElement("figure");
    this.element.className = "chart";
    this.caption = document.createElement("figcaption");
    this.body = document.createElement("div");
    this.element.append(this.caption, this.body);
    this.onZoom = onZoom;
    this.plot = null;
    this.key = "";
  }

  // tables: one [steps, values] each; lines: their name, color, dash, width
  draw(panel, data, lines, range, look) {
    this.caption.textContent = panel.title[look.language];
    this.caption.title = panel.about[look.language];
    const joined = data.length ? uPlot.join(data.map(table => [table[0], table[1]])) : [[]];
    const key = JSON.stringify([lines, look, panel.band, panel.level, this.body.clientWidth]);
    this.range = range;
    if (this.plot && this.key === key) {
      this.plot.setData(joined, false);
      this.plot.setScale("x", { min: range[0], max: range[1] });
      return;
    }
    if (this.plot) this.plot.destroy();
    this.key = key;
    this.plot = new uPlot(this.options(panel, lines, range, look), joined, this.body);
    lines.forEach((line, number) => { this.plot.root.querySelectorAll(".u-series")[number + 1].hidden = line.alpha < 0.5; });
    this.plot.over.addEventListener("dblclick", () => this.onZoom(null));
  }

  options(panel, lines, range, look) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--quiet"), grid = style.getPropertyValue("--grid");
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 }, font: "12px system-ui, sans-serif" };
    const series = lines.map(line => ({
      label: line.name, stroke: line.color, dash: line.dash, width: line.width, alpha: line.alpha, spanGaps: true,
      points: { show: line.points, size: 5 },
      value: (plot, value, number, index) => short(index == null ? this.newest(plot, number) : value),
    }));
    return {
      width: this.body.clientWidth || 300, height: HEIGHT,
      series: [{ label: look.stepWord, value: (plot, value) => shortStep(Math.round(value ?? Math.min(this.range[1], plot.data[0].at(-1) ?? 0))) }, ...series],
      scales: { x: { time: false, range: () => this.range }, y: { range: (_, low, high) => this.span(low, high, panel) } },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map(shortStep), size: 28, space: 60 },
        { ...axis, values: (_, ticks) => ticks.map(short), size: 56 },
      ],
      cursor: { sync: { key: sync.key }, drag: { x: true, y: false, setScale: false }, points: { size: 6 } },
      legend: { show: true, live: true },
      hooks: {
        setSelect: [plot => this.selected(plot)],
        drawAxes: [plot => this.marks(plot, panel, ink, look)],
      },
    };
  }

  newest(plot, number) {
    // where nothing is pointed at: the last value that is in view
    return plot.data[number]?.findLast((each, index) => each != null && plot.data[0][index] <= this.range[1]);
  }

  span(low, high, panel) {
    if (low == null) return [0, 1];
    if (panel.band && low > panel.band[0] - 0.1) low = Math.min(low, panel.band[0]);
    if (low === high) { const room = Math.abs(low) * 0.05 || 1; return [low - room, high + room]; }
    const room = (high - low) * 0.06;
    return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
  }

  selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const from = plot.posToVal(left, "x"), to = plot.posToVal(left + width, "x");
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.onZoom([from, to]);
  }

  marks(plot, panel, ink, look) {
    const { left, top, width, height } = plot.bbox, context = plot.ctx, bottom = top + height;
    const clamp = y => Math.max(top, Math.min(bottom, y));
    context.save();
    context.fillStyle = context.strokeStyle = ink;
    if (panel.band) {
      const high = clamp(plot.valToPos(panel.band[1], "y", true)), low = clamp(plot.valToPos(panel.band[0], "y", true));
      context.globalAlpha = 0.18;
      context.fillRect(left, high, width, Math.max(0, low - high));
      if (low > high) this.mark(context, look.blindWord, left + width, high);
    }
    if (panel.level !== null) {
      const y = plot.valToPos(panel.level, "y", true);
      if (y >= top && y <= bottom) {
        context.globalAlpha = 0.7;
        context.setLineDash([4, 4]);
        context.beginPath(); context.moveTo(left, y); context.lineTo(left + width, y); context.stroke();
        this.mark(context, look.blindWord, left + width, y);
      }
    }
    context.restore();
  }

  mark(context, word, x, y) {
    const ratio = devicePixelRatio;
    context.globalAlpha = 1;
    context.font = `${11 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "bottom"; context.textAlign = "right";
    context.fillText(word, x - 6 * ratio, y - 2 * ratio);
  }

  destroy() {
    if (this.plot) this.plot.destroy();
    this.element.remove();
  }
}
