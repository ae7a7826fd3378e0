"""Download the files of known datasets into the data directory, and check the sha256 of each file.

    <data directory>/mnist/mnist.npz   fashion_mnist/*.gz   imdb/imdb.npz   imdb/imdb_word_index.json

If the four .gz files are absent, fashion_mnist/fashion_mnist.npz is read; it has the form of mnist.npz.

A download replaces a file by one rename, and only if the new file is complete and has a known hash.
"""

import contextlib
import logging
import os
import socket
import ssl
import sys
import tempfile
import time
import urllib.error
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle.messages import did_you_mean, one_line
from bundle.publish import file_sha256
from bundle.whole_file import fsync
from pyml import PymlError
from pyml.keras_library import start_keras

log = logging.getLogger(__name__)

ATTEMPTS = 3
PAUSE_SECONDS = 1.0  # after the first failure; the double after the second
TIMEOUT_SECONDS = 20
NETWORK_ERRORS = (TimeoutError, ConnectionError, ssl.SSLError)


@dataclass(frozen=True)
class KnownFile:
    """A file of a dataset, and the sha256 of each content that is accepted."""

    name: str
    sha256: tuple[str, ...]


FILES = {
    "mnist": (
        KnownFile(
            "mnist.npz",
            (
                # Keras's file; and a file that was written again from the same arrays
                "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",  # pragma: allowlist secret
                "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64",  # pragma: allowlist secret
            ),
        ),
    ),
    # Keras checks no hash of these files. The repository of Zalando and TensorFlow Datasets have the same hashes.
    "fashion_mnist": (
        KnownFile(
            "train-images-idx3-ubyte.gz",
            ("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",),  # pragma: allowlist secret
        ),
        KnownFile(
            "train-labels-idx1-ubyte.gz",
            ("a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",),  # pragma: allowlist secret
        ),
        KnownFile(
            "t10k-images-idx3-ubyte.gz",
            ("346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",),  # pragma: allowlist secret
        ),
        KnownFile(
            "t10k-labels-idx1-ubyte.gz",
            ("67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",),  # pragma: allowlist secret
        ),
    ),
    "imdb": (
        KnownFile(
            "imdb.npz",
            (
                # Keras's file; and a file that was made from the raw reviews
                "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f",  # pragma: allowlist secret
                "e095627313fe3b3c0b1a6d8deb3c0f98f2ca80c916ae4d827b2bfbf4fc1902f8",  # pragma: allowlist secret
            ),
        ),
        KnownFile(
            "imdb_word_index.json",
            ("027313fe9a320280f3bf0fac5baf58c4a683cf39a7ed9c3d3d3912bde4284cf6",),  # pragma: allowlist secret
        ),
    ),
}


def check_names(datasets: Sequence[str]) -> None:
    """Raise PymlError for a name that is not in FILES."""
    for name in datasets:
        if name == "digits":
            raise PymlError("digits needs no download: scikit-learn contains it")
        if name not in FILES:
            raise PymlError(f"unknown dataset {name}, {did_you_mean(name, FILES)}")


def known_file(dataset: str, name: str) -> KnownFile:
    """Find a file in FILES."""
    return next(file for file in FILES[dataset] if file.name == name)


@dataclass(frozen=True)
class DataDirectory:
    """The directory of the datasets, and the origin: the URL from which known datasets are downloaded."""

    path: Path
    origin: str

    def find(self, dataset: str, name: str) -> Path:
        """Find a file of a known dataset, or download it. Raises PymlError."""
        path = self.path / dataset / name
        if not path.is_file():
            self._download_file(dataset, known_file(dataset, name))
        return path

    def resolve(self, given: str) -> Path:
        """Find a path in this directory, then in the working directory. Raises PymlError that names both paths."""
        candidates = [Path(given)] if Path(given).is_absolute() else [self.path / given, Path(given)]
        for path in candidates:
            if path.exists():
                return path
        raise PymlError(
            f"{' or '.join(map(str, candidates))} does not exist; a relative path is searched in the data directory "
            "(--data-dir or PYML_DATA_DIR), then in the working directory"
        )

    def download(self, dataset: str) -> Path:
        """Download a known dataset. A file that exists and has a known hash is not downloaded again.

        Returns the dataset's directory. Raises PymlError: no network, no space, or a file with an unknown hash.
        """
        for file in FILES[dataset]:
            path = self.path / dataset / file.name
            if path.is_file() and file_sha256(path) in file.sha256:
                log.info("%s exists already", path)
            else:
                self._download_file(dataset, file)
        return self.path / dataset

    def _download_file(self, dataset: str, file: KnownFile) -> None:
        """Download one file into a temporary directory, check its hash, then rename it to its final path."""
        directory, url = self.path / dataset, f"{self.origin.rstrip('/')}/{file.name}"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".tmp-", dir=directory) as aside:
                path = _try_download(url, Path(aside), file, f"{directory} has no known {file.name}")
                fsync(path)
                os.replace(path, directory / file.name)
        except OSError as error:
            raise PymlError(
                f"{file.name} cannot be written to {directory} ({error.strerror}); name a writable directory with "
                "--data-dir or PYML_DATA_DIR"
            ) from error


def _try_download(url: str, directory: Path, file: KnownFile, reason: str) -> Path:
    """Download a file, at most ATTEMPTS times. reason: begins the error's sentence. Raises PymlError, OSError."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            path = _download_once(url, directory, file.name)
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, NETWORK_ERRORS):
                raise  # an error of the disk; Keras raises a plain Exception for most errors of the network
            cause = error.__context__ if isinstance(error.__context__, urllib.error.URLError) else error
            message = one_line(Exception(cause.reason) if isinstance(cause, urllib.error.URLError) else error)
            final = isinstance(cause, ValueError) or (isinstance(cause, urllib.error.HTTPError) and cause.code < 500)
            if attempt < ATTEMPTS and not final:
                log.warning("%s: %s; trying again", url, message)
                time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
                continue
            raise PymlError(
                f"{reason}, and {url} cannot be downloaded ({message}); copy the file there from a machine that is "
                "online, name the directory that has it with --data-dir or PYML_DATA_DIR, or a mirror with PYML_ORIGIN"
            ) from error
        digest = file_sha256(path)
        if digest in file.sha256:
            return path
        path.unlink()
        log.warning("%s: the download has sha256 %s..., not %s...", url, digest[:12], file.sha256[0][:12])
    raise PymlError(f"{url} has no known {file.name} (tried {ATTEMPTS} times); nothing was kept; check PYML_ORIGIN")


def _download_once(url: str, directory: Path, name: str) -> Path:
    """Download a file once. Keras shows its progress on stderr, unless the log is quiet."""
    start_keras()
    import keras

    with _socket_timeout(), contextlib.redirect_stdout(sys.stderr):
        if not log.isEnabledFor(logging.INFO):
            keras.config.disable_interactive_logging()
        return Path(keras.utils.get_file(name, url, cache_dir=str(directory), cache_subdir=""))


@contextlib.contextmanager
def _socket_timeout() -> Iterator[None]:
    """Set a time limit for every wait for the network; urllib has none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
