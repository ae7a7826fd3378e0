"""Import the trainer's publications: register new bundles as available models, and decide on new proposals.

A refused bundle does not affect other datasets, whatever is wrong with it. It is logged once and tried again later
(`refusals`). Only an outage of the database ends the import.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import sqlalchemy as sa

from bundle import BundleError
from bundle.inference.trial import never
from bundle.messages import printable
from bundle.publish import bundle_path, list_bundles, pointers, read_pointer
from bundle.terminal import log_fields
from bundle.verify import Bundle, open_bundle, open_current
from pypredict import promotion, registry, store
from pypredict.database import OUTAGE
from pypredict.models import Models
from pypredict.refusals import Refusals, explain_refusal, state_of
from pypredict.source import cut_test_set, read_words

log = logging.getLogger(__name__)


class Publications:
    """The bundles and pointers on the models volume, and which of them this process has imported."""

    def __init__(self, engine: sa.Engine, directory: Path, models: Models, stopped: Callable[[], bool] = never) -> None:
        """Import nothing yet. stopped: whether to end an import early."""
        self._engine = engine
        self._directory = directory
        self._models = models
        self._stopped = stopped
        self._imported: dict[Path, str] = {}  # pointers and bundles, with the imported state of the file
        self._refusals = Refusals()

    def import_new(self, dataset: str | None = None) -> list[str]:
        """Register all new bundles, and decide on the new proposals of all datasets or of one.

        Returns one sentence for each refused proposal.
        """
        self.register_new()
        problems = []
        for path in self._list(lambda models: pointers(models).values()):
            if dataset in (None, path.stem):
                problems += self._import_once(path, state_of(path), self._import_proposal)
        return problems

    def forget(self) -> None:
        """Import everything again: after an outage, the database may be without what was imported."""
        self._imported = {}  # an import that runs now still writes to the old one

    def register_new(self) -> None:
        """Register every bundle that is not registered yet, as available."""
        imported = self._imported
        paths = [path for path in self._list(list_bundles) if path not in imported]
        if not paths:
            return
        with self._engine.begin() as connection:
            known = registry.registered_bundles(connection)
        for path in paths:
            if path.name in known:
                imported[path] = ""
            else:
                self._import_once(path, "", self._register)

    def _list(self, find: Callable[[Path], Iterable[Path]]) -> list[Path]:
        """List bundles or pointers; none when the volume cannot be read."""
        try:
            return list(find(self._directory))
        except OSError as error:
            problem = explain_refusal(self._directory, error)
            if self._refusals.add(self._directory, "", problem):
                log.error("no new bundle is found: %s", problem)
            return []

    def _import_once(self, path: Path, state: str, import_path: Callable[[Path], None]) -> list[str]:
        """Import this state of a path once; return the problem, if any."""
        imported = self._imported
        if self._stopped() or imported.get(path) == state:
            return []
        files = state_of(path) + self._state_of_named(path)
        waiting = self._refusals.waiting(path, files)
        if waiting is not None:
            return [waiting]
        try:
            import_path(path)
        except OUTAGE:
            raise
        except Exception as error:  # a bundle of another person may cause any error
            problem = explain_refusal(path, error)
            known = problem in self._refusals.problems()  # the same problem of a bundle and of its pointer
            if self._refusals.add(path, files, problem) and not known and not self._stopped():
                extra = log_fields(bundle=path.name, problem=problem)
                log.error("%s is refused, its dataset does not change: %s", printable(path.name), problem, extra=extra)
            return [problem]
        self._refusals.drop(path)
        imported[path] = state
        return []

    def _state_of_named(self, path: Path) -> str:
        """Describe the bundle that a pointer names; empty when path is no readable pointer."""
        try:
            return state_of(bundle_path(self._directory, read_pointer(path).bundle_id))
        except BundleError:
            return ""

    def _register(self, path: Path) -> None:
        bundle = open_bundle(path)
        with self._engine.begin() as connection:
            model = registry.register_model(connection, bundle)
        extra = log_fields(dataset=model.dataset, model=model.model_id, bundle=path.name)
        log.info("model %d (%s) is available for %s", model.model_id, path.name, model.dataset, extra=extra)

    def _import_proposal(self, path: Path) -> None:
        """Decide on the bundle that a pointer names; load and test the model before it serves."""
        pointer = read_pointer(path)
        named = bundle_path(self._directory, pointer.bundle_id)
        refused = self._refusals.waiting(named, state_of(named))
        if refused is not None:
            raise BundleError(refused)
        bundle = open_current(self._directory, path)
        with self._engine.begin() as connection:
            model = registry.register_model(connection, bundle)
            proposal = promotion.Proposal(model, bundle.manifest, pointer)
            if promotion.is_known(connection, proposal):
                return
            why = promotion.objection(connection, proposal)
            if why is not None:
                promotion.decline(connection, proposal, why)
                return
        put_into_service(
            self._engine, self._models, bundle, model, lambda connection, _: promotion.accept(connection, proposal)
        )


def put_into_service(
    engine: sa.Engine,
    models: Models,
    bundle: Bundle,
    model: registry.Model,
    serve: Callable[[sa.Connection, registry.Model], None],
) -> None:
    """Load and test a model; then, in one transaction, store its test set and vocabulary and let it serve.

    Raises BundleError.
    """
    with models.loaded(model.model_id, bundle):
        chunks, words = list(cut_test_set(bundle)), read_words(bundle)
        with engine.begin() as connection:
            chunk_ids = [store.load_chunk(connection, chunk)[0] for chunk in chunks]
            registry.add_test_set(connection, model.model_id, chunk_ids)
            if words:
                registry.add_vocabulary(connection, bundle.manifest.prep_sha256, words)
            serve(connection, model)
