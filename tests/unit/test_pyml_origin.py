"""Known data sets are fetched whole and with a known hash, or not at all; from a real server that misbehaves."""

import hashlib
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyml import PymlError, origin
from pyml.config import Settings
from pyml.origin import KnownFile, check_names, download, find_file

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
    """Answers the first requests as told, later ones as the last; keeps the paths asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: list[Answer] = [give(CONTENT)]
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/some/mirror"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Origin

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.answers[min(len(self.server.asked), len(self.server.answers)) - 1](self)

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
def _small_and_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownFile("mnist.npz", (hashlib.sha256(CONTENT).hexdigest(),))
    monkeypatch.setattr(origin, "FILES", {"mnist": (known,)})
    monkeypatch.setattr(origin, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(origin, "TIMEOUT_SECONDS", 0.3)


@pytest.fixture
def settings(server: Origin, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", origin=server.url)


def left_in(settings: Settings) -> list[str]:
    return [path.relative_to(settings.data_dir).as_posix() for path in settings.data_dir.rglob("*") if path.is_file()]


def test_a_data_set_is_fetched_from_the_origin_into_a_folder_of_its_name(server: Origin, settings: Settings) -> None:
    assert download("mnist", settings) == settings.data_dir / "mnist"
    assert (settings.data_dir / "mnist/mnist.npz").read_bytes() == CONTENT
    assert server.asked == ["/some/mirror/mnist.npz"]
    assert left_in(settings) == ["mnist/mnist.npz"]


def test_what_is_there_with_a_known_hash_is_not_fetched_again(server: Origin, settings: Settings) -> None:
    download("mnist", settings)
    download("mnist", settings)
    assert len(server.asked) == 1


def test_what_is_there_with_an_unknown_hash_is_replaced(settings: Settings) -> None:
    path = settings.data_dir / "mnist/mnist.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    download("mnist", settings)
    assert path.read_bytes() == CONTENT


def test_a_file_that_is_there_needs_no_network(tmp_path: Path) -> None:
    path = tmp_path / "mnist/mnist.npz"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    assert find_file("mnist", "mnist.npz", Settings(data_dir=tmp_path, origin="http://127.0.0.1:9/")) == path


@pytest.mark.parametrize(
    "first",
    [fail(503), hang, give(CONTENT[:1000], len(CONTENT)), give(CONTENT[:-1] + b"?")],
    ids=["an error", "a hang", "a torn transfer", "another content"],
)
def test_after_a_failure_it_is_tried_again_from_the_start(server: Origin, settings: Settings, first: Answer) -> None:
    server.answers = [first, give(CONTENT)]
    began = time.monotonic()
    download("mnist", settings)
    assert time.monotonic() - began < 8  # a hang was not waited for
    assert (settings.data_dir / "mnist/mnist.npz").read_bytes() == CONTENT
    assert len(server.asked) == 2


@pytest.mark.parametrize("answer", [fail(503), hang, give(CONTENT[:1000], len(CONTENT))])
def test_an_origin_that_keeps_failing_is_one_sentence_with_what_to_do(
    server: Origin, settings: Settings, answer: Answer
) -> None:
    server.answers = [answer]
    with pytest.raises(PymlError, match=r"no known mnist\.npz is in .*--data-dir or PYML_DATA_DIR.*PYML_ORIGIN$") as e:
        download("mnist", settings)
    assert "\n" not in str(e.value)
    assert len(server.asked) == origin.ATTEMPTS
    assert left_in(settings) == []


def test_what_is_not_there_is_not_asked_for_again(server: Origin, settings: Settings) -> None:
    server.answers = [fail(404)]
    with pytest.raises(PymlError, match="does not give it"):
        download("mnist", settings)
    assert len(server.asked) == 1


def test_another_content_than_known_is_not_kept(server: Origin, settings: Settings) -> None:
    server.answers = [give(b"something else")]
    with pytest.raises(PymlError, match=r"serves no known mnist\.npz .*nothing was kept"):
        download("mnist", settings)
    assert left_in(settings) == []


def test_offline_and_absent_is_one_sentence_with_what_to_do(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, origin="http://127.0.0.1:9/")
    with pytest.raises(PymlError, match=r"Connection refused\); copy it there .*PYML_DATA_DIR.*PYML_ORIGIN$"):
        find_file("mnist", "mnist.npz", settings)


def test_an_origin_that_is_no_address_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(PymlError, match="does not give it"):
        download("mnist", Settings(data_dir=tmp_path, origin="nowhere"))


def test_a_data_directory_that_cannot_be_written_is_one_sentence(server: Origin, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PymlError, match=r"cannot be written .*name a writable directory"):
        download("mnist", Settings(data_dir=tmp_path / "file", origin=server.url))
    assert server.asked == []


def test_a_fetch_killed_midway_leaves_no_file_and_the_next_succeeds(server: Origin, settings: Settings) -> None:
    started = threading.Event()

    def stall(request: http.server.BaseHTTPRequestHandler) -> None:
        give(CONTENT[:50_000], len(CONTENT))(request)
        started.set()
        time.sleep(30)

    server.answers = [stall, give(CONTENT)]
    program = (
        "import sys; from pathlib import Path; from pyml.config import Settings; from pyml.origin import *;"
        "fetch_file('mnist', KnownFile('mnist.npz', ()), Settings(data_dir=Path(sys.argv[1]), origin=sys.argv[2]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, settings.data_dir, server.url], stderr=subprocess.DEVNULL
    )
    assert started.wait(60)
    process.kill()
    process.wait()
    assert not (settings.data_dir / "mnist/mnist.npz").exists()
    download("mnist", settings)
    assert (settings.data_dir / "mnist/mnist.npz").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digits", "digits needs no download"),
        ("mnits", "unknown data set mnits, did you mean mnist"),
        ("x", "known are mnist"),
    ],
)
def test_a_name_that_cannot_be_downloaded_is_explained(name: str, said: str) -> None:
    with pytest.raises(PymlError, match=said):
        check_names([name])
