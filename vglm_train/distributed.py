"""Process group, ranks, sums and gathers. The only user of torch.distributed."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vglm_train.autograd import apply
from vglm_train.errors import LostProcess, UserError

T = TypeVar("T")
# torch 2.13 renamed it and warns of the old name at every call; 2.11 knows only the old one
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Shared(Protocol):
    """What the ranks hold together, and each needs of the others also while it works alone."""

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Within it each rank works alone. It ends on all ranks together, also where one of them has failed."""
        ...


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's rank and device. With `world` 1 every collective below is the identity."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    local: int = 0  # rank on this machine
    shared: list[Shared] = field(default_factory=list, compare=False, repr=False)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def all_sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place; returns its argument."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    @property
    def group(self) -> dist.ProcessGroup | None:
        """torch's group of all ranks; None outside of any."""
        return dist.group.WORLD

    def gather(self, tensor: Tensor) -> Tensor:
        """[b,...] -> [world*b,...] in rank order, without gradient."""
        if self.world == 1:
            return tensor.detach()
        whole = tensor.new_empty((self.world * tensor.shape[0], *tensor.shape[1:]))
        _all_gather(whole, tensor.detach().contiguous())
        return whole

    def gather_into(self, whole: Tensor, part: Tensor) -> None:
        """Every rank's part [b] in rank order into `whole` [world*b], where `part` may lie at its own place."""
        _all_gather(whole, part)

    def gather_with_grad(self, tensor: Tensor) -> Tensor:
        """[b,...] -> [world*b,...] in rank order; backward sums the gradients of all ranks."""
        gathered: Tensor = tensor if self.world == 1 else apply(_GatherWithGrad, tensor, self)
        return gathered

    def request(self, wanted: Tensor) -> "Requests":
        """Tell all ranks which rows of theirs this one wants, for `exchange`. Does not wait for the device.

        wanted [k] int64 on the device, k the same on every rank: rank * (rows of a rank) + row.
        """
        return Requests(self.gather(wanted).view(self.world, -1))

    def exchange(self, rows: Sequence[Tensor], requests: "Requests") -> Tensor:
        """Fetch the rows that were requested, without gradient. Only those rows are sent.

        rows: of this rank, in parts [b,...] -> [k,...]. It waits until the requests have arrived, which is when the
        device has done all that was queued before `request`.
        """
        wanted = requests.on_host()
        if self.world == 1:
            return _take(rows, wanted[0])
        size = len(rows) * rows[0].shape[0]
        owners = wanted[self.rank] // size
        mine = (wanted // size == self.rank).nonzero()  # sorted by the rank that asks
        send = _take(rows, wanted[mine[:, 0], mine[:, 1]] - self.rank * size)
        sends = torch.bincount(mine[:, 0], minlength=self.world).tolist()
        receives = torch.bincount(owners, minlength=self.world).tolist()
        back = without_waiting(torch.argsort(torch.argsort(owners, stable=True)), send.device)
        received = send.new_empty((wanted.shape[1], *send.shape[1:]))
        dist.all_to_all_single(received, send.contiguous(), receives, sends)
        return received[back]

    def gather_objects(self, value: object) -> list[Any]:
        """Every rank's `value`, in rank order, on every rank. For small Python objects."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_main(self, value: T) -> T:
        """Rank 0's `value` on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within it each rank works alone, without collectives. If that fails on one rank, no rank goes on.

        Use it before a collective in which the others would wait. They raise the same if it is a UserError, and of any
        other exception a LostProcess that quotes it.
        """
        error: Exception | None = None
        try:
            with contextlib.ExitStack() as stack:
                for each in self.shared:
                    stack.enter_context(each.alone())
                yield
        except Exception as own:
            error = own
        failures = self.gather_objects(None if error is None else (isinstance(error, UserError), _in_one_line(error)))
        if error is not None:
            raise error
        for rank, failure in enumerate(failures):
            if failure is not None:
                mistake, text = failure
                raise UserError(text) if mistake else LostProcess(f"process {rank} of this run failed: {text}")

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


class Requests:
    """Which rows each rank wants [world,k], on their way to the host."""

    def __init__(self, wanted: Tensor) -> None:
        self._wanted = wanted.to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if wanted.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def part(self, rows: slice) -> "Requests":
        """Of some rows of each rank, which arrive with the others."""
        some = Requests(self._wanted[:, rows])  # a view of what is being written
        some._arrived = self._arrived
        return some

    def on_host(self) -> Tensor:
        """[world,k] int64 on the CPU, once they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._wanted


def _in_one_line(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


def _take(parts: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Rows [k] int64 of parts [b,...] that follow each other -> [k,...], without gradient and without joining them."""
    if len(parts) == 1:
        return parts[0].detach()[without_waiting(rows, parts[0].device)]
    size, taken = parts[0].shape[0], parts[0].new_empty((len(rows), *parts[0].shape[1:]))
    for place, row in enumerate(rows.tolist()):  # torch.stack refuses fp16 under bf16's autocast
        taken[place] = parts[row // size][row % size].detach()
    return taken


def without_waiting(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`. From memory that is not pinned, a copy waits for all that is queued there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class _GatherWithGrad(torch.autograd.Function):
    """All-gather whose backward is a reduce-scatter, so that the global loss has its exact gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.size = ranks, tensor.shape[0]
        return ranks.gather(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        # gloo has no reduce-scatter in every version, so sum and cut
        whole = ctx.ranks.all_sum(grad.contiguous().clone())
        start = ctx.ranks.rank * ctx.size
        return whole[start : start + ctx.size], None


def start(backend: str = "auto", grow: bool = False) -> Ranks:
    """Join the process group that torchrun, deepspeed or srun describes. Without one, make a group of one process.

    `backend`: nccl, gloo, or auto (nccl where there are GPUs). `grow`: see `_let_segments_grow`. Raises UserError for
    nccl without GPUs, and where the launcher asks for more processes on this node than there are GPUs.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if "RANK" not in os.environ:  # DeepSpeed needs these also for a single process
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    device = torch.device("cpu")
    if use_gpu():
        if grow:
            _let_segments_grow()
        if local >= torch.cuda.device_count():
            raise UserError(
                f"local rank {local} has no GPU: this machine has {torch.cuda.device_count()}. "
                f"Start at most {torch.cuda.device_count()} processes a machine."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    name_accelerator()
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "nccl" and device.type != "cuda":
        raise UserError("engine.backend is nccl, but this machine shows no NVIDIA GPU: use gloo or auto.")
    if not dist.is_initialized():
        dist.init_process_group(backend, rank=rank, world_size=world, timeout=timedelta(minutes=30))
    return Ranks(rank, world, device, local)


def _let_segments_grow() -> None:
    """So that torch reserves little more memory than it uses. Before the GPU's first use.

    Stage one asks for it: on an H100 16.6 instead of 18.8 GiB, at the same speed. Where the host is the slower one this
    was not compared. Settings of the user's own stay as they are.
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def use_gpu() -> bool:
    """Whether to run on NVIDIA GPUs: there are some, and DS_ACCELERATOR does not say cpu."""
    return torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"


def best_device() -> torch.device:
    """What one process answers on: an NVIDIA GPU, else Apple's, else the CPU, as where DS_ACCELERATOR says so."""
    if use_gpu():
        return torch.device("cuda")
    apple = torch.backends.mps.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
    return torch.device("mps" if apple else "cpu")


def named_device(name: str | torch.device) -> torch.device:
    """A device that can be computed on. UserError for another."""
    there = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    with contextlib.suppress(RuntimeError, AssertionError, ImportError):  # as torch was built
        device = torch.empty(1, device=torch.device(name)).device
        if device.type in ("cpu", "cuda", "mps"):
            return device
    raise UserError(f"there is no device {str(name)!r} here, or it cannot be used; there is {', '.join(there)}.")


def name_accelerator() -> None:
    """Name the accelerator for DeepSpeed. On a CPU it would search for one and warn."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if use_gpu() else "cpu")


def stop() -> None:
    """Leave the process group.

    Not while an exception passes, with NCCL: it would wait for the other ranks, which may wait for this one in a
    collective (measured on two H100s), and nobody would say why. The end of the process leaves the group as well.
    """
    if dist.is_initialized() and not (sys.exc_info()[0] and dist.get_backend() == "nccl"):
        dist.destroy_process_group()


@contextlib.contextmanager
def explain_full_card(advice: str) -> Iterator[None]:
    """UserError where the GPU's memory is full, with the sizes that torch names and what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        sizes = " ".join(str(error).split(" If reserved")[0].split(" See documentation")[0].split())
        raise UserError(f"the GPU's memory is full: {sizes.removesuffix('.')}. {advice}") from error


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port
