"""A W&B server that accepts a run and then answers nothing more: the way a service is lost in mid-run."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VIEWER = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "p", "name": "jdx", "entity": {"id": "e", "name": "me"}}
BUCKET = {
    "id": "b",
    "name": "n",
    "displayName": "d",
    "config": "{}",
    "historyLineCount": 0,
    "project": PROJECT,
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    ended: threading.Event
    runs: list[dict[str, Any]]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        answer = self._answer(json.loads(body)) if self.path == "/graphql" else None
        if answer is None:
            self.server.ended.wait()  # silence, until the test is over
            return
        raw = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST

    def _answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        if "mutation UpsertBucket" in request["query"]:
            if self.server.runs:
                return None
            self.server.runs.append(request["variables"])
            return {"upsertBucket": {"bucket": BUCKET, "inserted": True}}
        return {"viewer": VIEWER} if "query Viewer" in request["query"] else None

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def half_dead_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and the variables of the runs it has accepted."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.ended, server.runs = threading.Event(), []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.runs
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
