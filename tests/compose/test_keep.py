"""`down` keeps all data, `down -v` removes it. These tests run last."""

from compose.stack import Stack


def left_over(stack: Stack, kind: str) -> list[str]:
    command = {"container": ("ps", "--all"), "volume": ("volume", "ls"), "network": ("network", "ls")}[kind]
    label = f"label=com.docker.compose.project={stack.project}"
    return stack.call("docker", *command, "--quiet", "--filter", label).stdout.split()


def pgadmin_users(stack: Stack) -> list[list[str]]:
    """Return pgAdmin's logins and hashes; a login that is made again has another hash."""
    return stack.pgadmin_settings("SELECT email, password FROM user")


def test_down_and_up_keep_everything(stack: Stack, measured: list[str]) -> None:
    before = stack.contents()
    listing = ("sh", "-c", "find /models/bundles -type f | xargs sha256sum | sort")
    bundles = stack.run_in("pypredict", *listing).stdout
    users = pgadmin_users(stack)
    stack.compose("down")
    assert left_over(stack, "container") == left_over(stack, "network") == []
    started = stack.seconds()
    stack.up()
    measured.append(f"`down`, then `up` until all is healthy: {stack.seconds() - started:.0f} s")
    assert stack.contents() == before
    assert stack.run_in("pypredict", *listing).stdout == bundles
    assert pgadmin_users(stack) == users


def test_down_v_removes_everything(stack: Stack) -> None:
    assert len(left_over(stack, "volume")) == 8
    stack.compose("down", "--volumes")
    assert [left_over(stack, kind) for kind in ("container", "volume", "network")] == [[], [], []]
