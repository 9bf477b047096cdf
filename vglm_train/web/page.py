"""The page in Gradio. What it does with a conversation is in `conversation`."""

import os

# Before Gradio is imported, which would tell its makers, and ask them for a newer version.
os.environ.update(GRADIO_ANALYTICS_ENABLED="False")

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.applications import Starlette

from vglm_train.chat.sampling import Sampling, read_sampling
from vglm_train.config.language import CHAT
from vglm_train.web import render
from vglm_train.web.conversation import Conversation, Exchange
from vglm_train.web.notice import Notice
from vglm_train.web.pages import Pages
from vglm_train.web.reasons import reason
from vglm_train.web.words import ENGLISH, WORDS, language_of

FOLDER = Path(__file__).parent
SETTINGS = ("max_new", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
LONGEST = 8000  # characters of a question
QUEUE = 512  # clicks of all pages that wait
Update = dict[Any, Any]


class Page:
    """Components and what happens at each of them."""

    def __init__(self, pages: Pages, notice: Notice, sampling: Sampling) -> None:
        self.pages, self.notice, self.words = pages, notice, ENGLISH
        self.stops = sampling.get("stop", ())
        self.blocks = gr.Blocks(title=ENGLISH.title, analytics_enabled=False)
        self.blocks.max_threads = QUEUE
        self.blocks.state_session_capacity = pages.capacity
        with self.blocks:
            self._lay_out(sampling)
            self._connect()
        self.blocks.queue(api_open=False, max_size=QUEUE, default_concurrency_limit=None)

    def _lay_out(self, sampling: Sampling) -> None:
        with gr.Column(elem_id="page"):
            self.head = gr.HTML(elem_id="head")
            self.other = gr.Button(size="sm", elem_id="language", min_width=80)
            with gr.Column(elem_id="conversation"):
                self.past, self.now = gr.HTML(elem_id="past"), gr.HTML(elem_id="now")
            self.told = gr.HTML(elem_id="told")
            gr.HTML('<p role="status"></p>', elem_id="said")  # page.js writes here
            self.strip = gr.HTML(elem_id="pictures")
            self.question = gr.Textbox(lines=1, max_lines=6, max_length=LONGEST, elem_id="question", autofocus=True)
            with gr.Row(elem_id="buttons"):
                self.send = gr.Button(variant="primary", elem_id="send", min_width=70)
                self.stop = gr.Button(elem_id="stop", min_width=70)
                self.again = gr.Button(elem_id="again", min_width=70)
                self.clear = gr.Button(elem_id="clear", min_width=70)
        self.refresh = gr.Button("", elem_id="refresh", visible="hidden")
        with gr.Accordion(open=False, elem_id="settings") as self.accordion:
            self._lay_out_settings(sampling)

    def _lay_out_settings(self, sampling: Sampling) -> None:
        def value(name: str) -> Any:
            return sampling.get(name, getattr(CHAT, name))

        most = self.pages.model.scheduler.limits.new
        self.settings = {
            "max_new": gr.Slider(1, most, value("max_new"), step=1, elem_id="max_new"),
            "temperature": gr.Slider(0, 2, value("temperature"), step=0.05, elem_id="temperature"),
            "top_p": gr.Slider(0.05, 1, value("top_p"), step=0.05, elem_id="top_p"),
            "top_k": gr.Slider(0, 200, value("top_k"), step=1, elem_id="top_k"),
            "repetition_penalty": gr.Slider(1, 2, value("repetition_penalty"), step=0.05, elem_id="penalty"),
            "seed": gr.Number(value("seed"), precision=0, minimum=0, elem_id="seed"),
        }

    def _connect(self) -> None:
        settings = [self.settings[name] for name in SETTINGS]
        talk = [self.past, self.now, self.told, self.strip, self.question, self.settings["seed"]]
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.blocks.load(self._begin, None, self._all(), **hidden)
        gr.on(
            [self.send.click, self.question.submit], self._ask, [self.question, *settings], talk, **hidden,
            trigger_mode="multiple",
        )  # fmt: skip
        self.again.click(self._again, settings, talk, **hidden)
        self.stop.click(self._stop, None, None, **hidden)
        self.clear.click(self._clear, None, talk, **hidden)
        self.other.click(self._switch, None, self._all(), **hidden)
        self.refresh.click(self._show_strip, None, [self.strip, self.told], **hidden, trigger_mode="multiple")
        self.blocks.unload(self._leave)

    def _all(self) -> list[Any]:
        """What has words on it."""
        buttons = [self.other, self.send, self.stop, self.again, self.clear]
        return [self.head, self.past, self.now, self.told, self.strip, self.question, self.accordion, *buttons,
                *self.settings.values()]  # fmt: skip

    async def _begin(self, request: gr.Request) -> Update:
        conversation = self.pages.begin(str(request.session_hash))
        conversation.language = language_of(request.headers.get("accept-language", ""))
        return self._in_words(conversation)

    async def _switch(self, request: gr.Request) -> Update:
        conversation, gone = self._conversation(request)
        if not gone:
            conversation.language = "en" if conversation.language == "zh" else "zh"
        return self._in_words(conversation, WORDS[conversation.language].gone if gone else "")

    async def _ask(self, request: gr.Request, question: str, *settings: Any) -> AsyncIterator[Update]:
        conversation, gone = self._conversation(request)
        words = WORDS[conversation.language]
        if gone or not (question.strip() or conversation.waiting):
            yield self._shown(conversation, words.gone if gone else words.nothing, wrong=True)
            return
        try:
            sampling, first = self._sampling(settings), True
            async with aclosing(conversation.ask(question, sampling)) as exchanges:
                async for exchange in exchanges:
                    yield self._written(conversation, exchange, first) | ({self.question: ""} if first else {})
                    first = False
        except Exception as error:  # the page must say so, whatever it is
            yield self._shown(conversation, reason(words, error), wrong=True)

    async def _again(self, request: gr.Request, *settings: Any) -> AsyncIterator[Update]:
        conversation, gone = self._conversation(request)
        words = WORDS[conversation.language]
        if gone or not conversation.exchanges:
            yield self._shown(conversation, words.gone if gone else words.nothing_again, wrong=True)
            return
        try:
            sampling, first = self._sampling(settings), True
            sampling["seed"] += 1
            async with aclosing(conversation.again(sampling)) as exchanges:
                async for exchange in exchanges:
                    seed = {self.settings["seed"]: sampling["seed"]} if first else {}
                    yield self._written(conversation, exchange, first) | seed
                    first = False
        except Exception as error:
            yield self._shown(conversation, reason(words, error), wrong=True)

    async def _stop(self, request: gr.Request) -> None:
        self._conversation(request)[0].stop()

    async def _clear(self, request: gr.Request) -> Update:
        conversation = self._conversation(request)[0]
        conversation.clear()
        return self._shown(conversation, WORDS[conversation.language].cleared) | {self.question: ""}

    async def _show_strip(self, request: gr.Request) -> Update:
        conversation = self._conversation(request)[0]
        return {self.strip: self._strip(conversation), self.told: ""}

    async def _leave(self, request: gr.Request) -> None:
        self.pages.leave(str(request.session_hash))

    def _conversation(self, request: gr.Request) -> tuple[Conversation, bool]:
        """The page's, and whether it is a new one since the old one had ended."""
        found = self.pages.find(str(request.session_hash))
        return found or self.pages.begin(str(request.session_hash)), found is None

    def _sampling(self, settings: tuple[Any, ...]) -> Sampling:
        sampling: Sampling = dict(zip(SETTINGS, settings, strict=True))  # type: ignore[assignment]
        if self.stops:
            sampling["stop"] = self.stops
        read_sampling(sampling)
        return sampling

    def _written(self, conversation: Conversation, exchange: Exchange, first: bool) -> Update:
        """Only what has changed: the rest of the page would be sent with each word."""
        if first or exchange.reason is not None:
            return self._shown(conversation)
        return {self.now: render.exchanges(WORDS[conversation.language], [exchange], True)}

    def _shown(self, conversation: Conversation, told: str = "", wrong: bool = False) -> Update:
        words = WORDS[conversation.language]
        done = [exchange for exchange in conversation.exchanges if exchange.reason]
        written = conversation.exchanges[len(done) :]
        return {
            self.past: render.exchanges(words, done, bool(written)),
            self.now: render.exchanges(words, written, True),
            self.told: render.note(told, wrong),
            self.strip: self._strip(conversation),
        }

    def _strip(self, conversation: Conversation) -> str:
        return render.strip(WORDS[conversation.language], conversation.secret, conversation.waiting)

    def _in_words(self, conversation: Conversation, told: str = "") -> Update:
        words = WORDS[conversation.language]
        labels = {name: gr.update(label=getattr(words, name)) for name in SETTINGS}
        labels["temperature"] = gr.update(label=words.temperature, info=words.temperature_info)
        labels["seed"] = gr.update(label=words.seed, info=words.seed_info)
        return {
            self.head: render.head(words, conversation.language, self.notice),
            self.question: gr.update(label=words.question, placeholder=words.ask_here),
            self.accordion: gr.update(label=words.settings),
            self.other: words.other_language, self.send: words.send, self.stop: words.stop, self.again: words.again,
            self.clear: words.clear, **{self.settings[name]: label for name, label in labels.items()},
            **self._shown(conversation, told, bool(told)),
        }  # fmt: skip


def mount_page(app: Starlette, pages: Pages, notice: Notice, sampling: Sampling) -> None:
    """The page at the root of an application."""
    blocks = Page(pages, notice, sampling).blocks
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif"]
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name="127.0.0.1",
        theme=gr.themes.Base(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"]),
        css=(FOLDER / "page.css").read_text("utf-8"),
        head=f"<script>{(FOLDER / 'page.js').read_text('utf-8')}</script>",
        footer_links=[],
        max_file_size=1,  # nothing is uploaded through Gradio
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
    )
