"""The fake W&B server with the real SDK: arrived data, the costs of faults, repairs by a later sync.

Longer than 300 lines, because all tests share the client program and its fixtures.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
from support.wandb_server import Run, WandbServer

CLIENT = """
import json, os, sys, time
import wandb
from wandb.errors import CommError


def init(**settings):
    global run
    names = ("mode", "project", "entity", "name", "group", "job_type", "config", "id", "resume")
    named = {name: settings.pop(name) for name in names if name in settings}
    run = wandb.init(**named, settings=wandb.Settings(silent=True, console="off", **settings))
    return [run.id, os.path.dirname(run.dir)]


def log(**row):
    run.log({**row, "time": time.time()})


def flood():
    for number in range(10**9):
        log(i=number)
        print(json.dumps([number, time.time()]), flush=True)
        time.sleep(0.02)


def artifact(path, aliases):
    artifact = wandb.Artifact("digits", "model", metadata={"from": "a test"})
    artifact.add_file(path, name="model.h5", policy="immutable")  # uploads the file itself, no copy
    run.log_artifact(artifact, aliases=aliases)


def finish():
    run.finish()
    wandb.teardown()


def read_back(alias):
    import requests

    try:
        artifact = wandb.Api().artifact("team/digits/digits:" + alias, type="model")
    except CommError as error:
        return str(error)
    manifest = {name: [entry.digest, entry.size] for name, entry in artifact.manifest.entries.items()}
    got = {file.name: requests.get(file.direct_url, timeout=5) for file in artifact.files()}
    downloads = {name: [answer.status_code, len(answer.content)] for name, answer in got.items()}
    return [artifact.version, manifest, downloads]


def read_run(run_id):
    run = wandb.Api().run("team/digits/" + run_id)
    files, artifacts = [file.name for file in run.files()], [artifact.name for artifact in run.logged_artifacts()]
    return [run.state, dict(run.config), run.summary["i"], run.lastHistoryStep, sorted(files), artifacts]


for line in sys.stdin:
    name, args, kwargs = json.loads(line)
    start, value, error = time.monotonic(), None, ""
    try:
        value = globals()[name](*args, **kwargs)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    print(json.dumps([value, error, time.monotonic() - start]), flush=True)
"""

QUICK = {
    "WANDB_ERROR_REPORTING": "false",  # the telemetry of the SDK would wait 20 s for a host that hangs
    "WANDB_HTTP_TIMEOUT": "2",
    "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
    "WANDB_X_GRAPHQL_RETRY_MAX": "1",
}
BOUNDS = {"init_timeout": 3, "finish_timeout": 3}
PROCESS_SECONDS = 60  # the longest life of a process of a test

Fault = Callable[[WandbServer], None]
FAULTS: dict[str, tuple[Fault, Fault]] = {
    "reject_auth": (lambda s: setattr(s, "reject_auth", True), lambda s: setattr(s, "reject_auth", False)),
    "server_error": (lambda s: setattr(s, "server_error", True), lambda s: setattr(s, "server_error", False)),
    "hang": (WandbServer.hang, WandbServer.release),
    "die": (WandbServer.die, WandbServer.revive),
}


@dataclass(frozen=True)
class Reply:
    value: Any
    error: str
    seconds: float


class Process:
    """A Python process with a time limit. The fixture ends it. Processes of the SDK end 2 s after their parent."""

    def __init__(self, arguments: list[str], home: Path, environment: dict[str, str]) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=home,
            env={k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.input, self.output = self.popen.stdin, self.popen.stdout
        self._deadline = threading.Timer(PROCESS_SECONDS, self.popen.kill)
        self._deadline.start()

    def send(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        print(json.dumps([name, args, kwargs]), file=self.input, flush=True)

    def receive(self) -> Any:
        printed = []
        for line in self.output:
            if line.startswith("["):
                return json.loads(line)
            printed.append(line)
        raise AssertionError(f"the client ended: {''.join(printed)}")

    def try_to(self, name: str, /, *args: Any, **kwargs: Any) -> Reply:
        self.send(name, *args, **kwargs)
        return Reply(*self.receive())

    def do(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        reply = self.try_to(name, *args, **kwargs)
        assert reply.error == ""
        return reply.value

    def wait(self) -> str:
        """Wait for the end of the process, and give its output."""
        printed, _ = self.popen.communicate()
        return str(printed)

    def end(self) -> None:
        self._deadline.cancel()
        self.popen.kill()
        self.popen.communicate()


class Start(Protocol):
    def __call__(self, *arguments: str, **environment: str) -> Process: ...


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


@pytest.fixture
def start(server: WandbServer, tmp_path: Path) -> Iterator[Start]:
    """Start the client, or another program (by Python's arguments), with the server."""
    started: list[Process] = []

    def start(*arguments: str, **environment: str) -> Process:
        variables = server.environment(tmp_path) | QUICK | environment
        started.append(Process(list(arguments) or ["-c", CLIENT], tmp_path, variables))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "bundle" / "model.h5"
    path.parent.mkdir()
    path.write_bytes(os.urandom(100_000))
    return path


def only_run(server: WandbServer) -> Run:
    [run] = server.runs.values()
    return run


def rows(run: Run) -> list[int]:
    return [row["i"] for row in run.history]


def has_version(server: WandbServer, alias: str) -> bool:
    return any(artifact.committed and alias in artifact.aliases for artifact in server.artifacts)


def digest_and_size(path: Path) -> list[Any]:
    data = path.read_bytes()
    return [base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(), len(data)]


def record_offline(client: Process, model: Path) -> str:
    _, directory = client.do("init", mode="offline", project="digits", config={"lr": 0.1})
    for number in range(3):
        client.do("log", i=number)
    client.do("artifact", str(model), ["b-1"])
    client.do("finish")
    return str(directory)


def sync(start: Start, directory: str, *options: str) -> str:
    process = start("-m", "wandb", "sync", *options, directory)
    printed = process.wait()
    assert process.popen.returncode == 0, printed  # it is always 0, also if nothing arrived
    return printed


def test_an_online_run_arrives_during_the_training(server: WandbServer, start: Start, model: Path) -> None:
    client = start(WANDB_GIT_COMMIT="c0ffee")
    names = {"name": "first", "group": "sweep", "job_type": "train", "config": {"lr": 0.1, "layers": [3, 4]}}
    run_id, directory = client.do("init", project="digits", **names)
    for number in range(3):
        client.do("log", i=number)
    run = server.runs[run_id]
    server.wait_for(lambda: rows(run) == [0, 1, 2])
    assert run.exit_code is None
    client.do("artifact", str(model), ["best", "b-1"])
    client.do("finish")

    assert (run.entity, run.project, run.commit) == ("team", "digits", "c0ffee")
    assert {"name": run.name, "group": run.group, "job_type": run.job_type, "config": run.config} == names
    assert run.exit_code == 0
    assert run.summary["i"] == 2
    assert any("system.memory_percent" in metrics for metrics in run.system_metrics)
    assert {"config.yaml", "wandb-metadata.json", "wandb-summary.json"} <= set(run.files)
    [artifact] = server.artifacts
    assert (artifact.type, artifact.name, artifact.committed) == ("model", "digits", True)
    assert set(artifact.aliases) == {"best", "b-1", "latest"}
    assert artifact.files == {"model.h5": model.read_bytes()}
    assert [[entry["digest"], entry["size"]] for entry in artifact.entries.values()] == [digest_and_size(model)]
    assert server.unknown_operations == []
    assert "Skipped 1 online run" in sync(start, directory)


def test_arrived_data_can_be_read_back(server: WandbServer, start: Start, model: Path) -> None:
    client = start()
    run_id, _ = client.do("init", project="digits", config={"lr": 0.1})
    client.do("log", i=0)
    for alias in ("b-1", "b-2"):  # the same content twice: one version with both aliases
        client.do("artifact", str(model), [alias])
        server.wait_for(partial(has_version, server, alias))
    client.do("finish")

    expected = ["v0", {"model.h5": digest_and_size(model)}, {"model.h5": [200, 100_000]}]
    assert [client.do("read_back", alias) for alias in ("b-1", "b-2", "latest")] == [expected] * 3
    files = sorted(only_run(server).files)
    assert client.do("read_run", run_id) == ["finished", {"lr": 0.1}, 0, 0, files, ["digits:v0"]]
    assert server.unknown_operations == []


def test_a_wrong_key_is_rejected(server: WandbServer, start: Start) -> None:
    reply = start(WANDB_API_KEY="0" * 40).try_to("init", project="digits")
    assert "not logged in" in reply.error
    assert server.runs == {}


@pytest.mark.parametrize("fault", ["server_error", "hang"])
def test_init_stops_in_time_and_then_records_offline(server: WandbServer, start: Start, fault: str) -> None:
    FAULTS[fault][0](server)
    client = start()
    reply = client.try_to("init", project="digits", x_graphql_retry_max=5, **BOUNDS)
    assert reply.error != ""
    assert reply.seconds < 8
    _, directory = client.do("init", mode="offline", project="digits")
    assert Path(directory).name.startswith("offline-run-")
    client.do("finish")
    before = time.monotonic()
    client.wait()
    assert time.monotonic() - before < 5


@pytest.mark.parametrize("fault", ["reject_auth", "hang", "die"])
def test_a_fault_during_a_run_costs_seconds_and_sync_repairs_it(
    server: WandbServer, start: Start, model: Path, fault: str
) -> None:
    start_fault, end_fault = FAULTS[fault]
    client = start()
    _, directory = client.do("init", project="digits", **BOUNDS)
    client.do("log", i=0)
    server.wait_for(lambda: server.runs and rows(only_run(server)) == [0])
    start_fault(server)
    assert client.try_to("log", i=1).seconds < 1
    artifact = client.try_to("artifact", str(model), ["b-1"])
    # The SDK gives this error for every fault, also for a host that is down.
    assert artifact.error.startswith("AuthenticationError: Failed to verify credentials")
    assert artifact.seconds < 4
    assert client.try_to("finish").seconds < 6

    end_fault(server)
    sync(start, directory, "--include-online")
    assert rows(only_run(server)) == [0, 0, 1]  # the whole record again, after the rows that arrived before
    assert only_run(server).exit_code == 0
    assert server.artifacts == []  # the record of an online run holds no artifacts, so sync cannot upload them
    assert server.unknown_operations == []


@pytest.mark.parametrize("fault", ["hang", "die"])
def test_a_server_that_recovers_gets_everything_once(
    server: WandbServer, start: Start, model: Path, fault: str
) -> None:
    start_fault, end_fault = FAULTS[fault]
    client = start()
    client.do("init", project="digits", finish_timeout=30)
    client.do("log", i=0)
    server.wait_for(lambda: server.runs and rows(only_run(server)) == [0])
    start_fault(server)
    client.do("log", i=1)
    assert client.try_to("artifact", str(model), ["b-1"]).error != ""  # the client has noticed the fault
    end_fault(server)
    client.do("artifact", str(model), ["b-1"])
    client.do("finish")
    assert rows(only_run(server)) == [0, 1]
    assert [artifact.files for artifact in server.artifacts] == [{"model.h5": model.read_bytes()}]
    assert server.unknown_operations == []


def test_sync_uploads_an_offline_run_with_its_artifact(server: WandbServer, start: Start, model: Path) -> None:
    directory = record_offline(start(), model)
    assert server.requests == []
    assert "Finished syncing" in sync(start, directory)
    run = only_run(server)
    assert (rows(run), run.config, run.exit_code) == ([0, 1, 2], {"lr": 0.1}, 0)
    assert [artifact.files for artifact in server.artifacts] == [{"model.h5": model.read_bytes()}]
    assert model.exists()
    assert server.unknown_operations == []


def test_a_second_process_uploads_a_run_during_the_training(server: WandbServer, start: Start, model: Path) -> None:
    client = start()
    _, directory = client.do("init", mode="offline", project="digits")
    uploader = start("-m", "wandb", "beta", "sync", "--live", directory)
    client.do("log", i=0)
    server.wait_for(lambda: server.runs and rows(only_run(server)) == [0])
    server.die()
    client.do("log", i=1)
    client.do("artifact", str(model), ["b-1"])
    client.do("finish")
    server.revive()
    assert "Finished syncing" in uploader.wait()
    assert (rows(only_run(server)), only_run(server).exit_code) == ([0, 1], 0)
    assert [artifact.files for artifact in server.artifacts] == [{"model.h5": model.read_bytes()}]
    assert server.unknown_operations == []


def test_a_failed_sync_can_be_repeated(server: WandbServer, start: Start, model: Path) -> None:
    directory = record_offline(start(), model)
    server.hang()
    assert "ERROR" in sync(start, directory)
    server.release()
    assert "Finished syncing" in sync(start, directory)
    assert rows(only_run(server)) == [0, 1, 2]
    assert [artifact.files for artifact in server.artifacts] == [{"model.h5": model.read_bytes()}]


def test_a_killed_trainer_loses_at_most_one_second(server: WandbServer, start: Start) -> None:
    client = start()
    _, directory = client.do("init", mode="offline", project="digits")
    begin = time.time()
    client.send("flood")
    last, at = 0, begin
    while at < begin + 3:
        last, at = client.receive()
    client.popen.kill()
    client.wait()
    sync(start, directory)
    run = only_run(server)
    assert rows(run) == list(range(len(run.history)))  # no row is missing
    assert last > 0
    assert at - run.history[-1]["time"] < 3  # flushed every second; the machine can be busy
    assert run.exit_code == 1


def test_refused_uploads_are_repaired_by_a_second_sync(server: WandbServer, start: Start, model: Path) -> None:
    directory = record_offline(start(), model)
    server.drop_uploads = True
    assert "Finished syncing" in sync(start, directory)
    assert list(Path(directory).glob("*.synced"))
    reader = start()
    assert "not found" in reader.do("read_back", "b-1")
    server.drop_uploads = False
    assert "No runs to sync" in sync(start, directory)
    sync(start, directory, "--include-synced")
    assert reader.do("read_back", "b-1")[2] == {"model.h5": [200, 100_000]}


def test_a_resumed_run_uploads_the_missing_artifact(server: WandbServer, start: Start, model: Path) -> None:
    client = start()
    run_id, _ = client.do("init", project="digits", group="sweep", config={"lr": 0.1})
    client.do("log", i=0)
    server.drop_uploads = True
    client.do("artifact", str(model), ["b-1"])
    client.do("finish")  # no error
    assert [(artifact.committed, artifact.files) for artifact in server.artifacts] == [(False, {})]

    server.drop_uploads = False
    client = start()
    client.do("init", project="digits", id=run_id, resume="must")
    client.do("artifact", str(model), ["b-1"])
    client.do("finish")
    assert server.artifacts[-1].files == {"model.h5": model.read_bytes()}
    assert server.artifacts[-1].run is only_run(server)
    run = only_run(server)
    assert (rows(run), run.summary["i"], run.group, run.config) == ([0], 0, "sweep", {"lr": 0.1})
    assert server.unknown_operations == []


def test_lost_bytes_are_noticed_only_in_a_download(server: WandbServer, start: Start, model: Path) -> None:
    directory = record_offline(start(), model)
    server.lose_artifact = True
    assert "Finished syncing" in sync(start, directory)
    version, manifest, downloads = start().do("read_back", "b-1")
    assert (version, manifest) == ("v0", {"model.h5": digest_and_size(model)})  # the manifest does not show the loss
    assert downloads["model.h5"][0] == 404
    assert server.unknown_operations == []
