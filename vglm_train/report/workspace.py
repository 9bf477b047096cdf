"""`vglm workspace RUN ...`: W&B's pages of a project, a layout for each stage and one that compares runs.

The layouts are those of `panels.py`, in W&B's terms. Building them needs no network, sending them does.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

from vglm_train.command import program, run_command
from vglm_train.config.load import load
from vglm_train.config.metric_meanings import PLACES, best_of, pattern
from vglm_train.config.run import Config, StageName, Wandb
from vglm_train.errors import UserError, needs_extra
from vglm_train.files import write_json
from vglm_train.log.wandb_run import WandbRun
from vglm_train.report import panels, reference

REFERENCE_ID = "public-blip2-stage-one"
STORED = "workspaces.json"  # RUN/wandb: layout -> its address
COMPARE = "compare"
LAYOUTS = (*get_args(StageName), COMPARE)


def build(layout: str, project: str, entity: str) -> Any:
    """W&B's workspace of a layout: `align`, `generate`, `finetune` or `compare`. Needs no network."""
    with needs_extra("workspace", "a W&B workspace"):
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr

    if layout == COMPARE:
        filters, pinned = [], [f"summary:{name}.{best_of(name)}" for name in panels.COMPARED]
    else:
        filters = [expr.Config("run.value.stage").isin([layout, "reference"])]  # W&B puts value behind a first key
        pinned = [f"config:{name.replace('.', '.value.', 1)}" for name in panels.ASKED]
    return ws.Workspace(
        project=project,
        entity=entity,
        name=f"vglm_train: {layout}",
        sections=_compare() if layout == COMPARE else _stage(layout),  # type: ignore[arg-type]
        runset_settings=ws.RunsetSettings(filters=filters, pinned_columns=pinned),
    )


def spec(workspace: Any) -> dict[str, Any]:
    """The workspace as W&B stores it."""
    found: dict[str, Any] = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return found


def _stage(stage: StageName) -> list[Any]:
    import wandb_workspaces.workspaces as ws

    layout = ws.SectionLayoutSettings(columns=3, rows=2)
    return [
        ws.Section(
            name=section.en,
            panels=[each for panel in section.panels for each in _panel(panel)],
            is_open=True,
            layout_settings=layout,
        )
        for section in panels.sections(stage)
    ]


def _panel(panel: panels.Panel) -> Iterator[Any]:
    """W&B's panels: one for the curves, one for each table."""
    wr, names = _panels(), panel.names.split()
    if panel.kind == "table":
        yield from (wr.WeavePanelSummaryTable(table_name=table) for name in names for table in expand(name))
        return
    areas = "stacked-area" if panel.kind == "areas" else None
    if any("{" in name for name in names):
        regex = f"^({'|'.join(map(pattern, names))})$"
        yield wr.LinePlot(title=panel.en, x=panel.x, metric_regex=regex, plot_type=areas)
    else:
        yield wr.LinePlot(title=panel.en, x=panel.x, y=names, plot_type=areas)


def _panels() -> Any:
    """The library's panels, whose names its types do not export."""
    import wandb_workspaces.reports.v2 as reports

    return reports


def _compare() -> list[Any]:
    wr = _panels()
    import wandb_workspaces.workspaces as ws

    best = [f"{name}.{best_of(name)}" for name in panels.COMPARED]
    bars = [
        wr.BarPlot(title=f"best {name}", metrics=[wr.SummaryMetric(value)])
        for name, value in zip(panels.COMPARED, best)
    ]
    curves = [wr.LinePlot(title=f"{name}, by samples", x="data/samples", y=[name]) for name in panels.COMPARED]
    asked = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in panels.ASKED]
    results = [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(value)) for value in best[:2]]
    differences = [
        wr.RunComparer(diff_only="split"),
        wr.ParallelCoordinatesPlot(title="what was asked, and what came of it", columns=[*asked, *results]),
        *(wr.ParameterImportancePlot(with_respect_to=value) for value in best[:2]),
    ]
    titles = {"Best of each run": bars, "Curves": curves, "What differs": differences}
    return [ws.Section(name=title, panels=members, is_open=True) for title, members in titles.items()]


def expand(name: str) -> list[str]:
    """The names that one with places stands for."""
    keys = [key for key in PLACES if f"{{{key}}}" in name]
    return [name.format(**dict(zip(keys, values))) for values in product(*(PLACES[key] for key in keys))]


def log_reference(config: Wandb, folder: Path) -> bool:
    """Log the published loss curve as a run of its own in the project; False where it is there already."""
    if config.mode == "offline" and any((folder / "wandb").glob(f"offline-run-*-{REFERENCE_ID}")):
        return False
    resolved = {"run": {"stage": "reference"}, "data": {"global_batch": reference.BATCH}}
    run = WandbRun(config, folder, REFERENCE_ID, f"public run: {reference.SOURCE}", "reference", resolved)
    is_new = run.next_step == 0
    for step, loss in reference.curve() if is_new else ():
        samples = step * reference.BATCH
        run.row(
            int(step), {"train/loss": loss, "data/samples": samples, "data/epoch": step / reference.STEPS_PER_EPOCH}
        )
    run.finish({})
    return is_new


def send(layouts: Sequence[str], config: Wandb, folder: Path) -> Iterator[str]:
    """Make or renew the workspaces of the project; lines that name them. UserError where W&B does not take them.

    Their addresses are kept in the run `folder`, so that a second call renews them.
    """
    with needs_extra("workspace", "a W&B workspace"):
        import wandb

    stored = folder / "wandb" / STORED
    known = json.loads(stored.read_text("utf-8")) if stored.exists() else {}
    try:
        entity = config.entity or str(wandb.Api().default_entity)
        for layout in layouts:
            new = build(layout, config.project, entity)
            known[layout] = _renewed(known.get(layout), new).save().url
            write_json(stored, known)
            yield f"{layout}: {known[layout]}"
    except wandb.Error as error:
        raise UserError(
            f"W&B has not taken the workspaces: {error}. Run `wandb login`, or write them with --out."
        ) from error


def _renewed(address: str | None, new: Any) -> Any:
    """The workspace at the address with the panels of `new`; `new` itself where there is none."""
    import wandb_workspaces.workspaces as ws

    if address is None:
        return new
    try:
        old = ws.Workspace.from_url(address)
    except ValueError:  # somebody has deleted it
        return new
    old.sections, old.runset_settings = new.sections, new.runset_settings
    return old


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.report.workspace"),
        description="Lay out the W&B project of a run: a workspace for each stage, one that compares runs, and the "
        "published loss curve as a run of its own.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder: its config.yaml names the W&B project")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS, help="which (default: all)")
    parser.add_argument("--out", type=Path, help="write each layout to DIR/LAYOUT.json instead; needs no network")
    args = parser.parse_args(argv)
    return run_command(_command(args.run, args.layouts, args.out))


def _command(folder: Path, layouts: Sequence[str], out: Path | None) -> Callable[[], int]:
    def work() -> int:
        config = replace(_config(folder).log.wandb, mode="online")  # as it is for runs that are synchronised later
        if out is None:
            print("published loss curve:", "logged" if log_reference(config, folder) else "is there already")
            for line in send(layouts, config, folder):
                print(line)
            return 0
        out.mkdir(parents=True, exist_ok=True)
        for layout in layouts:
            path = out / f"{layout}.json"
            write_json(path, spec(build(layout, config.project, config.entity or "")))
            print(path)
        return 0

    return work


def _config(folder: Path) -> Config:
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} holds no config.yaml. Give the folder of a run.")
    return load(path)


if __name__ == "__main__":
    sys.exit(main())
