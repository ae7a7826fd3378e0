"""Published bundles and proposals are imported once, and a refused one is logged once."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.bundles import fake_predict, publish_bundle
from support.tflite_models import OP, dense_model, fake_model, pack
from support.workers import rows, scalar, worker_for

from bundle import BundleError
from bundle.verify import Bundle
from pypredict import PypredictError
from pypredict.models import Models, Predict
from pypredict.publications import Publications
from pypredict.worker import Worker


def fresh(engine: sa.Engine, models: Path) -> Publications:
    return Publications(engine, models, Models(models, lambda _: fake_predict))


def test_a_refused_bundle_is_imported_after_its_repair(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pypredict.refusals.FIRST_SECONDS", 0)
    publish_bundle(tmp_path, "old", seed=1)
    worker_for(engine, tmp_path).run(until_empty=True)
    new = publish_bundle(tmp_path, "new", seed=2)
    whole = (new.path / "model.h5").read_bytes()
    (new.path / "model.h5").write_bytes(b"half")
    publications = fresh(engine, tmp_path)
    for _ in range(3):
        publications.import_new()
    assert caplog.text.count("new is refused") == caplog.text.count("is refused,") == 1  # for both
    (new.path / "model.h5").write_bytes(whole)
    publications.import_new()
    assert rows(engine, "SELECT name FROM ml.model WHERE state = 'serving'") == [("new",)]


def test_an_imported_bundle_is_verified_once(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_bundle(tmp_path)
    publications = fresh(engine, tmp_path)
    publications.import_new()
    monkeypatch.setattr("pypredict.publications.open_current", lambda *_: pytest.fail("it was verified again"))
    publications.import_new()


def test_another_model_in_a_registered_bundle_is_refused(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_bundle(tmp_path / "lost", "toy", seed=1)
    worker_for(engine, tmp_path / "lost").run(until_empty=True)
    again = publish_bundle(tmp_path / "again", "toy", seed=1)
    model = again.path / "model.h5"
    model.write_bytes(b"trained elsewhere")
    manifest = json.loads((again.path / "manifest.json").read_text())
    digest = hashlib.sha256(b"trained elsewhere").hexdigest()
    manifest["files"]["model.h5"] = {"sha256": digest, "size": 17}
    (again.path / "manifest.json").write_text(json.dumps(manifest))
    pointer = json.loads((tmp_path / "again/current/toys.json").read_text())
    (tmp_path / "again/current/toys.json").write_text(json.dumps(pointer | {"sha256": digest}))
    fresh(engine, tmp_path / "again").import_new()
    assert "bundle toy is registered with another model.h5; restore that file" in caplog.text
    assert scalar(engine, "SELECT count(*) FROM ml.model") == 1


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_an_unreadable_pointer_does_not_stop_other_pointers(
    engine: sa.Engine, tmp_path: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    publish_bundle(tmp_path)
    make(tmp_path / "current/other.json")
    fresh(engine, tmp_path).import_new()
    assert "other.json is refused" in caplog.text
    assert rows(engine, "SELECT dataset FROM ml.model") == [("toys",)]


def test_23_a_flipped_byte_is_refused_in_one_sentence(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    model = bundle.path / "model.h5"
    model.write_bytes(bytes([model.read_bytes()[0] ^ 1]) + model.read_bytes()[1:])
    with pytest.raises(PypredictError, match="changed after it was published"):
        worker_for(engine, tmp_path).run(until_empty=True)


def test_22_a_truncated_model_is_refused_and_the_old_stays(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, "old", seed=1)
    worker_for(engine, tmp_path).run(until_empty=True)
    new = publish_bundle(tmp_path, "new", seed=2)
    (new.path / "model.h5").write_bytes(b"")
    fresh(engine, tmp_path).import_new()
    assert rows(engine, "SELECT name, state FROM ml.model") == [("old", "serving")]


def test_28_a_forged_model_is_refused_and_other_datasets_go_on(engine: sa.Engine, tmp_path: Path) -> None:
    """Real models in LiteRT. The forged one has a matching hash and serves nowhere; the old one serves on."""
    publish_bundle(tmp_path, "old", serving=fake_model())
    worker = Worker(engine, tmp_path, Models(tmp_path), "tester", poll_seconds=0.05)
    assert worker.run(until_empty=True) == 30
    forged = dense_model()
    forged.operatorCodes[1].builtinCode = forged.operatorCodes[1].deprecatedBuiltinCode = OP.CUSTOM
    forged.operatorCodes[1].customCode = b"FlexReadFile"
    publish_bundle(tmp_path, "new", seed=1, serving=pack(forged))
    publish_bundle(tmp_path, "other", dataset="others", seed=2, serving=fake_model())
    with pytest.raises(
        PypredictError, match=r"new/model\.tflite: model\.tflite holds the custom operator FlexReadFile"
    ):
        Worker(engine, tmp_path, Models(tmp_path), "tester", poll_seconds=0.05).run(until_empty=True)
    states = [("new", "available"), ("old", "serving"), ("other", "serving")]
    assert rows(engine, "SELECT name, state FROM ml.model ORDER BY 1") == states
    counts = "SELECT m.name, count(*) FROM ml.prediction JOIN ml.model m USING (model_id) GROUP BY 1 ORDER BY 1"
    assert rows(engine, counts) == [("old", 30), ("other", 30)]


def test_28_a_model_that_does_not_load_never_serves(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, "old", seed=1)
    worker_for(engine, tmp_path).run(until_empty=True)
    publish_bundle(tmp_path, "new", seed=2)

    def refuse(bundle: Bundle) -> Predict:
        raise BundleError("a Lambda layer")

    (problem,) = Publications(engine, tmp_path, Models(tmp_path, refuse)).import_new()
    assert problem == "a Lambda layer"
    assert rows(engine, "SELECT name, state FROM ml.model ORDER BY 1") == [("new", "available"), ("old", "serving")]
