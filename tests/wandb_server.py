"""A stand-in for W&B's server, which cannot run here: it takes the rows of one run as `wandb sync` sends them, and
workspaces.

It answers as W&B's does where that decides which rows are sent: how many rows the run has, and its last one.
"""

import gzip
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

PROJECT = {"id": "p", "name": "tests", "entity": {"id": "e", "name": "somebody"}}


class WandbServer(ThreadingHTTPServer):
    """Serves on a free port of this machine from its construction to `shutdown`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.history: list[str] = []  # rows as JSON, at the line numbers that they were sent for
        self.views: dict[str, dict[str, Any]] = {}  # by id
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        Thread(target=self.serve_forever, daemon=True).start()

    def steps(self) -> list[int]:
        return [json.loads(line)["_step"] for line in self.history]

    def take(self, chunk: dict[str, Any]) -> None:
        start, lines = chunk["offset"], chunk["content"]
        self.history[start : start + len(lines)] = lines

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """None for what it does not have: tables, which are artifacts, and files."""
        if "upsertBucket" in query:
            bucket = {"id": "b", "name": "run", "displayName": "run", "config": "{}", "project": PROJECT}
            return {"upsertBucket": {"bucket": bucket, "inserted": not self.history}}
        if "RunResumeStatus" in query:
            return {"model": {**PROJECT, "bucket": self._bucket()}}
        if "upsertView" in query:
            view = {"id": variables.get("id") or f"view{len(self.views)}", **variables}
            self.views[view["id"]] = view
            return {"upsertView": {"view": {"id": view["id"], "name": view["name"]}, "inserted": True}}
        if "allViews" in query:
            named = [view for view in self.views.values() if view["name"] == variables["viewName"]]
            nodes = [{"node": {key: view[key] for key in ("id", "displayName", "spec")}} for view in named]
            return {"project": {"allViews": {"edges": nodes}}}
        if "viewer" in query:
            return {"viewer": {"id": "v", "entity": "somebody", "flags": "{}", "teams": {"edges": []}}}
        return None

    def _bucket(self) -> dict[str, Any] | None:
        if not self.history:
            return None
        counts = {"historyLineCount": len(self.history), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": json.dumps(self.history[-1:]), "eventsTail": "[]", "summaryMetrics": "{}"}
        texts = {"config": "{}", "wandbConfig": '{"t": 1}', "tags": [], "notes": None}
        return {"id": "b", "name": "run", "displayName": "run", **counts, **tails, **texts}


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        if self.path == "/graphql":
            data = self.server.answer(content["query"], content.get("variables") or {})
            self._reply({"errors": [{"message": "not here"}]} if data is None else {"data": data})
            return
        if chunk := (content.get("files") or {}).get("wandb-history.jsonl"):
            self.server.take(chunk)
        self._reply({"limits": {}})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test's output stays readable."""

    def _reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
