"use strict";
// What stands on the page once the answers are final: the comparison, each question, and the verdict.
const number = value => value.toFixed(1);
const signed = value => (value < 0 ? "-" : "+") + number(Math.abs(value));
const gainText = (gain, ends) => signed(gain) + (ends ? `, 95 % [${ends.map(signed).join(", ")}]` : "");
const duration = seconds => {
  const whole = Math.round(seconds);
  return whole < 60 ? word("seconds", { n: whole }) : word("minutes", { m: Math.floor(whole / 60), n: whole % 60 });
};

function median(values) {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// {table: metric -> system -> scores as of `compare`, scores: the person's of each question, given: which were answered}
function measure() {
  const { truths, systems, draws, clusters, rules } = page.sealed, scorer = new Scorer(rules);
  const given = state.answers.map(answered);
  const scores = truths.map((truth, n) => (given[n] ? scorer.score(truth, state.answers[n].value) : {}));
  const numbers = truths.map(truth => truth.cluster);
  const table = given.some(Boolean) ? compare({ you: scores, ...systems }, given, numbers, draws, clusters) : {};
  return { table, scores, given, clusters: new Set(numbers.filter((_, n) => given[n])).size };
}

function drawResult() {
  const result = (page.result ??= measure());
  const answeredCount = result.given.filter(Boolean).length, all = data.questions.length;
  const times = state.answers.map(answer => answer.seconds);
  const counts = { answered: answeredCount, of: all, skipped: all - answeredCount, clusters: result.clusters };
  return [
    text("h2", "results"), ...(state.seen ? [text("p", "seen", { n: state.seen }, "warn")] : []),
    ...(answeredCount ? [sentences(result), text("p", "skipped", counts), ...withSkipped(result), scoreTable(result.table)] : [text("p", "nothing", {}, "warn")]),
    text("p", "time", { total: duration(times.reduce((a, b) => a + b, 0)), median: duration(median(times)) }),
    make("p", {}, text("small", "how", { n: page.sealed.resamples })),
    make("p", { className: "buttons" }, button("again", () => restart(state.seen + 1), { id: "again" }), button("another", () => restart(0), { id: "another" })),
    make("p", {}, text("small", "again_hint")),
    text("h2", "each"), ...data.questions.map((asked, n) => card(asked, n, result)),
    text("h2", "whole"), make("section", { id: "verdict", lang: "en", innerHTML: page.sealed.verdict }),
  ];
}

function restart(seen) {
  state = fresh(seen);
  page.result = null;
  go(-1);
}

function sentences({ table, clusters }) {
  const lines = MAIN[data.task].filter(metric => table[metric]?.model).map(metric => {
    const { you, model } = table[metric], { gain, gainEnds } = model;
    const few = !gainEnds || clusters < FEW;
    const sign = few ? word("few", { n: clusters }) : word(gainEnds[0] > 0 ? "better" : gainEnds[1] < 0 ? "worse" : "equal");
    const said = { metric, you: number(you.value), model: number(model.value), gain: gainText(gain, gainEnds), sign };
    return text("li", "versus", said, few ? "warn" : "fact");
  });
  return make("ul", {}, ...lines);
}

function withSkipped({ scores, given }) { // of vqa, where each question has one point
  if (data.task !== "vqa" || given.every(Boolean)) return [];
  const right = scores.reduce((total, each) => total + (each.accuracy?.[0] ?? 0), 0);
  return [text("p", "with_skipped", { metric: "accuracy", value: number((100 * right) / given.length) })];
}

function scoreTable(table) {
  const shown = SYSTEMS.filter(system => Object.values(table).some(row => row[system]));
  const head = make("tr", {}, text("th", "percent"), ...shown.map(system => text("th", system)));
  const rows = Object.entries(table).map(([metric, row]) => {
    const meaning = data.meanings[metric]?.[page.language];
    const cells = shown.map(system => scoreCell(row[system]));
    return make("tr", {}, make("th", {}, metric, ...(meaning ? [make("br"), make("small", { textContent: meaning })] : [])), ...cells);
  });
  return make("div", { className: "wide scores" }, make("table", { id: "scores" }, head, ...rows));
}

function scoreCell(score) {
  if (!score) return make("td");
  const cell = make("td", { className: "number", textContent: number(score.value) });
  if (score.ends) cell.append(" ", make("small", { textContent: `[${score.ends.map(number).join(", ")}]` }));
  if (score.gain !== undefined) cell.append(make("br"), make("small", { textContent: word("above", { gain: gainText(score.gain, score.gainEnds) }) }));
  return cell;
}

function card(asked, n, { scores, given }) {
  const truth = page.sealed.truths[n], answer = state.answers[n], report = asked.kind === "report";
  const value = !given[n] ? word("no_answer") : report ? listed(answer.value) : choiceName(asked, answer.value);
  const said = (output, stated) => (output || word("empty")) + (report && output ? `\n(${word("keywords", { list: listed(stated) })})` : "");
  const rows = [[word("you") + (report ? ` (${word("self")})` : ""), value, "main"]];
  rows.push([word("truth"), said(truth.shown.join(" | "), truth.findings), "main"]);
  for (const system of SYSTEMS.filter(system => system in truth.outputs)) {
    rows.push([word(system), said(truth.outputs[system], truth.stated?.[system]), system === "model" ? "main" : "aside"]);
  }
  const points = Object.entries(scores[n]).filter(([, [, maximum]]) => maximum);
  if (points.length) rows.push([word("earned"), points.map(([name, [own, most]]) => `${name} ${Math.round((100 * own) / most)}`).join(", "), "aside"]);
  rows.push([word("took"), duration(answer.seconds), "aside"], [word("where"), truth.where, "aside"]);
  const cells = rows.map(([name, content, className]) => make("tr", { className }, make("th", { textContent: name }), make("td", { textContent: content })));
  return make("div", { className: "case", lang: asked.language }, pictures(asked), make("div", { className: "told" }, ...asking(asked), make("table", {}, ...cells)));
}
