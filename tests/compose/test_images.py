"""The images and the running containers, as the engine describes them."""

import pytest
from compose.stack import DAEMONS, SERVICES, Stack

USERS = dict.fromkeys(SERVICES, "10001") | {"pgdata": "999", "db": "999", "pgadmin": "5050"}
MAX_MB = {"pyml": 1900, "pypredict": 450}


@pytest.mark.parametrize("name", SERVICES)
def test_container_is_unprivileged_with_a_read_only_root(stack: Stack, name: str) -> None:
    known = stack.inspect(stack.container(name))
    host = known["HostConfig"]
    assert known["Config"]["User"].split(":")[0] == USERS[name]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not host["Privileged"]
    assert host["Init"] is True
    assert 0 < host["PidsLimit"] <= 1024
    assert 0 < host["Memory"] <= 4 << 30
    assert known["Config"]["StopTimeout"] > 0


@pytest.mark.parametrize("name", [*DAEMONS, "ready"])
def test_process_is_unprivileged(stack: Stack, name: str) -> None:
    status = stack.run_in(name, "sh", "-c", "cat /proc/[0-9]*/status").stdout
    uids = {line.split()[1] for line in status.splitlines() if line.startswith("Uid:")}
    capabilities = {line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")}
    assert uids == {USERS[name]}
    assert {int(mask, 16) for mask in capabilities} == {0}
    assert stack.run_in(name, "sh", "-c", "touch /probe", check=False).returncode != 0


@pytest.mark.parametrize("name", ["pyml", "pypredict"])
def test_image_has_no_tests_compilers_caches_or_secrets(stack: Stack, name: str) -> None:
    unwanted = ("tests", ".env", ".git", ".cache", "*.whl", "pgpass", "password", "*token", "requirements*.txt")
    names = [part for pattern in unwanted for part in ("-o", "-name", pattern)][1:]
    as_root = ("docker", "run", "--rm", "--user", "0", "--network", "none", "--entrypoint")
    ours = ("/opt", "/app", "/home", "/root", "/tmp", "/models", "/run", "/var/cache/apt", "/var/lib/apt")
    found = stack.call(*as_root, "find", f"{stack.project}-{name}", *ours, *names, check=False)
    assert found.stdout.split() == []
    compilers = stack.call(*as_root, "sh", f"{stack.project}-{name}", "-c", "command -v gcc cc g++ make", check=False)
    assert compilers.stdout.split() == []


@pytest.mark.parametrize("name", ["pyml", "pypredict"])
def test_image_is_below_its_size_limit(stack: Stack, name: str, measured: list[str]) -> None:
    # The unpacked size: `docker image inspect` means different things in the engines' stores.
    as_root = ("docker", "run", "--rm", "--user", "0", "--network", "none", "--entrypoint")
    size = int(stack.call(*as_root, "du", f"{stack.project}-{name}", "-sxB1", "/").stdout.split()[0])
    measured.append(f"image {name}: {size / 1e6:.0f} MB with its base, unpacked")
    assert size < MAX_MB[name] * 1e6


@pytest.mark.parametrize("name", ["pyml", "pypredict"])
def test_image_prints_help_without_settings(stack: Stack, name: str) -> None:
    hardened = ("--rm", "--read-only", "--cap-drop", "ALL", "--network", "none", "--tmpfs", "/tmp")
    done = stack.call("docker", "run", *hardened, f"{stack.project}-{name}", "--help")
    assert "Usage:" in done.stdout
