"""Import the trainer's publications: register new bundles as available models, and decide on new proposals.

A refused bundle does not affect other datasets. It is logged once and tried again after RETRY_SECONDS.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from bundle import BundleError
from bundle.publish import list_bundles, pointers, read_pointer
from bundle.verify import Bundle, open_bundle, open_current
from pypredict import PypredictError, promotion, registry, store
from pypredict.models import Models
from pypredict.source import cut_test_set, read_words

log = logging.getLogger(__name__)

RETRY_SECONDS = 30  # time until a refused bundle is tried again


@dataclass(frozen=True)
class Refusal:
    """A refused file: its version, the reason, and the time of the next try (time.monotonic)."""

    version: bytes
    problem: str
    next_try: float


class Publications:
    """The bundles and pointers on the models volume, and which of them this process has imported."""

    def __init__(self, engine: sa.Engine, directory: Path, models: Models) -> None:
        self._engine = engine
        self._directory = directory
        self._models = models
        self._imported: dict[Path, bytes] = {}  # pointers and bundles, with the imported version
        self._refused: dict[Path, Refusal] = {}

    def import_new(self, dataset: str | None = None) -> list[str]:
        """Register all new bundles, and decide on the new proposals of all datasets or of one.

        Returns one sentence for each refused proposal.
        """
        self.register_new()
        problems = []
        for name, path in pointers(self._directory).items():
            if dataset in (None, name):
                problems += self._import_once(path, _content(path), self._import_proposal)
        return problems

    def register_new(self) -> None:
        """Register every bundle that is not registered yet, as available."""
        paths = [path for path in list_bundles(self._directory) if path not in self._imported]
        if not paths:
            return
        with self._engine.begin() as connection:
            known = registry.registered_bundles(connection)
        for path in paths:
            if path.name in known:
                self._imported[path] = b""
            else:
                self._import_once(path, b"", self._register)

    def _import_once(self, path: Path, version: bytes, import_path: Callable[[Path], None]) -> list[str]:
        """Import this version of a path once; return the problem, if any."""
        if self._imported.get(path) == version:
            return []
        refused = self._refused.get(path)
        is_new = refused is None or refused.version != version
        if refused is not None and not is_new and time.monotonic() < refused.next_try:
            return [refused.problem]
        try:
            import_path(path)
        except (BundleError, PypredictError) as error:
            if is_new:
                log.error("%s is refused, its dataset does not change: %s", path.name, error)
            self._refused[path] = Refusal(version, str(error), time.monotonic() + RETRY_SECONDS)
            return [str(error)]
        self._imported[path] = version
        return []

    def _register(self, path: Path) -> None:
        bundle = open_bundle(path)
        with self._engine.begin() as connection:
            model = registry.register_model(connection, bundle)
        log.info("model %d (%s) is available for %s", model.model_id, path.name, model.dataset)

    def _import_proposal(self, path: Path) -> None:
        """Decide on the bundle that a pointer names; load and test the model before it serves."""
        pointer = read_pointer(path)
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
    models.load(model.model_id, bundle)
    chunks, words = list(cut_test_set(bundle)), read_words(bundle)
    with engine.begin() as connection:
        registry.add_test_set(connection, model.model_id, [store.load_chunk(connection, chunk)[0] for chunk in chunks])
        if words:
            registry.add_vocabulary(connection, bundle.manifest.prep_sha256, words)
        serve(connection, model)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # the import will name the problem
