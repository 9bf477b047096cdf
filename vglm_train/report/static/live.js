"use strict";
// The page: it asks for the runs every two seconds, and for curves where something has changed.
const EVERY = 2000;
const $ = id => document.getElementById(id);
const page = {
  runs: [], chosen: null, colors: new Map(), range: null, data: null, drawn: "", charts: new Map(), steps: new Map(),
  language: localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en"),
  theme: localStorage.getItem("theme") || "auto", details: new Map(), verdicts: new Map(), sections: new Map(),
};
const word = name => WORDS[page.language][name];

function make(tag, options = {}, ...children) {
  const element = Object.assign(document.createElement(tag), options);
  element.append(...children);
  return element;
}

async function ask(path, pairs = []) {
  const answer = await fetch(path + "?" + new URLSearchParams(pairs));
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function age(seconds) {
  const units = UNITS[page.language];
  if (seconds < 100) return Math.round(seconds) + units[0];
  if (seconds < 6000) return Math.round(seconds / 60) + units[1];
  return seconds < 172800 ? Math.round(seconds / 3600) + units[2] : Math.round(seconds / 86400) + units[3];
}

const colorOf = id => {
  if (!page.colors.has(id)) page.colors.set(id, COLORS[page.colors.size % COLORS.length]);
  return page.colors.get(id);
};
const chosenRuns = () => page.runs.filter(run => page.chosen.has(run.id));

function drawHealth() {
  const cards = chosenRuns().map(run => {
    const card = make("article", { className: "card " + run.kind });
    card.style.setProperty("--color", colorOf(run.id));
    card.append(make("h3", { textContent: run.name }), make("p", { className: "line", textContent: run.line[page.language] }));
    const notes = (page.details.get(run.id)?.notes ?? []).filter(note =>
      (note.kind !== "fact" || ["stopped", "no_row"].includes(note.code)) && note[page.language].slice(1).some(Boolean));
    const useful = notes.filter(note => note.code !== "complete" || !notes.some(each => each.kind === "bad"));
    for (const note of useful) {
      const [short, means, toTry] = note[page.language];
      const text = make("p", { className: "note " + note.kind });
      if (notes.length > 1) text.append(make("b", { textContent: short }), means ? " — " : "");
      text.append(means);
      if (toTry) text.append(make("span", { className: "try" }, make("b", { textContent: word("try") + " " }), toTry));
      card.append(text);
    }
    return card;
  });
  $("health").replaceChildren(...cards);
  if (!page.runs.length) $("health").replaceChildren(make("p", { className: "hint", textContent: word("none") }));
}

function drawRuns() {
  $("runs-section").hidden = !page.runs.length;
  const head = make("tr", {}, ...["compare", "run", "state", "step", "loss", "score", "rate"].map(name =>
    make("th", { textContent: name === "compare" ? "" : word(name), title: name === "compare" ? word("compare") : "" })));
  const rows = page.runs.map(run => {
    const box = make("input", { type: "checkbox", checked: page.chosen.has(run.id), title: word("compare") });
    box.setAttribute("aria-label", word("compare") + " " + run.name);
    box.addEventListener("change", () => choose(run.id, box.checked));
    const swatch = make("span", { className: "swatch" });
    if (page.chosen.has(run.id)) swatch.style.background = colorOf(run.id);
    const share = run.total ? run.step / run.total : null;
    const step = make("td", { className: "number" }, run.total ? `${shortStep(run.step)} / ${shortStep(run.total)}` : shortStep(run.step));
    if (share !== null) step.append(make("progress", { value: share, max: 1 }));
    const score = run.score ? `${run.score[0]} ${short(run.score[1])}` : "";
    const row = make("tr", { className: run.kind },
      make("td", {}, make("label", { className: "pick" }, box, swatch)),
      make("td", { className: "name", title: run.folder, textContent: run.name }),
      make("td", { className: "state" }, make("i", { className: "dot" }), run.line[page.language]), step,
      make("td", { className: "number", textContent: short(run.loss) }),
      make("td", { className: "number", textContent: score }),
      make("td", { className: "number", textContent: short(run.rate) }));
    row.dataset.run = run.id;
    [...row.children].slice(4).forEach((each, number) => { each.dataset.label = word(["loss", "score", "rate"][number]) + " "; });
    return row;
  });
  $("runs").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

function choose(id, wanted) {
  if (wanted) page.chosen.add(id); else page.chosen.delete(id);
  page.drawn = "";
  refresh();
}

function linesOf(panel) {
  const data = [], lines = [], several = chosenRuns().length > 1;
  for (const run of chosenRuns()) {
    panel.names.forEach((name, number) => {
      const series = page.data.runs[run.id]?.[name];
      if (!series || !series[0].length) return;
      const leaf = name.split("/")[1];
      const label = [several ? run.name : "", panel.names.length > 1 || !several ? leaf : ""].filter(Boolean).join(" ");
      const base = { color: colorOf(run.id), dash: DASHES[number % DASHES.length], points: series[0].length < 40 };
      if (!several && panel.names.length > 1) Object.assign(base, { color: COLORS[number % COLORS.length], dash: [] });
      const smooth = $("smooth").checked && panel.noisy && series[0].length >= 100;
      if (smooth) {
        data.push(series); lines.push({ ...base, name: label + " ·", width: 1, alpha: 0.3, points: false });
        data.push([series[0], smoothed(series[1])]);
      } else data.push(series);
      lines.push({ ...base, name: label, width: 1.75, alpha: 1 });
    });
  }
  if (panel.names[0] === "train/loss" && page.data.reference && $("reference").checked) {
    data.push(page.data.reference);
    lines.push({ name: word("published"), color: getComputedStyle(document.documentElement).getPropertyValue("--ink"), dash: [5, 4], width: 1.25, alpha: 0.8, points: true });
  }
  return [data, lines];
}

function whole() {
  let last = 1;
  for (const run of chosenRuns()) last = Math.max(last, run.step);
  return [0, last];
}

function drawCurves() {
  if (!page.data) return;
  $("with-reference").hidden = !page.data.reference;
  $("with-reference").title = page.data.source;
  const range = page.range || whole(), known = new Set();
  const dark = getComputedStyle(document.documentElement).getPropertyValue("--ink");
  const look = { language: page.language, stepWord: word("step"), blindWord: word("blind"), dark };
  const waiting = [];
  for (const section of page.data.sections) {
    const { heading, charts } = sectionOf(section.title);
    heading.textContent = section.title[page.language];
    for (const panel of section.panels) {
      known.add(panel.title.en);
      let chart = page.charts.get(panel.title.en);
      if (!chart) {
        chart = new Chart(panel, zoom);
        page.charts.set(panel.title.en, chart);
      }
      charts.append(chart.element);
      waiting.push([chart, panel]);
    }
  }
  for (const [title, chart] of page.charts) if (!known.has(title)) { chart.destroy(); page.charts.delete(title); }
  hideEmpty();
  for (const [chart, panel] of waiting) chart.draw(panel, ...linesOf(panel), range, look);
  document.body.dataset.drawn = String(1 + Number(document.body.dataset.drawn || 0));
}

// a section of the page: its charts, then its tables of pictures
function sectionOf(title) {
  let section = page.sections.get(title.en);
  if (!section) {
    const heading = make("h3"), charts = make("div", { className: "charts" }), tables = make("div", { className: "tables" });
    const element = make("section", { className: "panels" }, heading, charts, tables);
    element.dataset.section = title.en;
    section = { element, heading, charts, tables };
    page.sections.set(title.en, section);
    $("curves").append(element);
  }
  return section;
}

function hideEmpty() {
  for (const { element, charts, tables } of page.sections.values()) element.hidden = !charts.childElementCount && !tables.childElementCount;
}

async function zoom(range) {
  page.range = range;
  page.drawn = "";
  await refresh();
}

function cell(value) {
  if (value && typeof value === "object") return make("td", {}, make("img", { src: value.image, alt: "", loading: "lazy" }));
  return make("td", { textContent: typeof value === "number" ? short(value) : value ?? word("not_finite") });
}

function drawDetails() {
  const pictures = new Map(), verdicts = [], values = [];
  for (const run of chosenRuns()) {
    const details = page.details.get(run.id);
    if (!details) continue;
    for (const table of details.tables) {
      const steps = make("select", {}, ...table.steps.map(step => make("option", { value: step, textContent: `${word("step")} ${step}`, selected: step === table.step })));
      steps.addEventListener("change", () => { page.steps.set(run.id, +steps.value === table.steps.at(-1) ? "" : steps.value); loadDetails(run, true); });
      const rows = table.rows.map(row => make("tr", {}, ...row.map(cell)));
      if (!pictures.has(table.section)) pictures.set(table.section, []);
      pictures.get(table.section).push(make("h4", {}, `${run.name}: ${table.name} `, steps),
        make("div", { className: "wide" }, make("table", { className: "examples" }, make("tr", {}, ...table.columns.map(name => make("th", { textContent: name }))), ...rows)));
    }
    const lines = page.verdicts.get(run.id);
    if (lines) verdicts.push(make("details", {}, make("summary", { textContent: run.name }), make("ul", {}, ...lines.map(each => make("li", { className: each.kind, textContent: each[page.language] })))));
    const body = details.values.map(each => make("tr", {}, make("th", { textContent: each.name }),
      make("td", { className: "number", textContent: each.value === null ? word("not_finite") : short(each.value) }), make("td", { textContent: each[page.language] })));
    values.push(make("details", {}, make("summary", { textContent: `${word("values")}: ${run.name}` }), make("div", { className: "wide" }, make("table", {}, ...body))));
  }
  keepOpen($("values"), values, false);
  keepOpen($("verdict"), verdicts, verdicts.length === 1);
  for (const [title, section] of page.sections) section.tables.replaceChildren(...(pictures.get(title) ?? []));
  hideEmpty();
  $("verdict").replaceChildren(...(verdicts.length ? [make("h2", { textContent: word("verdict") }), ...verdicts] : []));
  $("values").replaceChildren(...values);
}

function keepOpen(section, details, first) {
  const known = [...section.querySelectorAll("details")].map(each => each.open);
  details.forEach((each, number) => { each.open = known[number] ?? first; });
}

async function loadDetails(run, again = false) {
  if (!again && page.details.get(run.id)?.version === run.version) return;
  const pairs = [["run", run.id]], step = page.steps.get(run.id);
  if (step) pairs.push(["step", step]);
  page.details.set(run.id, { ...await ask("api/details", pairs), version: run.version });
  drawHealth();
  drawDetails();
  page.verdicts.set(run.id, await ask("api/verdict", [["run", run.id]]));
  drawDetails();
}

let busy = false;
async function refresh() {
  if (busy) { refresh.again = true; return; }
  busy = true;
  try {
    page.runs = await ask("api/runs");
    if (page.chosen === null && page.runs.length) page.chosen = new Set([page.runs[0].id]);
    page.chosen ??= null;
    if (page.chosen === null) { drawHealth(); return; }
    const newest = chosenRuns().reduce((least, run) => Math.min(least, run.age ?? Infinity), Infinity);
    $("fresh").textContent = newest === Infinity ? "" : `${word("updated")} ${age(newest)}${page.language === "en" ? " " : ""}${word("ago")}`;
    $("fresh").className = "";
    const state = JSON.stringify([chosenRuns().map(run => [run.id, run.version]), page.range, innerWidth]);
    drawHealth();
    drawRuns();
    if (state !== page.drawn) {
      page.drawn = state;
      const pairs = chosenRuns().map(run => ["run", run.id]);
      pairs.push(["points", Math.max(300, Math.min(1200, innerWidth))]);
      if (page.range) pairs.push(["from", page.range[0]], ["to", page.range[1]]);
      page.data = await ask("api/data", pairs);
      drawCurves();
      for (const run of chosenRuns()) loadDetails(run).catch(failed);
      drawDetails();
    }
  } catch (error) { failed(error); } finally {
    busy = false;
    if (refresh.again) { refresh.again = false; refresh(); }
  }
}

function failed(error) {
  $("fresh").textContent = error instanceof TypeError ? word("lost") : String(error.message || error);
  $("fresh").className = "lost";
}

function drawWords() {
  document.documentElement.lang = page.language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
  $("language").textContent = word("language");
  $("theme").textContent = word("theme_" + page.theme);
  document.documentElement.dataset.theme = page.theme;
}

function redraw() {
  drawWords();
  if (page.chosen === null) return;
  drawHealth(); drawRuns(); drawCurves(); drawDetails();
}

$("language").addEventListener("click", () => {
  page.language = page.language === "en" ? "zh" : "en";
  localStorage.setItem("language", page.language);
  redraw();
});
$("theme").addEventListener("click", () => {
  page.theme = { auto: "dark", dark: "light", light: "auto" }[page.theme];
  localStorage.setItem("theme", page.theme);
  redraw();
});
$("smooth").addEventListener("change", drawCurves);
$("reference").addEventListener("change", drawCurves);
$("range").addEventListener("click", event => {
  const share = Number(event.target.dataset.share);
  if (share) zoom(share === 1 ? null : [whole()[1] * (1 - share), whole()[1]]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let resizing;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => { page.drawn = ""; refresh(); }, 200); });
drawWords();
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, EVERY);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
