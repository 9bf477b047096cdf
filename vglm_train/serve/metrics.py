"""Numbers for Prometheus, at /metrics."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from vglm_train.chat.request import Answer

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)


class Metrics:
    """What one server counts."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "vglm_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self._rejected = Counter("vglm_rejected", "Requests without an answer, by cause.", ["cause"], registry=registry)
        self._prompt = Counter("vglm_prompt_tokens", "Tokens of prompts, pictures included.", registry=registry)
        self._new = Counter("vglm_new_tokens", "Tokens of answers.", registry=registry)
        self._first = Histogram(
            "vglm_first_token_seconds", "From asking to the first text.", registry=registry, buckets=SECONDS
        )
        self._whole = Histogram(
            "vglm_answer_seconds", "From asking to the end of the answer.", registry=registry, buckets=SECONDS
        )

    def watch(self, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Where the two numbers of the moment come from."""
        gauge = Gauge("vglm_running", "Answers that are being written.", registry=self.registry)
        gauge.set_function(running)
        gauge = Gauge("vglm_waiting", "Questions that wait for a place.", registry=self.registry)
        gauge.set_function(waiting)

    def requested(self, route: str, status: int, cause: str | None) -> None:
        """A request is over."""
        self._requests.labels(route, str(status)).inc()
        if cause is not None:
            self._rejected.labels(cause).inc()

    def first_token(self, seconds: float) -> None:
        """The first text of an answer came."""
        self._first.observe(seconds)

    def answered(self, answer: Answer, seconds: float) -> None:
        """An answer is whole, or as whole as it will be."""
        self._prompt.inc(answer.prompt_tokens)
        self._new.inc(answer.new_tokens)
        self._whole.observe(seconds)

    def page(self) -> bytes:
        """All of it as text."""
        return generate_latest(self.registry)
