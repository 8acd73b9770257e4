"""Downloading, against a real HTTP server on loopback that behaves well, badly, or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from distrain.worker.datasets.download import DownloadFailed, RemoteFile, Source, download, is_complete
from distrain.worker.telemetry import Events

CONTENT = {"a.gz": bytes(range(256)) * 1000, "b.gz": b"small"}
FILES = tuple(RemoteFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in CONTENT.items())


class Server(ThreadingHTTPServer):
    """One server whose first path segment says how it behaves. `requests` lists the paths that were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[str] = []
        self.ended = threading.Event()

    def mirror(self, manner: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{manner}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        _, manner, name = self.path.split("/")
        content = CONTENT[name]
        if manner == "absent":
            self.send_error(404)
            return
        body = {
            "truncated": content[:-1],
            "wrong": bytes(len(content)),
            "longer": content + b"!",
            "half": content if name == "a.gz" else content[:-1],
        }.get(manner, content)
        self.send_response(200)
        if manner != "unsized":
            self.send_header("Content-Length", str(len(content) + 1 if manner == "longer" else len(content)))
        self.end_headers()
        if manner == "stalled":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.server.ended.wait()
        else:
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in [*os.environ]:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    thread.join()
    server.server_close()


class Told(Events):
    """Keeps what is told."""

    def __init__(self, on_note: Callable[[], object] = lambda: None) -> None:
        super().__init__(None)
        self._all: list[tuple[str, dict[str, Any]]] = []
        self._on_note = on_note

    def send(self, kind: str, **data: Any) -> None:
        self._all.append((kind, data))
        if kind == "note":
            self._on_note()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for told, data in self._all if told == kind]


@pytest.fixture
def events() -> Told:
    return Told()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def source(*mirrors: str) -> Source:
    return Source("letters", mirrors, FILES)


def test_files_arrive_whole_and_progress_is_told(server, tmp_path, events) -> None:
    folder = tmp_path / "new" / "letters"
    wanted = source(server.mirror("good"))
    assert not is_complete(wanted, folder)
    download(wanted, folder, events)
    assert is_complete(wanted, folder)
    assert contents(folder) == CONTENT
    total = sum(map(len, CONTENT.values()))
    told = events.of("download")
    assert all(data["name"] == "letters" and data["total_bytes"] == total for data in told)
    done = [data["done_bytes"] for data in told]
    assert done == sorted(done)
    assert done[-1] == total
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_server_that_does_not_tell_the_length_is_fine(server, tmp_path, events) -> None:
    download(source(server.mirror("unsized")), tmp_path, events)
    assert contents(tmp_path) == CONTENT


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("truncated", "a.gz ended after 255999 of 256000 bytes"),
        ("wrong", "a.gz has a wrong checksum"),
        ("longer", "a.gz is longer than its 256000 bytes"),
        ("absent", "HTTP 404 Not Found"),
        ("stalled", "silent for 0.2 s"),
    ],
)
def test_the_next_mirror_is_tried(server, tmp_path, events, manner: str, reason: str) -> None:
    download(source(server.mirror(manner), server.mirror("good")), tmp_path, events, timeout_s=0.2)
    assert contents(tmp_path) == CONTENT
    notes = events.of("note")
    assert [note["level"] for note in notes] == ["warning"]
    assert reason in notes[0]["message"]


def test_what_a_failing_mirror_gave_right_is_kept(server, tmp_path, events) -> None:
    download(source(server.mirror("half"), server.mirror("good")), tmp_path, events)
    assert contents(tmp_path) == CONTENT
    assert server.requests == ["/half/a.gz", "/half/b.gz", "/good/b.gz"]


def test_a_refused_connection_and_all_other_reasons_are_listed_and_nothing_is_left(server, tmp_path, events) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections to it are refused
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(DownloadFailed) as failure:
            download(source(f"http://{nobody}/", server.mirror("wrong")), tmp_path, events)
    assert f"{nobody}: Connection refused" in str(failure.value)
    assert "a.gz has a wrong checksum" in str(failure.value)
    assert contents(tmp_path) == {}


def test_several_tasks_download_once_and_the_others_wait_and_say_so(server, tmp_path) -> None:
    wanted = source(server.mirror("good"))
    holder = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(holder, fcntl.LOCK_EX)
    waiting = threading.Semaphore(0)
    events = Told(waiting.release)
    tasks = [threading.Thread(target=download, args=(wanted, tmp_path, events)) for _ in range(3)]
    for task in tasks:
        task.start()
    for _ in tasks:
        assert waiting.acquire(timeout=20)
    assert server.requests == []
    os.close(holder)
    for task in tasks:
        task.join(20)
        assert not task.is_alive()
    assert contents(tmp_path) == CONTENT
    assert server.requests == ["/good/a.gz", "/good/b.gz"]
    assert [note["message"] for note in events.of("note")] == [
        "waiting for another task on this host to download letters"
    ] * 3


def test_what_a_killed_download_left_is_overwritten(server, tmp_path, events) -> None:
    (tmp_path / "a.gz.part").write_bytes(b"x" * 999_999)
    download(source(server.mirror("good")), tmp_path, events)
    assert contents(tmp_path) == CONTENT


def test_a_full_disk_is_not_the_mirrors_fault(server, tmp_path, events) -> None:
    (tmp_path / "a.gz.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        download(source(server.mirror("good"), server.mirror("good")), tmp_path, events)
    assert server.requests == ["/good/a.gz"]
    assert contents(tmp_path) == {}
