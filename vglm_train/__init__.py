"""Train BLIP-2 style Q-Formers between a frozen image encoder and a frozen language model.

`load(bundle)` opens a trained model to talk to, see `vglm_train.chat.model`.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load` is imported when it is first used: the package alone imports nothing heavy."""
    if name == "load":
        from vglm_train.chat.model import load

        return load
    raise AttributeError(f"module 'vglm_train' has no attribute {name!r}")
