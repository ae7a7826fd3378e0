"""The trainer's record at W&B, with the real SDK and the fake server: the arrived data and the cost of each fault.

A fault costs the training a few seconds and one log line. Afterwards `pyml sync` uploads everything, byte by byte.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import CLASSES, TINY_EXPERIMENT, arrays_and_labels, fake_predict, manifest_for
from support.wandb_server import Run, WandbServer

from bundle.publish import publish, staging
from bundle.split import write_split
from bundle.verify import Bundle, open_bundle
from pyml.evaluation.history import write_history
from pyml.evaluation.metrics import evaluate, write_predictions
from pyml.reports.plots import PLOT_FILES, draw_plots

PYML = Path(sys.executable).with_name("pyml")
LOST_SECONDS = 20  # the most that a fault may cost
QUICK_SECONDS = 6  # SILENT_SECONDS in the tests that do not measure time; the default is 12
SYNC_SECONDS = 60

# A trainer without the training: one command per line, one answer per line: [value, lines of the log, seconds].
TRAINER = """
import json, logging, os, sys, time
import keras  # a training has it already
from pathlib import Path
from bundle.manifest import read_manifest
from pyml.tracking import upload
from pyml.tracking.tracker import start_tracker
from pyml.config import Settings

lines = []
logging.getLogger("pyml").setLevel(logging.INFO)
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("pyml").addHandler(handler)
silent_seconds = upload.SILENT_SECONDS


def start(name, commit=None, config=None, quick=None, url="", **settings):
    global tracker, callback
    upload.SILENT_SECONDS = quick or silent_seconds
    os.environ["WANDB_BASE_URL"] = url
    callback = None
    tracker = start_tracker(name, config or {}, commit, Settings(**settings))
    return str(tracker._directory)


def epochs(first, last):
    global callback
    if callback is None:
        callback = tracker.callbacks()[0]
        callback.set_model(keras.Sequential())
        callback.model.compile("sgd")  # the callback records its learning rate
    for epoch in range(first, last):
        callback.on_epoch_end(epoch, {"loss": 1 / (1 + epoch), "accuracy": epoch / 100})


def flood():
    for number in range(10**9):
        tracker._run.log({"number": number, "time": time.time()})
        print(json.dumps([[number, time.time()], [], 0]), flush=True)
        time.sleep(0.02)


def kill_service():
    os.kill(int(next(pid for pid in children() if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes())), 9)


def children():
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    return [stat.split()[0] for stat in stats if stat.rpartition(")")[2].split()[1] == str(os.getpid())]


def arguments():
    return [Path(f"/proc/{pid}/cmdline").read_text().split("\\0") for pid in children()]


def record():
    return tracker.record.model_dump()


def publish(path):
    manifest = read_manifest(Path(path) / "manifest.json")
    tracker.log_metrics(manifest.metrics, manifest.best_epoch)
    tracker.log_bundle(Path(path), manifest)


def finish(exit_code=0):
    tracker.finish(exit_code)


for line in sys.stdin:
    name, args, kwargs = json.loads(line)
    begin = time.monotonic()
    value = globals()[name](*args, **kwargs)
    print(json.dumps([value, lines, time.monotonic() - begin]), flush=True)
    lines.clear()
"""

Fault = Callable[[WandbServer], None]
FAULTS: dict[str, tuple[Fault, Fault, str]] = {
    "401": (
        lambda s: setattr(s, "reject_auth", True),
        lambda s: setattr(s, "reject_auth", False),
        "the server does not know the token",
    ),
    "500": (
        lambda s: setattr(s, "server_error", True),
        lambda s: setattr(s, "server_error", False),
        "the server answers 500",
    ),
    "hang": (WandbServer.hang, WandbServer.release, "the server does not answer"),
    "die": (WandbServer.die, WandbServer.revive, "the server cannot be reached"),
}


class Trainer:
    """The program above, in its own process."""

    def __init__(self, home: Path) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", TRAINER],
            cwd=home,
            env=environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.input, self.output = self.popen.stdin, self.popen.stdout
        self.said: list[str] = []
        self.seconds = 0.0  # the cost of W&B since the start
        self.printed = ""

    def do(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        self.send(name, *args, **kwargs)
        return self.receive()

    def send(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        print(json.dumps([name, args, kwargs]), file=self.input, flush=True)

    def receive(self) -> Any:
        for line in self.output:
            self.printed += line
            if line.startswith("["):
                value, said, seconds = json.loads(line)
                self.said += said
                self.seconds += seconds
                return value
        raise AssertionError(f"the trainer ended: {self.printed}")

    def start(self, server: WandbServer, record: Path, **settings: Any) -> Path:
        self.said, self.seconds = [], 0.0
        settings = {"wandb_api_key": server.api_key, "quick": QUICK_SECONDS} | settings
        return Path(self.do("start", settings.pop("name", "toy-1"), url=server.url, record=str(record), **settings))

    def end(self) -> None:
        self.popen.kill()
        self.popen.communicate()


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "PYML", "GIT"))}
    return kept | {"HOME": str(home), "NO_PROXY": "127.0.0.1", "TF_CPP_MIN_LOG_LEVEL": "3"} | more


def sync(server: WandbServer, record: Path, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    variables = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": server.api_key, "PYML_RECORD": str(record)} | more
    return subprocess.run(
        [PYML, "sync", *arguments],
        env=environment(record.parent, **variables),
        capture_output=True,
        text=True,
        timeout=SYNC_SECONDS,
        check=False,
    )


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server
        assert server.unknown_operations == []


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """One process for all runs: Keras is imported once, and several runs in one process are tested."""
    trainer = Trainer(tmp_path_factory.mktemp("trainer"))
    yield trainer
    trainer.end()


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with all tracked files: metrics, plots, predictions, history, a patch. The model is random bytes."""
    models = tmp_path_factory.mktemp("models")
    x, y = arrays_and_labels(60)
    probabilities = fake_predict(x) / fake_predict(x).sum(axis=1, keepdims=True)
    metrics = evaluate(probabilities, y)
    with staging(models) as staged:
        (staged / "model.h5").write_bytes(os.urandom(300_000))
        (staged / "model.tflite").write_bytes(os.urandom(100_000))
        np.savez(staged / "test_set.npz", x=x, y=y)
        write_predictions(staged / "predictions.csv", probabilities, y, CLASSES)
        write_history(staged, [{"epoch": 1, "seconds": 1.0, "loss": 0.5}])
        draw_plots(staged, probabilities, y, metrics, CLASSES)
        (staged / "diff.patch").write_text("--- a/x\n+++ b/x\n")
        write_split(staged / "split.csv", [])
        manifest = manifest_for("toy-1", x, y).model_copy(update={"metrics": metrics, "name": "toy"})
        publish(staged, models, manifest)
    return open_bundle(models / "bundles/toy-1")


def only_run(server: WandbServer) -> Run:
    [run] = server.runs.values()
    return run


def epochs_of(run: Run) -> list[int]:
    return sorted({row["epoch/epoch"] for row in run.history if "epoch/epoch" in row})


def assert_arrived_whole(server: WandbServer, bundle: Bundle, epochs: int) -> None:
    run = only_run(server)
    assert epochs_of(run) == list(range(epochs))
    assert run.exit_code == 0
    assert run.summary["test/accuracy"] == bundle.manifest.metrics.accuracy
    model, *_ = (artifact for artifact in server.artifacts if artifact.type == "model" and artifact.committed)
    assert set(model.aliases) == {"latest", "toy-1"}
    expected = {"model.h5", "model.tflite", "manifest.json", "history.json", "diff.patch"}
    assert model.files == {name: (bundle.path / name).read_bytes() for name in expected}
    for name in ("predictions.csv", "history.json", "diff.patch"):
        assert run.files[name] == (bundle.path / name).read_bytes()
    plots = [data for name, data in run.files.items() if name.startswith("media/images/test/")]
    assert sorted(plots) == sorted((bundle.path / name).read_bytes() for name in PLOT_FILES)


def test_a_run_is_visible_during_the_training_and_arrives(
    server: WandbServer, trainer: Trainer, record: Path, bundle: Bundle
) -> None:
    config = {"optimizer": {"name": "Adam", "learning_rate": 0.1}, "layers": [{"layer": "Dense"}]}
    names = {"wandb_group": "sweep", "wandb_project": "toys", "wandb_entity": "team"}
    directory = trainer.start(server, record, commit="c0ffee", config=config, **names)
    trainer.do("epochs", 0, 3)
    server.wait_for(lambda: bool(server.runs) and epochs_of(only_run(server)) == [0, 1, 2])
    run = only_run(server)
    assert run.exit_code is None
    assert (run.entity, run.project, run.group, run.commit, run.name) == ("team", "toys", "sweep", "c0ffee", "toy-1")
    assert run.config == config
    assert [row["epoch/loss"] for row in run.history] == [1, 0.5, 1 / 3]
    url = f"{server.url}/team/toys/runs/{run.id}"
    record_of_run = {"mode": "online", "id": run.id, "url": url, "directory": f"wandb/{directory.name}"}
    assert trainer.do("record") == record_of_run
    trainer.do("publish", str(bundle.path))
    trainer.do("finish")

    assert trainer.said == [f"W&B: {url}"]
    assert_arrived_whole(server, bundle, epochs=3)
    assert any("system.memory_percent" in sample for sample in run.system_metrics)
    [predictions] = [json.loads(data) for name, data in run.files.items() if "/predictions_" in name]
    probabilities = [f"p_{name}" for name in CLASSES]
    assert predictions["columns"] == ["sample", "label", "predicted", "confidence", *probabilities]
    assert len(predictions["data"]) == 60
    assert json.loads((directory / "arrived.json").read_text())["url"] == url
    requests = len(server.requests)
    assert sync(server, record).stdout == "0 runs arrived\n"
    assert len(server.requests) == requests


def test_the_token_is_in_no_file_argument_or_output(
    server: WandbServer, trainer: Trainer, record: Path, bundle: Bundle
) -> None:
    trainer.start(server, record)
    trainer.do("epochs", 0, 1)
    arguments = trainer.do("arguments")
    assert any("pyml.tracking.upload_process" in each for each in arguments)
    trainer.do("publish", str(bundle.path))
    trainer.do("finish")
    done = sync(server, record, *record.glob("wandb/offline-run-*"))
    assert "1 run arrived" in done.stdout
    key = server.api_key
    assert key not in repr(arguments) + trainer.printed + done.stdout + done.stderr
    files = [path for path in record.parent.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if key.encode() in path.read_bytes()] == []


def test_a_run_without_a_token_is_uploaded_by_sync(
    server: WandbServer, trainer: Trainer, record: Path, bundle: Bundle
) -> None:
    directory = trainer.start(server, record, wandb_api_key=None)
    trainer.do("epochs", 0, 2)
    assert trainer.do("record")["mode"] == "offline"
    trainer.do("publish", str(bundle.path))
    trainer.do("finish")
    assert trainer.said == [f"W&B: offline, the run is in {directory}; upload it with: pyml sync"]
    assert server.requests == []

    without_token = sync(server, record, WANDB_API_KEY="")
    assert without_token.returncode == 1
    assert without_token.stderr == (
        "pyml: there is no W&B token, so the recorded runs (1) are not uploaded; "
        "set WANDB_API_KEY and run pyml sync again\n"
    )
    assert server.requests == []
    done = sync(server, record)
    assert (done.returncode, done.stdout) == (0, "1 run arrived\n"), done.stderr
    assert_arrived_whole(server, bundle, epochs=2)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("when", ["from the start", "during the run"])
def test_35_a_fault_logs_one_line_and_sync_uploads_everything(
    server: WandbServer, trainer: Trainer, record: Path, bundle: Bundle, when: str, fault: str
) -> None:
    start_fault, end_fault, reason = FAULTS[fault]
    if when == "from the start":
        start_fault(server)
    directory = trainer.start(server, record)
    trainer.do("epochs", 0, 2)
    if when == "during the run":
        server.wait_for(lambda: server.runs and epochs_of(only_run(server)) == [0, 1])
        start_fault(server)
    trainer.do("epochs", 2, 4)
    assert trainer.do("record")["id"]
    trainer.do("publish", str(bundle.path))
    trainer.do("finish")
    assert trainer.said == [f"W&B: not uploaded, {reason}; the run is in {directory}, upload it with: pyml sync"]
    assert trainer.seconds < LOST_SECONDS - 12 + QUICK_SECONDS

    end_fault(server)
    done = sync(server, record)
    assert (done.returncode, done.stdout) == (0, "1 run arrived\n"), done.stderr
    assert_arrived_whole(server, bundle, epochs=4)


def test_35_a_silent_server_costs_less_than_twenty_seconds(
    server: WandbServer, trainer: Trainer, record: Path, bundle: Bundle
) -> None:
    server.hang()
    trainer.start(server, record, quick=None)
    trainer.do("epochs", 0, 2)
    trainer.do("record")
    trainer.do("publish", str(bundle.path))
    trainer.do("finish")
    assert trainer.seconds < LOST_SECONDS
    server.release()


def test_a_wrong_token_is_reported_during_the_training(server: WandbServer, trainer: Trainer, record: Path) -> None:
    directory = trainer.start(server, record, wandb_api_key="0" * 40)
    server.wait_for(lambda: server.requests.count("Viewer") >= 1)
    for epoch in range(200):
        trainer.do("epochs", epoch, epoch + 1)
        if trainer.said:
            break
        time.sleep(0.1)
    said = (
        f"W&B: not uploaded, the server does not know the token; the run is in {directory}, upload it with: pyml sync"
    )
    assert trainer.said == [said]
    trainer.do("finish")
    assert trainer.said == [said]


@pytest.mark.parametrize(
    ("fault", "missing"), [("drop_uploads", "did not arrive"), ("lose_artifact", "its artifact toy")]
)
def test_missing_bytes_are_noticed_if_the_sdk_reports_success(
    server: WandbServer, trainer: Trainer, record: Path, bundle: Bundle, fault: str, missing: str
) -> None:
    setattr(server, fault, True)
    trainer.start(server, record, quick=None)
    trainer.do("publish", str(bundle.path))
    trainer.do("finish")
    [line] = trainer.said
    assert line.startswith("W&B: not uploaded, its ")
    assert missing in line
    done = sync(server, record)
    assert done.returncode == 1
    assert "1 of 1 runs have not arrived" in done.stderr
    if fault == "drop_uploads":  # a server that lost confirmed bytes accepts no new upload of them
        server.drop_uploads = False
        assert sync(server, record).returncode == 0
        assert_arrived_whole(server, bundle, epochs=0)


def test_a_record_with_a_lost_artifact_does_not_arrive(
    server: WandbServer, trainer: Trainer, record: Path, bundle: Bundle
) -> None:
    directory = trainer.start(server, record, wandb_mode="offline")
    trainer.do("publish", str(bundle.path))
    trainer.do("finish")
    for path in (record / "data/artifacts/staging").iterdir():
        if path.stat().st_size == 300_000:
            path.unlink()
    done = sync(server, record)
    assert done.returncode == 1
    assert "its artifact toy (the bytes of toy/model.h5 are lost on this machine)" in done.stderr
    assert not (directory / "arrived.json").exists()


def test_35_a_killed_trainer_loses_a_second_and_leaves_no_process(server: WandbServer, record: Path) -> None:
    trainer = Trainer(record.parent)
    directory = trainer.start(server, record)
    trainer.send("flood")
    last, at, begin = 0, 0.0, time.time()
    while at < begin + 3:
        last, at = trainer.receive()
    trainer.popen.send_signal(signal.SIGKILL)
    for line in trainer.output:
        if line.startswith("[") and line.endswith("\n"):  # it was killed while it wrote the last one
            last, at = json.loads(line)[0]
    trainer.end()
    deadline = time.monotonic() + 30
    while is_open(directory) and time.monotonic() < deadline:  # the uploading process holds the lock until it ends
        time.sleep(0.2)
    assert not is_open(directory)
    done = sync(server, record)
    assert (done.returncode, done.stdout) == (0, "1 run arrived\n"), done.stderr
    rows = {row["number"]: row["time"] for row in only_run(server).history}
    assert sorted(rows) == list(range(len(rows)))  # no row is missing
    assert last >= len(rows) - 2
    assert at - max(rows.values()) < 3  # flushed every second; the machine can be busy


def is_open(directory: Path) -> bool:
    """Tell whether a process holds the record's lock."""
    return subprocess.run(["flock", "--nonblock", directory, "true"], check=False).returncode != 0


def test_sync_skips_a_run_that_is_being_recorded(
    server: WandbServer, trainer: Trainer, record: Path, bundle: Bundle
) -> None:
    directory = trainer.start(server, record, wandb_mode="offline")
    done = sync(server, record)
    assert (done.returncode, done.stdout) == (0, "0 runs arrived\n")
    assert f"{directory.name} is skipped: another process records or uploads it" in done.stderr
    trainer.do("finish")
    assert sync(server, record).stdout == "1 run arrived\n"


def test_a_dead_sdk_service_logs_one_line_and_raises_nothing(
    server: WandbServer, trainer: Trainer, record: Path, bundle: Bundle
) -> None:
    directory = trainer.start(server, record, wandb_mode="offline")
    trainer.do("epochs", 0, 2)
    time.sleep(1.5)  # longer than the interval after which the SDK writes to disk
    trainer.do("kill_service")
    trainer.do("epochs", 2, 4)
    trainer.do("publish", str(bundle.path))
    trainer.do("finish", 1)
    [line] = trainer.said
    assert line.startswith("W&B: ")
    assert str(directory) in line
    assert trainer.seconds < LOST_SECONDS
    assert trainer.start(server, record).parent == directory.parent  # the next run is recorded normally
    trainer.do("epochs", 0, 1)
    trainer.do("finish")
    assert trainer.said == [f"W&B: {server.url}/team/pyml/runs/{only_run(server).id}"]


@pytest.mark.parametrize("fault", ["none", "die"])
def test_35_a_training_is_published_and_names_its_record(server: WandbServer, tmp_path: Path, fault: str) -> None:
    record, models = tmp_path / "record", tmp_path / "models"
    (tmp_path / "tiny.json").write_text(json.dumps(TINY_EXPERIMENT))
    if fault == "die":
        server.die()
    variables = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": server.api_key, "PYML_RECORD": str(record)}
    done = subprocess.run(
        [PYML, "train", "tiny.json"],
        cwd=tmp_path,
        env=environment(tmp_path, PYML_MODELS=str(models), **variables),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [path] = (models / "bundles").iterdir()
    manifest = open_bundle(path).manifest
    assert (models / "current/digits.json").is_file()
    assert set(PLOT_FILES) <= set(manifest.files)
    tracked = manifest.tracked_run
    assert tracked.directory is not None
    assert (record / tracked.directory).is_dir()
    said = [line for line in done.stderr.splitlines() if "W&B" in line]
    if fault == "none":
        run = only_run(server)
        assert tracked.url == f"{server.url}/team/pyml/runs/{run.id}"
        assert said == [f"W&B: {tracked.url}"]
        assert {"layers": TINY_EXPERIMENT["layers"], "bundle_id": path.name}.items() <= run.config.items()
        as_given = set(TINY_EXPERIMENT) - {"data", "layers"}  # the others get default values
        assert {name: run.config[name] for name in as_given}.items() <= TINY_EXPERIMENT.items()
        [model] = [artifact for artifact in server.artifacts if artifact.type == "model"]
        assert model.files["model.h5"] == (path / "model.h5").read_bytes()
    else:
        [line] = said
        assert "the server cannot be reached" in line
        server.revive()
        assert sync(server, record).stdout == "1 run arrived\n"
        assert tracked.id == only_run(server).id
