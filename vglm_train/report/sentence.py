"""A sentence of the verdict on a run."""

from dataclasses import dataclass

from vglm_train.log.tongues import Text, Tongue
from vglm_train.report.html import Sign, VerdictLine


@dataclass(frozen=True, slots=True)
class Sentence:
    """All is well, a warning, or a plain fact; in both languages."""

    kind: Sign
    text: Text

    def line(self, language: Tongue) -> VerdictLine:
        """As a page in this language shows it."""
        return VerdictLine(self.kind, self.text.of(language))
