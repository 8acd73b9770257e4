"""What a run starts from, all of it known before any host is opened: frozen, and handed on as one.

Owns where the user stands, which folder travels to other hosts, and where the same places are in its copy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distrain.errors import UsageError
from distrain.job.cluster import hosts_of
from distrain.job.file.kinds import printable
from distrain.job.file.source import nearest_file
from distrain.job.spec import JobSpec
from distrain.launcher.hosts.bundle import Bundle
from distrain.launcher.hosts.code import Code
from distrain.launcher.runs.rundir import RunDir


@dataclass(frozen=True)
class Place:
    """Where the user stands, and where `package.module:function` is looked for. `root` is the folder that travels to
    other hosts, None where nothing does.
    """

    cwd: str
    import_paths: tuple[str, ...]
    root: str | None = None

    def in_copy(self, folder: str) -> Place:
        """The same place where `folder` holds a copy of `root`. What lies outside of `root` is not there."""
        if self.root is None:
            return Place(folder, ())
        paths = dict.fromkeys(filter(None, (*(self._there(path, folder) for path in self.import_paths), folder)))
        return Place(self._there(self.cwd, folder) or folder, tuple(paths))

    def holds(self, path: str) -> bool:
        """Whether `path` travels."""
        return self._there(path, os.sep) is not None

    def _there(self, path: str, folder: str) -> str | None:
        assert self.root is not None
        relative = os.path.relpath(path, self.root)
        if relative == os.pardir or relative.startswith(os.pardir + os.sep):
            return None
        return os.path.normpath(os.path.join(folder, relative))


@dataclass(frozen=True)
class Outset:
    """`python` is the interpreter of agent and tasks on this machine. `code`: the files of `place.root`. `job_file`:
    where the job was read from, absolute. `first_attempt` is the number of the first to be started now. `resumed_from`:
    for the summary, of a run that is resumed. `notes`: what there is to say at the beginning, as level and sentence.
    `agents_fd`: inherited by the agents on this machine.
    """

    job: JobSpec
    rundir: RunDir
    bundle: Bundle
    python: str
    place: Place
    code: Code | None = None
    job_file: str | None = None
    first_attempt: int = 1
    resumed_from: Mapping[str, Any] | None = None
    notes: tuple[tuple[str, str], ...] = ()
    agents_fd: int | None = None


def settled(job: JobSpec) -> JobSpec:
    """`job` with a script that is there: for other hosts as seen from the current folder, of which they get a copy.

    Raises:
        UsageError: there is no such script, or the hosts would not get it.
    """
    if job.program is None or not job.program.is_script:
        return job
    script, folder = job.program.argv[0], job.code_folder
    away = any(host.transport != "local" for host in hosts_of(job))
    if not away or folder is not None:
        _check_script(script)
    if not away or folder is None:
        return job  # without a copy, the hosts have the script at the same path
    parent, name = os.path.split(script)
    root, full = os.path.realpath(folder), os.path.join(os.path.realpath(parent), name)
    if os.path.commonpath((root, full)) != root:
        raise UsageError(
            f"{printable(script)} is outside {printable(root)}, the folder that the hosts get; "
            "change into the script's folder, or set code to a folder that holds both it and the current one"
        )
    path = os.path.relpath(full, os.path.realpath("."))
    argv = (f"./{path}" if path.startswith("-") else path, *job.program.argv[1:])
    return replace(job, program=replace(job.program, argv=argv))


def _check_script(script: str) -> None:
    path, shown = Path(script), printable(script)
    if path.is_dir():
        raise UsageError(f"{shown} is a folder, and a script is a file; name a file in it")
    if not path.exists():
        raise UsageError(f"there is no script {shown}; {nearest_file(path, ('.py',))}")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{shown} cannot be read; check its permissions")


def place_of(job: JobSpec, job_file: Path | None) -> Place:
    """Where the user stands, and the folder that travels from there, if any host needs it.

    Raises:
        UsageError: there is no current folder, or what the job needs lies outside of the folder that travels.
    """
    cwd = _current_folder()
    import_paths = _import_paths(cwd, job_file)
    folder = job.code_folder
    if folder is None or all(host.transport == "local" for host in hosts_of(job)):
        return Place(cwd, import_paths)
    place = Place(os.path.realpath(cwd), tuple(map(os.path.realpath, import_paths)), os.path.realpath(folder))
    needed = (place.cwd,) if job.program is not None else place.import_paths
    if outside := [path for path in needed if not place.holds(path)]:
        what = "the current folder" if outside[0] == place.cwd else f"{printable(outside[0])}, where the job file is"
        raise UsageError(
            f"{printable(str(place.root))}, the folder that the hosts get, does not hold {what}; "
            "set code to a folder that holds both, or start distrain in one"
        )
    return place


def _current_folder() -> str:
    """Where the user stands, and the tasks will.

    Raises:
        UsageError: that folder has been deleted, or may not be looked at.
    """
    try:
        return os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the current folder cannot be used: {error.strerror} (has it been deleted?); "
            "change into another and run again"
        ) from error


def _import_paths(cwd: str, job_file: Path | None) -> tuple[str, ...]:
    """Where `package.module:function` is looked for: where the user stands, then beside the job file."""
    places = [cwd, *([str(job_file.resolve().parent)] if job_file else [])]
    return tuple(dict.fromkeys(places))
