"use strict";
// The page's own words. What is said of runs comes from the server in both languages.
const WORDS = {
  en: {
    runs: "Runs", curves: "Curves", smooth: "smooth", reference: "public run", all: "all", half: "last half",
    tenth: "last tenth", zoom_hint: "Drag across a curve to zoom; double-click, or “all”, to see everything.",
    compare: "compare", run: "run", state: "how it is", step: "step", loss: "loss", score: "held out",
    rate: "samples/s", updated: "live, last row", ago: "ago", lost: "no answer: does vglm report still run?",
    verdict: "Is the loss normal?", values: "Newest values", metric: "metric", value: "value",
    means: "what it is", try: "Try:", theme_auto: "theme: system", theme_dark: "theme: dark", theme_light: "theme: light",
    language: "中文", none: "No run yet: it appears here with its first row.", not_finite: "not finite",
    newest: "newest", of_step: "step", blind: "blind", published: "public run",
  },
  zh: {
    runs: "训练", curves: "曲线", smooth: "平滑", reference: "公开训练", all: "全部", half: "后一半",
    tenth: "后十分之一", zoom_hint: "在曲线上拖动可放大；双击或点“全部”恢复。",
    compare: "对比", run: "训练", state: "状况", step: "步", loss: "loss", score: "留出集",
    rate: "样本/秒", updated: "实时，最新一行", ago: "前", lost: "没有回应：vglm report 还在运行吗？",
    verdict: "loss 正常吗？", values: "最新数值", metric: "指标", value: "数值",
    means: "含义", try: "可以试试：", theme_auto: "主题：跟随系统", theme_dark: "主题：深色", theme_light: "主题：浅色",
    language: "English", none: "还没有训练：写出第一行后会出现在这里。", not_finite: "非有限数",
    newest: "最新", of_step: "第", blind: "瞎猜", published: "公开训练",
  },
};
const UNITS = { en: [" s", " min", " h", " d"], zh: [" 秒", " 分钟", " 小时", " 天"] };
