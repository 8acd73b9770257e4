"""The user's code as it travels to hosts: the files of a folder, less what is ignored, named by their hash.

Owns which files travel and their format; how they get there is the session's, what becomes of them the agent's.

Rules are those of git: every `.gitignore` and, after it, `.distrainignore` of the folder, of the folders in it, and of
those above it in the same git repository. Nobody's code are version control's own folders, compiled Python, virtual
environments, node_modules and run directories; and sockets, pipes and devices, which no copy can be made of.

Format: for each file, in the order of the paths' bytes, `path NUL kind NUL length NUL content`. The kinds: "f" a file,
"x" one that may be executed, "l" a symbolic link, whose content is its target inside the folder, "d" an empty folder.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from distrain.errors import UsageError

MAX_BYTES = 256 * 1024 * 1024
IGNORE_FILES = (".gitignore", ".distrainignore")

_NEVER = frozenset((".git", ".hg", ".svn", "__pycache__", "node_modules"))
_VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
_RUN_DIRECTORY = frozenset(("plan.json", "events.jsonl"))
_REMEDY = f"or keep it here with a line in {IGNORE_FILES[1]} or {IGNORE_FILES[0]}"
_MOST_TOLD = 10


@dataclass(frozen=True)
class Code:
    """`digest` is the SHA-256 of `data`, in hexadecimal."""

    digest: str
    data: bytes


def collect(root: Path, skip: Collection[Path] = ()) -> Code:
    """The files in `root`, without those in the folders `skip`. The same files make the same Code, anywhere.

    Raises:
        UsageError: `root` is no folder, a file cannot be read, links lead out of it, or it is more than MAX_BYTES.
    """
    entries = _Tree(root, skip).entries()
    size = sum(entry.size for entry in entries)
    if size > MAX_BYTES:
        raise UsageError(_too_large(root, size, entries))
    data = io.BytesIO()
    for entry in sorted(entries, key=lambda entry: os.fsencode(entry.path)):
        try:
            content = entry.read()
        except FileNotFoundError:  # it has gone since, as if it had never been
            continue
        except OSError as error:
            raise _unreadable(entry.path, error) from error
        data.write(b"%b\0%b\0%d\0" % (os.fsencode(entry.path), entry.kind.encode(), len(content)))
        data.write(content)
    return Code(hashlib.sha256(data.getbuffer()).hexdigest(), data.getvalue())


@dataclass(frozen=True)
class _Entry:
    """`path` is relative to the root, `place` where it is on this machine."""

    path: str
    kind: str
    place: str
    size: int = 0
    target: str = ""

    def read(self) -> bytes:
        if self.kind in "ld":
            return os.fsencode(self.target)
        with open(self.place, "rb") as file:
            return file.read()


class _Tree:
    """One look at a folder."""

    def __init__(self, root: Path, skip: Collection[Path]) -> None:
        self._shown = root
        self._root = os.path.realpath(root)
        self._skip = {os.path.realpath(path) for path in skip}
        self._skip |= {os.path.join(os.path.realpath(path.parent), path.name) for path in skip}  # where it is a link
        self._links_out: dict[str, str] = {}

    def entries(self) -> list[_Entry]:
        """Everything that travels, in no order."""
        if not os.path.isdir(self._root):
            raise UsageError(f"{self._shown} is no folder that code could be taken from; name another as `code`")
        found = list(self._folder("", _rules_above(self._root)))
        if self._links_out:
            raise UsageError(_leading_out(self._shown, self._links_out))
        return found

    def _folder(self, path: str, rules: tuple[_Rules, ...]) -> Iterator[_Entry]:
        """The entries in the folder `path`, which ends in a slash or is empty. It is not followed out of."""
        place = os.path.join(self._root, path)
        try:
            with os.scandir(place) as scan:
                found = list(scan)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unreadable(path, error) from error
        names = {entry.name for entry in found}
        if path and (_VIRTUAL_ENVIRONMENT in names or names >= _RUN_DIRECTORY):
            return
        if not names.isdisjoint(IGNORE_FILES):
            rules = (_read_rules(place), *rules)
        empty = True
        for entry in found:
            for known in self._entry(entry, path + entry.name, rules):
                empty = False
                yield known
        if empty and path:
            yield _Entry(path.rstrip("/"), "d", place)

    def _entry(self, entry: os.DirEntry[str], path: str, rules: tuple[_Rules, ...]) -> Iterator[_Entry]:
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name in _NEVER or entry.path in self._skip or (entry.name.endswith(".pyc") and not is_folder):
            return
        if _ignored(entry.path + "/" * is_folder, rules):
            return
        if is_folder:
            yield from self._folder(path + "/", rules)
        elif entry.is_symlink():
            yield _Entry(path, "l", entry.path, target=self._target(entry.path, path))
        elif entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            yield _Entry(path, "x" if status.st_mode & stat.S_IXUSR else "f", entry.path, status.st_size)

    def _target(self, place: str, path: str) -> str:
        """Where a link leads, from where it is. One that names the folder's own place would lead nowhere elsewhere."""
        target = os.readlink(place)
        if os.path.isabs(target) and self._is_inside(target):
            target = os.path.relpath(target, os.path.dirname(place))
        written = os.path.normpath(os.path.join(os.path.dirname(path), target))
        led = os.path.realpath(os.path.join(os.path.dirname(place), target))
        if os.path.isabs(target) or written == ".." or written.startswith("../") or not self._is_inside(led):
            self._links_out[path] = target
        return target

    def _is_inside(self, place: str) -> bool:
        return place == self._root or place.startswith(self._root.rstrip("/") + "/")


# ---- ignoring


@dataclass(frozen=True)
class _Rules:
    """The rules in one folder, for the paths below it: `start` is where in those they begin to be meant."""

    start: int
    spec: GitIgnoreSpec


def _ignored(place: str, rules: tuple[_Rules, ...]) -> bool:
    """Whether the innermost rule that speaks of `place`, which ends in a slash for a folder, is against it."""
    for each in rules:
        verdict = each.spec.check_file(place[each.start :], separators=()).include
        if verdict is not None:
            return verdict
    return False


def _read_rules(folder: str) -> _Rules:
    """The rules of the ignore files in `folder`, an absolute path. The later of two that differ stands."""
    lines: list[str] = []
    for name in IGNORE_FILES:
        place = os.path.join(folder, name)
        try:
            with open(place, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
                lines += [line.removesuffix("\n").removesuffix("\r") for line in file]
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unreadable(place, error) from error
    try:
        return _Rules(len(folder.rstrip("/")) + 1, GitIgnoreSpec.from_lines(lines, backend="simple"))
    except ValueError as error:
        raise UsageError(f"the ignore rules in {_shown(folder)} cannot be understood: {error}; correct them") from error


def _rules_above(root: str) -> tuple[_Rules, ...]:
    """The rules that git would apply in `root` from the folders above it; none where they would ignore it whole."""
    rules: list[_Rules] = []
    folder = root
    while not os.path.exists(os.path.join(folder, ".git")):
        parent = os.path.dirname(folder)
        if parent == folder:
            return ()  # in no repository
        folder = parent
        rules.append(_read_rules(folder))
    return () if _ignored(root + "/", tuple(rules)) else tuple(rules)


# ---- complaints


def _unreadable(path: str, error: OSError) -> UsageError:
    return UsageError(f"{_shown(path)} cannot be read ({error.strerror}); make it readable, {_REMEDY}")


def _leading_out(root: Path, links: Mapping[str, str]) -> str:
    """`links`: the targets of those that do."""
    if len(links) == 1:
        ((path, target),) = links.items()
        return (
            f"{_shown(path)} is a link to {_shown(target)}, which is outside of {root} and not on other hosts; put in "
            f"its place what it links to, {_REMEDY}"
        )
    told = [f"{_shown(path)} to {_shown(target)}" for path, target in sorted(links.items())]
    some = ", ".join(told[:_MOST_TOLD])
    rest = f" and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
    return (
        f"{len(told)} links lead out of {root}, to what is not on other hosts: {some}{rest}; put in their places what "
        f"they link to, or keep them here with lines in {IGNORE_FILES[1]} or {IGNORE_FILES[0]}"
    )


def _too_large(root: Path, size: int, entries: Collection[_Entry]) -> str:
    largest = heapq.nlargest(3, entries, key=lambda entry: entry.size)
    named = ", ".join(f"{_shown(entry.path)} ({_megabytes(entry.size)})" for entry in largest)
    return (
        f"the code in {root} is {_megabytes(size)}, more than the {_megabytes(MAX_BYTES)} that are sent to hosts; the "
        f"largest files are {named}: keep data and the like here with lines in {IGNORE_FILES[1]} or {IGNORE_FILES[0]}, "
        "or name a smaller folder as `code`"
    )


def _megabytes(size: int) -> str:
    return f"{size / (1 << 20):.0f} MB"


def _shown(path: str) -> str:
    """`path` with nothing in it that could upset a terminal."""
    return path if path.isprintable() else repr(path)
