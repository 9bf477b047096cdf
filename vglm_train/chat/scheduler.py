"""One thread that decodes the requests of everybody together (iteration-level batching, Orca, OSDI 2022).

Requests queue up, first come, first served. Between two steps of those that run, prompts of the next ones are read and
their rows joined, as far as the limits allow. A row leaves as soon as its answer ends, it is cancelled, or its time is
over.
"""

import atexit
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vglm_train.chat.cohort import Cohort, Row
from vglm_train.chat.features import FeatureCache
from vglm_train.chat.reader import PromptReader
from vglm_train.chat.request import Answer, Busy, Closed, Event, Limits, Put, Reason, Request
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.prompt.template import Template, TooLong

logger = logging.getLogger("vglm_train")


class Ticket:
    """A request that was accepted."""

    def __init__(self, row: Row, wake: threading.Condition) -> None:
        self._row, self._wake = row, wake

    def cancel(self) -> None:
        """Its place is free within one step. It still gets its answer, as far as that is written."""
        self._row.cancelled = True
        with self._wake:
            self._wake.notify_all()


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a scheduler is."""

    running: int
    waiting: int
    answered: int  # since it began
    new_tokens: int


class Scheduler:
    """Answers requests about pictures with one model, which nobody else may run meanwhile.

    Its thread begins with the first request.
    """

    def __init__(
        self,
        model: VisualLanguageModel,
        template: Template,
        device: torch.device,
        limits: Limits,
        features: FeatureCache,
        autocast: bool = False,
    ) -> None:
        """autocast: image tokens are computed in bf16, as training with engine.precision bf16 did."""
        self.reader = PromptReader(model, template, device, features, autocast)
        self.template, self.limits = template, limits
        self._wake = threading.Condition()
        self._queue: deque[Row] = deque()
        self._cohorts: list[Cohort] = []
        self._thread: threading.Thread | None = None
        self._closed, self._finishing = False, False
        self._answered, self._new_tokens = 0, 0
        self._seconds = 1.0  # that an answer takes, a moving average

    def submit(self, request: Request, put: Put) -> Ticket:
        """Queue a request; `put` gets its events.

        TooLong if it is longer than the limits allow, Busy if too many wait, Closed after `close`.
        """
        self._check(request)
        now = time.monotonic()
        seconds = min(self.limits.seconds, request.seconds or math.inf)
        row = Row(request, self.template, put, now, now + seconds)
        with self._wake:
            if self._closed:
                raise Closed("the model is being shut down and takes no more requests.")
            if len(self._queue) >= self.limits.queue:
                raise Busy(len(self._queue), self._retry_after())
            self._queue.append(row)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vglm-scheduler", daemon=True)
                self._thread.start()
                atexit.register(self.close, finish=False)  # a thread within torch would crash Python's end
            self._wake.notify_all()
        return Ticket(row, self._wake)

    def load(self) -> Load:
        """How busy it is now."""
        with self._wake:
            return Load(self._running(), len(self._queue), self._answered, self._new_tokens)

    def close(self, finish: bool = True) -> None:
        """Take no more requests, and end the thread: with `finish`, when all have their answers; else cancel them."""
        with self._wake:
            self._closed, self._finishing = True, finish
            self._wake.notify_all()
        if self._thread is None or not self._thread.is_alive():
            return
        atexit.unregister(self.close)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _check(self, request: Request) -> None:
        length, new = len(request.prompt.input_ids), request.decoding.max_new
        for what, found, most in (
            ("prompt, pictures included,", length, self.limits.prompt),
            ("answer", new, self.limits.new),
            ("prompt with its answer", length + new, self.limits.cached),
        ):
            if found > most:
                raise TooLong(f"a {what} may have {most} tokens here, and this one has {found}; make it shorter.")

    def _retry_after(self) -> float:
        """Seconds until a place in the queue should be free."""
        return max(1.0, self._seconds * len(self._queue) / self.limits.rows)

    def _running(self) -> int:
        return sum(len(cohort.rows) for cohort in self._cohorts)

    def _run(self) -> None:
        with torch.no_grad():
            while True:
                with self._wake:
                    while not (self._queue or self._cohorts or self._closed):
                        self._wake.wait()
                    if self._closed and not self._finishing:
                        for row in [*self._queue, *(row for cohort in self._cohorts for row in cohort.rows)]:
                            row.cancelled = True
                    self._drop_waiting()
                    admitted = self._admit()
                    if self._closed and not (self._queue or self._cohorts or admitted):
                        return
                try:
                    self._drop_running()
                    self._read(admitted)
                    self._step()
                except Exception as error:  # of this program itself: whoever waits is told, and the thread goes on
                    waiting = dict.fromkeys([*admitted, *(row for cohort in self._cohorts for row in cohort.rows)])
                    self._cohorts.clear()
                    self._fail(list(waiting), error)

    def _drop_waiting(self) -> None:
        now = time.monotonic()
        for row in list(self._queue):
            if row.cancelled or now > row.deadline:
                self._queue.remove(row)
                self._end(row, "cancelled" if row.cancelled else "deadline")

    def _drop_running(self) -> None:
        now = time.monotonic()
        for cohort in list(self._cohorts):
            over = [row for row in cohort.rows if row.cancelled or now > row.deadline]
            for row in over:
                self._end(row, "cancelled" if row.cancelled else "deadline")
            self._drop(cohort, over)

    def _admit(self) -> list[Row]:
        """The next rows of the queue that there is room for. Nobody overtakes, so a long prompt's turn comes too."""
        admitted: list[Row] = []
        tokens, rows = 0, self._running()
        longest = max((cohort.longest for cohort in self._cohorts), default=0)
        while self._queue and rows < self.limits.rows:
            request = self._queue[0].request
            tokens += len(request.prompt.input_ids)
            longest, rows = max(longest, request.length), rows + 1
            full = rows * longest > self.limits.cached or (admitted and tokens > self.limits.step)
            if full and rows > 1:
                break
            admitted.append(self._queue.popleft())
        return admitted

    def _read(self, rows: Sequence[Row]) -> None:
        """Read prompts and join their rows to those that run. If that fails, one by one: others are not to blame."""
        if not rows:
            return
        try:
            new = Cohort(self.reader.decoder([row.request for row in rows]), rows)
        except Exception as error:  # whatever the model raises is for those who asked
            if len(rows) == 1:
                self._fail(rows, error)
            else:
                for row in rows:
                    self._read([row])
            return
        self._cohorts.append(new)
        self._deliver(new)
        if new.rows and len(self._cohorts) > 1 and new.decoder.joins:
            self._join(self._cohorts[0], self._cohorts.pop())

    def _join(self, cohort: Cohort, new: Cohort) -> None:
        rows = [*cohort.rows, *new.rows]
        try:
            cohort.join(new)
        except Exception as error:  # memory is full, say: neither part can go on
            self._cohorts.remove(cohort)
            self._fail(rows, error)

    def _step(self) -> None:
        for cohort in list(self._cohorts):
            try:
                cohort.step()
            except Exception as error:
                self._cohorts.remove(cohort)
                self._fail(cohort.rows, error)
                continue
            self._deliver(cohort)

    def _deliver(self, cohort: Cohort) -> None:
        """Give each row its newest id, and let those go that have their answer."""
        over = []
        for row, newest in zip(cohort.rows, cohort.newest.tolist(), strict=True):
            reason: Reason | None = "end" if newest == self.template.end_id else None
            if reason is None:
                self._put(row, row.stream.push(newest))
                if row.stream.stopped:
                    reason = "stop"
                elif row.written == row.request.decoding.max_new:
                    reason = "length"
            if reason is not None:
                self._end(row, reason)
                over.append(row)
        self._drop(cohort, over)

    def _drop(self, cohort: Cohort, rows: Sequence[Row]) -> None:
        if rows:
            cohort.keep(lambda row: row not in rows)
        if not cohort.rows:
            self._cohorts.remove(cohort)

    def _end(self, row: Row, reason: Reason) -> None:
        self._put(row, row.stream.finish())
        self._answered, self._new_tokens = self._answered + 1, self._new_tokens + row.written
        self._seconds += 0.1 * (time.monotonic() - row.asked - self._seconds)
        self._put(row, Answer(row.stream.text, reason, len(row.request.prompt.input_ids), row.written))

    def _fail(self, rows: Sequence[Row], error: Exception) -> None:
        logger.error("%d requests failed: %s: %s", len(rows), type(error).__name__, error)
        for row in rows:
            self._put(row, error)

    def _put(self, row: Row, event: Event) -> None:
        """An empty piece of text is none. Where nobody listens any more, the row has no reason to go on."""
        if event == "":
            return
        try:
            row.put(event)
        except Exception:
            row.cancelled = True
