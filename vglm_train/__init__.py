"""Train BLIP-2 style Q-Formers between a frozen image encoder and a frozen language model.

`load(bundle)` opens a trained model to talk to, see `vglm_train.chat.model`.
"""

from typing import Any

from vglm_train.version import __version__ as __version__


def __getattr__(name: str) -> Any:
    """`load` is imported when it is first used: the package alone imports nothing heavy."""
    if name == "load":
        from vglm_train.chat.model import load

        return load
    raise AttributeError(f"module 'vglm_train' has no attribute {name!r}")
