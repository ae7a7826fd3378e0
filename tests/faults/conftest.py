"""Fixtures for the fault tests: a setup on the shared server, and a separate server that a test may crash."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import REPO, Database, given_binaries
from support.bundles import fake_predict, publish_bundle
from support.fault_setup import FaultSetup
from support.tflite_models import fake_model
from support.workers import until

import embedded
from pypredict import database, migrate
from pypredict.models import Models
from pypredict.publications import Publications

N = 200  # test inputs of the published model


def make_setup(url: str, engine: sa.Engine, models: Path) -> FaultSetup:
    bundle = publish_bundle(models, n=N, serving=fake_model())
    assert Publications(engine, models, Models(models, lambda _: fake_predict)).import_new() == []
    return FaultSetup(url, models, engine, bundle)


@pytest.fixture
def setup(db: Database, engine: sa.Engine, tmp_path: Path) -> Iterator[FaultSetup]:
    made = make_setup(db.url("pypredict"), engine, tmp_path)
    yield made
    made.end()


@dataclass
class OwnServer:
    """A migrated server of one test; the test may crash it and start it again."""

    state: Path
    server: embedded.Server
    settings: dict[str, str]

    def crash(self) -> None:
        """End the server like a power cut: SIGQUIT is an immediate shutdown without a flush."""
        pid = int((self.server.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        until(lambda: not (self.server.data / "postmaster.pid").exists())

    def start(self) -> None:
        self.server = embedded.start(self.state, bin=given_binaries(), settings=self.settings)


def start_server(state: Path, **settings: str) -> OwnServer:
    server = embedded.start(state, bin=given_binaries(), settings=settings)
    engine = database.connect(server.url(), wait_seconds=10)
    migrate.migrate(engine, REPO / "db", [server.passfile])
    engine.dispose()
    return OwnServer(state, server, settings)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[OwnServer]:
    made = start_server(tmp_path / "state")
    yield made
    embedded.destroy(made.state)
