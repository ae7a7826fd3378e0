"""A fake Weights & Biases server, with the requests that the SDK needs to record, upload, sync and read back.

It keeps the received data in memory. A test can switch faults on and off at any time:

    reject_auth    401 for every request          hang(), release()  accept requests without an answer
    server_error   500 for every request          die(), revive()    cut the connections, refuse new ones
    drop_uploads   403 for uploads of bytes       lose_artifact      200 for artifact files, but drop their bytes
    drop_inputs    200 for the use of an artifact, but forget it

`unknown_operations` lists the requests that this server does not know; tests assert that it is empty. Read the records
with `wait_for`, or after the client has ended.
"""

import base64
import contextlib
import hashlib
import json
import operator
import re
import secrets
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, TypeVar

Json = dict[str, Any]
T = TypeVar("T")

HANG_SECONDS = 120  # the longest hang, if no test releases it
USER: Json = {"id": "user", "entity": "team", "username": "someone", "name": "Someone", "email": "someone@localhost"}
USER |= {"flags": "{}", "admin": False, "deletedAt": None, "apiKeys": {"edges": []}, "teams": {"edges": []}}
TIMES: Json = dict.fromkeys(("createdAt", "updatedAt", "heartbeatAt"), "2025-01-01T00:00:00Z")
FIXED_ANSWER: Json = {name: {"viewer": USER} for name in ("Viewer", "GetViewer", "GetDefaultEntity")}
FIXED_ANSWER |= {"ServerFeaturesQuery": {"serverInfo": {"features": []}}}
FIXED_ANSWER |= {"OrganizationCoreWeaveOrganizationID": {"entity": None}}
SAME_ANSWER = dict.fromkeys(("RunFiles", "RunHistoryKeys", "RunOutputArtifacts"), "Run") | {
    "FetchArtifactManifest": "ArtifactByID",
    "GetArtifactMembershipFileUrls": "ArtifactMembershipFiles",
}


@dataclass
class Run:
    """One received run; `config` and `summary` without the SDK's own keys."""

    id: str
    entity: str
    project: str
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    commit: str | None = None
    config: Json = field(default_factory=dict)
    all_config: Json = field(default_factory=dict)  # as sent: with the SDK's own keys, such as the charts
    summary: Json = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)  # as sent: a run that is synced twice has all rows twice
    system_metrics: list[Json] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    inputs: list["Artifact"] = field(default_factory=list)  # the artifacts that the run uses
    exit_code: int | None = None  # None until the client reports that the run is complete


@dataclass
class Artifact:
    """One version of an artifact: `manifest` lists the announced files, `files` holds the received bytes, by path."""

    id: str
    entity: str
    project: str
    run: Run | None  # None: no run made it, runs only use it
    type: str
    name: str
    digest: str
    aliases: list[str]
    metadata: str | None
    manifest: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    version: int | None = None
    committed: bool = False

    @property
    def entries(self) -> dict[str, Json]:
        """The manifest's entries by path: digest (base64 of the md5), size, ..."""
        return dict(json.loads(self.manifest)["contents"]) if self.manifest else {}


def md5(data: bytes) -> str:
    """Give the digest in W&B's form: base64 of the md5."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


class _Records:
    """The received data, and a method `_on_NAME` for each GraphQL operation. The caller holds the lock.

    An answer holds at least every field that a query of this name selects. The SDK ignores the others.
    """

    def __init__(self) -> None:
        self.url = ""
        self.drop_inputs = False
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self._uploads: dict[
            str, tuple[Callable[[bytes], object], str | None]
        ] = {}  # path: the function that stores the bytes, their md5
        self._downloads: dict[str, Callable[[], bytes | None]] = {}

    def _on_UpsertBucket(self, given: Json) -> Json:
        inserted = given["name"] not in self.runs
        owner = given.get("entity") or USER["entity"], given.get("project") or "uncategorized"
        run = self.runs.setdefault(given["name"], Run(given["name"], *owner))
        sent = {"name": "displayName", "group": "groupName", "job_type": "jobType", "commit": "commit"}
        for attribute, variable in sent.items():
            if given.get(variable) is not None:
                setattr(run, attribute, given[variable])
        if given.get("config") is not None:
            run.all_config = json.loads(given["config"])
            run.config = {key: item["value"] for key, item in _user_keys(given["config"]).items()}
        return {"upsertBucket": {"bucket": self._run(run), "inserted": inserted}}

    def _on_RunResumeStatus(self, given: Json) -> Json:
        run = self.runs.get(given["name"])
        return {"model": {"id": "1", "name": given["project"], "entity": None, "bucket": run and self._run(run)}}

    def _on_CreateRunFiles(self, given: Json) -> Json:
        run = self.runs[given["run"]]
        urls = {name: self._upload_url("file", partial(operator.setitem, run.files, name)) for name in given["files"]}
        files = [{"name": name, "uploadUrl": url} for name, url in urls.items()]
        return {"createRunFiles": {"runID": run.id, "uploadHeaders": [], "files": files}}

    def _on_ArtifactType(self, given: Json) -> Json:
        found = self._artifact_named(given["name"])
        return {"project": {"artifact": found and self._artifact(found)}}

    def _on_CreateArtifact(self, given: Json) -> Json:
        name, aliases = given["artifactCollectionName"], [item["alias"] for item in given.get("aliases") or []]
        same = [a for a in self.artifacts if a.committed and (a.name, a.digest) == (name, given["digest"])]
        if same:  # the content exists already: add the aliases, the client uploads nothing
            artifact = same[-1]
            self._give_aliases(artifact, aliases)
        else:
            owner, new_id = (given["entityName"] or USER["entity"], given["projectName"]), str(len(self.artifacts))
            run = self.runs[given["runName"]] if given.get("runName") else None
            kind, metadata = given["artifactTypeName"], given.get("metadata")
            artifact = Artifact(new_id, *owner, run, kind, name, given["digest"], aliases, metadata)
            self.artifacts.append(artifact)
        return {"createArtifact": {"artifact": self._artifact(artifact) | {"artifactSequence": {}}}}

    def _on_CreateArtifactManifest(self, given: Json) -> Json:
        artifact = self.artifacts[int(given["artifactID"])]
        url = self._upload_url("manifest", partial(setattr, artifact, "manifest"), given["digest"] or None)
        file = {"id": f"{artifact.id}-file", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"{artifact.id}-manifest", "file": file}}}

    def _on_CreateArtifactFiles(self, given: Json) -> Json:
        files: list[Json] = []
        for file in given["artifactFiles"]:
            keep = partial(operator.setitem, self.artifacts[int(file["artifactID"])].files, file["name"])
            url = self._upload_url("artifact-file", keep, file["md5"])
            answer = {"storagePath": file["name"], "artifact": {"id": file["artifactID"]}, "uploadUrl": url}
            files.append(answer | {"uploadHeaders": [], "uploadMultipartUrls": None})
        return {"createArtifactFiles": _edges(files=files)}

    def _on_UseArtifact(self, given: Json) -> Json:
        artifact, run = self.artifacts[int(given["artifactID"])], self.runs[given["runName"]]
        if not self.drop_inputs and artifact not in run.inputs:
            run.inputs.append(artifact)
        return {"useArtifact": {"artifact": {"id": artifact.id}}}

    def _on_RunInputArtifacts(self, given: Json) -> Json:
        inputs = [self._artifact(artifact) for artifact in self.runs[given["run"]].inputs]
        return {"project": {"run": _edges(artifacts=inputs)}}

    def _on_CommitArtifact(self, given: Json) -> Json:
        artifact = self.artifacts[int(given["artifactID"])]
        artifact.version = sum(a.committed for a in self.artifacts if a.name == artifact.name)
        artifact.committed = True
        self._give_aliases(artifact, [*artifact.aliases, "latest"])
        return {"commitArtifact": {"artifact": self._artifact(artifact)}}

    def _give_aliases(self, artifact: Artifact, aliases: list[str]) -> None:
        for other in self.artifacts:
            if other.committed and other.name == artifact.name and other is not artifact:
                other.aliases = [alias for alias in other.aliases if alias not in aliases]
        artifact.aliases = list(dict.fromkeys([*artifact.aliases, *aliases]))

    # Requests of wandb.Api() that read data back.

    def _on_Run(self, given: Json) -> Json:
        run = self.runs.get(given.get("name") or given["run"])
        return {"project": {"internalId": "1", "run": run and self._run(run)}}

    def _on_ArtifactByID(self, given: Json) -> Json:
        return {"artifact": self._artifact(self.artifacts[int(given["id"])])}

    def _on_ArtifactMembershipByName(self, given: Json) -> Json:
        found = self._artifact_named(given["name"])
        return {"project": {"artifactCollectionMembership": found and self._membership(found)}}

    def _on_ArtifactMembershipFiles(self, given: Json) -> Json:
        found = self._artifact_named(f"{given['collection']}:{given['alias']}")
        collection = {"__typename": "ArtifactSequence", "artifactMembership": found and self._membership(found)}
        return {"project": {"artifactCollection": collection}}

    def _artifact_named(self, name: str) -> Artifact | None:
        collection, _, alias = name.partition(":")
        found = [a for a in self.artifacts if a.committed and a.name == collection]
        return next((a for a in found if (alias or "latest") in (*a.aliases, f"v{a.version}")), None)

    def _run(self, run: Run) -> Json:
        answer: Json = TIMES | dict.fromkeys(("sweepName", "description", "notes"))
        answer |= {"id": f"run-{run.id}", "name": run.id, "displayName": run.name, "projectId": 1, "user": USER}
        answer |= {"project": {"id": "1", "name": run.project, "entity": {"id": "entity", "name": run.entity}}}
        answer |= {"group": run.group, "jobType": run.job_type, "commit": run.commit, "tags": [], "readOnly": False}
        answer |= {"state": {None: "running", 0: "finished"}.get(run.exit_code, "failed"), "wandbConfig": '{"t": 1}'}
        answer |= {"config": json.dumps({key: {"value": value} for key, value in run.config.items()})}
        answer |= {"summaryMetrics": json.dumps(run.summary), "systemMetrics": "{}", "eventsTail": "[]"}
        answer |= {"historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]), "logLineCount": 0}
        answer |= {"historyLineCount": len(run.history), "eventsLineCount": len(run.system_metrics)}
        answer |= {"historyKeys": {"lastStep": max((row["_step"] for row in run.history), default=-1)}}
        files = [self._file(name, len(d), md5(d), partial(run.files.get, name)) for name, d in run.files.items()]
        artifacts = [self._artifact(artifact) for artifact in self.artifacts if artifact.run is run]
        return answer | {"fileCount": len(files)} | _edges(files=files, artifacts=artifacts)

    def _artifact(self, a: Artifact) -> Json:
        project = {"id": "1", "internalId": "1", "name": a.project, "entity": {"name": a.entity}}
        collection = {"__typename": "ArtifactSequence", "id": a.name, "name": a.name, "project": project}
        alias = {"__typename": "ArtifactAlias", "artifactCollection": collection}
        answer: Json = TIMES | dict.fromkeys(("historyStep", "description"))
        answer |= {"__typename": "Artifact", "id": a.id, "digest": a.digest, "metadata": a.metadata, "tags": []}
        answer |= {"artifactSequence": collection, "versionIndex": a.version, "artifactType": {"name": a.type}}
        answer |= {"state": "COMMITTED" if a.committed else "PENDING", "fileCount": len(a.entries), "commitHash": a.id}
        answer |= {"size": sum(entry["size"] for entry in a.entries.values()), "ttlDurationSeconds": -1}
        answer |= {"ttlIsInherited": True, "aliases": [alias | {"id": name, "alias": name} for name in a.aliases]}
        manifest = {"directUrl": self._download_url(partial(getattr, a, "manifest"))}
        return answer | {"currentManifest": {"file": manifest}}

    def _membership(self, a: Artifact) -> Json:
        artifact = self._artifact(a)
        # Size and digest come from the manifest. Only a download shows whether the bytes exist.
        entries = [(name, entry["size"], entry["digest"]) for name, entry in a.entries.items()]
        files = [self._file(name, size, digest, partial(a.files.get, name)) for name, size, digest in entries]
        names = {"__typename": "ArtifactCollectionMembership", "artifactCollection": artifact["artifactSequence"]}
        return artifact | names | {"artifact": artifact} | _edges(files=files)

    def _file(self, name: str, size: int, digest: str, read: Callable[[], bytes | None]) -> Json:
        url = self._download_url(read)
        answer = {"__typename": "File", "id": name, "name": name, "sizeBytes": size, "digest": digest, "md5": digest}
        return TIMES | answer | {"url": url, "directUrl": url, "storagePath": name, "mimetype": None}

    def _upload_url(self, kind: str, keep: Callable[[bytes], object], digest: str | None = None) -> str:
        path = f"/{kind}/{secrets.token_hex(8)}"
        self._uploads[path] = (keep, digest)
        return self.url + path

    def _download_url(self, read: Callable[[], bytes | None]) -> str:
        path = f"/download/{secrets.token_hex(8)}"
        self._downloads[path] = read
        return self.url + path


class WandbServer(_Records):
    """A server on a free port of 127.0.0.1, with its records and faults; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.api_key = secrets.token_hex(20)
        self.reject_auth = self.server_error = self.drop_uploads = self.lose_artifact = False
        self.bodies: list[bytes] = []  # of all requests
        self.requests: list[str] = []  # names of GraphQL operations; others as "PUT file", "POST file_stream", "hung"
        self.unknown_operations: list[str] = []
        self.changed = threading.Condition()
        self.answering = threading.Event()
        self.answering.set()
        self._listener = _Listener(self, port=0)
        self.url = f"http://127.0.0.1:{self._listener.server_port}"
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()
        self.release()

    def environment(self, home: Path) -> dict[str, str]:
        """Give the variables for a client that uses this server and keeps its files below `home`."""
        kinds = ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ARTIFACT_DIR")
        directories = {f"WANDB_{kind}": home / kind.lower() for kind in kinds}
        for directory in directories.values():
            directory.mkdir(parents=True, exist_ok=True)
        connection = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.api_key, "NO_PROXY": "127.0.0.1"}
        return connection | {"HOME": str(home)} | {name: str(path) for name, path in directories.items()}

    def wait_for(self, condition: Callable[[], T], seconds: float = 20) -> T:
        """Wait until `condition` is true, and give its value."""
        with self.changed:
            if not self.changed.wait_for(condition, seconds):
                raise TimeoutError(f"not true within {seconds} s; the last requests: {self.requests[-10:]}")
            return condition()

    def hang(self) -> None:
        """Accept requests without an answer."""
        self.answering.clear()

    def release(self) -> None:
        """Answer again. Requests that hang get no answer; their connections are closed."""
        self.answering.set()

    def die(self) -> None:
        """Cut every connection and refuse new ones. The port stays reserved."""
        self._listener.stop()
        self._listener = _Listener(self, self._listener.server_port)

    def revive(self) -> None:
        """Listen again, with the data that arrived before."""
        self._listener.start()

    def respond(self, method: str, path: str, key: str, body: bytes) -> tuple[int, bytes]:
        """Record one request, and give the status and body of the answer. The caller holds the lock."""
        kind = path.split("/")[-1 if path.endswith("/file_stream") else 1]
        call = json.loads(body) if kind == "graphql" else {}
        operation = re.search(r"(?:query|mutation)\s+(\w+)", call.get("query", ""))
        name = operation[1] if operation else f"{method} {kind}"
        self.requests.append(name)
        self.bodies.append(body)
        signed = path in self._uploads or path in self._downloads  # such a URL needs no key
        if self.server_error:
            return 500, b'{"error": "the server failed"}'
        if self.reject_auth or not (signed or kind == "sdk" or secrets.compare_digest(key, f"api:{self.api_key}")):
            return 401, b'{"errors": [{"message": "user is not logged in"}]}'
        if path in self._uploads:
            return self._receive(kind, path, body)
        if path in self._downloads:
            data = self._downloads[path]()
            return (404, b"NoSuchKey") if data is None else (200, data)
        return self._call(name, path, call.get("variables") or {}, body)

    def _call(self, name: str, path: str, variables: Json, body: bytes) -> tuple[int, bytes]:
        answer = getattr(self, f"_on_{SAME_ANSWER.get(name, name)}", None)
        if answer or name in FIXED_ANSWER:
            data = answer(variables.get("input", variables)) if answer else FIXED_ANSWER[name]
            return 200, json.dumps({"data": data}).encode()
        if name == "POST file_stream":
            return self._stream(self.runs[path.split("/")[-2]], json.loads(body))
        if name == "POST sdk":  # the telemetry of the SDK
            return 200, b"{}"
        if name != "GET artifactsV2":  # the second URL of an artifact file, requested if the first has no file
            self.unknown_operations.append(name)
        return 200 if path == "/graphql" else 404, b'{"errors": [{"message": "unknown operation"}]}'

    def _receive(self, kind: str, path: str, body: bytes) -> tuple[int, bytes]:
        keep, digest = self._uploads[path]
        if self.drop_uploads:
            return 403, b"AccessDenied"
        if digest not in (None, md5(body)):
            return 400, b"BadDigest"
        if not (self.lose_artifact and kind == "artifact-file"):
            keep(body)
        return 200, b""

    def _stream(self, run: Run, message: Json) -> tuple[int, bytes]:
        for name, chunk in (message.get("files") or {}).items():
            lines = {"wandb-history.jsonl": run.history, "wandb-events.jsonl": run.system_metrics}.get(name)
            if lines is not None:  # rows that are sent again replace the earlier rows
                end = chunk["offset"] + len(chunk["content"])
                lines[chunk["offset"] : end] = [json.loads(line) for line in chunk["content"]]
            elif name == "wandb-summary.json":
                run.summary = _user_keys(chunk["content"][-1])
        if message.get("complete"):
            run.exit_code = message["exitcode"]
        return 200, b'{"exitcode": null, "limits": {}}'


class _Listener(ThreadingHTTPServer):
    """A listener: it reserves the port when it is made, and listens from `start` to `stop`."""

    daemon_threads, block_on_close = True, False

    def __init__(self, server: WandbServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler, bind_and_activate=False)
        self.wandb, self.alive = server, True
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._connections: set[socket.socket] = set()
        self.server_bind()

    def start(self) -> None:
        self.server_activate()
        self._thread.start()

    def stop(self) -> None:
        with self.wandb.changed:
            self.alive = False
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()
        for connection in self._connections.copy():
            with contextlib.suppress(OSError):  # its handler can have closed it
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )  # RST instead of FIN
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Add an error of this server to the list that tests check."""
        if not isinstance(sys.exception(), OSError):  # an OSError is a connection that was cut
            self.wandb.unknown_operations.append(repr(sys.exception()))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def do_POST(self) -> None:
        wandb = self.server.wandb
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        scheme, _, credentials = (self.headers.get("Authorization") or "").partition(" ")
        key = base64.b64decode(credentials).decode() if scheme == "Basic" else ""
        with wandb.changed:
            hung = not wandb.answering.is_set()
            status, answer = (0, b"")
            if hung:
                wandb.requests.append("hung")
            elif self.server.alive:
                status, answer = wandb.respond(self.command, self.path, key, body)
            wandb.changed.notify_all()
        if hung:
            wandb.answering.wait(HANG_SECONDS)
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _edges(**connections: list[Json]) -> Json:
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    return {
        name: {"totalCount": len(nodes), "pageInfo": page, "edges": [{"node": node, "cursor": ""} for node in nodes]}
        for name, nodes in connections.items()
    }


def _user_keys(text: str) -> Json:
    return {key: value for key, value in json.loads(text).items() if not key.startswith("_")}
