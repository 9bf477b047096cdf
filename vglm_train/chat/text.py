"""Ids become text while they come: what was shown is never taken back."""

from collections.abc import Sequence

from vglm_train.prompt.template import Template

HALF = "\ufffd"  # what decoding gives for the first bytes of a character


class TextStream:
    """The text of one answer. A stop string ends it, and is not part of it.

    Only the newest ids are decoded, after those just before them, on which spaces depend. What may still change is held
    back: half a character, spaces at the end, what the template is undecided about, the beginning of a stop string.
    """

    def __init__(self, template: Template, stops: Sequence[str] = ()) -> None:
        self.template, self.stops = template, [stop for stop in stops if stop]
        self.ids: list[int] = []
        self.text = ""  # what was shown
        self.stopped = False
        self._raw = ""
        self._before, self._read = 0, 0  # ids[before:read] are decoded again as the context of the next ones

    def push(self, newest: int) -> str:
        """The text that is certain since `newest` came. It is the last if `stopped`."""
        self.ids.append(newest)
        self._decode(finished=False)
        return self._show(finished=False)

    def finish(self) -> str:
        """The rest of the text."""
        if self.stopped:
            return ""
        self._decode(finished=True)
        return self._show(finished=True)

    def _decode(self, finished: bool) -> None:
        decode = self.template.tokenizer.decode
        context, whole = decode(self.ids[self._before : self._read]), decode(self.ids[self._before :])
        if len(whole) <= len(context) or (whole.endswith(HALF) and not finished):
            return
        self._raw += whole[len(context) :]
        self._before, self._read = self._read, len(self.ids)

    def _show(self, finished: bool) -> str:
        text = self.template.polish(self._raw)
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            text = text[: min(found)]
        elif not finished:
            held = max(self.template.undecided(text), *(_begun(text, stop) for stop in self.stops), 0)
            text = text[: len(text) - held]
        new = text.rstrip()[len(self.text) :]
        self.text += new
        return new


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of the text may be the beginning of `stop`."""
    return next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)
