"""The run directory: the launcher's file names in it, and how a file gets there whole.

Other programs read these files, so names and formats are a contract. Does not know what a plan or a summary means,
and does not write the files that grow (logs, events, metrics): the sinks do. The model and the checkpoints are the
chief's, which names and writes them in the worker.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.errors import DistrainError, UsageError
from distrain.wire import SCRATCH

FORMAT = 1
"""The number in every JSON file. It changes when a reader of the old one would be misled."""

LONGEST_NAME = 64

RUNS_DIR = Path("runs")
"""Where run directories are made and looked for, seen from the current folder, unless something else is said."""

_LETTERS = "abcdefghijkmnopqrstuvwxyz"
_LOG = re.compile(r"([a-z]+)-(\d+)\.log$")
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


def log_name(task: str) -> str:
    """Where the log of `task` (`worker:0`) is inside the run directory."""
    return f"logs/{task.replace(':', '-')}.log"


@dataclass(frozen=True)
class RunDir:
    """The directory of one run. `path` is absolute."""

    path: Path

    @classmethod
    def create(cls, runs_dir: Path, job_name: str, *, now: float) -> RunDir:
        """Make `<runs_dir>/<job_name>-<yyyymmdd-hhmmss>-<4 letters>`, which nobody else has; `now` is in Unix seconds.

        Raises:
            UsageError: the name cannot be a folder's, or the place cannot be written to.
        """
        _check_name(job_name)
        # Not resolve(): a user who goes through a link wants to see the link.
        runs_dir = Path(os.path.abspath(runs_dir))
        stem = f"{job_name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}"
        try:
            runs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = _make_unique(runs_dir, stem)
            (path / "logs").mkdir(mode=0o700)
        except OSError as error:
            raise UsageError(
                f"cannot make a run directory in {_shown(runs_dir)}: {_reason(error)}; "
                "choose another place with --runs-dir"
            ) from error
        return cls(path)

    @classmethod
    def reopen(cls, path: Path) -> RunDir:
        """The directory of a run that has been. What grows in it is added to by whoever opens the sinks again.

        Raises:
            UsageError: it is no run directory.
        """
        rundir = cls(Path(os.path.abspath(path)))
        if not rundir.job_file.is_file():
            raise UsageError(f"{_shown(path)} is no run directory: there is no job.yaml in it; see `distrain list`")
        return rundir

    @property
    def name(self) -> str:
        """The folder's name, which is what the run is called everywhere."""
        return self.path.name

    @property
    def handle(self) -> str:
        """What to type for the run: its name where commands look for it by themselves, else its path."""
        return self.name if self.path.parent == Path(os.path.abspath(RUNS_DIR)) else self.typed

    @property
    def typed(self) -> str:
        """Its path, as someone in the current folder would type it."""
        try:
            relative = os.path.relpath(self.path)
        except OSError:  # the current folder is gone
            return str(self.path)
        return str(self.path) if relative.startswith("..") else relative

    @property
    def job_file(self) -> Path:
        return self.path / "job.yaml"

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.json"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def lock_file(self) -> Path:
        """Held by the launcher for as long as the run goes."""
        return self.path / ".lock"

    @property
    def agents_file(self) -> Path:
        """Held by the launcher and by every agent of the run on this machine."""
        return self.path / ".agents"

    @property
    def launcher_log(self) -> Path:
        """What a launcher without a terminal says of itself."""
        return self.path / "launcher.log"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def merged_log(self) -> Path:
        return self.logs / "merged.log"

    def log_file(self, task: str) -> Path:
        return self.path / log_name(task)

    def task_logs(self) -> dict[str, Path]:
        """The logs of tasks that are there, by task, in the order of their names and numbers."""
        found = [
            (match[1], int(match[2]), path) for path in self.logs.glob("*.log") if (match := _LOG.match(path.name))
        ]
        return {f"{role}:{index}": path for role, index, path in sorted(found)}

    @property
    def last_attempt(self) -> int:
        """The number of the newest attempt, 0 before the first: the plan is written before an attempt starts."""
        try:
            return int(json.loads(self.plan_file.read_bytes())["attempt"])
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{_shown(self.plan_file)} cannot be read, which tells how often the run has been started; "
                "begin a new run from it with --name"
            ) from error

    def make_outputs(self, hosts: Iterable[str]) -> None:
        """Make the folders for what programs write: the chief's, and those of `hosts`, which write here themselves."""
        for folder in ("output", *(f"from/{host}/output" for host in hosts)):
            made = self.path
            for part in folder.split("/"):
                made /= part
                made.mkdir(mode=0o700, exist_ok=True)

    def clear_scratch(self) -> None:
        """Remove what tasks on this machine kept for each other, once none of them is left."""
        shutil.rmtree(self.path / SCRATCH, ignore_errors=True)

    def write_job(self, text: str) -> None:
        """Raises DistrainError, as the two below, when the file cannot be written; then the old one still stands."""
        write_whole(self.job_file, text)

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        write_whole(self.plan_file, json_text({"format": FORMAT, **plan}, indent=2) + "\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_whole(self.summary_file, json_text({"format": FORMAT, **summary}, indent=2) + "\n")

    def write_stacks(self, attempt: int, task: str, data: bytes) -> str:
        """Keep where a task's threads were. Returns the path, relative to the run directory.

        Raises:
            DistrainError: it cannot be written.
        """
        role, _, index = task.partition(":")
        path = self.path / "stacks" / f"attempt-{attempt}" / f"{role}-{index}.txt"
        try:
            for folder in (path.parent.parent, path.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DistrainError(f"cannot write {_shown(path)}: {_reason(error)}") from error
        write_whole(path, data.decode(errors="replace"))
        return str(path.relative_to(self.path))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON that every parser reads.

    JSON has no word for the numbers that are none, so they become the strings "NaN", "Infinity" and "-Infinity", as
    in protobuf's JSON: a diverged loss stays told apart from an absent one, and `float()` reads all three back.
    """
    separators = (",", ":") if indent is None else None
    try:
        return json.dumps(value, indent=indent, separators=separators, allow_nan=False, ensure_ascii=False)
    except ValueError:
        return json.dumps(_without_nan(value), indent=indent, separators=separators, ensure_ascii=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def _check_name(name: str) -> None:
    fitting = _ODD.sub("-", name).lstrip("-._")[:LONGEST_NAME]
    if fitting == name and name:
        return
    if len(name) > LONGEST_NAME:
        problem = f"is longer than {LONGEST_NAME} characters"
    else:
        problem = "cannot name a folder: only letters, digits, '.', '_' and '-', after a letter or digit"
    remedy = f"call it {fitting!r}, for example" if fitting else "choose another with --name"
    raise UsageError(f"the name {name[: 2 * LONGEST_NAME]!r} {problem}; {remedy}")


def _make_unique(runs_dir: Path, stem: str) -> Path:
    while True:
        path = runs_dir / f"{stem}-{''.join(secrets.choice(_LETTERS) for _ in range(4))}"
        # mkdir is the test and the making in one, so of two runs at once only one gets the name.
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            return path


def write_whole(path: Path, text: str) -> None:
    """Write the file for this user alone, so that it is complete or absent; DistrainError: that cannot be."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise DistrainError(f"cannot write {_shown(path)}: {_reason(error)}") from error


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _shown(path: Path) -> str:
    """`path` with nothing in it that could upset a terminal."""
    return str(path) if str(path).isprintable() else repr(str(path))


def _reason(error: OSError) -> str:
    place = _shown(Path(os.fsdecode(error.filename))) if error.filename else "it"
    match error.errno:
        case errno.EEXIST | errno.ENOTDIR:
            return f"{place} is no directory, or something above it is a file"
        case errno.EACCES | errno.EPERM:
            return f"{place} may not be written to by this user"
        case errno.EROFS:
            return f"{place} is on a read-only file system"
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk, or this user's share of it, is full; free some space"
        case errno.ENAMETOOLONG:
            return "the path is too long"
        case _:
            return (error.strerror or str(error)).lower()
