"""`pypredict prune bundles`: what may go from the models volume, beside trainers, workers and other removals."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import publish_bundle
from support.prune import count, prune, sentence
from support.workers import scalar, until, worker_for

from bundle import BundleError
from bundle.publish import remove_bundles, staging
from bundle.verify import open_bundle
from pypredict.registry import register_model, registered_bundles


def make_old(models: Path, *names: str) -> None:
    for name in names:
        os.utime(models / "bundles" / name, (0, 0))


@pytest.fixture
def bundles(engine: sa.Engine, tmp_path: Path) -> Path:
    """A volume with a registered bundle, one that only a pointer names, a young one, and two others."""
    models = tmp_path / "models"
    publish_bundle(models, "registered")
    worker_for(engine, models).run(until_empty=True)
    publish_bundle(models, "proposed", dataset="others")
    for name in ("young", "unused", "broken"):
        publish_bundle(models, name, proposed=False)
    (models / "bundles" / "broken" / "manifest.json").write_text("{")
    make_old(models, "registered", "proposed", "unused", "broken")
    return models


def names_of(models: Path) -> list[str]:
    return sorted(path.name for path in (models / "bundles").iterdir())


def test_prune_of_bundles_takes_those_that_nobody_registered(db: Database, bundles: Path) -> None:
    before = names_of(bundles)
    size = sum(path.stat().st_size for name in ("unused", "broken") for path in (bundles / "bundles" / name).iterdir())
    said = prune(db, "bundles", "--models", str(bundles))
    assert f"2 bundles, {size:,} bytes. Nothing is deleted" in said
    assert names_of(bundles) == before
    said = prune(db, "bundles", "--models", str(bundles), "--yes")
    assert f"2 bundles are deleted: {size:,} bytes went back to the disk" in said
    assert f"kept: proposed: the pointer {bundles}/current/others.json names it" in said
    assert "kept: young: published only now, so a trainer may still propose it" in said
    assert names_of(bundles) == ["proposed", "registered", "young"]


def test_a_bundle_that_is_deleted_meanwhile_is_not_registered(
    db: Database, engine: sa.Engine, owner: sa.Engine, bundles: Path
) -> None:
    """The removal holds the registrations: a worker that has opened the bundle waits, and then finds it gone."""
    opened = open_bundle(bundles / "bundles" / "unused")
    with ThreadPoolExecutor(1) as thread:
        with owner.begin() as removal:
            registered_bundles(removal, hold=True)

            def register() -> None:
                with engine.begin() as connection:
                    register_model(connection, opened)

            waits = thread.submit(register)
            until(lambda: scalar(owner, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1)
            remove_bundles(bundles, ["unused"])
        with pytest.raises(BundleError, match="unused is not on the models volume any more"):
            waits.result(30)
    assert count(owner, "model", "bundle_id = 'unused'") == 0


def test_two_removals_of_a_bundle_at_once_are_one(bundles: Path) -> None:
    remove_bundles(bundles, ["unused"])
    remove_bundles(bundles, ["unused", "broken"])
    assert names_of(bundles) == ["proposed", "registered", "young"]


def test_prune_of_bundles_keeps_what_a_trainer_is_writing(db: Database, bundles: Path) -> None:
    with staging(bundles) as staged:
        prune(db, "bundles", "--models", str(bundles), "--yes")
        assert staged.is_dir()
    assert names_of(bundles) == ["proposed", "registered", "young"]


def test_a_killed_removal_of_bundles_is_ended_by_the_next_one(db: Database, bundles: Path) -> None:
    (bundles / "bundles" / "unused").rename(bundles / "bundles" / ".tmp-killed")
    prune(db, "bundles", "--models", str(bundles), "--yes")
    assert names_of(bundles) == ["proposed", "registered", "young"]


def test_an_invalid_pointer_is_named_before_a_bundle_is_deleted(db: Database, bundles: Path) -> None:
    (bundles / "current" / "others.json").write_text("{")
    assert "current/others.json is not a valid pointer" in sentence(db, "bundles", "--models", str(bundles), "--yes")
    assert "unused" in names_of(bundles)
