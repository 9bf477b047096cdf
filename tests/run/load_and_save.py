"""One rank of test_elastic.py: python load_and_save.py ZERO FILE|new TARGET

An engine takes the state in FILE, or makes two steps, and writes the state it then has.
"""

import sys
from pathlib import Path

import tiny
from safetensors.torch import load_file, save_file

from vglm_train import distributed
from vglm_train.config.run import Engine
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.objective.alignment import AlignmentObjective


def main(zero: int, source: str, target: Path) -> None:
    ranks = distributed.start("gloo")
    config = tiny.config(engine=Engine(precision="fp32", zero=zero))
    objective = AlignmentObjective(tiny.alignment(len(source)), config.objective, ranks, 42, dec_id=tiny.DEC).train()
    engine = DeepSpeedEngine(objective, config, 1, ranks)
    if source == "new":
        for number in range(2):
            batch = tiny.batch(8 * number, 8)
            units = objective.units(batch)
            engine.step([batch], [{name: 1 / count for name, count in units.items()}], 1e-3)
    else:
        engine.load_state(load_file(source))
    state = {name: tensor.clone() for name, tensor in engine.state()}
    if ranks.main:
        save_file(state, target)
    distributed.stop()


main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
