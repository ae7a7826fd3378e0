"""Waiting for new chunks: a daemon is found while it listens, a notification wakes it, and without one it polls."""

import io
import logging
import math
import os
import resource
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg2
import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import fake_predict, publish_bundle
from support.workers import daemon, listens, load, rows, scalar, until, worker_for

from bundle.terminal import StderrHandler
from pypredict import listen
from pypredict.database import readable
from pypredict.listen import DAEMON, Listener, Stop


def test_only_a_running_daemon_is_found(engine: sa.Engine, db: Database, tmp_path: Path) -> None:
    publish_bundle(tmp_path)
    with closing(psycopg2.connect(db.url("reader"), application_name=DAEMON)), ThreadPoolExecutor(4) as threads:
        assert not any(threads.map(lambda _: listens(engine), range(200)))
        with daemon(engine, tmp_path):
            until(lambda: listens(engine))
            assert all(threads.map(lambda _: listens(engine), range(200)))


def test_a_new_chunk_wakes_a_waiting_worker_at_once(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    waiting, woken = threading.Event(), threading.Event()
    wait = Listener.wait

    def note_and_wait(self: Listener, seconds: float) -> bool:
        if seconds > 1:  # not the look for an urgent chunk
            waiting.set()
        return wait(self, seconds)

    monkeypatch.setattr(Listener, "wait", note_and_wait)

    def predict(arrays: np.ndarray) -> np.ndarray:
        woken.set()
        return fake_predict(arrays)

    with daemon(engine, tmp_path, predict, poll_seconds=120):
        assert waiting.wait(20)
        load(engine, bundle, np.ones((1, 4, 4, 1), np.uint8))
        assert woken.wait(20)


def test_a_worker_that_is_woken_plans_and_looks_for_models_after_the_job(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    stop, events = Stop(), []

    def predict(arrays: np.ndarray) -> np.ndarray:
        events.append("predict")
        return fake_predict(arrays)

    worker = worker_for(engine, tmp_path, predict, stop=stop)
    plan, wait = worker._planner.plan, worker._listener.wait

    def note_plan(connection: sa.Connection) -> int:
        events.append("plan")
        return plan(connection)

    def store_and_wait(seconds: float) -> bool:
        if "predict" in events:
            stop.set()
            return wait(0)
        worker._next_check = -math.inf  # it is time for a look
        load(engine, bundle, np.ones((1, 4, 4, 1), np.uint8))
        events.clear()
        return wait(120)

    monkeypatch.setattr(worker._planner, "plan", note_plan)
    monkeypatch.setattr(worker._listener, "wait", store_and_wait)
    worker.run(until_empty=False)
    assert events[:2] == ["predict", "plan"]


@pytest.mark.parametrize("said", ["", "0", "-1", "7", "9" * 18, "9" * 19, "1 OR true", "٣", "x" * 7000])
def test_a_notification_of_a_stranger_only_wakes(
    engine: sa.Engine, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    stop = Stop()
    worker = worker_for(engine, tmp_path, stop=stop)
    worker.on_written = lambda _: stop.set()
    wait = worker._listener.wait

    def store_and_wait(seconds: float) -> bool:
        worker._listener.chunk_id = 99
        monkeypatch.setattr(listen, "NOTIFY", sa.text("SELECT 1"))
        load(engine, bundle, np.ones((1, 4, 4, 1), np.uint8))
        with closing(psycopg2.connect(db.url("reader"))) as stranger, stranger, stranger.cursor() as cursor:
            cursor.execute("SELECT pg_notify('ml_chunk', %s)", (said,))
        assert wait(120)
        assert worker._listener.chunk_id == (int(said) if said in ("0", "7", "9" * 18) else 0)
        return True

    monkeypatch.setattr(worker._listener, "wait", store_and_wait)
    worker.run(until_empty=False)
    assert rows(engine, "SELECT attempt, state FROM ml.job WHERE chunk_id = 2") == [(1, "done")]


def test_a_signal_while_a_line_is_written_stops_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()

    class Terminal(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, line: object) -> int:  # a line of the log would be a second write inside this one
            if not stop.is_set():
                stop.on_signal(signal.SIGTERM, None)
            return len(memoryview(line))  # type: ignore[arg-type]

    terminal = io.TextIOWrapper(io.BufferedWriter(Terminal()), line_buffering=True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(listen.log, "handlers", [StderrHandler()])
    monkeypatch.setattr(listen.log, "level", logging.INFO)
    terminal.write("a line\n")
    assert stop.is_set()


def test_of_several_notifications_none_is_obeyed(engine: sa.Engine) -> None:
    listener = Listener(engine, Stop())
    listener.open()
    for numbers, chunk_id in (((5,), 5), ((6, 7), 0), ((8,), 8)):
        with engine.begin() as connection:
            for number in numbers:
                connection.execute(listen.NOTIFY, {"chunk_id": number})
        assert listener.wait(20)
        assert listener.chunk_id == chunk_id
    listener.close()


def test_a_wait_takes_any_file_number() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(most[0], 2_001), most[1]))
    stop = Stop()
    os.dup2(stop.fileno(), 2_000)
    try:
        with open(2_000, closefd=False) as high:
            assert readable([high], 0) == []
            stop.set()
            assert readable([high], 1e12) == [high]  # more seconds than poll(2) takes
    finally:
        os.close(2_000)
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


def test_a_worker_polls_without_notifications(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    monkeypatch.setattr(listen, "NOTIFY", sa.text("NOTIFY somebody_else"))
    stop = Stop()

    def predict(arrays: np.ndarray) -> np.ndarray:
        stop.set()
        return fake_predict(arrays)

    worker = worker_for(engine, tmp_path, predict, stop=stop)
    thread = threading.Thread(target=worker.run, kwargs={"until_empty": False})
    thread.start()
    load(engine, bundle, np.ones((1, 4, 4, 1), np.uint8))
    thread.join(30)
    assert not thread.is_alive()
    assert scalar(engine, "SELECT count(*) FROM ml.outcome WHERE NOT in_test_set") == 1
