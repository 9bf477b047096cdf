"""The launcher of runs whose machines come and go. Started on every machine, it starts the processes there, and starts
them again on as many machines as there are whenever one is lost, fails or joins.

It is torchrun's agent, https://docs.pytorch.org/docs/stable/elastic/agent.html, with five differences:

- a person's mistake (status 2 of a process) ends the whole group; torchrun would try it again;
- the processes of each start meet at that start's rank 0; torchrun keeps the address of the first one, which may
  be the machine that was lost: the next start then stands still;
- agents that miss another restart at once; torchrun's wait until their processes notice, which may hang instead;
- what is asked to stop has `--grace` seconds to save; torchrun gives 30;
- Slurm's warning, SIGUSR1, reaches the processes; it would end torchrun.
"""

import argparse
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousParameters,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from vglm_train.command import program, run_command
from vglm_train.distributed import use_gpu
from vglm_train.errors import UserError

MISTAKE = 2  # exit status of a process: see `train.main`
PORT = 29400
HANGING = 20  # seconds to save for processes of which some most likely wait for a lost machine
REACH = 60  # seconds in which the meeting point may still be started
FIRST_WORD = 20.0  # seconds of waiting before it is told; ten times that before each more time
LOOKS = 1.0  # seconds between two looks at the processes and for new machines
# Seconds: an agent says that it is there, and counts as lost after so many times without; a start waits for more
# machines when there are enough of them, and for enough.
MEETING = {"keep_alive_interval": 3, "keep_alive_max_attempt": 3, "last_call_timeout": 15, "join_timeout": 600}
ENVIRONMENT = {
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else all starts meet where the first did
    "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
}


class _Agent(LocalElasticAgent):
    """torchrun's, as the module says."""

    meet = ""  # where machines meet, for a person

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed() and MISTAKE in _statuses(result):
            self._remaining_restarts = 0
        elif result.state == WorkerState.HEALTHY and self._rdzv_handler.is_closed():
            # another agent has given up; processes here may wait for its own
            raise RendezvousClosedError
        elif result.state == WorkerState.HEALTHY and self._machine_lost(worker_group):
            tell("a machine is lost: the processes here are stopped")
            self._shutdown(timeout=min(HANGING, self._shutdown_timeout))
            self._remaining_restarts += 1  # it is no failure of this machine
            return RunResult(state=WorkerState.UNHEALTHY)
        return result

    def _machine_lost(self, worker_group: WorkerGroup) -> bool:
        """Whether an agent of this start says no longer that it is there, and none is waiting to join, for which all
        would leave. `is_closed` has just asked."""
        known = self._rdzv_handler._state_holder.state  # type: ignore[attr-defined]  # no method tells it
        return len(known.participants) < (worker_group.group_world_size or 0) and not known.wait_list

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        self._shutdown(timeout=self._shutdown_timeout)

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        start = time.monotonic()
        place = worker_group.spec.rdzv_handler
        with _waiting(self.meet, place.get_run_id()):
            super()._rendezvous(worker_group)
        number, of = worker_group.group_rank, worker_group.group_world_size
        took = f"found in {time.monotonic() - start:.0f} s"
        tell(f"machines: {of}, this is number {number}, {took}; {self._remaining_restarts} restarts are left")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done; 1 given up, the processes say why; 2 a mistake to mend; 128 + signal if stopped."""
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.elastic"),
        description="Train on machines that come and go: started on each of them, with the same words.",
        allow_abbrev=False,
    )
    parser.add_argument("--nodes", default="1:1", metavar="MIN:MAX", help="how many machines, least and most")
    parser.add_argument("--processes", type=int, help="processes on this machine (default: its GPUs, at least 1)")
    parser.add_argument("--meet", metavar="HOST[:PORT]", help=f"where the --meeting-point is (port: {PORT})")
    parser.add_argument("--address", help="this machine's, as the others reach it (default: its name)")
    parser.add_argument("--id", default="vglm", help="tells runs apart that meet at one place (default: vglm)")
    parser.add_argument("--restarts", type=int, default=100, help="failures before giving up (default: 100)")
    parser.add_argument("--grace", type=int, default=60, help="seconds to save when asked to stop (default: 60)")
    parser.add_argument(
        "--meeting-point", type=int, nargs="?", const=PORT, metavar="PORT",
        help="train nothing: be the HOST that machines meet at, until stopped",
    )  # fmt: skip
    parser.add_argument("train", nargs=argparse.REMAINDER, metavar="...", help="CONFIG.yaml [section.key=value ...]")
    options = parser.parse_args(argv)
    if options.meeting_point is None and not options.train:
        parser.error("give the YAML file of a run or the name of a preset")
    return run_command(partial(_start, options))


def _start(options: argparse.Namespace) -> int:
    if sys.platform == "win32":
        raise UserError("training does not run on Windows: use WSL 2 (wsl --install).")
    return _launch(options) if options.meeting_point is None else _be_meeting_point(options.meeting_point)


def _launch(options: argparse.Namespace) -> int:
    least, most = _nodes(options.nodes)
    if most > 1 and options.meet is None:
        raise UserError("--meet: with several machines, name one that all of them reach: --meet HOST:PORT.")
    processes = options.processes or (torch.cuda.device_count() if use_gpu() else 1)
    _check(options.train)
    if options.meet is not None:
        _reach(options.meet)
    signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGTERM))  # until there are processes to be told
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    place = RendezvousParameters(
        backend="c10d",
        endpoint=options.meet or "localhost:0",
        run_id=options.id,
        min_nodes=least,
        max_nodes=most,
        local_addr=options.address,
        is_host=options.meet is None,  # else a training machine would be it if it came first, and end all with it
        **MEETING,
    )
    try:
        handler = get_rendezvous_handler(place)
    except RendezvousConnectionError:
        raise UserError(f"--meet {options.meet}: nothing answers there; start the --meeting-point.") from None
    spec = WorkerSpec(
        role="train",
        local_world_size=processes,
        entrypoint=sys.executable,
        args=("-u", "-m", "vglm_train.train", *options.train),
        rdzv_handler=handler,
        max_restarts=options.restarts,
        monitor_interval=LOOKS,
        local_addr=options.address,
    )
    agent = _Agent(spec, DefaultLogsSpecs(), shutdown_timeout=options.grace)
    agent.meet = options.meet or "this machine"
    return _follow(agent, handler, least)


def _check(words: Sequence[str]) -> None:
    """UserError for words that no run can start with: here, before others are met, who would all end with this one."""
    from vglm_train import train
    from vglm_train.config.load import errors_with_location, load
    from vglm_train.config.presets import find_config

    options = train.parse(words)
    if options.config is None:
        return
    path = find_config(options.config).path
    with errors_with_location(path, options.overrides):
        load(path, options.overrides)


def _reach(meet: str) -> None:
    """Wait until something answers at HOST[:PORT]. torch would print where in its code it failed to."""
    try:
        host, port = parse_rendezvous_endpoint(meet, PORT)
    except ValueError as error:
        raise UserError(f"--meet {meet}: give HOST or HOST:PORT.") from error
    end, told = time.monotonic() + REACH, False
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            if time.monotonic() > end:
                reason = f"nothing answers there ({error.strerror or error})"
                raise UserError(f"--meet {meet}: {reason}; start the --meeting-point.") from None
            if not told:
                tell(f"nothing answers at {meet} yet; it is tried for {REACH} s")
            told = True
            time.sleep(1)
        else:
            return


@contextmanager
def _waiting(meet: str, name: str) -> Iterator[None]:
    """Within it, now and then say what is waited for."""
    done = threading.Event()

    def say() -> None:
        pause = FIRST_WORD
        while not done.wait(pause):
            tell(
                f"waits at {meet} for the run with --id {name}: too few machines have come, or it goes on with as many "
                "as it takes and this one is a spare"
            )
            pause = 10 * FIRST_WORD

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _follow(agent: _Agent, handler: Any, least: int) -> int:
    """Run the agent to its end; the exit status. All others end as well, but where this one alone was asked to stop."""
    try:
        result = agent.run()
    except SignalException as stop:
        return 128 + stop.sigval
    except RendezvousClosedError:
        tell("the group has ended: another machine says why. To start anew at the same place, give another --id")
        return 1
    except RendezvousTimeoutError:
        tell(f"fewer than {least} machines came within {MEETING['join_timeout']} s")
        return 1
    except RendezvousConnectionError:
        tell("the place where the machines meet answers no longer, so no machine can join or leave: all end here")
        return 1
    handler.shutdown()
    if result is None or not result.is_failed():  # None: a spare machine that was not needed
        return 0
    return MISTAKE if MISTAKE in _statuses(result) else 1


def _statuses(result: RunResult) -> set[int]:
    return {failure.exitcode for failure in result.failures.values()}


def _nodes(words: str) -> tuple[int, int]:
    least, _, most = words.partition(":")
    try:
        numbers = int(least), int(most or least)
    except ValueError:
        numbers = 0, 0
    if not 1 <= numbers[0] <= numbers[1]:
        raise UserError(f"--nodes {words}: give the least and the most number of machines, as 6:8.")
    return numbers


def _be_meeting_point(port: int) -> int:
    """Hold what agents tell each other, until a signal comes."""
    try:
        store = dist.TCPStore("localhost", port, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    except RuntimeError as error:
        raise UserError(f"--meeting-point {port}: {str(error).splitlines()[0]}") from None
    tell(f"machines meet here at port {store.port}")
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


def tell(words: str) -> None:
    print(f"elastic {time.strftime('%H:%M:%S')}: {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
