"""The page of commands, made of their parsers."""

import argparse
from collections.abc import Sequence
from unittest.mock import patch

from docs.markdown import MADE, table
from docs.words import Words
from vglm_train.__main__ import COMMANDS
from vglm_train.__main__ import main as vglm
from vglm_train.data.__main__ import commands as data_commands
from vglm_train.evaluate.__main__ import TASKS

parse_known_args = argparse.ArgumentParser.parse_known_args


class _Found(BaseException):
    """A command's parser, instead of parsing."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def commands(words: Words) -> str:
    """Every command with its arguments, from its parser. AssertionError for an argument without a help text."""
    parts = [f"# {words('Commands')}", MADE]
    parts.append(words("`vglm NAME` is the same as `python -m vglm_train.NAME`. Each has `--help`."))
    for name, (_, what) in COMMANDS.items():
        if name == "data":
            parts += ["## vglm data", words.sentence(words(f"{what}: the commands that follow"))]
            parts += [_command(["data", each], words) for each in data_commands()]
        elif name == "evaluate":
            parts += _evaluate(what, words)
        else:
            parts.append(_command([name], words, what))
    return "\n\n".join(parts)


def _command(names: list[str], words: Words, what: str = "") -> str:
    parser = _parser(names)
    text = what or (parser.description or "").partition("\n")[0]
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    parts = [f"## vglm {' '.join(names)}", words.sentence(words(text))]
    parts += arguments(_actions(parser), words)
    for group in below:
        helps = {action.dest: action.help or "" for action in group._choices_actions}
        for name, sub in group.choices.items():
            parts += [f"### vglm {' '.join(names)} {name}", words(helps[name]), *arguments(_actions(sub), words)]
    return "\n\n".join(parts)


def _evaluate(what: str, words: Words) -> list[str]:
    """Its arguments depend on its task: those that every task has, and then each task's own."""
    found = {task: _actions(_parser(["evaluate", "--task", task])) for task in TASKS}
    everywhere = [
        action
        for action in found["retrieval"]
        if all(action.dest in {each.dest for each in actions} for actions in found.values())
    ]
    parts = ["## vglm evaluate", words.sentence(words(what)), *arguments(everywhere, words)]
    headed = {f"--task {task}": actions for task, actions in found.items()}
    headed["--protocol NAME"] = _actions(_parser(["evaluate", "--protocol", "vqav2"]))  # has all that others have
    for head, actions in headed.items():
        own = [action for action in actions if action.dest not in {each.dest for each in everywhere}]
        parts += [f"### vglm evaluate {head}", *arguments(own, words)]
    return parts


def _parser(names: list[str]) -> argparse.ArgumentParser:
    """The parser that the command makes, caught when it is used. One without --help only looks ahead, and parses."""

    def catch(parser: argparse.ArgumentParser, *args: list[str] | None) -> object:
        if not parser.add_help:
            return parse_known_args(parser, *args)
        raise _Found(parser)

    try:
        with patch.object(argparse.ArgumentParser, "parse_known_args", catch):
            vglm(names)
    except _Found as found:
        return found.parser
    raise AssertionError(f"vglm {' '.join(names)} parses nothing")


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Those that people are told of."""
    kinds = argparse._HelpAction | argparse._SubParsersAction
    return [each for each in parser._actions if each.help != argparse.SUPPRESS and not isinstance(each, kinds)]


def arguments(actions: Sequence[argparse.Action], words: Words) -> list[str]:
    """A table of arguments; nothing where there are none."""
    if not actions:
        return []
    head = (words("argument"), words("is"))
    return [table(head, ((_argument(action), _meaning(action, words)) for action in actions))]


def _argument(action: argparse.Action) -> str:
    name = action.metavar if isinstance(action.metavar, str) else action.dest
    if not action.option_strings:
        return f"`{name}`"
    value = "" if action.nargs == 0 else f" {name.upper() if action.metavar is None else name}"
    text = f"`{', '.join(action.option_strings)}{value}`"
    return f"**{text}**" if action.required else text


def _meaning(action: argparse.Action, words: Words) -> str:
    assert action.help, f"{action.dest} says nothing"
    told = words(action.help, action.option_strings[0] if action.option_strings else action.dest)
    text = told.replace("%%", "%") % {"default": action.default, "prog": "vglm"}
    given = action.choices
    if isinstance(given, range):
        choices = words("{} to {}").format(given[0], given[-1])
    else:
        choices = words(", ").join(f"`{choice}`" for choice in given or ())
    default = words("default {}").format(action.default) if _is_told(action) else ""
    return words("; ").join(part for part in (text, choices, default) if part)


def _is_told(action: argparse.Action) -> bool:
    """Whether the table adds the default to a help text that does not name it."""
    known = type(action.default) in (str, int, float) and action.default != argparse.SUPPRESS
    return known and "default" not in (action.help or "")
