"""A bundle into another project's format."""

from pathlib import Path

from vglm_train.checkpoint.convert import hugging_face, lavis, visualglm
from vglm_train.checkpoint.convert.bundle import read as read_bundle
from vglm_train.checkpoint.convert.report import size
from vglm_train.checkpoint.convert.source import Options
from vglm_train.checkpoint.convert.writers import SHARD, check_target
from vglm_train.checkpoint.keymaps.sat import Fused
from vglm_train.errors import UserError

STAGES = {"hf-blip2": "generate", "hf-blip2-retrieval": "align", "visualglm-sat": "generate"}


def export_weights(
    bundle: Path, kind: str, out: Path, options: Options, force: bool, shard: int = SHARD, fused: Fused | None = None
) -> list[str]:
    """Write `bundle` in another format. Returns the report."""
    check_target(out, 0, force)
    source = read_bundle(bundle, options)
    wanted = STAGES.get(kind, source.stage)
    if source.stage != wanted:
        raise UserError(f"{bundle} is of stage {source.stage}; {kind} holds models of stage {wanted}.")
    if source.stage != "align" and source.config.model.qformer.reads_question:
        raise UserError(
            f"{bundle}: its Q-Former reads the question (model.qformer.reads_question); {kind} has no place for that."
        )
    if kind == "lavis":
        lines = lavis.write(source, out, force)
    elif kind == "visualglm-sat":
        lines = visualglm.write(source, out, force, fused)
    else:
        lines = hugging_face.write(source, out, force, shard)
    return [f"{bundle}: stage {source.stage}, {size(source.tensors)}", *(f"  {line}" for line in lines), f"wrote {out}"]
