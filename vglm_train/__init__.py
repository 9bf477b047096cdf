"""Train BLIP-2 style Q-Formers between a frozen image encoder and a frozen language model."""

import sys

from vglm_train.command import leave_at_once

if sys.argv[:1] == ["-m"]:  # Python is looking for the module that `python -m vglm_train...` names: this is a command
    leave_at_once()
