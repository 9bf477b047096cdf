"""Many clients of `vglm serve` on one machine: `python -m benchmarks.serve_load BUNDLE`.

The server is a process of its own, and this is its clients. Each client asks about one of 200 pictures, reads the
answer as it is written, and asks again. After a 429 it waits as long as the server says. Each load is one line of the
table: seconds are from the first try to the first piece of text and to the end of the answer, MiB are the server's, and
the last column compares tokens/s with those of a server that writes one answer at a time (`--alone`).

With `--disconnects N`, N clients leave in mid-answer. Then nothing may run or wait.
"""

import argparse
import asyncio
import base64
import io
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.record import record

PICTURES, SIDE = 200, 96
QUESTIONS = ("What is in this picture?", "Which colour is it?", "How many are there?", "图里有什么？", "这是什么颜色？")
PATIENCE = 100  # tries of a question
MIB = 2**20
COLUMNS = ("rows", "clients", "answered", "429 %", "retries", "errors", "first p50", "p95", "whole p50", "p95",
           "tokens/s", "MiB start", "mid", "end", "times")  # fmt: skip
WIDTHS = (5, 8, 9, 7, 8, 7, 10, 7, 10, 7, 9, 10, 7, 7, 6)


@dataclass
class Server:
    """A running `vglm serve`."""

    url: str
    process: psutil.Process
    model: str

    @property
    def mib(self) -> float:
        return self.process.memory_info().rss / MIB

    def load(self) -> dict[str, float]:
        """Requests that run and wait, as /metrics tells."""
        text = httpx.get(f"{self.url}/metrics").text
        found = re.findall(r"^(vglm_\w*(?:running|waiting))\S* (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}


@dataclass
class Load:
    """What the clients of one load saw."""

    answered: int = 0
    refused: int = 0  # responses of 429
    errors: list[str] = field(default_factory=list)
    tokens: int = 0
    first: list[float] = field(default_factory=list)  # seconds
    whole: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)  # at the start, in the middle, at the end
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class Refused(Exception):  # noqa: N818
    """The server is busy for so many seconds."""


@contextmanager
def serving(bundle: Path, rows: int, queue: int, extra: Sequence[str] = ()) -> Iterator[Server]:
    """`vglm serve` on a free port."""
    command = [sys.executable, "-m", "vglm_train.serve", str(bundle), "--port", "0", "--rows", str(rows)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, "--queue", str(queue), "--name", "load", *extra], stderr=log)
        try:
            url = _when_ready(process, log)
            yield Server(url, psutil.Process(process.pid), "load")
        finally:
            process.terminate()
            process.wait(60)


def _when_ready(process: subprocess.Popen, log: Any) -> str:
    while process.poll() is None:
        log.seek(0)
        found = re.search(r"http://\S+:\d+", text := log.read())
        if found and "is ready" in text:
            return found[0]
        time.sleep(0.2)
    log.seek(0)
    raise SystemExit(log.read())


@cache
def picture_urls() -> list[str]:
    """Random pictures, as data: URLs."""
    rng, urls = np.random.default_rng(0), []
    for _ in range(PICTURES):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(out, "PNG")
        urls.append(f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}")
    return urls


def bodies(model: str, tokens: int) -> Iterator[dict[str, Any]]:
    """Questions without end."""
    choose = random.Random(0)
    while True:
        image = {"type": "image_url", "image_url": {"url": choose.choice(picture_urls())}}
        content = [image, {"type": "text", "text": choose.choice(QUESTIONS)}]
        yield {
            "model": model, "messages": [{"role": "user", "content": content}], "max_tokens": tokens,
            "stream": True, "stream_options": {"include_usage": True}, "seed": choose.randrange(2**31),
        }  # fmt: skip


async def ask(client: httpx.AsyncClient, body: dict[str, Any], leave: int | None = None) -> tuple[float, int]:
    """Seconds to the first piece of text, and tokens. `leave`: go away after so many pieces. Refused for a 429."""
    begun, first, tokens, pieces, finished = time.monotonic(), 0.0, 0, 0, False
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code == 429:
            raise Refused(float(response.headers["retry-after"]))
        if response.status_code != 200:
            raise RuntimeError(f"status {response.status_code}: {(await response.aread())[:200]!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                finished = finished or line == "data: [DONE]"
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(str(event["error"]))
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            if any(choice["delta"].get("content") for choice in event["choices"]):
                first, pieces = first or time.monotonic() - begun, pieces + 1
                if pieces == leave:
                    return first, tokens
    if not finished:
        raise RuntimeError("the answer ended before its end")
    return first or time.monotonic() - begun, tokens


async def _client(client: httpx.AsyncClient, questions: Iterator[dict[str, Any]], until: float, load: Load) -> None:
    while time.monotonic() < until:
        body, begun = next(questions), time.monotonic()
        for _ in range(PATIENCE):
            tried = time.monotonic()
            try:
                first, tokens = await ask(client, body)
            except Refused as refused:
                load.refused += 1
                await asyncio.sleep(refused.args[0])
                continue
            except (httpx.HTTPError, RuntimeError) as error:
                load.errors.append(f"{type(error).__name__}: {error}")
                break
            load.answered, load.tokens = load.answered + 1, load.tokens + tokens
            load.first.append(tried - begun + first)
            load.whole.append(time.monotonic() - begun)
            break
        else:
            load.errors.append(f"refused {PATIENCE} times")


async def measure(server: Server, clients: int, seconds: float, tokens: int) -> Load:
    """So many clients for so long; the answers that then run are read to their ends."""
    picture_urls()  # before the clock runs
    load, questions = Load(mib=[server.mib]), bodies(server.model, tokens)
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    begun = time.monotonic()
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits, trust_env=False) as client:
        running = [asyncio.create_task(_client(client, questions, begun + seconds, load)) for _ in range(clients)]
        await asyncio.sleep(seconds / 2)
        load.mib.append(server.mib)
        await asyncio.gather(*running)
    load.seconds = time.monotonic() - begun
    load.mib.append(server.mib)
    return load


async def disconnect(server: Server, number: int, tokens: int, at_once: int = 32) -> tuple[Load, dict[str, float]]:
    """`number` clients that leave after one to five pieces: these as answered, and what runs and waits afterwards."""
    picture_urls()
    questions, left, turns = bodies(server.model, tokens), Load(), iter(range(number))

    async def leave() -> None:
        for turn in turns:
            async with httpx.AsyncClient(base_url=server.url, timeout=600, trust_env=False, verify=False) as client:
                try:
                    await ask(client, next(questions), leave=1 + turn % 5)
                    left.answered += 1
                except Refused as refused:
                    await asyncio.sleep(refused.args[0])
                except (httpx.HTTPError, RuntimeError) as error:
                    left.errors.append(f"{type(error).__name__}: {error}")

    await asyncio.gather(*(leave() for _ in range(at_once)))
    for _ in range(100):
        now = server.load()
        if now and not any(now.values()):
            break
        await asyncio.sleep(0.1)
    return left, now


def line(rows: int, clients: int, load: Load, alone: Load | None) -> str:
    """A line of the table."""
    tries = load.answered + load.refused + len(load.errors)
    spans = [f"{value:.2f}" for each in (load.first, load.whole) for value in np.percentile(each or [0], (50, 95))]
    values = [
        str(rows), str(clients), str(load.answered), f"{100 * load.refused / max(tries, 1):.1f}", str(load.refused),
        str(len(load.errors)), *spans, f"{load.rate:.0f}", *(f"{each:.0f}" for each in load.mib),
        f"{load.rate / alone.rate:.1f}" if alone and alone.tokens else "",
    ]  # fmt: skip
    return _row(values)


def leave(rows: int, clients: int, load: Load) -> None:
    """The same for `vglm benchmark`."""
    spans = {"first": load.first or [0.0], "whole": load.whole or [0.0]}
    values = {f"{name}_p{p}_s": float(np.percentile(span, p)) for name, span in spans.items() for p in (50, 95)}
    values |= {"tokens_per_s": load.rate, "answered": load.answered, "refused": load.refused}
    values |= {"errors": len(load.errors), "server_mib": load.mib[-1]}
    method = f"{clients} clients ask without a pause for {load.seconds:.0f} s"
    record(f"{rows} rows, {clients} clients", method, values=values)


def _row(values: Sequence[str]) -> str:
    return "".join(value.rjust(width) for value, width in zip(values, WIDTHS, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    args = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server ends too
    print(_row(COLUMNS), flush=True)
    alone: Load | None = None
    if args.alone:
        with serving(args.bundle, 1, args.queue) as server:
            alone = loads(server, args, 1, args.alone, None)
    with serving(args.bundle, args.rows, args.queue) as server:
        loads(server, args, args.rows, args.clients, alone)
        if args.disconnects:
            before = server.mib, server.process.num_fds()
            left, now = asyncio.run(disconnect(server, args.disconnects, args.tokens))
            print(f"{left.answered} clients left in mid-answer; {len(left.errors)} errors; afterwards {now}")
            for error in sorted(set(left.errors))[:5]:
                print(f"error: {error}")
            print(f"MiB {before[0]:.0f} -> {server.mib:.0f}, open files {before[1]} -> {server.process.num_fds()}")


def loads(server: Server, args: argparse.Namespace, rows: int, numbers: Sequence[int], alone: Load | None) -> Load:
    """A line for each number of clients; the last load."""
    load = asyncio.run(measure(server, 4, min(5, args.seconds), args.tokens))  # the first questions are slower
    for clients in numbers:
        load = asyncio.run(measure(server, clients, args.seconds, args.tokens))
        print(line(rows, clients, load, alone), flush=True)
        leave(rows, clients, load)
        for error in sorted(set(load.errors))[:5]:
            print(f"error: {error}")
    return load


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.serve_load", description=__doc__.partition("\n\n")[0])
    parser.add_argument("bundle", type=Path, help="a bundle folder with a language model")
    parser.add_argument("--clients", type=int, nargs="*", default=[16, 64], help="loads (default: 16 64)")
    parser.add_argument("--alone", type=int, nargs="*", default=[16], help="loads of a server with --rows 1 (16)")
    parser.add_argument("--seconds", type=float, default=60, help="of each load (default: 60)")
    parser.add_argument("--rows", type=int, default=32, help="answers at once (default: 32)")
    parser.add_argument("--queue", type=int, default=256, help="questions that wait (default: 256)")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer at most (default: 32)")
    parser.add_argument("--disconnects", type=int, default=0, metavar="N", help="clients that leave in mid-answer")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
