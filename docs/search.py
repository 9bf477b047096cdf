"""The search of the Chinese pages, as an extension of Sphinx.

Sphinx cuts Chinese pages into words but not what a person types, and with English stems its page of results stops at a
name that is not defined (Sphinx 9.0). Here pages are cut into single characters and pairs of neighbours, which needs no
dictionary. The browser cuts what is typed into words; a page is found if it holds every pair within them, in whatever
order it says the words. Words in Latin letters stay whole.
"""

import re
from itertools import pairwise

from sphinx.application import Sphinx
from sphinx.search import SearchLanguage

HAN = r"\u3400-\u9fff"
PIECES = re.compile(rf"[{HAN}]+|[^\W{HAN}]+")


class ChineseSearch(SearchLanguage):
    """Single characters and pairs on pages; a query asks for the pairs within its words."""

    lang = "zh"
    language_name = "Chinese"
    js_splitter_code = r"""
var asking = new Set(["为什么", "什么", "怎么", "怎样", "如何", "哪里", "哪个", "可以"]);
var pairs = (piece) => {
  const segments = "Segmenter" in Intl ? [...new Intl.Segmenter("zh", {granularity: "word"}).segment(piece)] : [];
  const cut = segments.map((part) => part.segment);
  const words = cut.filter((word) => word.length > 1 && !asking.has(word));
  const whole = cut.some((word) => asking.has(word)) ? [] : [piece];  // nothing but a question is left out
  return (words.length ? words : whole).flatMap((word) => [...word].slice(1).map((second, i) => word[i] + second));
};
var splitQuery = (query) =>
  query.split(/([\u3400-\u9fff]+)|[^\p{Letter}\p{Number}_]+/u).filter(Boolean).flatMap((piece) =>
    /^[\u3400-\u9fff]{2}/.test(piece) ? pairs(piece) : [piece]);
"""

    def split(self, input: str) -> list[str]:
        """`input` as the terms under which a page is found."""
        terms: list[str] = []
        for piece in PIECES.findall(input):
            han = re.match(f"[{HAN}]", piece)
            terms += [*piece, *map("".join, pairwise(piece))] if han else [piece]
        return terms


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_search_language(ChineseSearch)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
