"""Whether re-ranking by ITM can be trusted, in a sentence."""

from collections.abc import Iterator, Mapping

from vglm_train.config.metric_names import DIRECTIONS, RERANK, language_metric
from vglm_train.evaluate.metrics.bootstrap import MIN_ITEMS, mean_interval
from vglm_train.evaluate.retrieval.outcomes import Outcomes
from vglm_train.report.html import VerdictLine


def assess_reranking(language: str, outcomes: Outcomes, scores: Mapping[str, float]) -> Iterator[VerdictLine]:
    """A line if ITM re-ranked: whether its accuracy is above chance, over pictures, and recall at 1 no lower by it."""
    if RERANK not in outcomes.ranks:
        return
    shares = [50.0 * right for right, _ in outcomes.matches.values()]
    low, high = mean_interval(shares)
    text = f"{language}: ITM accuracy {sum(shares) / len(shares):.1f} %, 95 % [{low:.1f}, {high:.1f}]"
    if len(shares) < MIN_ITEMS:
        yield VerdictLine("warn", f"{text}: too few to tell, {len(shares)} pictures")
        return
    advice = "read the rows by ITC, or evaluate with --rerank 0"

    def recall(name: str) -> float:
        return scores[language_metric(language, name)]

    pairs = [(f"{way}_r1", recall(f"{way}_r1"), recall(f"{RERANK}{way}_r1")) for way in DIRECTIONS]
    changes = ", ".join(f"{name} {before:.1f} -> {after:.1f}" for name, before, after in pairs)
    if low <= 50:
        told = "below chance" if high < 50 else "not told apart from chance"
        yield VerdictLine("warn", f"{text}: {told}, 50, so its order says nothing ({changes}); {advice}")
    elif any(after < before for _, before, after in pairs):
        yield VerdictLine("warn", f"{text}: above chance, but re-ranking by it lowers recall ({changes}); {advice}")
    else:
        yield VerdictLine("ok", f"{text}: above chance, 50; re-ranking by it: {changes}")
