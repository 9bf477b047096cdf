"""JPEG Lossless, decoded by GDCM in a process apart, since GDCM ends its process where a file is damaged.

A server lives on, and so do `convert` and a loader's worker. Processes are kept for the next picture. They end with the
one that started them, as their input ends.
"""

import io
import os
import queue
import struct
import subprocess
import sys
from threading import Timer
from typing import Any

import numpy as np
from numpy.typing import NDArray

SECONDS = 60  # of one picture, until a process counts as stuck
_HEAD = struct.Struct("<QQ")  # bytes that follow; frame
_ANSWER = struct.Struct("<Q")  # bytes that follow; 0: it cannot be decoded


class Apart:
    """Processes that decode, as many as are needed at once."""

    def __init__(self) -> None:
        self._idle: queue.LifoQueue[subprocess.Popen[bytes]] = queue.LifoQueue()
        self._owner = os.getpid()

    def decode(self, data: bytes, frame: int) -> NDArray[Any] | None:
        """The values of a frame of a DICOM file; None where it cannot be decoded."""
        if self._owner != os.getpid():  # a fork: the processes are its parent's
            self.__init__()  # type: ignore[misc]
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = _start()
        answer = _ask(process, data, frame)
        if answer is None:
            process.kill()
            process.wait()
            return None
        self._idle.put(process)
        values: NDArray[Any] | None = np.load(io.BytesIO(answer), allow_pickle=False) if answer else None
        return values


def _start() -> "subprocess.Popen[bytes]":
    """This file as a program, which imports nothing else of the project."""
    places = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": places},
    )


def _ask(process: "subprocess.Popen[bytes]", data: bytes, frame: int) -> bytes | None:
    """The answer; None where the process has ended or was stuck."""
    assert process.stdin is not None
    assert process.stdout is not None
    timer = Timer(SECONDS, process.kill)
    timer.start()
    try:
        process.stdin.write(_HEAD.pack(len(data), frame) + data)
        process.stdin.flush()
        head = process.stdout.read(_ANSWER.size)
        if len(head) < _ANSWER.size:
            return None
        (size,) = _ANSWER.unpack(head)
        answer = process.stdout.read(size)
        return answer if len(answer) == size else None
    except OSError:
        return None
    finally:
        timer.cancel()


def serve() -> None:
    """Decode what comes until the input ends. What decoders print goes nowhere."""
    from pydicom import dcmread
    from pydicom.pixels.utils import pixel_array

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while len(head := sys.stdin.buffer.read(_HEAD.size)) == _HEAD.size:
        size, frame = _HEAD.unpack(head)
        data, file = sys.stdin.buffer.read(size), io.BytesIO()
        try:
            np.save(file, pixel_array(dcmread(io.BytesIO(data), force=True), index=frame, decoding_plugin="gdcm"))
        except Exception:
            file = io.BytesIO()
        out.write(_ANSWER.pack(file.tell()) + file.getvalue())
        out.flush()


APART = Apart()

if __name__ == "__main__":
    serve()
