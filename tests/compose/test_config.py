"""Before anything runs: docker-compose.yml is valid, and a missing setting is named."""

import json
import subprocess
from typing import Any

import pytest
from compose.stack import DAEMONS, ONE_SHOTS, SERVICES, Stack


@pytest.fixture(scope="module")
def config(bare: Stack) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(bare.compose("config", "--format", "json").stdout)
    return known


def test_config_prints_no_warning(bare: Stack) -> None:
    done = bare.compose("config", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


def test_up_with_the_example_env_names_the_missing_password(bare: Stack) -> None:
    done = bare.compose("--env-file", ".env.example", "up", "--detach", check=False)
    assert done.returncode != 0
    assert "PGADMIN_PASSWORD" in done.stderr
    assert "cp .env.example .env" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_make_up_without_env_says_what_to_do(bare: Stack) -> None:
    kept = bare.directory / ".env"
    aside = kept.rename(bare.directory / "kept.env")
    try:
        done = bare.call("make", "up", check=False)
    finally:
        aside.rename(kept)
    assert done.returncode != 0
    assert (
        done.stderr.splitlines()[0] == "There is no .env yet: cp .env.example .env, then choose PGADMIN_PASSWORD in it"
    )


def test_each_image_is_built_by_one_service_and_never_pulled(config: dict[str, Any]) -> None:
    ours = {
        name: service for name, service in config["services"].items() if service["image"].startswith(config["name"])
    }
    assert {service["pull_policy"] for service in ours.values()} == {"never"}
    built = [service["image"] for service in ours.values() if "build" in service]
    assert sorted(built) == sorted({service["image"] for service in ours.values()})


def test_build_from_nothing_gives_each_image_one_id(other: Stack) -> None:
    other.remove_images()
    other.compose("build", "--quiet", timeout=1500)
    assert {name: len(ids) for name, ids in other.image_ids().items()} == {"pyml": 1, "pypredict": 1}


def test_missing_token_file_stops_up_and_is_named(other: Stack) -> None:
    done = other.compose("up", "--detach", check=False, WANDB_TOKEN_FILE="secrets/absent")
    assert done.returncode != 0
    assert "secrets/absent" in done.stderr
    assert other.call("docker", "ps", "--quiet", "--filter", f"name={other.project}-db").stdout == ""


def test_bad_password_file_stops_up_and_is_named(other: Stack) -> None:
    path = other.directory / "secrets/reader"
    path.write_text("two words\n")
    try:
        done = other.compose("up", check=False)
    finally:
        path.unlink()
    assert done.returncode != 0
    assert "secrets/reader must hold one line" in done.stdout + done.stderr
    assert other.call("docker", "ps", "--quiet", "--filter", f"name={other.project}-db").stdout == ""


def test_only_pgadmin_publishes_a_port_and_only_locally(config: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in config["services"].items() if "ports" in service}
    assert published.keys() == {"pgadmin"}
    assert [port["host_ip"] for port in published["pgadmin"]] == ["127.0.0.1"]


def test_each_service_is_on_its_own_networks(config: dict[str, Any]) -> None:
    networks = {name: set(service.get("networks") or ()) for name, service in config["services"].items()}
    assert networks == {
        "secrets": set(),
        "pgdata": set(),
        "db": {"database"},
        "migrate": {"database"},
        "pypredict": {"database"},
        "pgadmin": {"database", "front"},
        "pyml": {"internet"},
        "ready": {"database"},
    }
    assert {config["services"][name]["network_mode"] for name in ("secrets", "pgdata")} == {"none"}
    assert config["networks"]["database"]["internal"] is True


def test_password_volumes_are_mounted_only_by_their_services(config: dict[str, Any]) -> None:
    readers: dict[str, set[str]] = {}
    for name, service in config["services"].items():
        for volume in service.get("volumes", ()):
            if volume["source"].endswith("_secret") and volume.get("read_only"):
                readers.setdefault(volume["source"], set()).add(name)
    assert readers == {
        "owner_secret": {"db", "migrate"},
        "pypredict_secret": {"migrate", "pypredict"},
        "reader_secret": {"migrate", "pgadmin", "ready"},
    }


OBSERVE = ("metrics", "prometheus", "grafana")


@pytest.fixture(scope="module")
def observed(bare: Stack) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(bare.compose("--profile", "observe", "config", "--format", "json").stdout)
    return known


def test_profile_observe_adds_three_hardened_services(config: dict[str, Any], observed: dict[str, Any]) -> None:
    assert observed["services"].keys() - config["services"].keys() == set(OBSERVE)
    assert {name: observed["services"][name] for name in config["services"]} == config["services"]
    for name in OBSERVE:
        service = observed["services"][name]
        assert (service["read_only"], service["cap_drop"], service["restart"]) == (True, ["ALL"], "unless-stopped")
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"].partition(":")[0] not in ("", "0")
        assert {"mem_limit", "pids_limit", "stop_grace_period", "init"} <= service.keys()


def test_profile_observe_publishes_only_grafana_and_only_locally(observed: dict[str, Any]) -> None:
    services = {name: observed["services"][name] for name in OBSERVE}
    assert {name: set(service["networks"]) for name, service in services.items()} == {
        "metrics": {"database", "metrics"},
        "prometheus": {"metrics"},
        "grafana": {"metrics", "front"},
    }
    assert observed["networks"]["metrics"]["internal"] is True
    published = {name: [port["host_ip"] for port in service.get("ports", ())] for name, service in services.items()}
    assert published == {"metrics": [], "prometheus": [], "grafana": ["127.0.0.1"]}


def test_password_of_grafana_is_a_file_without_default(observed: dict[str, Any]) -> None:
    assert observed["secrets"]["grafana"]["file"].endswith("/secrets/grafana")
    grafana = observed["services"]["grafana"]["environment"]
    assert {name for name in grafana if "PASSWORD" in name} == {"GF_SECURITY_ADMIN_PASSWORD__FILE"}


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_limits_a_grace_period_and_a_restart_policy(config: dict[str, Any], name: str) -> None:
    service = config["services"][name]
    assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped")
    assert ("healthcheck" in service) == (name in DAEMONS)
    for limit in ("mem_limit", "pids_limit", "stop_grace_period", "init", "read_only"):
        assert service.get(limit), f"{name} has no {limit}"


def test_shipped_files_name_nothing_of_this_machine(bare: Stack) -> None:
    shipped = ["docker-compose.yml", ".env.example", "pyml/Dockerfile", "pypredict/Dockerfile"]
    for word in ("shared/", "stand-in", "standin", "@sha256:", "# syntax", "index-url"):
        found = subprocess.run(
            ["grep", "-n", word, *shipped], cwd=bare.directory, capture_output=True, text=True, check=False
        )
        assert found.stdout == "", f"{word!r} has no place here"


def test_every_foreign_image_may_have_a_digest(bare: Stack) -> None:
    digest = f"sha256:{'0' * 64}"
    base, postgres, pgadmin = f"python@{digest}", f"postgres:12.4@{digest}", f"dpage/pgadmin4:9.18@{digest}"
    command = ("config", "--format", "json")
    done = bare.compose(*command, BASE_IMAGE=base, POSTGRES_IMAGE=postgres, PGADMIN_IMAGE=pgadmin)
    services = json.loads(done.stdout)["services"]
    assert services["db"]["image"] == services["pgdata"]["image"] == postgres
    assert services["pgadmin"]["image"] == pgadmin
    assert {services[each]["build"]["args"]["BASE_IMAGE"] for each in ("secrets", "pyml")} == {base}
