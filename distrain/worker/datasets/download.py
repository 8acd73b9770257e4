"""Brings a dataset's official files into a folder, once per host.

Owns mirrors, checksums, the lock between tasks of one host, and progress. A file appears in the folder under its name
only when it is whole and its checksum is right. Does not read what the files hold.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from distrain.worker.telemetry import PROGRESS_INTERVAL_S, Events

TIMEOUT_S = 20.0
"""How long a mirror may stay silent before the next one is tried."""

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class RemoteFile:
    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A dataset's files, and the URLs, each ending in `/`, under which all of them are to be had; best first."""

    name: str
    mirrors: tuple[str, ...]
    files: tuple[RemoteFile, ...]


class DownloadFailed(Exception):
    """No mirror gave all files. The text lists each mirror with its reason."""


def is_complete(source: Source, folder: Path) -> bool:
    """Whether every file of `source` is in `folder`."""
    return all((folder / file.name).is_file() for file in source.files)


def download(source: Source, folder: Path, events: Events, timeout_s: float = TIMEOUT_S) -> None:
    """Fetch into `folder` what it lacks of `source`. Of several callers on one host one fetches, the others wait.

    Raises:
        DownloadFailed: no mirror gave all files.
        OSError: `folder` cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder / ".lock", source.name, events):
        progress = _Progress(source, folder, events)
        reasons = []
        for mirror in source.mirrors:
            try:
                for file in source.files:
                    if not (folder / file.name).is_file():
                        _fetch(mirror, file, folder, progress, timeout_s)
                return
            except _MirrorFailed as error:
                reasons.append(f"{urlsplit(mirror).netloc}: {error}")
                events.note(f"{source.name} could not be had from {reasons[-1]}", "warning")
        raise DownloadFailed("; ".join(reasons))


class _MirrorFailed(Exception):
    """This mirror does not give the file; the next may. The text is the reason."""


@contextmanager
def _locked(path: Path, name: str, events: Events) -> Iterator[None]:
    # The kernel lets go of the lock when its holder dies, so that a killed download blocks nobody.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            events.note(f"waiting for another task on this host to download {name}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class _Progress:
    """Tells of bytes as they come, a few times a second."""

    def __init__(self, source: Source, folder: Path, events: Events) -> None:
        self._name = source.name
        self._events = events
        self._total_bytes = sum(file.size_bytes for file in source.files)
        self._kept_bytes = sum(file.size_bytes for file in source.files if (folder / file.name).is_file())

    def partial(self, size_bytes: int) -> None:
        self._tell(self._kept_bytes + size_bytes, PROGRESS_INTERVAL_S)

    def kept(self, size_bytes: int) -> None:
        self._kept_bytes += size_bytes
        self._tell(self._kept_bytes)

    def _tell(self, done_bytes: int, interval_s: float = 0.0) -> None:
        total_bytes = self._total_bytes
        self._events.send_at_most(
            interval_s, "download", name=self._name, done_bytes=done_bytes, total_bytes=total_bytes
        )


def _fetch(mirror: str, file: RemoteFile, folder: Path, progress: _Progress, timeout_s: float) -> None:
    # Under the lock nobody else writes this name; what a killed download left is overwritten.
    partial = folder / f"{file.name}.part"
    try:
        with partial.open("wb") as target:
            digest = hashlib.sha256()
            size_bytes = 0
            for chunk in _body(mirror + file.name, timeout_s):
                target.write(chunk)
                digest.update(chunk)
                size_bytes += len(chunk)
                if size_bytes > file.size_bytes:
                    raise _MirrorFailed(f"{file.name} is longer than its {file.size_bytes} bytes")
                progress.partial(size_bytes)
            if size_bytes < file.size_bytes:
                raise _MirrorFailed(f"{file.name} ended after {size_bytes} of {file.size_bytes} bytes")
            if digest.hexdigest() != file.sha256:
                raise _MirrorFailed(f"{file.name} has a wrong checksum")
            target.flush()
            os.fsync(target.fileno())
        partial.rename(folder / file.name)
    finally:
        partial.unlink(missing_ok=True)
    progress.kept(file.size_bytes)


def _body(url: str, timeout_s: float) -> Iterator[bytes]:
    """The bytes at `url`, as they come. Only what the network does is the mirror's fault; the caller's disk is not."""
    try:
        response: BinaryIO
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            while chunk := response.read1(_CHUNK_BYTES):
                yield chunk
    except urllib.error.HTTPError as error:
        with error:
            raise _MirrorFailed(f"HTTP {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise _MirrorFailed(f"silent for {timeout_s:g} s") from error
    except urllib.error.URLError as error:
        raise _MirrorFailed(str(getattr(error.reason, "strerror", None) or error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorFailed(str(error) or type(error).__name__) from error
