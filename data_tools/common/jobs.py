"""Work that a kill cannot lose: cut into blocks, each finished one a file, the folder owned by one run at a time."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from data_tools.common.pool import spread
from vglm_train.errors import UserError
from vglm_train.files import lock, replace_file, write_json
from vglm_train.folders import tidy
from vglm_train.progress import Progress


class Numbered(Protocol):
    """A block of work. `count`: what it adds to the progress bar."""

    @property
    def number(self) -> int: ...
    @property
    def count(self) -> int: ...


Block = TypeVar("Block", bound=Numbered)


def read_json(path: Path) -> Any:
    """The JSON of a file that this tool wrote, None where there is none; UserError where it is something else."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{path}: not JSON; it was not written by this tool, give another --out") from None


def refuse_other(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], kind: str, delete: Path) -> None:
    """UserError where `found`, read from `path`, was made from something else than what is wanted now."""
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        reasons = ", ".join(f"{name} is {found.get(name)!r} there and {wanted[name]!r} now" for name in differing)
        raise UserError(f"{path} belongs to another {kind}: {reasons}; give another --out, or delete {delete} first")


@contextmanager
def owned(
    folder: Path, identity: Mapping[str, Any], kind: str, tool: str, delete: Path | None = None
) -> Iterator[None]:
    """Take a folder of parts: new, or of the same identity. The lock goes with the process, however that ends.

    UserError where the folder belongs to another run, or a process is working in it; `delete` (the folder itself, by
    default) is what its message says to delete. Half-written files are removed.
    """
    marker = folder / "plan.json"
    found = read_json(marker)
    if found is not None:
        refuse_other(marker, found, identity, kind, delete or folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        if lock(file) is False:
            raise UserError(f"{delete or folder}: another {tool} is writing there; wait for it or stop it")
        tidy(folder)
        write_json(marker, identity)
        yield


@dataclass(frozen=True, slots=True)
class JobStage:
    """One pass over blocks: `name` begins its parts' file names."""

    folder: Path
    name: str

    def part(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number:07d}"

    def run(self, work: Callable[[Block], bytes], blocks: Sequence[Block], workers: int, unit: str, text: str) -> None:
        """`work` on every block whose part is not there yet, in parallel; what it returns becomes the part.

        `work` must be a module's function, or a partial of one.
        """
        rest = [block for block in blocks if not self.part(block.number).exists()]
        module = (work.func if isinstance(work, partial) else work).__module__
        total = sum(block.count for block in blocks)
        with Progress(total, unit, text, already=total - sum(block.count for block in rest)) as bar:
            for block, _ in spread(partial(_finish, self, work), rest, workers, module):
                bar.update(block.count)

    def read(self, blocks: Sequence[Block]) -> Iterator[bytes]:
        """The parts' contents, in the order of the blocks."""
        for block in blocks:
            yield self.part(block.number).read_bytes()


def _finish(stage: JobStage, work: Callable[[Block], bytes], block: Block) -> None:
    with replace_file(stage.part(block.number)) as file:
        file.write(work(block))
