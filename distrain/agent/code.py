"""The user's code on this host: unpacked, kept by its hash, and copied for a run. Blocks, and so is done aside.

It arrives as the concatenation of its entries, in the order of their paths (bytes): `path NUL kind NUL length NUL
content`. A kind is `f`, a file; `x`, one that can be executed; `l`, a symbolic link, its content the target; `d`, an
empty folder. The hash is of all that, and is computed again from the unpacked files whenever they are used. What is
kept stays as it came: a run works in a copy.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Iterator

from distrain.agent import bootstrap
from distrain.arrival import discard

_BLOCK_BYTES = 1 << 20
_FILE_MODES = {0o600: b"f", 0o700: b"x"}
_NAME_PREFIX = "user-"
_KEPT = 4
"""How many versions of users' code stay in the cache, those that were used last: each change makes another."""


class Refused(Exception):
    """The code cannot be unpacked as it is. The message is a sentence."""


def from_cache(digest: str, cache: str | None, folder: str) -> str | None:
    """Fill the empty `folder` with the code, if it is in `cache`, the folder of distrain's own: "here" or "wanted".

    Returns another sentence if it cannot be written.
    """
    os.umask(0o077)
    if cache is None:
        return "wanted"
    try:
        return "here" if _copy_verified(_tree(cache, digest), folder, digest) else "wanted"
    except OSError as error:
        return trouble(error, folder)


def from_file(path: str, digest: str, cache: str | None, folder: str) -> str:
    """Fill the empty `folder` with the code in the file `path`, which is removed, and keep it in `cache`: "here".

    Returns another sentence if it cannot be done.
    """
    os.umask(0o077)
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.path.getsize(path) else b""
        os.unlink(path)
        if hashlib.sha256(data).hexdigest() != digest:
            return "the user's code arrived damaged; run the command again"
        if cache is not None:
            tree = _tree(cache, digest)
            bootstrap.store(tree, lambda fresh: unpack(data, fresh), lambda there: copy(there) == digest)
            if _copy_verified(tree, folder, digest):
                return "here"
        unpack(data, folder)
        return "here"
    except Refused as refused:
        return str(refused)
    except OSError as error:
        return trouble(error, folder)


def unpack(data: bytes | mmap.mmap, folder: str) -> None:
    """Make what `data` holds in the empty `folder`.

    Raises:
        Refused: something in it would lie outside of `folder`, or lead there, or it is not in this format.
        OSError: it cannot be written.
    """
    root = os.fsencode(folder)
    links = []
    with memoryview(data) as view:
        for path, kind, start, end in _entries(data):
            _make_folders(root, path if kind == b"d" else os.path.dirname(path))
            target = os.path.join(root, path)
            if kind == b"l":
                links.append((target, path, bytes(view[start:end])))
            elif kind != b"d":
                _write(target, view[start:end], 0o700 if kind == b"x" else 0o600)
    for target, _, leads_to in links:  # last, so that nothing is written through one
        try:
            os.symlink(leads_to, target)
        except (FileExistsError, ValueError) as error:
            raise _refused(target, "cannot be a link") from error
    for target, path, leads_to in links:
        if leads_to.startswith(b"/") or not _is_inside(os.path.realpath(target), os.path.realpath(root)):
            raise _refused(path, "is a link out of the user's code")


def copy(tree: str, to: str | None = None) -> str | None:
    """The hash of the code that `tree` holds, which is copied `to` an empty folder meanwhile.

    None: there is no such folder, or it holds what no code does.

    Raises:
        OSError: it cannot be copied.
    """
    source = os.fsencode(tree)
    target = None if to is None else os.fsencode(to)
    digest = hashlib.sha256()
    try:
        found = sorted(_walk(source))
    except OSError:
        return None
    for path, kind in found:
        there = None if target is None else os.path.join(target, path)
        if target is not None:
            _make_folders(target, path if kind == b"d" else os.path.dirname(path))
        if kind == b"l":
            leads_to = os.readlink(os.path.join(source, path))
            digest.update(_head(path, kind, len(leads_to)) + leads_to)
            if there is not None:
                os.symlink(leads_to, there)
        elif kind == b"d":
            digest.update(_head(path, kind, 0))
        elif kind in (b"f", b"x"):
            with open(os.path.join(source, path), "rb", buffering=0) as file:
                digest.update(_head(path, kind, os.fstat(file.fileno()).st_size))
                copied = None if there is None else _create(there, 0o700 if kind == b"x" else 0o600)
                try:
                    while block := file.read(_BLOCK_BYTES):
                        digest.update(block)
                        if copied is not None:
                            _write_all(copied, memoryview(block))
                finally:
                    if copied is not None:
                        os.close(copied)
        else:
            return None
    return digest.hexdigest()


def trouble(error: OSError, folder: str) -> str:
    """The sentence for code that cannot be written to `folder`."""
    why = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the user's code does not fit on the disk of {folder} ({why}); free some space there"
    return f"the user's code cannot be written to {folder} ({why}); set the permissions there, or free some space"


def _tree(cache: str, digest: str) -> str:
    return os.path.join(cache, _NAME_PREFIX + digest)


def _copy_verified(tree: str, folder: str, digest: str) -> bool:
    """Whether `folder` holds the code now. If not, it is empty."""
    with contextlib.suppress(FileNotFoundError):  # somebody replaces or forgets it at this moment
        if copy(tree, folder) == digest:
            os.utime(tree)
            _forget_oldest(os.path.dirname(tree))
            return True
    discard(folder)
    os.mkdir(folder, 0o700)
    return False


def _forget_oldest(cache: str) -> None:
    """Whoever copies from what goes away at this moment finds that it is not whole, and asks for it anew."""
    kept = []
    for entry in os.scandir(cache):
        if entry.name.startswith(_NAME_PREFIX):
            with contextlib.suppress(FileNotFoundError):
                kept.append((entry.stat().st_mtime, entry.path))
    for _, path in sorted(kept)[:-_KEPT]:
        gone = os.path.join(cache, f".old-{os.path.basename(path)}")
        with contextlib.suppress(OSError):
            os.rename(path, gone)
        discard(gone)


def _entries(data: bytes | mmap.mmap) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Path, kind, and the content's start and end in `data`."""
    start = 0
    while start < len(data):
        ends: list[int] = []
        for _ in range(3):
            end = data.find(b"\0", ends[-1] + 1 if ends else start)
            ends.append(end)
            if end < 0:
                raise Refused("the user's code is not in the form that this agent knows; update distrain")
        path, kind, length = data[start : ends[0]], data[ends[0] + 1 : ends[1]], data[ends[1] + 1 : ends[2]]
        content = ends[2] + 1
        if kind not in (b"f", b"x", b"l", b"d") or not length.isdigit() or content + int(length) > len(data):
            raise _refused(path, "is not in the form that this agent knows; update distrain")
        if any(part in (b"", b".", b"..") for part in path.split(b"/")):
            raise _refused(path, "does not lie within the user's code")
        start = content + int(length)
        yield path, kind, content, start


def _walk(root: bytes, folder: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Path and kind of all that is below `root`; the kind is empty for what no code holds."""
    with os.scandir(os.path.join(root, folder)) as listed:
        inside = list(listed)
    if folder and not inside:
        yield folder, b"d"
    for entry in inside:
        path = os.path.join(folder, entry.name)
        status = entry.stat(follow_symlinks=False)
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode) and mode == 0o700:
            yield from _walk(root, path)
        elif stat.S_ISLNK(status.st_mode):
            yield path, b"l"
        else:
            yield path, _FILE_MODES.get(mode, b"") if stat.S_ISREG(status.st_mode) else b""


def _head(path: bytes, kind: bytes, length: int) -> bytes:
    return b"%s\0%s\0%d\0" % (path, kind, length)


def _make_folders(root: bytes, path: bytes) -> None:
    made = root
    for part in filter(None, path.split(b"/")):
        made = os.path.join(made, part)
        try:
            os.mkdir(made, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(made).st_mode):
                raise _refused(path, "is a file and a folder at once") from None


def _create(path: bytes, mode: int) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except (FileExistsError, IsADirectoryError) as error:
        raise _refused(path, "is there twice") from error


def _write(path: bytes, content: memoryview, mode: int) -> None:
    fd = _create(path, mode)
    try:
        _write_all(fd, content)
    finally:
        os.close(fd)


def _write_all(fd: int, content: memoryview) -> None:
    while content:
        content = content[os.write(fd, content) :]


def _is_inside(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder + b"/")


def _refused(path: bytes, why: str) -> Refused:
    return Refused(f"{os.fsdecode(path)!r} {why}; it is not unpacked")
