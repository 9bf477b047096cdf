"""How long the live page takes to be painted for a run of many rows: python -m benchmarks.live_report [ROWS].

Chromium opens the page of a server that has just begun, twice. A time is from the call of the address to the frame in
which all curves are drawn. Needs playwright and a `chromium` on the PATH.
"""

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from vglm_train.log.jsonl import METRICS, to_line
from vglm_train.log.run_info import RunInfo
from vglm_train.report.live import make_server

ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
DRAWN = """() => new Promise(done => {
  const look = () => document.body.dataset.drawn ? requestAnimationFrame(() => done()) : setTimeout(look, 5);
  look();
})"""


def write(folder: Path, rows: int) -> None:
    """A run of stage one with 18 metrics a row."""
    RunInfo(
        name="large", total_steps=10 * rows, warmup_steps=rows, epoch_samples=10**6, global_batch=256, candidates=256,
        vocabulary=30523,
    ).write(folder)  # fmt: skip
    names = (
        "train/loss", "train/loss_itc", "train/loss_itm", "train/loss_itg", "train/itc_accuracy", "train/itm_accuracy",
        "train/temperature", "train/lr", "train/grad_norm", "train/steps_not_finite", "perf/samples_per_second",
        "perf/data_wait_fraction", "perf/memory_gib", "perf/tokens_per_second", "perf/mfu", "data/damaged",
        "data/epoch", "data/samples",
    )  # fmt: skip
    with (folder / METRICS).open("w") as file:
        for number in range(1, rows + 1):
            values = {
                name: 5 / (1 + number / rows) + 0.1 * ((7919 * number + place) % 101)
                for place, name in enumerate(names)
            }
            file.write(to_line(10 * number, values))


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, rows)
        begun = time.perf_counter()
        server, url = make_server([folder], 0)
        seconds, size = time.perf_counter() - begun, (folder / METRICS).stat().st_size / 2**20
        print(f"{rows} rows, {size:.0f} MiB read in {seconds:.2f} s")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for visit in ("first", "second"):
                page = browser.new_page()
                begun = time.perf_counter()
                page.goto(url, wait_until="commit")
                page.evaluate(DRAWN)
                print(f"{visit} visit: painted after {time.perf_counter() - begun:.2f} s")
                page.close()
            browser.close()
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
