"use strict";
// Scores of a person's answers, as the evaluation scores a model's: `rules` (lists of words), the scores of each choice
// and the bootstrap's draws come from it. Only words of typed answers are compared here: metrics/answers.py and vqav2.py.
const WHITE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"; // Python's str.isspace

class Scorer {
  constructor(rules) {
    const { han } = rules;
    this.punctuation = rules.punctuation;
    this.articles = new Set(rules.articles);
    this.numbers = new Map(rules.numbers);
    this.contractions = new Map(rules.contractions);
    this.word = new RegExp(`[${han}]|\\p{Nd}+\\.\\p{Nd}+|(?:(?![${han}])[\\p{L}\\p{N}_])+`, "gu");
    this.white = new RegExp(`[${WHITE}]+`, "u");
    this.ends = new RegExp(`^[${WHITE}]+|[${WHITE}]+$`, "gu");
    this.stops = rules.stops;
  }

  normalised(text) {
    const all = text.normalize("NFKC").toLowerCase().replace(/['\u2019]/g, "").match(this.word) ?? [];
    const kept = all.filter(word => !this.articles.has(word));
    return kept.length ? kept : all;
  }

  exact(output, truth) {
    return this.normalised(output).join(" ") === this.normalised(truth).join(" ");
  }

  overlap(output, truth) { // [recall, F1]
    const said = this.normalised(output), true_ = this.normalised(truth), counts = new Map();
    for (const word of true_) counts.set(word, (counts.get(word) ?? 0) + 1);
    let shared = 0;
    for (const word of said) {
      const left = counts.get(word) ?? 0;
      if (left) { shared++; counts.set(word, left - 1); }
    }
    return shared ? [shared / true_.length, 2 * shared / (said.length + true_.length)] : [0, 0];
  }

  spoken(answer) { // VQAv2's form
    const line = answer.replace(/[\n\t]/g, " ").replace(this.ends, "");
    const everywhere = /\p{Nd},\p{Nd}/u.test(line);
    let text = line, stops = 0;
    for (const mark of this.punctuation) {
      const removed = everywhere || line.includes(mark + " ") || line.includes(" " + mark);
      text = text.replaceAll(mark, removed ? "" : " ");
    }
    text = text.replace(/\.(?!\p{Nd})/gu, stop => stops++ < this.stops ? "" : stop);
    const words = text.toLowerCase().split(this.white).filter(Boolean).map(word => this.numbers.get(word) ?? word);
    return words.filter(word => !this.articles.has(word)).map(word => this.contractions.get(word) ?? word).join(" ");
  }

  people(output, answers) { // VQAv2's accuracy against ten people
    const text = this.spoken(output), agree = answers.map(answer => this.spoken(answer) === text);
    const all = agree.filter(Boolean).length;
    return agree.map(own => Math.min(1, (all - own) / 3)).reduce((a, b) => a + b, 0) / agree.length;
  }

  // metric -> [points, maximum]. `value`: a choice, a text, or findings; `truth`: what the page holds of the question.
  score(truth, value) {
    if (truth.kind === "report") return this.report(truth, value);
    if (truth.choices) return truth.choices[value];
    const right = (truth.kind === "closed" ? [truth.commonest] : truth.people).some(one => this.exact(value, one));
    const scores = { [truth.kind === "closed" ? "closed" : "exact"]: [+right, 1], accuracy: [+right, 1] };
    if (truth.kind !== "closed") {
      const each = truth.people.map(one => this.overlap(value, one));
      [scores.recall, scores.f1] = [0, 1].map(n => [Math.max(...each.map(pair => pair[n])), 1]);
    }
    if (truth.v2) scores.v2 = [this.people(value, truth.people), 1];
    return scores;
  }

  report(truth, marked) { // a part counts as the whole, and not once more
    const whole = name => data.findings.find(each => each.name === name)?.whole;
    const wholes = marked.map(whole).filter(Boolean);
    const counted = name => !truth.ignored.includes(name) && !whole(name);
    const stated = [...new Set([...marked, ...wholes])].filter(counted), wanted = truth.findings.filter(counted);
    const shared = stated.filter(name => wanted.includes(name)).length;
    return {
      finding_recall: [shared, wanted.length], finding_precision: [shared, stated.length],
      normal: [+!marked.length, 1], normal_truth: [+!truth.findings.length, 1],
    };
  }
}

function interval(samples) { // percentiles; NaN is left out
  const sorted = samples.filter(value => !Number.isNaN(value)).sort();
  return [0.025, 0.975].map(share => {
    const at = share * (sorted.length - 1), low = Math.floor(at), high = Math.min(low + 1, sorted.length - 1);
    return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
  });
}

const doubt = n => 1 - 0.025 ** (1 / n); // Clopper and Pearson, of a share that was 0 or 1 in n cases

function ends(value, samples, clusters) {
  if (value !== 0 && value !== 100) return clusters > 1 ? interval(samples) : null;
  return value === 0 ? [0, 100 * doubt(clusters)] : [100 * (1 - doubt(clusters)), 100];
}

function gainEnds(gain, samples, clusters) {
  if (clusters < 2) return null;
  const known = samples.filter(value => !Number.isNaN(value));
  let least = Infinity, most = -Infinity;
  for (const value of known) { least = Math.min(least, value); most = Math.max(most, value); }
  if (gain === 0 || most - least > 1e-9) return interval(known);
  const low = (1 - doubt(clusters)) * gain;
  return gain > 0 ? [low, gain] : [gain, low];
}

// One column: `pairs` [n] of [points, maximum], `clusters` [n], `draws`: how often each of k clusters is drawn, a
// character each, RESAMPLES times k.
function column(pairs, clusters, draws, k) {
  const points = new Float64Array(k), maxima = new Float64Array(k), counted = new Set();
  pairs.forEach(([point, maximum], n) => {
    points[clusters[n]] += point;
    maxima[clusters[n]] += maximum;
    if (maximum > 0) counted.add(clusters[n]);
  });
  const sum = all => pairs.reduce((total, pair) => total + pair[all], 0);
  if (!sum(1)) return null;
  const samples = new Float64Array(draws.length / k);
  for (let row = 0, at = 0; row < samples.length; row++) {
    let above = 0, below = 0;
    for (let cluster = 0; cluster < k; cluster++, at++) {
      const times = draws.charCodeAt(at) - 48;
      above += times * points[cluster];
      below += times * maxima[cluster];
    }
    samples[row] = 100 * (above / below);
  }
  return { value: 100 * (sum(0) / sum(1)), samples, counted: counted.size };
}

// metric -> system -> {value, ends, gain, gainEnds}; gain: by how much the person is above the system.
// `answered` [n]: a skipped question counts in no column.
function compare(systems, answered, clusters, draws, k) {
  const metrics = new Set(systems.you.flatMap((scores, n) => (answered[n] ? Object.keys(scores) : [])));
  const table = {};
  for (const metric of metrics) {
    const columns = {};
    for (const [system, each] of Object.entries(systems)) {
      const pairs = each.map((scores, n) => (answered[n] && scores[metric]) || [0, 0]);
      const found = column(pairs, clusters, draws, k);
      if (found) columns[system] = found;
    }
    const you = columns.you;
    for (const [system, { value, samples, counted }] of Object.entries(columns)) {
      const row = { value, ends: ends(value, samples, counted) };
      if (you && system !== "you") {
        row.gain = you.value - value;
        row.gainEnds = gainEnds(row.gain, you.samples.map((own, n) => own - samples[n]), counted);
      }
      (table[metric] ??= {})[system] = row;
    }
  }
  return table;
}
