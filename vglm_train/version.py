"""Which program this is: its version, and the commit of a checkout."""

import subprocess
from pathlib import Path

__version__ = "0.1.0"
ARCHIVED = "$Format:%H$"  # the commit, which `git archive` writes here (.gitattributes)
ROOT = Path(__file__).resolve().parents[1]


def commit() -> str | None:
    """The commit of the checkout that runs, with -dirty where files were changed.

    Outside a checkout: that of `git archive`, or None.
    """
    if not (ROOT / ".git").exists():
        return None if ARCHIVED.startswith("$") else ARCHIVED
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
