"""HTML of the page. What people and the model wrote is only text: it is never read as markup, nor as a template."""

import html
from collections.abc import Sequence

from vglm_train.web.conversation import Exchange, Shown
from vglm_train.web.notice import Notice
from vglm_train.web.words import Words


def plain(text: str) -> str:
    """A text as HTML that shows it. Gradio reads {{...}} and ${...} in a value as templates, so these are hidden."""
    return html.escape(text).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def head(words: Words, language: str, notice: Notice) -> str:
    """Title and, for a medical model, the warning."""
    link = (
        f'<a href="verdict/{plain(notice.verdict.name)}" target="_blank">{words.verdict}</a>' if notice.verdict else ""
    )
    lines = [f'<h1 data-language="{language}">{words.title}</h1>']
    if notice.medical:
        lines.append(f'<p class="warning" role="note"><strong>{words.warning}</strong> {link or words.no_verdict}</p>')
    elif link:
        lines.append(f"<p>{link}</p>")
    return "".join(lines)


def strip(words: Words, secret: str, pictures: Sequence[Shown]) -> str:
    """The pictures that come with the next question, and how to add some."""
    shown = "".join(
        f'<li><img src="picture/{picture.name}" alt="{words.picture.format(number)}">'
        f'<button type="button" data-remove="{picture.name}" aria-label="{words.remove.format(number)}">×</button></li>'
        for number, picture in enumerate(pictures, 1)
    )
    return (
        f'<div id="strip" data-page="{secret}" data-reading="{words.reading}" data-failed="{words.failed}">'
        f'<button type="button" data-pick="files">{words.add}</button>'
        f'<button type="button" data-pick="camera">{words.camera}</button>'
        f'<span class="hint">{words.drop}</span><ul>{shown}</ul></div>'
    )


def exchanges(words: Words, each: Sequence[Exchange], begun: bool) -> str:
    """Questions and answers; before a conversation has `begun`, what the page is for."""
    return "".join(_exchange(words, one) for one in each) or ("" if begun else f'<p class="intro">{words.intro}</p>')


def note(text: str, wrong: bool = False) -> str:
    """One line below the conversation, read out at once if something is `wrong`."""
    role, kind = ("alert", "wrong") if wrong else ("status", "told")
    return f'<p role="{role}" class="{kind}">{plain(text)}</p>' if text else ""


def _exchange(words: Words, exchange: Exchange) -> str:
    pictures = "".join(
        f'<img src="picture/{picture.name}" alt="{words.picture.format(number)}">'
        for number, picture in enumerate(exchange.pictures, 1)
    )
    remarks = [words.dropped.format(exchange.dropped)] if exchange.dropped else []
    remarks += {"cancelled": [words.stopped], "length": [words.cut], "deadline": [words.deadline]}.get(
        exchange.reason or "", []
    )
    told = "".join(f'<p class="remark">({plain(remark)})</p>' for remark in remarks)
    answer = plain(exchange.answer) or ("" if exchange.reason else f'<span class="hint">{words.waiting}</span>')
    return (
        f'<section><div class="asked"><h2>{words.you}</h2>{pictures}<div class="text">{plain(exchange.question)}</div>'
        f'</div><div class="answered"><h2>{words.model}</h2><div class="text">{answer}</div>{told}</div></section>'
    )
