"""`docker stop` of each service ends within its grace period, and no data is lost."""

import json

import pytest
from compose.stack import DAEMONS, Stack


def stop(stack: Stack, name: str) -> tuple[float, int]:
    """Stop a container as `docker stop` does, with its own grace period; return the seconds and the exit code."""
    grace = stack.inspect(name)["Config"]["StopTimeout"]
    started = stack.seconds()
    stack.call("docker", "stop", name)
    took = stack.seconds() - started
    assert took < grace, f"killed after its {grace} s"
    return took, stack.inspect(name)["State"]["ExitCode"]


def test_worker_stops_during_its_job(stack: Stack, measured: list[str]) -> None:
    before = stack.number("SELECT sum(inputs_done) FROM ml.progress WHERE state = 'serving'")
    added = stack.copy_inputs(278)
    done = "SELECT sum(inputs_done) FROM ml.progress WHERE state = 'serving'"
    stack.until(lambda: stack.number(done) > before, "the service works", 30)
    took, code = stop(stack, stack.container("pypredict"))
    assert code == 0
    assert stack.open_jobs() > 0, "the work ended before the stop"
    assert stack.number("SELECT count(*) FROM ml.job WHERE state = 'running'") == 0
    assert stack.sql("SELECT * FROM ml.integrity") == []
    stack.compose("start", "pypredict")
    stack.wait_done(before + added)
    assert stack.sql("SELECT * FROM ml.integrity") == []
    measured.append(f"docker stop pypredict, during a job: {took:.1f} s")


def test_trainer_stops_during_an_epoch_and_leaves_no_bundle(stack: Stack, measured: list[str]) -> None:
    listing = ("sh", "-c", "cd /models && find . -type f -not -path '*/.tmp-*' | sort; cat current/*")
    before = stack.run_in("pypredict", *listing).stdout
    experiment = json.loads((stack.directory / "experiments/digits_cnn.json").read_text())
    experiment |= {"name": "digits_long", "epochs": 400, "early_stopping": None}
    (stack.directory / "experiments/digits_long.json").write_text(json.dumps(experiment))
    name = f"{stack.project}-long"
    stack.compose("run", "--detach", "--no-deps", "--name", name, "pyml", "train", "experiments/digits_long.json")
    try:
        stack.until(lambda: "epoch 2/" in stack.call("docker", "logs", name).stderr, "it trains", 120)
        took, code = stop(stack, name)
        assert code == 143
        assert "no incomplete bundle is left" in stack.call("docker", "logs", name).stderr
    finally:
        stack.call("docker", "rm", "--force", name, check=False)
    assert stack.run_in("pypredict", *listing).stdout == before
    assert stack.run_in("pypredict", "find", "/models", "-name", ".tmp-*").stdout == ""
    measured.append(f"docker stop pyml, during an epoch: {took:.1f} s")


def test_pgadmin_stops_and_starts_again(stack: Stack, measured: list[str]) -> None:
    took, code = stop(stack, stack.container("pgadmin"))
    assert code == 0
    stack.compose("start", "pgadmin")
    stack.wait_healthy("pgadmin")
    measured.append(f"docker stop pgadmin: {took:.1f} s")


def test_database_stops_with_clients_connected(stack: Stack, measured: list[str]) -> None:
    before = stack.contents()
    database = stack.container("db")
    took, code = stop(stack, database)
    assert code == 0
    log = stack.call("docker", "logs", "--tail", "5", database)
    assert "database system is shut down" in log.stdout + log.stderr
    stack.compose("start", "db")
    stack.wait_healthy(*DAEMONS)
    assert stack.contents() == before
    log = stack.call("docker", "logs", "--since", stack.inspect(database)["State"]["StartedAt"], database)
    assert "not properly shut down" not in log.stdout + log.stderr
    measured.append(f"docker stop db, with clients connected: {took:.1f} s")


@pytest.mark.parametrize("service", ["secrets", "pgdata", "migrate"])
def test_one_shot_service_has_ended(stack: Stack, service: str) -> None:
    state = stack.inspect(stack.container(service))["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)
