"""Numbers in tables come from files; what a page says is what its file says."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.result_file import MEASURED, Results
from docs import cards, generate, tables
from docs.words import ChineseWords
from vglm_train.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]
NUMBER = re.compile(r"(about |约 ?)?[\d,]*\d(\.\d+)?( ?(%|GiB|MiB|GB|MB|M|s|ms|images/s|samples/s|样本/秒|图片/秒))?")
FILES = sorted((ROOT / "benchmarks/results").glob("*.json"))
# page -> where the numbers in its typed tables come from; none of them was measured
TYPED = {
    "howto/released.md": "sizes of the downloads as their publishers list them",
    "reference/presets.md": "settings that papers and scripts publish",
    "reference/protocols.md": "settings and scores that papers publish; the page is made of the protocols' files",
    "tutorials/xrays.md": "numbers of parameters, as tests/test_finetune_configs.py counts them",
}


def measured_cells(text: str) -> list[str]:
    """Cells that are a number, in tables outside the places that are rendered."""
    text = tables.BLOCK.sub("", text)
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line.lstrip().startswith("|")]
    return [cell.strip() for row in rows for cell in row[1:] if NUMBER.fullmatch(cell.strip())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_number_is_typed_into_a_table(page: Path) -> None:
    if any(page.as_posix().endswith(name) for name in TYPED):
        return
    assert measured_cells(page.read_text("utf-8")) == [], (
        "put it into a file of benchmarks/results and docs/tables.yaml"
    )


def test_a_typed_number_is_found() -> None:
    rendered = "<!-- numbers: stage1 -->\n| y | 1 |\n<!-- end of numbers -->\n"
    text = f"| a | b | c |\n|---|---|---|\n| x | 541 | 16.3 GiB |\n{rendered}"
    assert measured_cells(text) == ["541", "16.3 GiB"]


def test_a_page_that_differs_from_its_file_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """As test_reference.py notices it: another number in the file makes another page."""
    page = ROOT / "docs/en/benchmarks.md"
    before = dict(tables.pages())[page]
    assert before == page.read_text("utf-8")
    alias = tables.definitions()["tables"]["stage1"]["file"]
    results = tables.read(alias)
    assert isinstance(results, Results)
    changed = replace(results, rows=tuple(replace(row, samples_per_s=1.0) for row in results.rows))
    monkeypatch.setattr(tables, "read", lambda name: changed if name == alias else Results.read(_path(name)))
    assert "| 1 |" in tables.with_tables("<!-- numbers: stage1 -->\n<!-- end of numbers -->", "en")


def _path(alias: str) -> Path:
    return tables.RESULTS / tables.definitions()["files"][alias]["file"]


def test_every_place_on_a_page_is_defined_and_used_in_both_languages() -> None:
    used: dict[str, set[str]] = {"en": set(), "zh": set()}
    for page in PAGES:
        zh = page.name == "README.zh.md" or "zh" in page.relative_to(ROOT).parts
        text = page.read_text("utf-8")
        names = {found[2] for found in tables.BLOCK.finditer(text)}
        assert (
            len(re.findall("<!-- numbers: ", text))
            == text.count("<!-- end of numbers -->")
            == len(list(tables.BLOCK.finditer(text)))
        ), page
        used["zh" if zh else "en"] |= names
    assert used["en"] == used["zh"] == set(tables.definitions()["tables"])


def test_every_file_is_used_and_readable() -> None:
    entries = {entry["file"]: alias for alias, entry in tables.definitions()["files"].items()}
    assert set(entries) == {path.name for path in FILES}
    for path in FILES:
        found = tables.read(entries[path.name])
        if isinstance(found, Results):
            assert found.shapes == "full"
            assert found.date[:2] == "20"
            copied = "copied" in found.source or "peers" in path.name
            assert copied or (found.source == MEASURED and found.commit and found.machine.card), path.name


@pytest.mark.parametrize("name", tables.definitions()["tables"])
def test_both_languages_say_the_same_numbers(name: str) -> None:
    cells = [
        [re.findall(r"\d[\d,.]*\d|\d", cell) for line in tables.render(name, language).splitlines() if line[:1] == "|"
         for cell in line.split("|")[2:]]
        for language in ("en", "zh")
    ]  # fmt: skip
    heads = len(tables.render(name, "en").splitlines()[0].split("|")) - 2
    assert cells[0][heads:] == cells[1][heads:]


def test_the_words_around_a_number_differ_by_language() -> None:
    english, chinese = (tables.render("peers", language) for language in ("en", "zh"))
    assert "LAVIS: 222 images/s, 26 GiB" in english
    assert "LAVIS：222 张/秒，26 GiB" in chinese


def test_a_number_that_is_not_in_the_file() -> None:
    with pytest.raises(UserError, match="0 rows are named 'nothing' of case 'stage1'"):
        tables.fill("{stage1|nothing|ms|.1f}", "peers")
    with pytest.raises(UserError, match="no ms was measured"):
        tables.fill("{ms|.1f}", "peers", "stage1|LAVIS")


def test_a_measured_file_is_told_with_card_versions_date_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = tables.read("peers")
    assert isinstance(peers, Results)
    machine = replace(peers.machine, product_tflops=683.4, copy_tb_s=2.91, versions={"torch": "2.11", "triton": "3.6"})
    made = replace(peers, source=MEASURED, commit="0123456789", machine=machine, command="vglm benchmark stage1")
    monkeypatch.setattr(tables, "read", lambda _: made)
    english, chinese = (tables.source("peers", language) for language in ("en", "zh"))
    for told in ("NVIDIA H100 80GB", "2026-11-25", "01234567", "torch 2.11", "triton 3.6", "683 TFLOP/s", "2.9 TB/s"):
        assert told in english
        assert told in chinese
    assert "`vglm benchmark stage1`" in english


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_readme_tells_the_scores_of_the_demo_as_its_file_does(name: str) -> None:
    demo = json.loads((ROOT / "benchmarks/results/demo.json").read_text("utf-8"))
    text = " ".join((ROOT / name).read_text("utf-8").split())
    recalls = [demo["scores"][f"eval/{language}_{way}_r1"] for language in ("en", "zh") for way in ("i2t", "t2i")]
    whole = {language: demo["told"]["captions"][language]["everything"] for language in ("en", "zh")}
    right = {language: round(100 * kinds["right"][0] / kinds["right"][1]) for language, kinds in whole.items()}
    low, high, chance = round(min(recalls)), round(max(recalls)), demo["chance"]["en_i2t_r1"]
    wanted = {
        "README.md": [
            f"in {low} to {high} % (chance: {chance:.2f})",
            f"in {right['en']} % (English) and {right['zh']} % (Chinese)",
        ],
        "README.zh.md": [f"{low} 到 {high} %（随机：{chance:.2f}）", f"英文 {right['en']} %，中文 {right['zh']} %"],
    }
    assert [words for words in wanted[name] if words not in text] == []
    assert all(kinds["shuffled"][0] == 0 for kinds in whole.values())
    assert demo["images"] == 400


def test_a_larger_card_holds_as_many_rows_and_recompute_more() -> None:
    head, *lines = cards.card_rows("en")
    assert head[1:] == ["24 GB", "32 GB", "40 GB", "48 GB", "80 GB"]
    for name, *cells in lines:
        pairs = [[0 if part == cards.NONE else int(part) for part in cell.split(" / ")] for cell in cells]
        assert pairs == sorted(pairs), name
        assert all(plain <= recomputed for plain, recomputed in pairs), name


def test_what_is_advised_is_what_check_says_and_fits() -> None:
    """The setting for LoRA on 24 GB, by the words that --check prints."""
    from vglm_train import stages
    from vglm_train.clinic import recipe
    from vglm_train.describe import _memory

    rows = int(cards.most("xray_vqa_chatglm_lora", 24, False))
    config, model = cards.built("xray_vqa_chatglm_lora")
    assert config.data.global_batch % rows == 0
    changed = replace(config, engine=replace(config.engine, micro_batch=rows, recompute=False))
    words = _memory(changed, stages.build(changed), model, 1)[0]
    gib = float(re.search(r"about ([\d.]+) GiB", words)[1])
    assert gib == pytest.approx(cards.need("xray_vqa_chatglm_lora", rows, False).total / cards.GIB, abs=0.06)
    assert gib * recipe.MARGIN + recipe.CONTEXT <= 24
    assert not cards.fits(cards.need("xray_vqa_chatglm_lora", 2 * rows, False), 24)


def test_the_generator_writes_these_pages() -> None:
    assert dict(tables.pages()).items() <= generate.pages(ChineseWords()).items()


@pytest.mark.parametrize("page", tables.definitions()["prose"])
def test_sentences_say_what_the_files_say(page: str) -> None:
    text = " ".join((ROOT / page).read_text("utf-8").split())
    wanted = [tables.fill(words, "peers") for words in tables.definitions()["prose"][page]]
    assert [words for words in wanted if words not in text] == []
