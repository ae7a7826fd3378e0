"""Which model serves a dataset: proposals of the trainer, promotion by a person, retire, roll back."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.bundles import fake_predict, publish_bundle
from support.workers import overlap, rows, worker_for

from bundle.publish import point, read_pointer
from bundle.verify import Bundle
from pypredict import jobs, promotion, registry
from pypredict.models import Models
from pypredict.publications import Publications


def states(engine: sa.Engine) -> dict[str, str]:
    with engine.begin() as connection:
        return {model.name: model.state for model in registry.list_models(connection)}


def find(connection: sa.Connection, given: str) -> registry.Model:
    return registry.find_model(connection, given)


def roll_back(engine: sa.Engine, dataset: str = "toys") -> str:
    with engine.begin() as connection:
        model = find(connection, str(promotion.served_before(connection, dataset)))
        promotion.roll_back(connection, model)
    return model.name


def promote(engine: sa.Engine, given: str) -> None:
    with engine.begin() as connection:
        promotion.promote(connection, find(connection, given))


def retire(engine: sa.Engine, given: str) -> None:
    with engine.begin() as connection:
        promotion.retire(connection, find(connection, given))


@pytest.fixture
def three(engine: sa.Engine, tmp_path: Path) -> sa.Engine:
    """Models one, two and three of one dataset; the third serves."""
    for seed, name in enumerate(("one", "two", "three"), start=1):
        publish_bundle(tmp_path, name, seed=seed)
        worker_for(engine, tmp_path).run(until_empty=True)
    return engine


def test_the_newest_proposal_serves_if_test_sets_differ(three: sa.Engine) -> None:
    assert states(three) == {"one": "retired", "two": "retired", "three": "serving"}
    assert rows(three, "SELECT why FROM ml.promotions ORDER BY promotion_id DESC LIMIT 1") == [
        ("proposed by the trainer: two was measured on another test set, so the two accuracies cannot be compared",)
    ]


def test_a_worse_proposal_on_the_same_test_set_is_declined(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_bundle(tmp_path, "good", n=1000, n_correct=997)
    publications = Publications(engine, tmp_path, Models(tmp_path, lambda _: fake_predict))
    publications.import_new()
    publish_bundle(tmp_path, "poor", n=1000, n_correct=678)
    assert publications.import_new() == []
    assert states(engine) == {"good": "serving", "poor": "available"}
    why = "its accuracy on the same test set is 0.6780, good has 0.9970"
    assert rows(engine, "SELECT action, from_bundle, to_bundle, why FROM ml.promotions LIMIT 1") == [
        ("declined", "good", "poor", why)
    ]
    assert f"model 2 (poor) is not promoted: {why}; to promote it anyway: pypredict models promote 2" in caplog.text


def test_a_model_that_is_proposed_again_is_not_compared_with_itself(engine: sa.Engine, tmp_path: Path) -> None:
    manifest = publish_bundle(tmp_path, "good").manifest
    publications = Publications(engine, tmp_path, Models(tmp_path, lambda _: fake_predict))
    publications.import_new()
    point(tmp_path, manifest)
    publications.import_new()
    assert rows(engine, "SELECT why FROM ml.promotions ORDER BY promotion_id") == [
        ("proposed by the trainer; no model served before",),
        ("proposed by the trainer again; it serves already",),
    ]


def test_a_declined_proposal_is_declined_once(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, "good", n_correct=29)
    publish_bundle(tmp_path / "copy", "unused")
    for name, n_correct in (("good", 29), ("poor", 10)):
        if name == "poor":
            publish_bundle(tmp_path, name, n_correct=n_correct)
        for _ in range(2):  # like two processes, one after the other
            Publications(engine, tmp_path, Models(tmp_path, lambda _: fake_predict)).import_new()
    assert rows(engine, "SELECT action, count(*) FROM ml.promotion GROUP BY 1 ORDER BY 1") == [
        ("declined", 1),
        ("promoted", 1),
    ]


def test_a_worse_proposal_with_promote_serves(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, "good", n_correct=29)
    publications = Publications(engine, tmp_path, Models(tmp_path, lambda _: fake_predict))
    publications.import_new()
    publish_bundle(tmp_path, "poor", n_correct=10, promote=True)
    publications.import_new()
    assert states(engine) == {"good": "retired", "poor": "serving"}
    assert rows(engine, "SELECT why FROM ml.promotions LIMIT 1") == [
        ("proposed with --promote: its accuracy on the same test set is 0.3333, good has 0.9667",)
    ]


def test_promote_needs_no_proposal(three: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path, "four", seed=4, proposed=False)
    worker_for(three, tmp_path).run(until_empty=True)
    promote(three, "four")
    assert states(three) == {"one": "retired", "two": "retired", "three": "retired", "four": "serving"}


def test_rollback_goes_one_step_further_back_each_time(three: sa.Engine) -> None:
    assert [roll_back(three), roll_back(three)] == ["two", "one"]
    with pytest.raises(promotion.PromotionError, match="no model served toys before the present one"):
        roll_back(three)


def test_rollback_follows_the_history_and_not_the_numbers(three: sa.Engine) -> None:
    promote(three, "one")
    assert roll_back(three) == "three"
    promote(three, "one")
    assert [roll_back(three), roll_back(three)] == ["three", "two"]


def test_rollback_after_retire_restores_the_last_model(three: sa.Engine) -> None:
    retire(three, "three")
    assert set(states(three).values()) == {"retired"}
    assert [roll_back(three), roll_back(three)] == ["three", "two"]


def test_rollback_of_an_unknown_dataset_names_the_known_ones(three: sa.Engine) -> None:
    with pytest.raises(registry.RegistryError, match="there is no dataset nosuch; the known datasets are: toys"):
        roll_back(three, "nosuch")


def test_an_unchanged_pointer_does_not_undo_a_rollback(three: sa.Engine, tmp_path: Path) -> None:
    roll_back(three)
    worker_for(three, tmp_path).run(until_empty=True)  # the pointer still names three
    assert states(three)["two"] == "serving"


def test_retire_is_refused_for_a_model_that_does_not_serve(three: sa.Engine) -> None:
    with pytest.raises(promotion.PromotionError, match="model 1 does not serve toys"):
        retire(three, "one")


def test_the_history_shows_time_models_and_reason(three: sa.Engine) -> None:
    promote(three, "one")
    roll_back(three)
    retire(three, "three")
    found = rows(three, "SELECT action, from_bundle, to_bundle, why, at <= now() FROM ml.promotions LIMIT 3")
    assert found == [
        ("retired", "three", None, "by `pypredict models retire`", True),
        ("rolled back", "one", "three", "by `pypredict models rollback`", True),
        ("promoted", "three", "one", "by `pypredict models promote`", True),
    ]


def test_older_inputs_are_predicted_again_only_on_request(three: sa.Engine, tmp_path: Path) -> None:
    counts = sa.text("SELECT model_id, count(*) FROM ml.prediction GROUP BY model_id ORDER BY model_id")
    with three.begin() as connection:
        assert connection.execute(counts).all() == [(1, 30), (2, 30), (3, 30)]
        assert jobs.rescore(connection, "toys") == 2
    assert worker_for(three, tmp_path).run(until_empty=True) == 60
    with three.begin() as connection:
        assert connection.execute(counts).all() == [(1, 30), (2, 30), (3, 90)]


def register(engine: sa.Engine, bundle: Bundle) -> registry.Model:
    with engine.begin() as connection:
        return registry.register_model(connection, bundle)


def propose(engine: sa.Engine, models: Path, name: str, n_correct: int) -> promotion.Proposal:
    """Publish, propose and register a bundle, without a decision."""
    bundle = publish_bundle(models, name, n_correct=n_correct)
    pointer = read_pointer(models / "current/toys.json")
    return promotion.Proposal(register(engine, bundle), bundle.manifest, pointer)


def test_a_proposal_is_compared_with_a_promotion_at_the_same_time(engine: sa.Engine, tmp_path: Path) -> None:
    good = register(engine, publish_bundle(tmp_path, "good", n_correct=29))
    poor = propose(engine, tmp_path, "poor", 10)
    overlap(engine, lambda one: promotion.promote(one, good), lambda two: promotion.accept(two, poor))
    assert states(engine) == {"good": "serving", "poor": "available"}
    assert rows(engine, "SELECT action, to_bundle FROM ml.promotions LIMIT 1") == [("declined", "poor")]


@pytest.mark.parametrize("n_correct", [10, 29], ids=["declined", "promoted"])
def test_two_processes_decide_on_a_proposal_once(engine: sa.Engine, tmp_path: Path, n_correct: int) -> None:
    good = register(engine, publish_bundle(tmp_path, "good", n_correct=20))
    with engine.begin() as connection:
        promotion.promote(connection, good)
    proposal = propose(engine, tmp_path, "new", n_correct)

    def decide(connection: sa.Connection) -> None:
        why = promotion.objection(connection, proposal)
        if why is None:
            promotion.accept(connection, proposal)
        else:
            promotion.decline(connection, proposal, why)

    overlap(engine, decide, decide)
    assert rows(engine, "SELECT count(*) FROM ml.promotion WHERE proposed_at IS NOT NULL") == [(1,)]


def test_the_second_of_two_promotions_replaces_the_first(three: sa.Engine) -> None:
    def promote_bundle(given: str) -> Callable[[sa.Connection], None]:
        return lambda connection: promotion.promote(connection, find(connection, given))

    overlap(three, promote_bundle("one"), promote_bundle("two"))
    assert states(three) == {"one": "retired", "two": "serving", "three": "retired"}
    found = rows(three, "SELECT from_bundle, to_bundle FROM ml.promotions LIMIT 2")
    assert found == [("one", "two"), ("three", "one")]


def test_a_model_is_retired_once(three: sa.Engine) -> None:
    def retire_three(connection: sa.Connection) -> None:
        promotion.retire(connection, find(connection, "three"))

    with pytest.raises(promotion.PromotionError, match="model 3 does not serve toys"):
        overlap(three, retire_three, retire_three)
    assert rows(three, "SELECT count(*) FROM ml.promotion WHERE action = 'retired'") == [(1,)]
