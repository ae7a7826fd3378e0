"""Known datasets are downloaded completely and with a known hash, from a real server that has faults."""

import hashlib
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyml import PymlError
from pyml.datasets import download
from pyml.datasets.download import DataDirectory, KnownFile, check_names

CONTENT = b"the very content" * 5000
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def give(content: bytes, declared: int | None = None) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content) if declared is None else declared))
        request.end_headers()
        request.wfile.write(content)

    return answer


def fail(code: int) -> Answer:
    return lambda request: request.send_error(code)


def hang(request: http.server.BaseHTTPRequestHandler) -> None:
    time.sleep(10)


class Origin(http.server.ThreadingHTTPServer):
    """Gives one answer of the list per request, later the last one. Keeps the requested paths."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: list[Answer] = [give(CONTENT)]
        self.requested: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/some/mirror"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Origin

    def do_GET(self) -> None:
        self.server.requested.append(self.path)
        self.server.answers[min(len(self.server.requested), len(self.server.answers)) - 1](self)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Origin]:
    served = Origin()
    threading.Thread(target=served.serve_forever, args=[0.01], daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture(autouse=True)
def _small_file_and_short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownFile("mnist.npz", (hashlib.sha256(CONTENT).hexdigest(),))
    monkeypatch.setattr(download, "FILES", {"mnist": (known,)})
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def directory(server: Origin, tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path / "data", server.url)


def files_in(directory: DataDirectory) -> list[str]:
    return [path.relative_to(directory.path).as_posix() for path in directory.path.rglob("*") if path.is_file()]


def test_a_dataset_is_downloaded_into_its_own_folder(server: Origin, directory: DataDirectory) -> None:
    assert directory.download("mnist") == directory.path / "mnist"
    assert (directory.path / "mnist/mnist.npz").read_bytes() == CONTENT
    assert server.requested == ["/some/mirror/mnist.npz"]
    assert files_in(directory) == ["mnist/mnist.npz"]


def test_a_file_with_a_known_hash_is_not_downloaded_again(server: Origin, directory: DataDirectory) -> None:
    directory.download("mnist")
    directory.download("mnist")
    assert len(server.requested) == 1


def test_a_file_with_an_unknown_hash_is_replaced(directory: DataDirectory) -> None:
    path = directory.path / "mnist/mnist.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    directory.download("mnist")
    assert path.read_bytes() == CONTENT


def test_an_existing_file_needs_no_network(tmp_path: Path) -> None:
    path = tmp_path / "mnist/mnist.npz"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    assert DataDirectory(tmp_path, "http://127.0.0.1:9/").find("mnist", "mnist.npz") == path


@pytest.mark.parametrize(
    "first",
    [fail(503), hang, give(CONTENT[:1000], len(CONTENT)), give(CONTENT[:-1] + b"?")],
    ids=["an error", "a hang", "an incomplete answer", "another content"],
)
def test_a_failed_download_is_tried_again(
    server: Origin, directory: DataDirectory, first: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 2)
    server.answers = [first, give(CONTENT)]
    began = time.monotonic()
    directory.download("mnist")
    assert time.monotonic() - began < 8  # the client did not wait for the hang
    assert (directory.path / "mnist/mnist.npz").read_bytes() == CONTENT
    assert len(server.requested) == 2


@pytest.mark.parametrize("answer", [fail(503), hang, give(CONTENT[:1000], len(CONTENT))])
def test_the_error_for_a_failing_origin_says_what_to_do(
    server: Origin, directory: DataDirectory, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is hang:
        monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.3)
    server.answers = [answer]
    with pytest.raises(
        PymlError, match=r"has no known mnist\.npz, and .*--data-dir or PYML_DATA_DIR.*PYML_ORIGIN$"
    ) as e:
        directory.download("mnist")
    assert "\n" not in str(e.value)
    assert len(server.requested) == download.ATTEMPTS
    assert files_in(directory) == []


def test_a_file_that_does_not_exist_is_requested_once(server: Origin, directory: DataDirectory) -> None:
    server.answers = [fail(404)]
    with pytest.raises(PymlError, match="cannot be downloaded"):
        directory.download("mnist")
    assert len(server.requested) == 1


def test_a_download_with_an_unknown_hash_is_not_kept(server: Origin, directory: DataDirectory) -> None:
    server.answers = [give(b"something else")]
    with pytest.raises(PymlError, match=r"has no known mnist\.npz .*nothing was kept"):
        directory.download("mnist")
    assert files_in(directory) == []


def test_a_missing_file_without_network_says_what_to_do(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, "http://127.0.0.1:9/")
    with pytest.raises(PymlError, match=r"Connection refused\); copy the file there .*PYML_DATA_DIR.*PYML_ORIGIN$"):
        directory.find("mnist", "mnist.npz")


def test_an_origin_that_is_not_a_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PymlError, match="cannot be downloaded"):
        DataDirectory(tmp_path, "nowhere").download("mnist")


def test_an_unwritable_data_directory_is_refused_in_one_sentence(server: Origin, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PymlError, match=r"cannot be written .*name a writable directory"):
        DataDirectory(tmp_path / "file", server.url).download("mnist")
    assert server.requested == []


def test_a_killed_download_leaves_no_file(server: Origin, directory: DataDirectory) -> None:
    started = threading.Event()

    def stall(request: http.server.BaseHTTPRequestHandler) -> None:
        give(CONTENT[:50_000], len(CONTENT))(request)
        started.set()
        time.sleep(30)

    server.answers = [stall, give(CONTENT)]
    program = (
        "import sys; from pathlib import Path; from pyml.datasets.download import *;"
        "DataDirectory(Path(sys.argv[1]), sys.argv[2])._download_file('mnist', KnownFile('mnist.npz', ()))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, directory.path, server.url], stderr=subprocess.DEVNULL)
    assert started.wait(60)
    process.kill()
    process.wait()
    assert not (directory.path / "mnist/mnist.npz").exists()
    directory.download("mnist")
    assert (directory.path / "mnist/mnist.npz").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digits", "digits needs no download"),
        ("mnits", "unknown dataset mnits, did you mean mnist"),
        ("x", "known are mnist"),
    ],
)
def test_the_error_for_an_unknown_download_names_the_known(name: str, said: str) -> None:
    with pytest.raises(PymlError, match=said):
        check_names([name])
