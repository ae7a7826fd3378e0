"""The manifests in deploy/kubernetes: valid by the schemas, and as docker-compose.yml. No cluster runs them."""

import copy
import re
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from conftest import REPO

ROOT = REPO / "deploy" / "kubernetes"
FILES = sorted(path for path in ROOT.rglob("*.yaml") if path.name != "kustomization.yaml")
COMPOSE = yaml.safe_load((REPO / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
SCHEMAS = yaml.safe_load((REPO / "tests/kubernetes/custom_resources.yaml").read_text(encoding="utf-8"))
Manifest = dict[str, Any]
MANIFESTS: list[Manifest] = [document for path in FILES for document in yaml.safe_load_all(path.read_text())]


def validate(manifest: Manifest) -> None:
    schema = SCHEMAS.get(f"{manifest['apiVersion']} {manifest['kind']}")
    if schema is None:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    else:
        jsonschema.Draft202012Validator(schema).validate(manifest)


def manifest(kind: str, name: str) -> Manifest:
    return next(m for m in copy.deepcopy(MANIFESTS) if (m["kind"], m["metadata"]["name"]) == (kind, name))


WORKLOADS = [m for m in MANIFESTS if m["kind"] in {"Job", "Deployment"}]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_a_manifest_is_valid(manifest: Manifest) -> None:
    validate(manifest)


@pytest.mark.parametrize(
    ("kind", "name", "place", "value"),
    [
        ("Deployment", "pypredict", ["spec", "replica"], 1),
        ("Job", "train", ["spec", "completions"], "two"),
        ("NetworkPolicy", "default-deny", ["spec", "podSelectors"], {}),
        ("ScaledObject", "pypredict", ["spec", "minReplicaCount"], "one"),
        ("ScaledObject", "pypredict", ["spec", "maxReplicas"], 3),
        ("ScaledObject", "pypredict", ["spec", "triggers", 0, "metadata", "targetQuery"], "1"),
        ("TriggerAuthentication", "reader", ["spec", "secretTargetRef", 0, "parameter"], 3),
        ("Cluster", "db", ["spec", "instance"], 2),
        ("Cluster", "db", ["spec", "instances"], "two"),
    ],
)
def test_an_invalid_manifest_is_refused(kind: str, name: str, place: list[Any], value: object) -> None:
    changed = manifest(kind, name)
    target: Any = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(changed)


def test_each_file_is_in_the_kustomization_of_its_folder() -> None:
    listed = []
    for path in sorted(ROOT.rglob("kustomization.yaml")):
        kustomization = yaml.safe_load(path.read_text())
        assert kustomization["namespace"] == "pyml"
        assert set(kustomization) <= {"apiVersion", "kind", "namespace", "resources", "images"}
        listed += [path.parent / name for name in kustomization["resources"]]
    assert sorted(listed) == FILES


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda m: m["metadata"]["name"])
def test_each_container_is_hardened_like_the_compose_services(workload: Manifest) -> None:
    pod = workload["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


def default(text: str) -> str:
    """Give the value of a compose variable that nobody sets: `${NAME:-2g}` is 2g."""
    return text.split(":-")[1].rstrip("}") if text.startswith("${") else text


@pytest.mark.parametrize(
    ("kind", "name", "service"),
    [
        ("Job", "migrate", "migrate"),
        ("Job", "train", "pyml"),
        ("Job", "propose", "pyml"),
        ("Deployment", "pypredict", "pypredict"),
        ("Deployment", "pgadmin", "pgadmin"),
    ],
)
def test_a_workload_agrees_with_its_compose_service(kind: str, name: str, service: str) -> None:
    compose, pod = COMPOSE[service], manifest(kind, name)["spec"]["template"]["spec"]
    container = pod["containers"][0]
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert user == compose["user"]
    assert pod["terminationGracePeriodSeconds"] == int(compose["stop_grace_period"].rstrip("s"))
    memory = container["resources"]["limits"]["memory"].removesuffix("i").lower()
    assert memory == default(compose["mem_limit"])
    # A variable without a value is optional. pgAdmin's shared folder of queries is not mounted.
    needed = {k: str(v) for k, v in compose["environment"].items() if v is not None}
    needed.pop("PGADMIN_CONFIG_SHARED_STORAGE", None)
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert set(env) == set(needed)
    for key in set(env) - {"PGPASSFILE", "WANDB_TOKEN_FILE", "PGADMIN_DEFAULT_PASSWORD"}:
        assert env[key] == default(needed[key]), key


CLIENTS = ("migrate", "pypredict", "pgadmin")


def test_only_clients_reach_the_database() -> None:
    labels = {m["metadata"]["name"]: m["spec"]["template"]["metadata"]["labels"] for m in WORKLOADS}
    assert {name for name, has in labels.items() if has.get("network-database") == "client"} == set(CLIENTS)
    policy = manifest("NetworkPolicy", "database")["spec"]
    assert policy["podSelector"] == {"matchLabels": {"network-database": "client"}}


def test_a_trainer_reaches_public_addresses_only() -> None:
    for name in ("train", "propose"):
        assert manifest("Job", name)["spec"]["template"]["metadata"]["labels"] == {"app": "pyml"}
    policy = manifest("NetworkPolicy", "internet")["spec"]
    assert policy["podSelector"] == {"matchLabels": {"app": "pyml"}}
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 80, 443}
    (block,) = [to["ipBlock"] for rule in policy["egress"] for to in rule["to"] if "ipBlock" in to]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(block["except"])


def test_all_else_is_closed() -> None:
    closed = manifest("NetworkPolicy", "default-deny")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_a_password_file_is_one_that_the_init_container_copies() -> None:
    for kind, name in (("Job", "migrate"), ("Deployment", "pypredict")):
        pod = manifest(kind, name)["spec"]["template"]["spec"]
        copied = set(re.findall(r"(/run/secrets/\S+)", pod["initContainers"][0]["command"][-1]))
        used = {v["value"] for v in pod["containers"][0]["env"] if v["name"] == "PGPASSFILE"}
        used |= {word for word in pod["containers"][0]["args"] if word.startswith("/")}
        assert used == copied != set()


def test_commands_are_those_of_compose() -> None:
    def words(name: str) -> list[str]:
        return list(manifest("Job", name)["spec"]["template"]["spec"]["containers"][0]["args"])

    assert words("propose") == words("train")[:2] == ["train", "experiments/digits_grid.json"]
    places = [re.sub(r"/run/secrets/(\w+)\.pgpass", r"/run/secrets/\1/pgpass", word) for word in words("migrate")]
    assert places == COMPOSE["migrate"]["command"]
    pod = manifest("Deployment", "pypredict")["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == COMPOSE["pypredict"]["command"]
    pgadmin = manifest("Deployment", "pgadmin")["spec"]["template"]["spec"]["containers"][0]
    assert pgadmin["image"] == default(COMPOSE["pgadmin"]["image"])


def test_each_secret_and_key_is_made_by_a_command_of_the_page() -> None:
    page = (REPO / "docs/kubernetes.md").read_text(encoding="utf-8")
    used = set()
    for workload in WORKLOADS:
        pod = workload["spec"]["template"]["spec"]
        volumes = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        used |= {(one["secretName"], item["key"]) for one in volumes for item in one.get("items", [{"key": "token"}])}
        refs = [e["valueFrom"]["secretKeyRef"] for e in pod["containers"][0]["env"] if "valueFrom" in e]
        used |= {(ref["name"], ref["key"]) for ref in refs}
    assert len(used) >= 5
    commands = [line for line in page.splitlines() if "kubectl create secret generic" in line]
    for name, key in used:
        (made,) = [line for line in commands if re.search(rf" {name}( |$)", line)]
        assert re.search(rf"--from-(file|literal)={re.escape(key)}=", made), (name, key)


def test_the_shares_of_the_training_job_are_its_completions() -> None:
    spec = manifest("Job", "train")["spec"]
    share = spec["template"]["spec"]["containers"][0]["args"][-1]
    assert share == f"$(JOB_COMPLETION_INDEX)/{spec['completions']}"


def test_no_manifest_holds_a_secret() -> None:
    assert "Secret" not in {m["kind"] for m in MANIFESTS}
