"""The command as people use it: over pipes, and in a terminal."""

import codecs
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vglm_train.chat.terminal import clean_path
from vglm_train.chat.words import CHINESE, ENGLISH, command_of, words

ROOT = Path(__file__).resolve().parents[2]
SLOW = (
    "import fcntl, sys, termios, time\n"
    "if sys.stdin.isatty():\n"
    "    fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"  # where Ctrl-C comes from
    "from vglm_train.chat.cohort import Cohort\n"
    "step = Cohort.step\n"
    "Cohort.step = lambda self: (time.sleep(0.2), step(self))\n"
    "from vglm_train.chat.__main__ import main\n"
    "sys.exit(main())\n"
)


def command(*words: object, slow: bool = False) -> list[str]:
    program = ["-c", SLOW] if slow else ["-m", "vglm_train.chat"]
    return [sys.executable, *program, *map(str, words)]


def piped(*words: object, lines: tuple = ()) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*words), cwd=ROOT, input="".join(f"{line}\n" for line in lines), capture_output=True, text=True,
        encoding="utf-8", check=False, timeout=120,
    )  # fmt: skip


class Terminal:
    """A pseudo-terminal with the command in it."""

    def __init__(self, *words: object, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command(*words, slow=True), cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "TERM": "dumb", **environment},
        )  # fmt: skip
        os.close(slave)
        self.seen, self.decode = "", codecs.getincrementaldecoder("utf-8")("replace").decode

    def expect(self, text: str, seconds: float = 90) -> None:
        """Wait until this appears after what was expected before."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.seen += self.decode(os.read(self.master, 65536))
                except OSError:
                    raise AssertionError(f"ended without {text!r}: {self.seen}") from None
        self.seen = self.seen.split(text, 1)[1]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        status = self.process.wait(30)
        os.close(self.master)
        return status


def test_questions_over_a_pipe(bundles, pictures, models):
    lines = (pictures[0], "what number", f"image {pictures[1]}", "which", "清空", "", "what", "stop", "never read")
    done = piped(bundles["causal"], "--max-new", 6, lines=lines)
    assert done.returncode == 0, done.stderr
    model = models["causal"]
    first, history = model.chat(pictures[0], "what number", max_new=6)
    second, _ = model.chat(pictures[1], "which", history, max_new=6)
    third, _ = model.chat(None, "what", max_new=6)
    assert done.stdout.splitlines() == [first, second, third]
    assert "Traceback" not in done.stderr


def test_what_cannot_be_answered_is_told_and_the_rest_is_answered(bundles, pictures):
    lines = ("nowhere.png", "what " * 100, f"image '{pictures[0]}'", "what")
    done = piped(bundles["causal"], "--max-new", 4, lines=lines)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert [("no such picture" in error, "ids long" in error) for error in errors] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--top-p", 2], "top_p"),
        (["--batch", "x"], "--batch needs --out"),
        (["--out", "x"], "--out belongs to --batch"),
        (["--batch", "x", "--out", "y", "--image", "z"], "--image is for talking"),
        (["--temperature", -1], "temperature"),
        (["--adapter", "nowhere"], "nowhere is not an adapter"),
        (["--device", "banana"], "there is no device 'banana' here"),
        (["--image", "nowhere.png"], "nowhere.png: no such picture"),
        (["--batch", "{pictures}", "--out", "nowhere/x.jsonl"], "no folder nowhere"),
    ],
)
def test_a_wrong_option_is_one_line(bundles, pictures, words, said):
    done = piped(bundles["causal"], *(str(word).format(pictures=Path(pictures[0]).parent) for word in words))
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_stage_one_bundle_is_refused(bundles):
    done = piped(bundles["align"])
    assert done.returncode == 2
    assert "no language model to talk to" in done.stderr


def test_a_conversation_in_a_terminal(bundles, pictures):
    """Ctrl-C ends the answer and not the program; the arrow key brings the question back; Ctrl-D leaves."""
    talk = Terminal(bundles["causal"], "--max-new", 40, "--temperature", 0, LC_ALL="C.UTF-8")
    talk.expect("Picture")
    talk.type("nowhere.png\n")  # the right path that follows must not be taken for a question
    talk.expect("no such picture")
    talk.expect("Picture")
    talk.type(f"{pictures[0]}\n")
    talk.expect("You: ")
    talk.type("what number\n")
    talk.expect("Model: ")
    time.sleep(1)
    talk.type("\x03")
    talk.expect("(ended)", 30)
    talk.expect("You: ")
    time.sleep(1)  # the prompt is written before the terminal listens
    talk.type("\x03")
    talk.expect("(stop or Ctrl-D leaves)", 30)
    talk.expect("You: ")
    talk.type("\x1b[A\n")
    talk.expect("what number", 5)
    talk.expect("Model: ", 5)
    talk.expect("(cut", 60)
    talk.expect("You: ")
    talk.type("\x04")
    assert talk.end() == 0


def test_a_chinese_terminal(bundles, pictures):
    talk = Terminal(bundles["chatglm"], "--image", pictures[0], "--max-new", 4, "--language", "zh", LC_ALL="C.UTF-8")
    talk.expect("请就图片提问")
    talk.expect("用户：")
    talk.type("第几张\n")
    talk.expect("模型：", 10)
    talk.expect("用户：", 20)
    talk.type("清空\n")
    talk.expect("已重新开始对话", 5)
    talk.expect("图片（路径", 5)
    talk.type("\n")
    talk.expect("用户：", 5)
    talk.type("停止\n")
    assert talk.end() == 0


def test_sigterm_leaves(bundles, pictures):
    talk = Terminal(bundles["causal"], "--image", pictures[0], "--max-new", 40, "--temperature", 0, LC_ALL="C.UTF-8")
    talk.expect("You: ")
    talk.type("what\n")
    time.sleep(1)
    talk.process.send_signal(signal.SIGTERM)
    assert talk.end() == 128 + signal.SIGTERM


def test_paths_as_terminals_paste_them():
    assert clean_path(' "C:\\My Pictures\\a b.jpg" ') == "C:\\My Pictures\\a b.jpg"
    assert clean_path("'/tmp/a b.png'") == "/tmp/a b.png"
    assert clean_path("/tmp/a\\ b.png") == "/tmp/a b.png"
    assert clean_path("file:///tmp/a%20b.png") == "/tmp/a b.png"


def test_commands_and_questions():
    assert command_of(" CLEAR ") == ("clear", "")
    assert command_of("图片 a b.png") == ("image", "a b.png")
    assert command_of("stop the car") is None
    assert command_of("") is None


def test_words_are_those_of_the_computer(monkeypatch):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert words(None) is CHINESE
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    assert words(None) is ENGLISH
    assert words("zh") is CHINESE
    holes = [re.findall(r"\{\}", getattr(each, name)) for each in (CHINESE, ENGLISH) for name in Words_fields]
    assert holes[: len(Words_fields)] == holes[len(Words_fields) :]


Words_fields = tuple(ENGLISH.__dataclass_fields__)
