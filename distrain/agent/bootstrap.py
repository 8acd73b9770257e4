"""The first code on a host: receives the launcher's code, keeps it by its hash, and starts the guard and the agent.

It arrives as text over the connection, so it stands alone and needs the standard library only. It owns the
handshake and the code cache. The launcher writes one JSON line,

    {"protocol": 1, "bundle": "<sha256>", "size": n, "cache": null | "directory"}

and is answered by a line, with a newline before it, so that what a noisy login printed cannot glue to it:

    distrain-agent 1 need                send the `size` bytes of the bundle; another answer follows
    distrain-agent 1 have                the code is here; from now on both directions carry wire frames
    distrain-agent 1 error "sentence"    the end

A bundle is the concatenation, in the order of the paths, of `path NUL length NUL content` for each file. Its hash is
computed again from the unpacked files at each start, so a damaged copy is found and replaced.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

PROTOCOL = 1
_PATIENCE_S = 300
"""A launcher that says nothing for so long is gone, though the connection may seem open for hours."""
_MAX_LINE_BYTES = 65536
_SKIPPED_FOLDER = "__pycache__"


def main() -> None:
    signal.alarm(_PATIENCE_S)
    sys.stdin = open(os.devnull)  # noqa: SIM115  (descriptor 0 is the connection: nobody may read from it by accident)
    try:
        request = json.loads(_read_line())
        digest, size = request["bundle"], request["size"]
        if request["protocol"] != PROTOCOL:
            _refuse(f"this agent speaks protocol {PROTOCOL}, the launcher {request['protocol']}; update distrain")
        cache = _cache(request["cache"])
        tree = os.path.join(cache, digest) if cache else None
        removed_at_end = None
        if not (tree and tree_digest(tree) == digest):
            _answer("need")
            bundle = _read(size)
            if hashlib.sha256(bundle).hexdigest() != digest:
                _refuse("distrain's code arrived damaged; run the command again")
            if not (tree and store(tree, lambda folder: unpack(bundle, folder), lambda at: tree_digest(at) == digest)):
                tree = removed_at_end = _store_privately(bundle, cache)
        _answer("have")
        signal.alarm(0)
    except EOFError:
        sys.exit(0)
    sys.path.insert(0, tree)
    from distrain.agent import guard

    guard.run(tree, cache, removed_at_end)


def tree_digest(tree: str) -> str | None:
    """The hash of the bundle that `tree` is a copy of. None: there is no such folder, or it cannot be read."""
    digest = hashlib.sha256()
    try:
        for path in sorted(_files(tree)):
            with open(os.path.join(tree, path), "rb") as file:
                content = file.read()
            digest.update(f"{path}\0{len(content)}\0".encode())
            digest.update(content)
    except OSError:
        return None
    return digest.hexdigest()


def store(tree: str, fill: Callable[[str], object], is_whole: Callable[[str], bool]) -> bool:
    """Make the folder `tree` by `fill`, whole or not at all. False: it cannot be written there."""
    import shutil  # here, as for most starts the code is there already, and start-up time counts
    import tempfile

    parent = os.path.dirname(tree)
    fresh = None
    try:
        fresh = tempfile.mkdtemp(prefix=".new-", dir=parent)
        fill(fresh)
        try:
            os.rename(fresh, tree)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            # Another agent was faster, or what is there is damaged. A good copy is never moved: it may be in use.
            if not is_whole(tree):
                damaged = tempfile.mkdtemp(prefix=".old-", dir=parent)
                os.rename(tree, os.path.join(damaged, "tree"))
                shutil.rmtree(damaged, ignore_errors=True)
                _rename_unless_there(fresh, tree)
        return is_whole(tree)
    except OSError:
        return False
    finally:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)


def unpack(bundle: bytes, folder: str) -> None:
    start = 0
    while start < len(bundle):
        path_end = bundle.index(b"\0", start)
        length_end = bundle.index(b"\0", path_end + 1)
        content_end = length_end + 1 + int(bundle[path_end + 1 : length_end])
        target = os.path.join(folder, bundle[start:path_end].decode())
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(bundle[length_end + 1 : content_end])
        start = content_end


def _files(tree: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(tree, onerror=refuse):
        if _SKIPPED_FOLDER in folders:
            folders.remove(_SKIPPED_FOLDER)
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), tree).replace(os.sep, "/")


def _rename_unless_there(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _cache(given: str | None) -> str | None:
    """The folder of the code cache, made if need be. None: there is none that is ours alone to write."""
    parent = given or os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    own = os.path.join(parent, "distrain")
    folder = os.path.join(own, "code")
    mask = os.umask(0o077)  # the mode that `makedirs` takes is the last folder's alone
    try:
        os.makedirs(folder, exist_ok=True)
        return folder if _is_ours_alone(own) and _is_ours_alone(folder) else None
    except OSError:
        return None
    finally:
        os.umask(mask)


def _is_ours_alone(folder: str) -> bool:
    """Whoever else could write there could run code as us."""
    status = os.stat(folder)
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _store_privately(bundle: bytes, cache: str | None) -> str:
    """Unpack to a temporary folder, which the guard removes at the end."""
    import shutil
    import tempfile

    try:
        place = tempfile.gettempdir()
    except FileNotFoundError:  # it could write to none of several: the first will tell why
        place = os.environ.get("TMPDIR") or "/tmp"
    folder = None
    try:
        folder = tempfile.mkdtemp(prefix="distrain-code-", dir=place)
        unpack(bundle, folder)
    except OSError as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        where = f"cannot be stored in {place}" if cache is None else f"can be stored neither in {cache} nor in {place}"
        _refuse(
            f"distrain's code ({len(bundle) >> 10} KiB) {where} ({os.strerror(error.errno or 0)}); free some space "
            "there, or point XDG_CACHE_HOME to another place"
        )
    return folder


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        if len(line) > _MAX_LINE_BYTES:
            _refuse("the launcher's first line never ends")
        line += _read(1)
    return line


def _read(size: int) -> bytes:
    """Exactly `size` bytes from the launcher, and none beyond them: the rest are wire frames."""
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _answer(text: str) -> None:
    os.write(1, f"\ndistrain-agent {PROTOCOL} {text}\n".encode())


def _refuse(sentence: str) -> NoReturn:
    _answer("error " + json.dumps(sentence))
    sys.exit(1)


if __name__ == "__main__":
    main()
