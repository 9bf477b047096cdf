"""One rank of test_elastic.py: python load_and_save.py FOLDER|new TARGET

An engine of each ZeRO stage takes the state in FOLDER, or makes two steps, and writes the state it then has to TARGET.
"""

import sys
from pathlib import Path

import tiny
from safetensors.torch import load_file, save_file

from vglm_train import distributed
from vglm_train.config.run import Engine
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.objective.alignment import AlignmentObjective


def main(zero: int, source: str, target: Path, ranks: distributed.Ranks) -> None:
    config = tiny.config(engine=Engine(precision="fp32", zero=zero))
    objective = AlignmentObjective(tiny.alignment(len(source)), config.objective, ranks, 42, dec_id=tiny.DEC).train()
    engine = DeepSpeedEngine(objective, config, 1, ranks)
    if source == "new":
        for number in range(2):
            batch = tiny.batch(8 * number, 8)
            units = objective.units(batch)
            scale = {name: 1 / count for name, count in units.items()}
            engine.step([batch], [scale].copy, 1e-3)
    else:
        engine.load_state(load_file(Path(source) / target.name))
    state = {name: tensor.clone() for name, tensor in engine.state()}
    if ranks.main:
        save_file(state, target)


group = distributed.start("gloo")
for stage in (1, 2):
    main(stage, sys.argv[1], Path(sys.argv[2]) / f"{stage}.safetensors", group)
distributed.stop()
