"""Abnormal findings that a chest report states, by keywords with negation, in English and Chinese.

This is a list of keywords, not a labeller. It shows at once a model that calls every image normal. Published clinical
efficacy needs CheXbert or RadGraph. A keyword is negated by a cue before it in the same part of the sentence (English
parts end at "but", ";" and ".", Chinese ones at "，" too), or by a cue after it ("... is not seen").
"""

import re
import unicodedata
from collections.abc import Iterator

ENGLISH_WORDS = {
    "opacity": r"opacit(?:y|ies)|opacifications?|opacified|infiltrat\w+|hazy|haziness",
    "ground glass": r"ground.?glass|crazy.?paving",
    "consolidation": r"consolidat\w+|air.?bronchograms?|air.?space disease",
    "pneumonia": r"(?:broncho)?pneumonias?|pneumonitis|covid(?:.?19)?|infections?|tuberculosis",
    "effusion": r"effusions?|pleural fluid",
    "pneumothorax": r"(?:hydro)?pneumothora(?:x|ces)|pneumomediastinum",
    "cardiomegaly": (
        r"cardiomegaly|(?:cardiac|heart)[^.;,]{0,30}(?:enlarge\w*|megaly)|"
        r"enlarge\w* (?:\w+ )?(?:heart|cardiac\w*)"
    ),
    "oedema": r"(?:o)?edema|vascular congestion|pulmonary congestion",
    "atelectasis": r"atelecta\w+|(?:lung|lobar|lobe) collapse",
    "nodule or mass": r"nodul\w+|mass(?:es)?|tumou?rs?(?! markers?)|lesions?|metasta\w+|cavit(?:y|ies|at\w+)",
    "fracture": r"fractur\w+",
    "emphysema": r"emphysema\w*|hyperinflat\w+|hyperexpan\w+|bullae?|copd",
    "fibrosis or scar": r"fibro\w+|scar(?:s|ring)?|interstitial (?:thickening|pattern|prominence|disease)",
    "thickening": r"(?:pleural|septal|bronchial wall|peribronchial) thickening",
    "bronchiectasis": r"bronchiecta\w+",
    "granuloma or calcification": r"granuloma\w*|calcif\w+",
    "lymphadenopathy": r"(?:lymph)?adenopathy|enlarged lymph nodes?",
    "wide mediastinum": r"(?:widen\w*|enlarged) mediastin\w+|mediastinal widening",
    "hernia": r"hernia\w*",
    "degeneration": r"degenerative|spondylosis|osteophytes?|scoliosis|kyphosis",
    "aorta": r"(?:tortuous|ectatic|dilated|unfolded) (?:\w+ )?aorta|aneurysm\w*",
}
CHINESE_WORDS = {
    "opacity": r"不透明|阴影|浸润|斑片影|模糊影",
    "ground glass": r"磨玻璃|毛玻璃",
    "consolidation": r"实变|巩固|空隙疾病|支气管充气",
    "pneumonia": r"肺炎|感染|肺结核|新冠",
    "effusion": r"积液|积水|胸水",
    "pneumothorax": r"气胸|纵隔气肿",
    "cardiomegaly": r"心(?:脏|影|胸)[^，。；,]{0,8}(?:增大|肥大|肿大|扩大)|主动脉型心",
    "oedema": r"水肿|肺淤血|肺充血|血管充血",
    "atelectasis": r"肺不张|不张|肺萎陷",
    "nodule or mass": r"结节|肿块|肿瘤|占位|病灶|病变|空洞|转移",
    "fracture": r"骨折",
    "emphysema": r"肺气肿|过度充气|过度膨胀|肺大泡",
    "fibrosis or scar": r"纤维化|瘢痕|疤痕|间质(?:增厚|改变|病变)",
    "thickening": r"(?:胸膜|间隔|支气管壁)增厚",
    "bronchiectasis": r"支气管扩张",
    "granuloma or calcification": r"肉芽肿|钙化",
    "lymphadenopathy": r"淋巴结(?:肿大|增大)",
    "wide mediastinum": r"纵隔(?:增宽|扩大)",
    "hernia": r"疝",
    "degeneration": r"退行性|骨质增生|骨赘|脊柱侧弯|侧凸",
    "aorta": r"主动脉(?:迂曲|扩张|硬化)|动脉瘤",
}
ENGLISH = {name: re.compile(rf"\b(?:{words})\b") for name, words in ENGLISH_WORDS.items()}
CHINESE = {name: re.compile(words) for name, words in CHINESE_WORDS.items()}

EN_PARTS = re.compile(r"[.;:!?\n](?!\d)|\b(?:but|however|although|though|except|aside from|other than|apart from)\b")
EN_BEFORE = re.compile(
    r"\b(?:no|not|without|absen(?:t|ce of)|free of|clear of|negative for|den(?:y|ies|ied)|rule[sd]? out|neither|nor"
    r"|resolution of|resolved|unremarkable for|lack of)\b|n't\b"
)
EN_AFTER = re.compile(
    r"\b(?:is|are|was|were|has|have)\b[^,]{0,20}\b(?:not|absent|excluded|resolved|ruled out|cleared)\b"
    r"|^[\s:]*(?:absent|negative)\b"
)
ZH_PARTS = re.compile(r"[。；;！？!?\n，,]|但是?|然而|不过")
ZH_BEFORE = re.compile(r"未(?:见|发现|显示|提示|观察到|检出)?|没有?|无(?!法)|不存在|排除|否认|不伴|除外")
ZH_AFTER = re.compile(r"^[^，,]{0,4}(?:未见|未发现|阴性|不存在|已?消失|已吸收|排除)")


def findings(report: str) -> frozenset[str]:
    """Names of the abnormal findings that a report states, without those it denies."""
    text = unicodedata.normalize("NFKC", report).lower().replace("\u2019", "'")
    return frozenset(_stated(text, ENGLISH, EN_PARTS, EN_BEFORE, EN_AFTER)) | frozenset(
        _stated(text, CHINESE, ZH_PARTS, ZH_BEFORE, ZH_AFTER)
    )


def _stated(
    text: str,
    patterns: dict[str, re.Pattern[str]],
    parts: re.Pattern[str],
    before: re.Pattern[str],
    after: re.Pattern[str],
) -> Iterator[str]:
    """`parts` split the text; `before` and `after` match cues of negation."""
    for part in parts.split(text):
        for name, pattern in patterns.items():
            for match in pattern.finditer(part):
                if not before.search(part, 0, match.start()) and not after.search(part[match.end() :]):
                    yield name


def is_normal(report: str) -> bool:
    """Whether a report has text and states no abnormal finding."""
    return bool(report.strip()) and not findings(report)
