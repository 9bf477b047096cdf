"""The commands that make data."""

import sys

from vglm_train.command import leave_at_once

if sys.argv[:1] == ["-m"]:  # Python is looking for the module that `python -m data_tools...` names: this is a command
    leave_at_once()
