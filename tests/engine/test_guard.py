"""What stops a run that cannot go on."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vglm_train.checkpoint.resume import Checkpoints
from vglm_train.config.data import Data, Source
from vglm_train.config.run import Config, Run
from vglm_train.engine.hooks import GuardHook
from vglm_train.engine.progress import RunState
from vglm_train.errors import UserError

TABLE, SHARDS = Source(name="a", table="train.json"), Source(name="b", shards="shards")
OF_TABLE, OF_SHARDS = "vglm data check_table TABLE", "vglm data check_shards FOLDER"


@pytest.mark.parametrize(
    ("sources", "command"),
    [((TABLE,), OF_TABLE), ((SHARDS,), OF_SHARDS), ((TABLE, SHARDS), f"{OF_SHARDS} or {OF_TABLE}")],
)
def test_what_lists_damage_depends_on_what_is_read(sources: tuple[Source, ...], command: str) -> None:
    state = RunState()
    state.samples, state.damaged["image"] = 1000, 30
    config = Config(run=Run(name="a"), data=Data(train=sources))
    hook = GuardHook(config, state, save=lambda step: None, checkpoints=Checkpoints(Path("none")))
    with pytest.raises(UserError, match=f"log.txt names shards and keys; {command} lists them all"):
        hook.after_step(SimpleNamespace(step=5))
