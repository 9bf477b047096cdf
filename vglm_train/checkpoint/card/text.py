"""A bundle's facts as a model card in Markdown: what the hub shows first, in English and then in Chinese."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vglm_train.checkpoint.card.facts import BundleFacts, ScoreTable, gather_facts
from vglm_train.files import write_text

CARD = "README.md"
TASKS = {"align": "zero-shot-image-classification", "generate": "image-to-text", "finetune": "image-to-text"}


@dataclass(frozen=True, slots=True)
class Words:
    """The card's words in one language."""

    title: str
    what: dict[str, str]  # by stage
    trained: str
    imported: str
    written: str
    data: str
    data_head: tuple[str, ...]
    unknown: str
    towers: str
    towers_head: tuple[str, ...]
    inside: str
    stages: str
    scores: str
    no_scores: str
    score_head: tuple[str, str]
    systems: dict[str, str]
    limits: str
    limit: tuple[str, ...]


ENGLISH = Words(
    title="English",
    what={
        "align": "A Q-Former that compares images and texts (BLIP-2, stage one).",
        "generate": "A Q-Former before a frozen language model, which writes about images (BLIP-2, stage two).",
        "finetune": "A model that writes about images, adapted to a domain.",
    },
    trained="Trained: run {run}, {step} steps, {samples} samples.",
    imported="Imported from {from}, {format}.",
    written="Written by vglm_train {vglm_train}, commit {commit}.",
    data="Data",
    data_head=("source", "from", "samples", "licence"),
    unknown="not stated",
    towers="Frozen parts",
    towers_head=("part", "weights", "shape", "SHA-256 of the weights"),
    inside="in this bundle",
    stages="Stages, the newest first",
    scores="Scores",
    no_scores="No evaluation lies beside the bundle.",
    score_head=("score", "model"),
    systems={
        "majority": "commonest answer", "shuffled": "another picture", "blank": "a grey picture", "chance": "chance",
    },
    limits="Limits",
    limit=(
        "Texts may be wrong although they sound right. Do not decide about people, and patients in particular, by "
        "them alone.",
        "Scores hold for data like those that were scored. A score near that of another picture says that the model "
        "does not look.",
        "The frozen parts bring their own licences, knowledge and prejudices.",
    ),
)  # fmt: skip
CHINESE = Words(
    title="中文",
    what={
        "align": "比较图像与文本的 Q-Former（BLIP-2 第一阶段）。",
        "generate": "接在冻结语言模型之前的 Q-Former，可描述图像（BLIP-2 第二阶段）。",
        "finetune": "针对某一领域微调、可描述图像的模型。",
    },
    trained="训练：运行 {run}，{step} 步，{samples} 个样本。",
    imported="导入自 {from}，{format}。",
    written="由 vglm_train {vglm_train} 写出，提交 {commit}。",
    data="数据",
    data_head=("来源", "位置", "样本数", "许可"),
    unknown="未说明",
    towers="冻结部分",
    towers_head=("部分", "权重", "规模", "权重的 SHA-256"),
    inside="在本 bundle 内",
    stages="各阶段，最新在前",
    scores="分数",
    no_scores="bundle 旁没有评测结果。",
    score_head=("分数", "模型"),
    systems={"majority": "最常见的答案", "shuffled": "换一张图片", "blank": "灰色图片", "chance": "随机水平"},
    limits="局限",
    limit=(
        "文字听起来通顺也可能是错的，不要仅凭它对人、尤其是对病人做决定。",
        "分数只适用于与评测数据相似的数据；若与换一张图片时相近，说明模型没有看图。",
        "冻结部分带有各自的许可、知识与偏见。",
    ),
)


def write_card(bundle: Path, out: Path) -> Path:
    """Write the card of a bundle to `out`, a folder. UserError where there is no bundle."""
    path = out / CARD
    write_text(path, card_text(gather_facts(bundle)))
    return path


def card_text(facts: BundleFacts) -> str:
    """The whole card, with the header that the hub reads."""
    languages = "\n".join(f"- {language}" for language in facts.config.data.languages)
    task = TASKS[facts.config.run.stage]
    header = f"---\nlibrary_name: vglm_train\npipeline_tag: {task}\nlanguage:\n{languages}\ntags:\n- blip-2\n---"
    parts = [header, f"# {facts.name}"]
    for words in (ENGLISH, CHINESE):
        parts += [f"## {words.title}", *_body(facts, words)]
    return "\n\n".join(parts) + "\n"


def _body(facts: BundleFacts, words: Words) -> Iterator[str]:
    yield words.what[facts.config.run.stage]
    program = {name: facts.written_by.get(name) or words.unknown for name in ("vglm_train", "commit")}
    yield f"{_made(facts, words)} {words.written.format(**program)}"
    yield f"### {words.data}"
    unknown = words.unknown
    yield _table(
        words.data_head,
        [(each.name, each.address, _number(each.samples, unknown), each.licence or unknown) for each in facts.data],
    )
    yield f"### {words.towers}"
    yield _table(
        words.towers_head,
        [(each.part, f"`{each.weights}`", each.shape, each.fingerprint or words.inside) for each in facts.towers],
    )
    yield f"### {words.stages}"
    yield "\n".join(f"{number}. {stage}: {name}" for number, (name, stage) in enumerate(facts.stages, 1))
    yield f"### {words.scores}"
    yield from [_scores(table, words) for table in facts.scores] or [words.no_scores]
    yield f"### {words.limits}"
    yield "\n".join(f"- {limit}" for limit in words.limit)


def _made(facts: BundleFacts, words: Words) -> str:
    sentence = words.trained if "run" in facts.origin else words.imported
    names = ("run", "step", "samples", "from", "format")
    return sentence.format(**{name: facts.origin.get(name, words.unknown) for name in names})


def _scores(table: ScoreTable, words: Words) -> str:
    head = (*words.score_head, *(words.systems[name] for name in table.baselines))
    rows = [(f"`{name}`", *map(_score, values)) for name, values in table.rows]
    says = "".join(f"\n\n{line}" for line in table.findings[words is CHINESE])
    return f"`{table.data}` (`{table.file}`)\n\n{_table(head, rows)}{says}"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _number(value: int | None, unknown: str) -> str:
    return unknown if value is None else f"{value:,}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
