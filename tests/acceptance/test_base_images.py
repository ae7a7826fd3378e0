"""Each image that we do not build can be replaced whole, also by one with a digest, through one variable."""

import re

import pytest
from conftest import REPO

COMPOSE = (REPO / "docker-compose.yml").read_text(encoding="utf-8")
EXAMPLE = (REPO / ".env.example").read_text(encoding="utf-8")
VARIABLE = re.compile(r"\$\{(\w+):-([^}]+)\}")
OURS = {"${COMPOSE_PROJECT_NAME}-pyml", "${COMPOSE_PROJECT_NAME}-pypredict"}
DOCKERFILES = ["pyml/Dockerfile", "pypredict/Dockerfile"]


def foreign_images() -> set[str]:
    """Give the images of docker-compose.yml that no service builds, as they are written there."""
    return set(re.findall(r"^ +image: (\S+)", COMPOSE, re.MULTILINE)) - OURS


def test_each_foreign_image_is_one_variable_with_a_default() -> None:
    images = foreign_images()
    assert len(images) >= 2
    assert [image for image in images if not VARIABLE.fullmatch(image)] == []


@pytest.mark.parametrize("name", DOCKERFILES)
def test_each_stage_starts_from_the_base_image(name: str) -> None:
    text = (REPO / name).read_text(encoding="utf-8")
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE_IMAGE}"] * 2


@pytest.mark.parametrize("name", DOCKERFILES)
def test_each_dockerfile_has_the_default_base_of_compose(name: str) -> None:
    (default,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", (REPO / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert f"BASE_IMAGE: ${{BASE_IMAGE:-{default}}}" in COMPOSE


def test_the_example_environment_names_each_default_image() -> None:
    defaults = {name: default for name, default in VARIABLE.findall(COMPOSE) if name.endswith("_IMAGE")}
    assert defaults.keys() >= {"BASE_IMAGE", "POSTGRES_IMAGE", "PGADMIN_IMAGE"}
    assert dict(re.findall(r"^#(\w+_IMAGE)=(.*)$", EXAMPLE, re.MULTILINE)) == defaults
