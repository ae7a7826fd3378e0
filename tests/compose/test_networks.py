"""Which service reaches which. A listener outside the stack, which the trainer reaches, is the control."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from compose.stack import Stack

OUTSIDE, HERE = "198.18.77.2", "198.18.77.1"  # a network for benchmarks (RFC 2544), which nobody owns
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=4).close()
except OSError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print("reached")
"""
RESOLVE = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
PYTHON = {"pypredict": "python", "pgadmin": "/venv/bin/python3"}


@pytest.fixture(scope="module")
def outside() -> Iterator[tuple[str, int]]:
    """Yield the address of a listener in its own network namespace, to which this host forwards."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("NOT TESTED: the listener outside needs root and iproute2 (`ip`)")
    name = f"out{os.getpid()}"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", f"v{name}", "type", "veth", "peer", "name", "outside", "netns", name)
        run("ip", "address", "add", f"{HERE}/30", "dev", f"v{name}")
        run("ip", "link", "set", f"v{name}", "up")
        for command in (f"address add {OUTSIDE}/30 dev outside", "link set outside up", "link set lo up"):
            run("ip", "-n", name, *command.split())
        python = ["python3", "-m", "http.server", "8080", "--directory", "/var/empty"]
        serve = ["ip", "netns", "exec", name, *python]
        listener = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_listener(OUTSIDE, 8080)
            yield OUTSIDE, 8080
        finally:
            listener.kill()
            listener.wait()
    finally:
        run("ip", "netns", "delete", name)  # removes the pair of interfaces, too


def wait_for_listener(host: str, port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
            continue
        return
    raise AssertionError(f"nothing listens on {host}:{port}")


def from_pyml(stack: Stack, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a container like the trainer's."""
    command = ("run", "--rm", "--no-deps", "--no-TTY", "--entrypoint", "python", "pyml", "-c", script)
    return stack.compose(*command, *arguments, check=False)


def database_address(stack: Stack) -> str:
    (network,) = stack.inspect(stack.container("db"))["NetworkSettings"]["Networks"].values()
    address: str = network["IPAddress"]
    return address


def test_trainer_reaches_the_outside(stack: Stack, outside: tuple[str, int]) -> None:
    done = from_pyml(stack, CONNECT, *map(str, outside))
    assert done.stdout.strip() == "reached", done.stderr


@pytest.mark.parametrize("service", ["pypredict", "pgadmin"])
def test_service_cannot_reach_the_outside(stack: Stack, outside: tuple[str, int], service: str) -> None:
    done = stack.run_in(service, PYTHON[service], "-c", CONNECT, *map(str, outside), check=False)
    assert "reached" not in done.stdout
    assert "Error" in done.stderr


def test_database_cannot_reach_the_outside(stack: Stack, outside: tuple[str, int]) -> None:
    host, port = outside
    dial = "exec 3<>/dev/tcp/{}/{} && echo reached"
    assert "reached" in stack.run_in("db", "timeout", "4", "bash", "-c", dial.format("127.0.0.1", 5432)).stdout
    assert (
        "reached" not in stack.run_in("db", "timeout", "4", "bash", "-c", dial.format(host, port), check=False).stdout
    )


@pytest.mark.parametrize("service", ["pypredict", "pgadmin"])
def test_service_resolves_only_names_of_services(stack: Stack, service: str) -> None:
    python = PYTHON[service]
    assert stack.run_in(service, python, "-c", RESOLVE, "db").stdout.strip() == database_address(stack)
    assert stack.run_in(service, python, "-c", RESOLVE, "example.com", check=False).returncode != 0


@pytest.mark.parametrize("service", ["db", "migrate", "pypredict", "pgadmin", "ready"])
def test_service_has_no_name_server(stack: Stack, service: str) -> None:
    # Read from the engine's settings: the machine of this test may have no name server that answers.
    assert stack.inspect(stack.container(service))["HostConfig"]["Dns"] == ["127.0.0.1"]


def test_trainer_cannot_reach_the_database(stack: Stack) -> None:
    assert (
        stack.run_in("pypredict", "python", "-c", CONNECT, database_address(stack), "5432").stdout.strip() == "reached"
    )
    assert "reached" not in from_pyml(stack, CONNECT, database_address(stack), "5432").stdout
    assert from_pyml(stack, RESOLVE, "db").returncode != 0


def test_database_publishes_no_port(stack: Stack) -> None:
    bound = {
        service: [b for bindings in (ports or {}).values() for b in bindings or ()]
        for service in ("db", "pypredict", "pgadmin")
        if (ports := stack.inspect(stack.container(service))["NetworkSettings"]["Ports"]) is not None
    }
    assert bound.pop("pgadmin") == [{"HostIp": "127.0.0.1", "HostPort": stack.values["PGADMIN_PORT"]}]
    assert not any(bound.values()), json.dumps(bound)
    wait_for_listener("127.0.0.1", int(stack.values["PGADMIN_PORT"]))  # the control: a published port answers
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", 5432), timeout=4)
