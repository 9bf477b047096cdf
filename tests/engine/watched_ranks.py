"""One rank of test_watch.py: python watched_ranks.py FOLDER PIPE STEP, with torchrun's environment variables.

Rank 1 reads from PIPE for STEP, into which nobody writes, or freezes where PIPE is `frozen`. Rank 0 waits for it in a
sum of step 7.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from vglm_train import distributed
from vglm_train.engine.watch import Watch
from vglm_train.log import console

if __name__ == "__main__":
    ranks = distributed.start("gloo")
    console.setup(ranks)
    with Watch(Path(sys.argv[1]), ranks, 4.0) as watch:
        watch.note("waiting for data", 7 if ranks.main else int(sys.argv[3]))
        if not ranks.main and sys.argv[2] == "frozen":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif not ranks.main:
            Path(sys.argv[2]).read_bytes()
        watch.note("counting rows and targets", 7)
        ranks.all_sum(torch.zeros(1))
