"""Many pictures: every input gets a line in a JSONL file, with its answer or with why it has none.

The file is only ever appended to, a line at a time. So whatever stops the command, it goes on where it was: inputs that
have a line are not asked again, and a last line that was cut off is removed first.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

from vglm_train.chat.events import next_event
from vglm_train.chat.inputs import Input, Inputs
from vglm_train.chat.model import Asked, ChatModel
from vglm_train.chat.request import Answer, Event
from vglm_train.chat.sampling import Sampling
from vglm_train.errors import UserError
from vglm_train.files import write_json
from vglm_train.progress import Progress

WINDOW = 256  # inputs that are sorted by length


class Batch:
    """One run over inputs."""

    def __init__(
        self,
        model: ChatModel,
        inputs: Inputs,
        out: Path,
        prompt: str | None,
        sampling: Sampling,
        about: Mapping[str, Any],
    ) -> None:
        """prompt: what is asked where an input asks nothing. about: what must not differ when a file is continued."""
        self.model, self.inputs, self.out, self.prompt, self.sampling = model, inputs, out, prompt, sampling
        self.about = json.loads(json.dumps(about))
        self.counts: Counter[str] = Counter()  # "answered", or a cause -> inputs
        self.events: SimpleQueue[tuple[Input, Event]] = SimpleQueue()
        self.running = 0

    def run(self) -> int:
        """Ask everything that has no line yet. 1 if an input has no answer. UserError as `read_done`."""
        check_about(self.out, self.about)
        done = read_done(self.out)
        with (
            open(self.out, "ab") as file,
            Progress(self.inputs.count, "input", "answers") as bar,
        ):
            waiting = iter(self._remaining(done, bar))
            while window := list(islice(waiting, WINDOW)):
                for item, asked in self._prepare(window, file, bar):
                    while self.running >= self._most():
                        self._take(file, bar)
                    self._submit(item, asked)
            while self.running:
                self._take(file, bar)
        return self._report(len(done))

    def _remaining(self, done: Mapping[str, Any], bar: Progress) -> Iterator[Input]:
        """Inputs without a line. UserError if a line is of another input."""
        for item in self.inputs:
            if item.key not in done:
                yield item
                continue
            line = done[item.key]
            if (line.get("images"), line.get("question")) != (list(item.images), item.question or self.prompt or ""):
                raise UserError(f"{self.out} has an answer to another input as {item.key}; give a new file as --out.")
            self.counts["answered" if "answer" in line else str(line.get("cause"))] += 1
            bar.update()

    def _prepare(self, window: Sequence[Input], file: BinaryIO, bar: Progress) -> list[tuple[Input, Asked]]:
        """Read pictures and questions; the shortest first. What cannot be asked gets its line at once."""
        ready = []
        for item in window:
            if item.problem is not None:
                self._write(file, bar, item, cause="row", error=item.problem)
                continue
            try:
                question = item.question or self.prompt or ""
                ready.append((item, self.model.ask(item.contents, question, item.history, **self.sampling)))
            except UserError as error:
                self._write(file, bar, item, cause="input", error=item.tell(str(error)))
        return sorted(ready, key=lambda pair: pair[1].request.length)

    def _most(self) -> int:
        limits = self.model.scheduler.limits
        return min(2 * limits.rows, limits.queue)

    def _submit(self, item: Input, asked: Asked) -> None:
        self.running += 1
        self.model.submit(asked, lambda event: self.events.put((item, event)))

    def _take(self, file: BinaryIO, bar: Progress) -> None:
        """Write the next answer that is ready."""
        item, event = next_event(self.events)
        while isinstance(event, str):
            item, event = next_event(self.events)
        self.running -= 1
        if isinstance(event, Answer):
            self._write(file, bar, item, answer=event.text, reason=event.reason, tokens=event.new_tokens)
        else:
            self._write(file, bar, item, cause="model", error=f"{type(event).__name__}: {event}")

    def _write(self, file: BinaryIO, bar: Progress, item: Input, **result: Any) -> None:
        """Append a line whole."""
        question = item.question or self.prompt or ""
        line = {"key": item.key, "images": list(item.images), "question": question, **result}
        file.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
        file.flush()
        self.counts["answered" if "answer" in result else result["cause"]] += 1
        bar.update()

    def _report(self, before: int) -> int:
        failed = {cause: count for cause, count in self.counts.items() if cause != "answered"}
        listed = ", ".join(f"{count} {CAUSES.get(cause, cause)}" for cause, count in failed.items())
        earlier = f" ({before} of them earlier)" if before else ""
        print(
            f"{self.out}: {self.counts['answered']} of {self.inputs.count} inputs answered{earlier}"
            + (f"; without an answer: {listed}; the field error of their lines says why" if failed else "")
        )
        return int(bool(failed))


CAUSES = {
    "row": "that cannot be read",
    "input": "whose picture or question cannot be used",
    "model": "at which the model failed",
}


def check_out(out: Path) -> None:
    """UserError if no file can be there."""
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: no folder {out.parent}; make it first.")
    if out.exists() and not out.is_file():
        raise UserError(f"--out {out}: no ordinary file; give a file's name.")


def check_about(out: Path, about: Mapping[str, Any]) -> None:
    """Note what the answers are made with in OUT.about.json. UserError if it was something else before."""
    note = out.with_name(f"{out.name}.about.json")
    try:
        before = json.loads(note.read_text("utf-8"))
    except FileNotFoundError:
        if out.exists() and out.stat().st_size:
            raise UserError(
                f"{out} is there already and was not written by this command; give another --out."
            ) from None
        write_json(note, about)
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{note}: cannot be read ({error}); give another --out.") from error
    if wrong := [name for name in about if before.get(name) != about[name]]:
        name = wrong[0]
        raise UserError(
            f"{out} was begun with {name} {before.get(name)!r}, and now it is {about[name]!r}. Give the same, or "
            "another --out."
        )


def read_done(out: Path) -> dict[str, dict[str, Any]]:
    """The lines that are there, by key; a last line that was cut off is removed. UserError for a line that is none."""
    if not out.exists():
        return {}
    done: dict[str, dict[str, Any]] = {}
    with open(out, "r+b") as file:
        whole = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                done[row["key"]] = row
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{out}, line {number}: is no line of this command; give another --out.") from None
            whole += len(line)
        file.truncate(whole)
    return done
