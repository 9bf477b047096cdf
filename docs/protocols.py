"""The page of published protocols, made of their files."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from docs.markdown import MADE, table
from docs.words import Words
from vglm_train.evaluate.protocols.schema import Layout, Protocol, fingerprint, load_protocol, names

INTRO = (
    "`vglm evaluate BUNDLE --protocol vqav2 --data FOLDER` measures as follows, and so do the other names. "
    "LAVIS is salesforce/LAVIS at commit 506965b9. "
    "A source is marked second-hand where other people's texts or programs were read in its place, and not verified "
    "where the document that decides was not read. The benchmarks' own files were not read either: their columns are "
    "those that programs for them name. "
    "Each file stands in `vglm_train/evaluate/protocols`; its fingerprint is noted in every result. "
    "[Evaluate](../howto/evaluate.md) says how the command is used."
)


def protocols(words: Words) -> str:
    """Every protocol: its values with their sources, its scores, what papers give, and what is unlike the paper."""
    parts = [f"# {words('Published protocols')}", MADE, words(INTRO)]
    for name in names():
        parts += _protocol(load_protocol(name), words)
    return "\n\n".join(parts)


def _protocol(protocol: Protocol, words: Words) -> Iterator[str]:
    yield f"## {protocol.name}"
    version = words("Version {}, fingerprint `{}`.").format(protocol.version, fingerprint(protocol.name))
    yield f"{words(protocol.about)} {version}"
    yield table([words(each) for each in ("what", "value", "source")], _values(protocol, words))
    rows = ([f"`{score.name}`", words(score.about), score.source] for score in protocol.scores)
    yield table([words(each) for each in ("score", "is", "source")], rows)
    yield words("Scores of the papers, not ours:")
    published = ([each.model, f"`{each.score}`", f"{each.value:g}", each.source] for each in protocol.published)
    yield table([words(each) for each in ("model", "score", "per cent", "source")], published)
    if protocol.unlike:
        yield words("Unlike the paper:")
        yield "\n".join(f"- {words(text)}" for text in protocol.unlike)


def _values(protocol: Protocol, words: Words) -> Iterator[list[str]]:
    """Rows of what, value with its note, source."""
    yield [words("split"), words(protocol.split.value), protocol.split.source]
    count = protocol.items
    yield [words("rows of the split"), _noted(f"{count.value:,}", count.note, words), count.source]
    for layout in protocol.layouts:
        yield [words("files"), _noted(_files(layout, words), layout.note, words), layout.source]
        if layout.split and layout.items:
            value = f"{words(layout.split.value)}{words(', ')}{layout.items.value:,}"
            yield [words("their split and its rows"), value, layout.items.source]
    if protocol.image_size:
        yield [words("size of pictures"), str(protocol.image_size.value), protocol.image_size.source]
    for prompt in protocol.prompts:
        what = words("prompt, {}").format(f"`{prompt.family}`")
        yield [what, _noted(f"`{prompt.text}`", prompt.note, words), prompt.source]
    sourced: dict[str, Any] = {words("question"): protocol.question}
    for section in (protocol.search, protocol.matching):
        if section is not None:
            sourced |= {f"`{field.name}`": getattr(section, field.name) for field in fields(section)}
    for what, value in (sourced | {words("submission"): protocol.submission}).items():
        if value is not None:
            yield [what, _noted(f"`{value.value}`", value.note, words), value.source]


def _files(layout: Layout, words: Words) -> str:
    """Their names, the pictures', and which rows are taken."""
    named = [f"`{name}`" for name in (layout.main, layout.join, layout.image) if name is not None]
    kept = [f"`{part.column}`: {', '.join(f'`{value}`' for value in part.values)}" for part in layout.kept]
    return words(", ").join([*named, *kept])


def _noted(value: str, note: str | None, words: Words) -> str:
    return value if note is None else f"{value}. {words(note)}"
