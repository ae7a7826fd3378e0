"""From a source into the database: find out how its data set is prepared, then one transaction per chunk."""

import logging
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import sqlalchemy as sa
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bundle.manifest import MANIFEST_FILE
from bundle.publish import pointers
from bundle.verify import Bundle, open_bundle, open_current
from pypredict import store
from pypredict.chunk import Chunk
from pypredict.source import Preparation, SourceError, read_words

log = logging.getLogger(__name__)


def bundle_at(path: Path) -> Bundle | None:
    """Open the bundle, or the pointer to one, at path; None when there is neither. Raises BundleError."""
    if path.suffix == ".json":
        return open_current(path.parent.parent, path)
    return open_bundle(path) if (path / MANIFEST_FILE).is_file() else None


def preparation(engine: sa.Engine, models: Path, dataset: str) -> Preparation:
    """Find how a data set's inputs are prepared: as its serving model says, or the one that is published.

    Raises SourceError when there is no model yet, BundleError when the published one cannot be trusted.
    """
    with engine.begin() as connection:
        serving = store.serving_manifest(connection, dataset)
    if serving is not None:
        return Preparation(*serving)
    path = pointers(models).get(dataset)
    if path is None:
        raise SourceError(f"no model of data set {dataset} is known, so inputs cannot be prepared; train one first")
    bundle = open_current(models, path)
    return Preparation(bundle.manifest, read_words(bundle))


def load_chunks(engine: sa.Engine, name: str, chunks: Iterator[Chunk], total: int | None) -> list[int]:
    """Store chunks, each in its own transaction, with a progress bar on a terminal; return their numbers."""
    loaded = known = 0
    chunk_ids = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(name, total=total)
        for chunk in _hash_ahead(chunks):
            with engine.begin() as connection:
                chunk_id, new = store.load_chunk(connection, chunk)
            chunk_ids.append(chunk_id)
            loaded, known = loaded + new * len(chunk.arrays), known + (not new) * len(chunk.arrays)
            progress.advance(task, len(chunk.arrays))
    log.info("%s: %d inputs loaded, %d were there already", name, loaded, known)
    return chunk_ids


def _hash_ahead(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Give the chunks, each while a thread hashes the next."""
    with ThreadPoolExecutor(1, "hash") as thread:
        ahead: tuple[Chunk, Future[bytes]] | None = None
        for chunk in chunks:
            hashed = thread.submit(getattr, chunk, "content_sha256")
            if ahead is not None:
                ahead[1].result()
                yield ahead[0]
            ahead = chunk, hashed
        if ahead is not None:
            ahead[1].result()
            yield ahead[0]
