"""The words of a generated page: the code's English, or the Chinese that docs/zh/reference.po has for it.

The file is gettext's, which editors for translators open. An entry belongs to an English text, so that a changed text
has no Chinese until somebody writes it. `msgctxt`, a key or an option, tells apart what English says in one way.
"""

from pathlib import Path

from babel.messages.pofile import read_po

FILE = Path(__file__).resolve().parent / "zh/reference.po"


class Words:
    """`words(text)`: the text as it is."""

    def __call__(self, text: str, key: str = "") -> str:
        """`key`: the key or option that the text explains."""
        return text

    def sentence(self, text: str) -> str:
        """With a capital letter and a full stop."""
        return text[0].upper() + text[1:] + ("" if text[-1] in ".?" else ".")


class ChineseWords(Words):
    """`words(text)`: its Chinese. `missing`: texts that had none. `unused()`: entries that nothing asked for."""

    def __init__(self, file: Path = FILE) -> None:
        with file.open("rb") as opened:
            catalog = read_po(opened, locale="zh_CN", abort_invalid=True)
        self._texts = {(entry.context or "", str(entry.id)): str(entry.string) for entry in catalog if entry.id}
        self._used: set[tuple[str, str]] = set()
        self.missing: list[str] = []

    def __call__(self, text: str, key: str = "") -> str:
        """The entry of this key, else the one of every key; the English text where there is neither."""
        found = [entry for entry in ((key, text), ("", text)) if self._texts.get(entry)]
        if not found:
            self.missing.append(f"{key}: {text}" if key else text)
            return text
        self._used.add(found[0])
        return self._texts[found[0]]

    def sentence(self, text: str) -> str:
        """With a full stop."""
        return text + ("" if text[-1] in "。？" else "。")

    def unused(self) -> list[str]:
        """English texts that have Chinese, although no page says them."""
        return [text for key, text in self._texts if (key, text) not in self._used]
