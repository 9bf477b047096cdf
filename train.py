"""Train from one YAML file: `python train.py CONFIG.yaml [section.key=value ...]`. See README.md."""

import sys

from vglm_train.command import called_as
from vglm_train.train import main

if __name__ == "__main__":
    with called_as("python train.py"):
        sys.exit(main())
