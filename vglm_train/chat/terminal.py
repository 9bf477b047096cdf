"""A conversation in a terminal, or over pipes: then without prompts, a line in and a line out."""

import os
import sys
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from vglm_train.chat.history import ChatTurn
from vglm_train.chat.images import find_file
from vglm_train.chat.model import ChatModel
from vglm_train.chat.sampling import Sampling
from vglm_train.chat.words import Words, command_of
from vglm_train.errors import UserError

REMEMBERED = 1000  # lines that the arrow keys go back to


class Terminal:
    """Asks for a picture, answers questions, understands `clear`, `stop` and `image`."""

    def __init__(self, model: ChatModel, words: Words, sampling: Sampling) -> None:
        self.model, self.words, self.sampling = model, words, sampling
        self.interactive = sys.stdin.isatty()
        self.turns: list[ChatTurn] = []
        self.images: list[str] = []  # that come with the next question
        self.failed = False  # whether something could not be answered

    def run(self, images: list[str]) -> int:
        """Talk until `stop` or the end of input. The exit status: 2 if piped input had something unanswerable."""
        if self.interactive:
            _use_readline()
            print(self.words.welcome)
        try:
            self._show(images) if images else self._ask_for_picture()
            while self._turn():
                pass
        except EOFError:
            if self.interactive:
                print()
        return 2 if self.failed and not self.interactive else 0

    def _turn(self) -> bool:
        """One line. False to leave."""
        line = self._input(self.words.question)
        command = command_of(line)
        if command is None:
            if line.strip():
                self._attempt(lambda: self._answer(line))
        elif command[0] == "stop":
            return False
        elif command[0] == "clear":
            self.turns, self.images = [], []
            self._say(self.words.cleared)
            self._ask_for_picture()
        elif command[1]:
            self._show([command[1]])
        else:
            self._ask_for_picture()
        return True

    def _answer(self, question: str) -> None:
        asked = self.model.ask(self.images, question, self.turns, **self.sampling)
        if asked.dropped:
            self._say(self.words.dropped.format(asked.dropped))
        if self.interactive:
            print(self.words.answer, end="", flush=True)
        stream = self.model.pieces(asked)
        interrupted, text = False, ""
        try:
            for piece in stream:
                text += piece
                print(piece, end="", flush=True)
        except KeyboardInterrupt as stop:
            stream.close()
            if stop.args:  # SIGTERM: leave
                raise
            interrupted = True
        print()
        if interrupted:
            self._say(self.words.interrupted)
        elif stream.answer is not None and stream.answer.reason == "length":
            self._say(self.words.cut)
        self.images, self.turns = [], asked.history(text)

    def _ask_for_picture(self) -> None:
        """Whoever types a wrong path is asked again: the right one would be taken for a question."""
        while path := self._input(self.words.picture).strip():
            if self._show([path]) or not self.interactive:
                return

    def _show(self, paths: list[str]) -> bool:
        """Pictures for the next question, and whether all can be used. One that cannot be read is told at once."""
        shown = [self._attempt(lambda path=path: self._check(path)) for path in map(clean_path, paths)]  # type: ignore[misc]
        if self.images and self.turns:
            self._say(self.words.shown)
        return all(shown)

    def _check(self, path: str) -> None:
        file = find_file(path)
        self.model.read_pixels(file)
        self.images.append(str(file))

    def _attempt(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except UserError as error:
            self.failed = True
            print(f"error: {error}", file=sys.stderr, flush=True)
            return False
        return True

    def _input(self, prompt: str) -> str:
        """A line. Ctrl-C clears what was typed."""
        while True:
            try:
                return input(prompt) if self.interactive else input()
            except KeyboardInterrupt as stop:
                if stop.args or not self.interactive:
                    raise
                print(f"\n{self.words.leave}")

    def _say(self, text: str) -> None:
        print(text, file=sys.stdout if self.interactive else sys.stderr, flush=True)


def clean_path(text: str) -> str:
    """A path as terminals paste it: in quotes, as a file: address, or with a backslash before each space."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text.lower().startswith("file:"):
        path = unquote(urlsplit(text).path)
        return path[1:] if os.name == "nt" and path[:1] == "/" else path
    return text if os.name == "nt" else text.replace("\\ ", " ")


def _use_readline() -> None:
    """Line editing and the arrow keys, where Python has them (not on Windows, whose console has its own)."""
    try:
        import readline
    except ImportError:
        return
    readline.set_history_length(REMEMBERED)
    readline.set_auto_history(True)
