"""The commands that make data.

A folder for each: `__main__.py` is the command line, the other modules are its work. What a worker process runs stands
in such a module, since a function in `__main__` cannot be sent to one. What several commands need is in `common/`.
"""

import sys

from vglm_train.command import leave_at_once

if sys.argv[:1] == ["-m"]:  # Python is looking for the module that `python -m data_tools...` names: this is a command
    leave_at_once()
