"""The documentation's table of layouts: each line stands for data sets that are made and read here."""

from pathlib import Path

import pytest
from made_layouts import LAYOUTS

from vglm_train.config.data import Source
from vglm_train.data.tables.table import Table

ROOT = Path(__file__).parents[3]
PAGES = {language: ROOT / "docs" / language / "howto" / "tables.md" for language in ("en", "zh")}
PROOF: dict[str, tuple[str, ...]] = {
    "VQAv2": ("vqav2", "okvqa"),
    "A-OKVQA": ("aokvqa", "gqa", "textvqa"),
    "COCO": ("coco", "karpathy", "flickr30k_karpathy"),
    "Flickr8k": ("flickr30k_csv", "flickr30k_token"),
    "LAVIS": ("lavis", "aic", "captions_by_name"),
    "R2Gen": ("r2gen",),
    "VQA-RAD": ("vqa_rad", "slake", "pmc_vqa"),
    "PathVQA": ("parquet",),
    "LLaVA": ("llava", "llava_med", "sharegpt", "alpaca", "swift"),
    "Chinese-CLIP": ("chinese_clip", "muge"),
    "img2dataset": ("img2dataset", "one_tar", "tars_by_pattern"),
}
"""By a word of a line's first cell: the made data sets of `LAYOUTS` that it is about."""
REFUSED = "CC3M"  # of the one line about what is not read; its test is in test_table_options.py


def lines(language: str) -> list[list[str]]:
    """Cells of the table's lines, without its head."""
    texts = [line for line in PAGES[language].read_text("utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in texts[2:]]


def word_of(cells: list[str]) -> str:
    [word] = [word for word in (*PROOF, REFUSED) if word in cells[0]]
    return word


@pytest.mark.parametrize("language", PAGES)
def test_each_line_is_made_and_read(language: str) -> None:
    assert [word_of(cells) for cells in lines(language)] == [*PROOF, REFUSED]
    assert {name for names in PROOF.values() for name in names} <= LAYOUTS.keys()


@pytest.mark.parametrize("language", PAGES)
def test_what_the_source_needs_is_what_the_line_says(language: str, tmp_path: Path) -> None:
    """`join` where it says so; nothing but the folder of pictures where it says that all is found."""
    for cells in lines(language):
        word = word_of(cells)
        for name in PROOF.get(word, ()):
            (tmp_path / language / name).mkdir(parents=True)
            made = LAYOUTS[name](tmp_path / language / name)
            needed = made.options.keys() - {"images"}
            assert ("join" in needed) == (word == "VQAv2"), name
            if cells[2].startswith(("found", "自动识别")):
                table = Table(Source(name="made", table=str(made.table), images=made.options.get("images")))
                assert (len(table.index), table.index.count("usable")) == (made.rows, made.rows - made.bad), name


def test_what_a_row_gives_is_what_the_lines_say(tmp_path: Path) -> None:
    """Splits, several pictures, questions or captions."""
    kinds = {"VQAv2": "turns", "A-OKVQA": "turns", "COCO": "caption", "Flickr8k": "caption", "LAVIS": "caption",
             "R2Gen": "caption", "VQA-RAD": "turns", "PathVQA": "turns", "LLaVA": "turns", "Chinese-CLIP": "caption",
             "img2dataset": "caption"}  # fmt: skip
    with_splits = {"karpathy", "flickr30k_karpathy", "r2gen", "vqa_rad", "parquet", "muge", "tars_by_pattern", "aokvqa",
                   "textvqa"}  # fmt: skip
    for word, names in PROOF.items():
        for name in names:
            (tmp_path / name).mkdir()
            made = LAYOUTS[name](tmp_path / name)
            assert {said[2] for said in made.said} == {kinds[word]}, name
            assert (made.said[0][0] is not None) == (name in with_splits), name
            assert any(len(said[1]) > 1 for said in made.said) == (name in ("r2gen", "swift")), name
