"""Headings of radiology reports, in two languages, and the parts of a report that stand under them.

A heading counts in any case: before a colon, in brackets, alone on its line; without a colon also in capitals, or in
Chinese before a space, where a sentence begins.
"""

import re
from collections.abc import Mapping

FINDINGS, IMPRESSION, BOTH, OTHER = "findings", "impression", "both", "other"
HEADINGS: Mapping[str, tuple[str, ...]] = {
    FINDINGS: (
        "findings", "finding", "radiographic findings", "imaging findings", "observations", "description",
        "影像所见", "检查所见", "影像表现", "影像学表现", "影像学所见", "检查表现", "放射所见", "放射学表现", "X线所见",
        "X线表现", "CT所见", "CT表现", "所见", "影像描述", "检查描述",
    ),
    IMPRESSION: (
        "impression", "impressions", "conclusion", "conclusions", "opinion", "assessment", "diagnosis",
        "imaging diagnosis", "summary",
        "诊断意见", "印象", "影像诊断", "影像学诊断", "结论", "诊断结论", "诊断印象", "检查结论", "检查意见",
        "影像印象", "影像意见", "影像结论", "放射诊断", "放射学诊断", "诊断提示", "检查提示", "报告结论", "诊断",
    ),
    BOTH: (
        "findings and impression", "findings/impression", "findings / impression", "impression and findings",
        "findings and conclusion", "findings & impression", "所见及诊断", "影像所见及诊断", "检查所见及诊断意见",
        "影像所见及诊断意见",
    ),
    OTHER: (
        "indication", "indications", "clinical indication", "reason for exam", "reason for examination",
        "reason for study", "reason for this examination", "clinical history", "history", "clinical information",
        "clinical data", "clinical diagnosis", "technique", "procedure", "protocol", "comparison", "comparisons",
        "comparison study", "comparison studies", "exam", "examination", "exam type", "study", "recommendation",
        "recommendations", "notification", "addendum", "signed by", "dictated by", "electronically signed by",
        "临床诊断", "临床病史", "病史", "病史摘要", "现病史", "既往史", "主诉", "临床资料", "临床症状", "检查目的",
        "检查部位", "检查方法", "检查技术", "检查项目", "检查名称", "扫描方法", "扫描技术", "成像技术", "对比", "比较",
        "对比检查", "建议", "备注", "注", "报告医师", "报告医生", "审核医师", "审核医生", "检查日期", "报告日期",
    ),
}  # fmt: skip
"""Part -> headings that begin it. BOTH: findings and impression in one text; OTHER: what no model can see."""

TITLES = {
    "en": {FINDINGS: "Findings: ", IMPRESSION: "Impression: "},
    "zh": {FINDINGS: "影像所见：", IMPRESSION: "印象："},
}
"""Of the parts in a text that holds both."""

_PART = {name.lower(): part for part, names in HEADINGS.items() for name in names}
_NAMES = "|".join(
    re.escape(name).replace(r"\ ", r"[ \t_]+") for name in sorted(_PART, key=lambda name: (-len(name), name))
)
_HEADING = re.compile(
    r"(?:(?<!\S)[\d一二三四五]{1,2}[.、)）][ \t]*)?(?P<open>[\[【<(（*#]*)[ \t]*"
    rf"(?<![^\W_])(?P<name>{_NAMES})(?![^\W_])[ \t]*(?P<close>[\]】>)）*]*)[ \t]*(?P<colon>[:：]?)\**",
    re.IGNORECASE,
)
_BEGINS = re.compile(r"(?:^|[\n.;:!?。；：！？])[ \t]*$")
_NEAR = 12  # characters before a heading that say whether a sentence begins with it


def part_named(name: str) -> str | None:
    """The part whose heading a column's name is."""
    return _PART.get(" ".join(name.replace("_", " ").lower().split()))


def split_report(text: str) -> dict[str, str]:
    """Part -> what stands under its headings, without these; what stands before the first heading is OTHER's.

    No part but OTHER: there is no heading.
    """
    parts: dict[str, list[str]] = {}
    part, start = OTHER, 0
    for match in _HEADING.finditer(text):
        if not _is_heading(match, text):
            continue
        parts.setdefault(part, []).append(text[start : match.start()])
        part, start = _PART[re.sub(r"[ \t_]+", " ", match["name"]).lower()], match.end()
    parts.setdefault(part, []).append(text[start:])
    texts = {part: "\n".join(each.strip() for each in held if each.strip()) for part, held in parts.items()}
    return {part: text for part, text in texts.items() if text}


def _is_heading(match: re.Match[str], text: str) -> bool:
    name, before, after = match["name"], text[: match.start()], text[match.end() :]
    begins = _BEGINS.search(before[-_NEAR:]) is not None
    if match["colon"]:
        return begins or name[0].isupper() or (not name.isascii() and before[-1:].isspace())
    if match["open"] and match["close"]:
        return True
    if re.match(r"[ \t]*(?:\n|$)", after) and re.search(r"(?:^|\n)[ \t]*$", before):
        return True
    return begins and match.end() > match.end("name") and (not name.isascii() or name.isupper())
