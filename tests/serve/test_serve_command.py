"""The command, as a process."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import openai
import pytest
from serve.made_server import TOKEN, shown

from vglm_train.serve.__main__ import main, name_of

ROOT = Path(__file__).resolve().parents[2]
PATH = "/v1/chat/completions"
HI = {"role": "user", "content": "what"}
SLOW = (
    "import sys, time\n"
    "from vglm_train.chat.cohort import Cohort\n"
    "step = Cohort.step\n"
    "Cohort.step = lambda self: (time.sleep(0.05), step(self))\n"
    "from vglm_train.serve.__main__ import main\n"
    "sys.exit(main())\n"
)


class Command:
    """A server process; its log is read until it is ready."""

    def __init__(self, *words: object, slow: bool = False, **environment: str) -> None:
        program = ["-c", SLOW] if slow else ["-m", "vglm_train.serve"]
        self.process = subprocess.Popen(
            [sys.executable, *program, *map(str, words), "--port", "0"], cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        self.log, self.url, self.ready = "", "", threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.ready.wait(120), self.log
        assert self.process.poll() is None, self.log

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.log += line
            if found := re.search(r"serving \S+ on (http://\S+);", line):
                self.url = found[1]
            if " is ready after " in line:
                self.ready.set()
        self.ready.set()

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(30)
        return status


@pytest.fixture
def command():
    started = []

    def start(*words: object, **options) -> Command:
        started.append(Command(*words, **options))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.end()


def test_from_start_to_end(command, bundles, pictures):
    """A token from the environment; both contracts; the log; and status 0."""
    running = command(bundles["causal"], "--name", "eye", "--max-new", 7, VGLM_TOKEN=TOKEN)
    client = running.client(TOKEN)
    whole = client.chat.completions.create(model="eye", messages=[shown("what number", *pictures[:2])])
    assert whole.usage.completion_tokens <= 7
    old = httpx.post(running.url, json={"text": "what"}, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
    assert old.json()["status"] == 200
    assert httpx.get(f"{running.url}/v1/models").status_code == 401
    assert running.end() == 0, running.log
    assert running.log.rstrip().endswith("stopped")
    assert f"POST {PATH} 200" in running.log
    for word in (TOKEN, "what", whole.choices[0].message.content, "Traceback"):
        assert word not in running.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_finish(command, bundles, number):
    running = command(bundles["causal"], slow=True)
    body = {"model": "causal", "messages": [HI], "max_tokens": 30, "seed": 5, "temperature": 0.9}
    stream = running.client().chat.completions.create(**body, stream=True)
    pieces = [next(stream), next(stream)]
    running.process.send_signal(number)
    pieces += list(stream)
    assert pieces[-1].choices[0].finish_reason in ("stop", "length")
    assert running.end() == 0, running.log


def test_what_is_not_finished_in_time_is_ended(command, bundles):
    running = command(bundles["causal"], "--grace", "0.2", slow=True)
    fields = {"extra_body": {"top_k": 0}, "temperature": 2, "seed": 1, "max_tokens": 2000}
    stream = running.client().chat.completions.create(model="causal", messages=[HI], stream=True, **fields)
    next(stream)
    running.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIError, match="stopped before the answer was whole"):
        list(stream)
    assert running.end() == 0, running.log


def test_without_what_only_training_needs(bundles):
    """Neither the command nor the first answer imports it."""
    code = (
        "import sys\n"
        "for name in ('deepspeed', 'wandb', 'datasets', 'webdataset'): sys.modules[name] = None\n"
        "import httpx, threading\n"
        "from vglm_train.chat.model import load\n"
        "from vglm_train.access import Access\n"
        "from vglm_train.serve.answering import Serving\n"
        "from vglm_train.serve.limits import ServeLimits\n"
        "from vglm_train.access import address, bind\n"
        "from vglm_train.serve.server import Server, configure\n"
        "serving = Serving('tiny', ServeLimits(), {})\n"
        "serving.opened(load(sys.argv[1], device='cpu'))\n"
        "listener = bind('127.0.0.1', 0)\n"
        "server = Server(configure(serving, Access('127.0.0.1')), serving)\n"
        "thread = threading.Thread(target=server.run, args=([listener],))\n"
        "thread.start()\n"
        "print(httpx.post(address(listener), json={'text': 'what'}, timeout=60).json()['status'])\n"
        "server.stop(5)\n"
        "thread.join()\n"
        "serving.end()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundles["causal"])], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["{causal}/config.yaml"], "Weights are expected here"),  # a file may be one of LAVIS's
        (["{align}"], "is of stage align"),
        (["{causal}", "--host", "0.0.0.0"], "--host 0.0.0.0: others could reach the server, so it needs a token"),
        (["{causal}", "--token-file", "nowhere"], "--token-file nowhere: cannot be read"),
        (["{causal}", "--port", "99999"], "--port 99999: cannot listen there"),
        (["{causal}", "--host", "localhost", "--port", "{taken}"], "cannot listen there"),
        (["{causal}", "--rows", "0"], "a limit is wrong: rows: must be above 0"),
        (["{causal}", "--grace", "-1"], "a limit is wrong: grace: must be above 0"),
        (["{causal}", "--top-p", "2"], "an option is wrong: top_p"),
    ],
)
def test_mistakes_are_told_in_a_line(bundles, tiny, capsys, monkeypatch, words, told):
    monkeypatch.delenv("VGLM_TOKEN", raising=False)
    taken = tiny.url.rpartition(":")[2]
    filled = [word.format(**bundles, taken=taken) for word in words]
    if "--port" not in filled:
        filled += ["--port", "0"]
    assert main(filled) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]


def test_the_name_of_a_model(tmp_path):
    assert name_of(tmp_path / "run-3" / "bundle") == "run-3"
    assert name_of(tmp_path / "xray") == "xray"
