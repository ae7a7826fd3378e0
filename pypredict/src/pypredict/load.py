"""Load sources into the database: find the preparation of the dataset, then store one chunk per transaction."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from bundle import BundleError
from bundle.manifest import MANIFEST_FILE
from bundle.messages import printable, shorten
from bundle.publish import bundle_path, pointers
from bundle.terminal import progress_bar
from bundle.verify import Bundle, open_bundle, open_current
from bundle.vocabulary import read_vocabulary
from pypredict import PypredictError, listen, registry, store
from pypredict.chunk import Chunk
from pypredict.labels import Labelling
from pypredict.source import (
    Preparation,
    SourceError,
    TextColumns,
    cut_test_set,
    read_source,
)

log = logging.getLogger(__name__)

FIND_SOURCE = sa.text("SELECT source FROM ml.chunk WHERE chunk_id = :chunk_id")
SHOWN = 3  # sources in a message
WRITERS = 4  # connections that store at the same time; docs/benchmarks.md shows their effect


@dataclass(frozen=True)
class LoadOptions:
    """How to load sources. A bundle needs no dataset and no labelling, because its manifest has both."""

    dataset: str | None
    columns: TextColumns
    labelling: Labelling
    models: Path


def load_sources(engine: sa.Engine, sources: Sequence[Path], options: LoadOptions) -> None:
    """Load every source that can be loaded. Raises PypredictError with one reason for each other source."""
    problems: list[str] = []
    for path in sources:
        try:
            _load_source(engine, path, options)
        except (PypredictError, BundleError) as error:
            problems.append(str(error))
    options.labelling.warn_of_unused()
    if problems:
        raise PypredictError("; ".join(dict.fromkeys(problems)))


def _load_source(engine: sa.Engine, path: Path, options: LoadOptions) -> None:
    bundle = bundle_at(path)
    if bundle is not None:
        if options.labelling != Labelling():
            raise PypredictError(
                f"{path} is a bundle, and its test set has labels already; leave out --label-map and --ignore-labels"
            )
        load_chunks(engine, bundle.manifest.bundle_id, cut_test_set(bundle), bundle.manifest.metrics.n)
        return
    if options.dataset is None:
        raise PypredictError(f"{path} is not a bundle, so name its dataset: --dataset NAME")
    how = preparation(engine, options.models, options.dataset)
    load_chunks(engine, str(path), read_source(path, how, options.columns, options.labelling), None)


def bundle_at(path: Path) -> Bundle | None:
    """Open the bundle at path, or the bundle of the pointer at path; None when it is neither. Raises BundleError."""
    if path.suffix == ".json":
        return open_current(path.parent.parent, path)
    return open_bundle(path) if os.path.isfile(path / MANIFEST_FILE) else None  # noqa: PTH113 - a name may be too long


def preparation(engine: sa.Engine, models: Path, dataset: str) -> Preparation:
    """Find the preparation of a dataset: that of its serving model, else that of its published model.

    Raises SourceError when there is no model yet, and BundleError when the published bundle is invalid.
    """
    with engine.begin() as connection:
        serving = registry.serving_manifest(connection, dataset)
    if serving is not None:
        return Preparation(serving, read_vocabulary(Bundle(bundle_path(models, serving.bundle_id), serving)))
    proposed = pointers(models)
    path = proposed.get(dataset)
    if path is None:
        known = ", ".join(proposed) or "none"
        raise SourceError(
            f"dataset {shorten(dataset)} has no model; datasets with a model: {known}; train one: pyml train"
        )
    bundle = open_current(models, path)
    return Preparation(bundle.manifest, read_vocabulary(bundle))


@dataclass(frozen=True)
class Stored:
    """A chunk in the database: its number, its count of inputs, and its first source if it was stored before."""

    chunk_id: int
    n_inputs: int
    known_as: str | None


def load_chunks(engine: sa.Engine, name: str, chunks: Iterator[Chunk], total: int | None) -> list[int]:
    """Store chunks, each in its own transaction, with a progress bar on a terminal; return their numbers.

    WRITERS connections share the work: the server does most of it, and one connection uses one of its cores. After an
    error, the chunks that are already submitted are stored, and the load ends. A second load stores only the rest.
    """
    with progress_bar() as progress, ThreadPoolExecutor(WRITERS, "load") as threads:
        task = progress.add_task(printable(name), total=total)
        stored: list[Stored] = []
        submitted: deque[Future[Stored]] = deque()

        def wait_for_oldest() -> None:
            stored.append(submitted.popleft().result())
            progress.advance(task, stored[-1].n_inputs)

        for chunk in chunks:
            if len(submitted) > WRITERS:  # one chunk waits already: do not read more of the source into memory
                wait_for_oldest()
            submitted.append(threads.submit(_store, engine, chunk))
        while submitted:
            wait_for_oldest()
    log.info("%s: %s", name, _summarize(stored))
    return [chunk.chunk_id for chunk in stored]


def _summarize(stored: list[Stored]) -> str:
    """Say how many inputs are new, how many were there already, and the first sources of those."""
    loaded = sum(chunk.n_inputs for chunk in stored if chunk.known_as is None)
    there = sum(chunk.n_inputs for chunk in stored) - loaded
    sources = list(dict.fromkeys(chunk.known_as for chunk in stored if chunk.known_as is not None))
    more = f" and {len(sources) - SHOWN} more sources" if len(sources) > SHOWN else ""
    under = f", stored as {', '.join(sources[:SHOWN])}{more}" if sources else ""
    return f"{loaded} inputs loaded, {there} were there already{under}"


def _store(engine: sa.Engine, chunk: Chunk) -> Stored:
    """Store one chunk, or find it stored."""
    with engine.begin() as connection:
        chunk_id, new = store.load_chunk(connection, chunk)
        known_as = None if new else connection.execute(FIND_SOURCE, {"chunk_id": chunk_id}).scalar_one()
    if new:
        listen.notify(engine, chunk_id)
    return Stored(chunk_id, len(chunk.arrays), known_as)
