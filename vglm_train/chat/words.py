"""What the terminal says, in English and in Chinese, and the commands that it understands."""

from dataclasses import dataclass
from typing import Literal

from vglm_train.log.tongues import of_computer

Command = Literal["clear", "stop", "image"]
COMMANDS: dict[str, Command] = {
    "clear": "clear", "stop": "stop", "image": "image",
    "清空": "clear", "清除": "clear", "停止": "stop", "图片": "image",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one language."""

    welcome: str
    picture: str
    question: str
    answer: str
    shown: str
    cleared: str
    dropped: str
    cut: str
    interrupted: str
    leave: str


ENGLISH = Words(
    welcome="Ask about a picture. Commands: image (another picture), clear (a new conversation), stop (leave).\n"
    "Ctrl-C ends an answer, Ctrl-D leaves.",
    picture="Picture (its path; empty: none): ",
    question="You: ",
    answer="Model: ",
    shown="(the picture comes with your next question)",
    cleared="(a new conversation)",
    dropped="(no room any more for the oldest turns; left out: {})",
    cut="(cut: the answer has as many tokens as it may)",
    interrupted="(ended)",
    leave="(stop or Ctrl-D leaves)",
)
CHINESE = Words(
    welcome="请就图片提问。命令：图片 image（换一张图片），清空 clear（重新开始对话），停止 stop（退出）。\n"
    "Ctrl-C 结束当前回答，Ctrl-D 退出。",
    picture="图片（路径；留空则没有图片）：",
    question="用户：",
    answer="模型：",
    shown="（图片将随下一个问题一起给出）",
    cleared="（已重新开始对话）",
    dropped="（最早的对话已放不下，略去 {} 轮）",
    cut="（回答已达长度上限，在此截断）",
    interrupted="（已结束）",
    leave="（输入 停止 或按 Ctrl-D 退出）",
)


def words(language: str | None) -> Words:
    """Those of "zh" or "en"; None: as the computer is set up."""
    language = language or of_computer()
    return CHINESE if language == "zh" else ENGLISH


def command_of(line: str) -> tuple[Command, str] | None:
    """A command and what follows it; None for a question. Only `image` may be followed by something, its path."""
    first, _, rest = line.strip().partition(" ")
    command = COMMANDS.get(first.lower())
    return None if command is None or (rest and command != "image") else (command, rest.strip())
