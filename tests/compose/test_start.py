"""The first start of a fresh clone, a second start that does nothing, and a new experiment."""

import json
import re
import urllib.request
from pathlib import Path

from compose.stack import DAEMONS, Stack


def manifest(stack: Stack, model_id: int) -> dict[str, object]:
    (bundle,) = stack.sql(f"SELECT bundle_id FROM ml.model WHERE model_id = {model_id}")[0]
    known: dict[str, object] = json.loads(
        stack.run_in("pypredict", "cat", f"/models/bundles/{bundle}/manifest.json").stdout
    )
    return known


def accuracy(stack: Stack, model_id: int) -> tuple[int, float, str]:
    """Read from SQL: predicted test inputs, accuracy, and whether the manifest agrees (t or f)."""
    query = f"SELECT n, accuracy, agrees FROM ml.accuracy WHERE in_test_set AND model_id = {model_id}"
    ((n, share, agrees),) = stack.sql(query)
    return int(n), float(share), agrees


def test_first_up_builds_each_image_once_and_pulls_none(stack: Stack) -> None:
    assert {name: len(ids) for name, ids in stack.image_ids().items()} == {"pyml": 1, "pypredict": 1}
    tried = re.compile(r" (secrets|migrate|pyml|pypredict|ready) .*(Pull|Warning|Error)")
    assert [line for line in stack.first_up.splitlines() if tried.match(line)] == []


def test_last_line_of_the_first_up_says_where_to_look(stack: Stack) -> None:
    assert_says_where_to_look(stack, stack.first_up)
    assert "360 inputs predicted, 0 refused" in stack.first_up
    place = f"http://127.0.0.1:{stack.values['PGADMIN_PORT']}"
    assert urllib.request.urlopen(f"{place}/misc/ping", timeout=30).status == 200  # noqa: S310 - our own server


def assert_says_where_to_look(stack: Stack, output: str) -> None:
    """Check that the last line has pgAdmin's address and a command that works."""
    checkpoints_aside = [line for line in output.splitlines() if not line.startswith("db-1 ")]
    *before, last = checkpoints_aside
    assert f"http://127.0.0.1:{stack.values['PGADMIN_PORT']}" in last
    command = last[last.index("docker compose exec ") :].split()
    assert "Accuracy" in stack.call(*command[:3], "--no-TTY", *command[3:]).stdout
    assert [line for line in before if "pyml-1" in line]


def test_accuracy_of_a_fresh_clone_is_that_of_the_manifest(stack: Stack, measured: list[str]) -> None:
    metrics = manifest(stack, 1)["metrics"]
    assert isinstance(metrics, dict)
    assert accuracy(stack, 1) == (metrics["n"], metrics["accuracy"], "t")
    assert stack.sql("SELECT * FROM ml.integrity") == []
    assert stack.number("SELECT count(*) FROM ml.prediction") == metrics["n"] > 0
    assert metrics["accuracy"] >= 0.98
    measured.append(f"digits: {metrics['n']} predicted, accuracy {metrics['accuracy']:.4f} in SQL and in the manifest")


def test_command_check_repeats_all_predictions(stack: Stack) -> None:
    done = stack.run_in("pypredict", "pypredict", "check", "--replay", "all")
    assert "360 of 360 predictions repeated bit for bit" in done.stderr


def test_second_up_trains_nothing_and_writes_nothing(stack: Stack, measured: list[str]) -> None:
    before = stack.contents()
    epochs = stack.compose("logs", "pyml").stdout.count("epoch 1/")
    started = stack.seconds()
    stack.up()
    measured.append(f"second `docker compose up`, until all is healthy: {stack.seconds() - started:.0f} s")
    log = stack.compose("logs", "pyml").stdout
    assert log.count("epoch 1/") == epochs == 1
    assert "nothing trained" in log
    assert stack.contents() == before


def test_second_up_keeps_all_containers(stack: Stack) -> None:
    before = stack.all_containers()
    stack.up()
    assert stack.all_containers() == before


def test_make_up_sets_the_commit_and_prints_pgadmins_address(stack: Stack) -> None:
    before = stack.contents()
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "clone"]):
        stack.call("git", "-c", "user.name=t", "-c", "user.email=t@example.com", *command)
    commit = stack.call("git", "rev-parse", "HEAD").stdout.strip()
    assert f"http://127.0.0.1:{stack.values['PGADMIN_PORT']}" in make_up(stack).splitlines()[-1]
    stack.wait_healthy(*DAEMONS, seconds=1)
    for service in ("pyml", "pypredict"):
        known = stack.inspect(stack.container(service))["Config"]
        assert {f"GIT_COMMIT={commit}", "GIT_DIRTY=false"} <= set(known["Env"])
        assert known["Labels"]["org.opencontainers.image.revision"] == commit
    assert stack.contents() == before


def make_up(stack: Stack) -> str:
    """Run `make up`; return its output. It must end within a minute after its trainer, when all is healthy."""
    trainer = stack.inspect(stack.container("pyml"))["State"]["StartedAt"]

    def trained() -> bool:
        state = stack.inspect(stack.container("pyml"))["State"]
        return bool(state["StartedAt"] != trainer and state["Status"] == "exited")

    with stack.background("make", "up") as (running, output):
        stack.until(lambda: running.poll() is not None or trained(), "the trainer has ended", 900)
        stack.wait_healthy(*DAEMONS)
        code = running.wait(timeout=60)
        assert code == 0, output()[-3000:]
        return output()


def test_second_make_up_keeps_all_containers(stack: Stack) -> None:
    before = stack.all_containers()
    make_up(stack)
    assert stack.all_containers() == before


def test_running_service_takes_a_new_experiment_without_a_rebuild(stack: Stack) -> None:
    running = stack.container("pypredict")
    started = stack.inspect(running)["State"]["StartedAt"]
    experiment = json.loads((stack.directory / "experiments/digits_cnn.json").read_text())
    experiment |= {"name": "digits_brief", "epochs": 3}
    Path(stack.directory / "experiments/digits_brief.json").write_text(json.dumps(experiment))
    output = stack.watch_up(EXPERIMENT="experiments/digits_brief.json")
    assert_says_where_to_look(stack, output)  # pgAdmin answered all the time, so `ready` waited for the trainer
    stack.until(lambda: stack.number("SELECT count(*) FROM ml.model") == 2, "the new model is registered", 60)
    if stack.sql("SELECT state FROM ml.model WHERE model_id = 2") == [["available"]]:  # three epochs are worse
        stack.run_in("pypredict", "pypredict", "models", "promote", "2")
    stack.wait_predicted(models=2)
    assert stack.inspect(running)["State"]["StartedAt"] == started
    n = accuracy(stack, 1)[0]
    assert accuracy(stack, 2)[::2] == (n, "t")
    assert stack.sql("SELECT model_id, count(*) FROM ml.prediction GROUP BY 1 ORDER BY 1") == [
        ["1", str(n)],
        ["2", str(n)],
    ]
    assert stack.sql("SELECT * FROM ml.integrity") == []
