"""From a source into the database: find out how its dataset is prepared, then one transaction per chunk."""

import logging
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bundle import BundleError
from bundle.manifest import MANIFEST_FILE
from bundle.publish import bundle_path, pointers
from bundle.verify import Bundle, open_bundle, open_current
from pypredict import PypredictError, registry, store
from pypredict.chunk import Chunk
from pypredict.labels import Labelling
from pypredict.source import (
    Preparation,
    SourceError,
    TextColumns,
    cut_test_set,
    read_known_words,
    read_source,
)

log = logging.getLogger(__name__)

FIND_SOURCE = sa.text("SELECT source FROM ml.chunk WHERE chunk_id = :chunk_id")
SHOWN = 3  # sources in a message
WRITERS = 4  # connections that store at the same time; what they bring stands in docs/benchmarks.md


@dataclass(frozen=True)
class LoadOptions:
    """What sources are loaded as; dataset and labelling do not go with a bundle, which says both itself."""

    dataset: str | None
    columns: TextColumns
    labelling: Labelling
    models: Path


def load_sources(engine: sa.Engine, sources: Sequence[Path], options: LoadOptions) -> None:
    """Load every source that can be loaded. Raises PypredictError that names the others, each with its reason."""
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
                f"{path} is a bundle, whose test set has its labels; leave out --label-map and --ignore-labels"
            )
        load_chunks(engine, bundle.manifest.bundle_id, cut_test_set(bundle), bundle.manifest.metrics.n)
        return
    if options.dataset is None:
        raise PypredictError(f"{path} is no bundle, so its dataset must be named: --dataset NAME")
    how = preparation(engine, options.models, options.dataset)
    load_chunks(engine, str(path), read_source(path, how, options.columns, options.labelling), None)


def bundle_at(path: Path) -> Bundle | None:
    """Open the bundle, or the pointer to one, at path; None when there is neither. Raises BundleError."""
    if path.suffix == ".json":
        return open_current(path.parent.parent, path)
    return open_bundle(path) if os.path.isfile(path / MANIFEST_FILE) else None  # noqa: PTH113 - a name may be too long


def preparation(engine: sa.Engine, models: Path, dataset: str) -> Preparation:
    """Find how a dataset's inputs are prepared: as its serving model says, or the one that is published.

    Raises SourceError when there is no model yet, BundleError when the published one cannot be trusted.
    """
    with engine.begin() as connection:
        serving = registry.serving_manifest(connection, dataset)
    if serving is not None:
        return Preparation(serving, read_known_words(bundle_path(models, serving.bundle_id), serving))
    proposed = pointers(models)
    path = proposed.get(dataset)
    if path is None:
        known = ", ".join(proposed) or "none"
        raise SourceError(f"no model of dataset {dataset} is known, known are {known}; train one first: pyml train")
    bundle = open_current(models, path)
    return Preparation(bundle.manifest, read_known_words(bundle.path, bundle.manifest))


@dataclass(frozen=True)
class Stored:
    """A chunk in the database: its number, how many inputs it holds, and under which source it was there already."""

    chunk_id: int
    n_inputs: int
    known_as: str | None


def load_chunks(engine: sa.Engine, name: str, chunks: Iterator[Chunk], total: int | None) -> list[int]:
    """Store chunks, each in its own transaction, with a progress bar on a terminal; return their numbers.

    WRITERS connections share the work, since most of it is the server's and one connection keeps one of its cores
    busy. An error ends the load after the chunks that are on their way; loading again stores only what is missing.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress,
        ThreadPoolExecutor(WRITERS, "load") as threads,
    ):
        task = progress.add_task(name, total=total)
        stored: list[Stored] = []
        on_the_way: deque[Future[Stored]] = deque()

        def settle() -> None:
            stored.append(on_the_way.popleft().result())
            progress.advance(task, stored[-1].n_inputs)

        for chunk in chunks:
            if len(on_the_way) > WRITERS:  # one more waits, and the source is read no further
                settle()
            on_the_way.append(threads.submit(_store, engine, chunk))
        while on_the_way:
            settle()
    log.info("%s: %s", name, _count(stored))
    return [chunk.chunk_id for chunk in stored]


def _count(stored: list[Stored]) -> str:
    """Say how many inputs are new, and where the others are, which keep the name under which they came first."""
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
    return Stored(chunk_id, len(chunk.arrays), known_as)
