"use strict";
// The page: questions, then, once all answers are final, the comparison. Texts enter it as text, never as HTML.
const $ = id => document.getElementById(id);
const data = JSON.parse($("open").textContent);
const KEY = "vglm-blind-" + data.id, FORMAT = "vglm blind answers 1", MOST_BUTTONS = 8, FEW = 5;
const SYSTEMS = ["you", "model", "majority", "shuffled", "blank"], MAIN = { vqa: ["accuracy"], report: ["finding_recall", "finding_precision"] };
const page = { kept: true, at: -1, since: null, language: null, theme: "auto", sealed: null, result: null };
let state = fresh();

function fresh(seen = 0) { // `seen`: how often the answers had been shown before
  return { seen, finished: false, answers: data.questions.map(() => ({ value: null, skipped: false, seconds: 0 })) };
}

function word(name, values = {}) {
  return (WORDS[page.language][name] ?? name).replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);
}

function make(tag, options = {}, ...children) {
  const element = Object.assign(document.createElement(tag), options);
  element.append(...children);
  return element;
}

const button = (name, does, options = {}) => make("button", { type: "button", textContent: word(name), onclick: does, ...options });
const text = (tag, name, values, className = "") => make(tag, { textContent: word(name, values), className });

function remember(name, value) { // what a browser keeps for a local file, if it does
  try {
    if (value === undefined) return localStorage.getItem(name);
    localStorage.setItem(name, value);
  } catch {
    page.kept = false;
  }
  return null;
}

function keep() {
  remember(KEY, JSON.stringify({ format: FORMAT, page: data.id, ...state }));
}

// A state from storage or a file; null if it is none of this page's.
function understood(content) {
  let found;
  try { found = JSON.parse(content); } catch { return null; }
  const whole = found && found.format === FORMAT && found.page === data.id && Number.isInteger(found.seen) && found.seen >= 0
    && typeof found.finished === "boolean" && Array.isArray(found.answers) && found.answers.length === data.questions.length
    && found.answers.every((answer, n) => answer && fits(data.questions[n], answer.value) && typeof answer.skipped === "boolean" && answer.seconds >= 0);
  if (!whole) return null;
  const answers = found.answers.map(({ value, skipped, seconds }) => ({ value, skipped, seconds: Number(seconds) }));
  return { seen: found.seen, finished: found.finished, answers };
}

function fits(question, value) {
  if (value === null) return true;
  if (question.kind === "report") return Array.isArray(value) && value.every(name => data.findings.some(each => each.name === name));
  return typeof value === "string" && (!question.choices || question.choices.includes(value));
}

function answered(answer) {
  return !answer.skipped && answer.value !== null && (Array.isArray(answer.value) || answer.value.trim() !== "");
}

function stopClock() { // seconds in which the question was visible
  if (page.since !== null) state.answers[page.at].seconds += (performance.now() - page.since) / 1000;
  page.since = null;
}

function go(at) { // -1: the introduction; as many as there are questions: the end
  stopClock();
  page.at = at;
  if (at >= 0 && at < data.questions.length && !document.hidden) page.since = performance.now();
  keep();
  draw();
  scrollTo(0, 0);
  if (matchMedia("(pointer: fine)").matches) $("main").querySelector("#answer, .choices input")?.focus(); // a phone would open its keyboard
}

function draw() {
  document.documentElement.lang = page.language === "zh" ? "zh-CN" : "en";
  document.documentElement.dataset.theme = page.theme;
  document.title = word("title");
  $("title").textContent = word("title");
  $("theme").textContent = word("theme_" + page.theme);
  $("language").textContent = word("language");
  $("save").textContent = word("save");
  $("load").textContent = word("load");
  $("about").textContent = data.title;
  $("kept").hidden = page.kept;
  $("kept").textContent = word("not_kept");
  const asking = !state.finished && page.at >= 0;
  $("strip").hidden = !asking;
  if (asking) drawStrip();
  const parts = state.finished ? drawResult() : page.at < 0 ? introduction() : page.at < data.questions.length ? question() : ending();
  $("main").replaceChildren(...parts);
}

function drawStrip() {
  $("strip").replaceChildren(...state.answers.map((answer, n) => make("button", {
    type: "button", textContent: n + 1, onclick: () => go(n), ariaCurrent: String(n === page.at),
    className: answered(answer) ? "done" : answer.skipped ? "skipped" : "",
  })), button("finish", () => go(data.questions.length), { id: "end" }));
}

function introduction() {
  const kinds = new Set(data.questions.map(each => (each.kind === "report" ? "by_findings" : each.choices ? "by_choice" : "by_words")));
  if (data.questions.some(each => each.known.length)) kinds.add("by_known");
  const size = { side: data.side, model: data.modelSide };
  const begun = state.answers.some(answer => answer.seconds || answer.skipped);
  const first = state.answers.findIndex(answer => !answered(answer) && !answer.skipped);
  return [
    text("p", "intro", { n: data.questions.length, pictures: data.pictures.length }),
    text("p", "chosen", { n: data.questions.length, of: data.of }), text("p", "sizes", size),
    ...[...kinds].map(name => text("p", name)),
    make("ul", {}, ...["private", "no_lock", "not_device"].map(name => text("li", name))),
    make("p", {}, button(begun ? "resume" : "start", () => go(first < 0 ? data.questions.length : first), { id: "start", className: "main" })),
  ];
}

function pictures(asked) {
  return make("div", { className: "pictures" }, ...asked.pictures.map(n => {
    const image = make("img", { src: data.pictures[n], alt: "" });
    return make("button", { type: "button", className: "picture", title: word("enlarge"), onclick: () => zoom.open(data.pictures[n]) }, image);
  }));
}

function asking(asked) { // the question with what was asked before, as the model got it
  const before = asked.history.map(([before, given]) => make("p", { className: "before" },
    make("small", { textContent: word("asked_before") + ": " }), before, make("br"), make("small", { textContent: word("given") + ": " }), given));
  return [...before, make("p", { className: "question", lang: asked.language, textContent: asked.question || word("report_question") })];
}

function question() {
  const asked = data.questions[page.at], answer = state.answers[page.at];
  const set = value => {
    Object.assign(answer, { value, skipped: false });
    keep();
    drawStrip();
    $("next").disabled = !answered(answer);
  };
  const skip = () => { Object.assign(answer, { value: null, skipped: true }); go(page.at + 1); };
  const form = make("form", { className: "ask" }, ...asking(asked), control(asked, answer.value, set), make("p", { className: "buttons" },
    button("back", () => go(page.at - 1), { id: "back" }), button("skip", skip, { id: "skip" }),
    make("button", { id: "next", className: "main", textContent: word("next"), disabled: !answered(answer) })));
  form.onsubmit = event => { event.preventDefault(); if (answered(answer)) go(page.at + 1); };
  const count = make("p", { className: "count", textContent: word("of", { n: page.at + 1, of: data.questions.length }) });
  return [count, make("div", { className: "reading" }, pictures(asked), form)];
}

function control(asked, value, set) {
  if (asked.kind === "report") return findings(value, set);
  if (!asked.choices) {
    const field = make("input", { id: "answer", type: "text", value: value ?? "", autocomplete: "off", maxLength: 2000, lang: asked.language, placeholder: word("your_answer") });
    field.setAttribute("aria-label", word("your_answer"));
    field.oninput = () => set(field.value);
    if (!asked.known.length) return field;
    field.setAttribute("list", "known");
    return make("div", {}, field, make("datalist", { id: "known" }, ...asked.known.map(each => make("option", { value: each }))));
  }
  if (asked.choices.length > MOST_BUTTONS) {
    const options = asked.choices.map(each => make("option", { value: each, textContent: each, selected: each === value }));
    const field = make("select", { id: "answer" }, make("option", { value: "", textContent: word("choose"), disabled: true, selected: value === null }), ...options);
    field.onchange = () => set(field.value);
    return field;
  }
  return make("div", { className: "choices" }, ...asked.choices.map(each => {
    const input = make("input", { type: "radio", name: "choice", value: each, checked: each === value, onchange: () => set(each) });
    return make("label", {}, input, " ", choiceName(asked, each));
  }));
}

const choiceName = (asked, choice) => (asked.polar ? word(choice === asked.choices[0] ? "yes" : "no") : choice);
const findingName = name => data.findings.find(each => each.name === name)?.[page.language] ?? name;
const listed = names => names.map(findingName).join(word("comma")) || word("none");

function findings(value, set) { // an empty list says: no abnormal finding
  const none = make("input", { type: "checkbox", value: "none", checked: value?.length === 0 });
  const boxes = data.findings.map(({ name }) => make("input", { type: "checkbox", value: name, checked: value?.includes(name) ?? false }));
  const changed = event => {
    if (event.target === none && none.checked) for (const box of boxes) box.checked = false;
    const stated = boxes.filter(box => box.checked).map(box => box.value);
    if (stated.length) none.checked = false;
    set(stated.length || none.checked ? stated : null);
  };
  for (const box of [none, ...boxes]) box.onchange = changed;
  return make("div", { className: "choices" }, make("label", {}, none, " ", word("none")),
    ...boxes.map(box => make("label", {}, box, " ", findingName(box.value))));
}

function ending() {
  const open = state.answers.filter(answer => !answered(answer) && !answer.skipped).length;
  return [
    make("h2", { textContent: word("finish") }), open ? text("p", "left", { n: open }, "warn") : text("p", "sure"),
    make("p", { className: "buttons" }, button("stay", () => go(data.questions.length - 1)), button("go", finish, { id: "finish", className: "main" })),
  ];
}

async function finish() {
  if (!await unseal()) return;
  for (const answer of state.answers) if (!answered(answer)) Object.assign(answer, { value: null, skipped: true });
  state.finished = true;
  go(-1);
}

async function unseal() {
  if (page.sealed) return true;
  if (typeof DecompressionStream === "undefined") {
    $("main").replaceChildren(text("p", "unusable", {}, "warn"));
    return false;
  }
  const packed = Uint8Array.from(atob($("sealed").textContent), each => each.charCodeAt(0));
  page.sealed = JSON.parse(await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
  return true;
}

function saveFile() {
  stopClock();
  const content = { format: FORMAT, page: data.id, title: data.title, ...state };
  if (state.finished) content.scores = page.result.table;
  const link = make("a", { download: data.name + "-answers.json", href: URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  if (page.at >= 0 && page.at < data.questions.length) page.since = performance.now();
}

async function loadFile(file) {
  const found = understood(await file.text());
  if (!found) {
    $("told").textContent = word("wrong_file", { name: file.name });
    return;
  }
  if (found.finished && !await unseal()) return;
  found.seen = Math.max(found.seen, state.seen + (state.finished && !found.finished)); // unfinished, but these eyes saw the answers
  page.since = page.result = null;
  state = found;
  $("told").textContent = "";
  go(-1);
}

async function begin() {
  const language = remember("vglm-language"), theme = remember("vglm-theme");
  page.language = language in WORDS ? language : navigator.language.startsWith("zh") ? "zh" : "en";
  page.theme = ["auto", "dark", "light"].includes(theme) ? theme : "auto";
  const kept = understood(remember(KEY));
  if (kept && (!kept.finished || await unseal())) state = kept;
  $("language").onclick = () => { page.language = page.language === "en" ? "zh" : "en"; remember("vglm-language", page.language); draw(); };
  $("theme").onclick = () => { page.theme = { auto: "dark", dark: "light", light: "auto" }[page.theme]; remember("vglm-theme", page.theme); draw(); };
  $("save").onclick = saveFile;
  $("load").onclick = () => $("file").click();
  $("file").onchange = async event => { const [file] = event.target.files; if (file) await loadFile(file); event.target.value = ""; };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { stopClock(); keep(); } else if (page.at >= 0 && page.at < data.questions.length) page.since = performance.now();
  });
  addEventListener("pagehide", () => { stopClock(); keep(); });
  keep(); // finds out whether this browser does
  draw();
  document.body.dataset.ready = "yes";
}
