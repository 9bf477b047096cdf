"""A file of `vglm benchmark` as a table in Markdown, to be read or sent."""

from dataclasses import asdict

from benchmarks.result_file import Results, Row

HEAD = ("case", "measured", "samples/s", "ms", "spread", "peak GiB", "floor ms", "times the floor", "other", "method")


def markdown(results: Results) -> str:
    """The machine in a few lines, then a row for each measurement."""
    told = {**asdict(results.machine), **asdict(results)}
    known = {name: "unknown" if value is None else value for name, value in told.items()}
    versions = (f"{name} {version or 'not installed'}" for name, version in results.machine.versions.items())
    lines = [
        "card {card} ({card_gib} GiB, driver {driver}), CPU {cpu}, {cores} cores, {ram_gib} GiB of RAM".format_map(
            known
        ),
        ", ".join(versions) or "versions unknown",
        "{product_tflops} TFLOP/s in bf16 products, {copy_tb_s} TB/s in copies".format_map(known),
        "{date}, vglm_train {version}, commit {commit}: `{command}`, {source}".format_map(known),
    ]
    if results.shapes != "full":
        lines.append("Tiny shapes: these numbers say that the cases run, not how fast anything is.")
    rows = [HEAD, ["---"] * len(HEAD), *map(_cells, results.rows)]
    return "\n".join([*lines, "", *("| " + " | ".join(row) + " |" for row in rows)])


def _cells(row: Row) -> list[str]:
    numbers = (row.samples_per_s, row.ms, row.spread, row.peak_gib, row.floor_ms, row.ratio)
    other = ", ".join(f"{name} {value:.4g}" for name, value in row.values.items() if value is not None)
    cells = ["" if number is None else f"{number:.4g}" for number in numbers]
    return [row.case, row.name, *cells, other, (row.problem or row.method).replace("|", "\\|")]
