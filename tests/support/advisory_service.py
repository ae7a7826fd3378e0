"""A local advisory service with the requests of OSV that pip-audit sends, and the advisories of a folder.

It keeps what was asked. `status` is the status of all answers; it may be changed at any time.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from packaging.version import Version

Json = dict[str, Any]


def concerns(advisory: Json, name: str, version: str) -> bool:
    """Say whether an advisory (in OSV's format) is about this version of a package."""
    for affected in advisory["affected"]:
        for span in affected["ranges"] if affected["package"]["name"] == name else []:
            events = {kind: Version(at) for event in span["events"] for kind, at in event.items()}
            if events["introduced"] <= Version(version) < events["fixed"]:
                return True
    return False


class AdvisoryService:
    """An HTTP server on 127.0.0.1; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.advisories: list[Json] = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        self.asked: set[tuple[str, str]] = set()
        self.status = 200
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps(service.answer(query["package"]["name"], query["version"])).encode()
                self.send_response(service.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/query"

    def answer(self, name: str, version: str) -> Json:
        """Answer as OSV does: an empty object when nothing is known."""
        self.asked.add((name, version))
        found = [advisory for advisory in self.advisories if concerns(advisory, name, version)]
        return {"vulns": found} if found else {}

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
