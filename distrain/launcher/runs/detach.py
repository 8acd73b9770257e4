"""A launcher that needs no terminal: a process of its own, that nobody waits for.

Owns the fork and what is heard from the new process until its run directory is there. To be called before anything has
started a thread.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from distrain.errors import DistrainError
from distrain.launcher.runs.rundir import RunDir

EXIT_DEFECT = 70


class Defect(Exception):
    """The new process has come to an end that it does not explain. The message is its traceback."""


def detach(work: Callable[[Callable[[RunDir], None]], int]) -> RunDir:
    """Do `work` in a session of its own, without terminal and standard streams, and return once it has called what it
    is given, with what it gave. What `work` prints to stderr afterwards goes to the run's `launcher.log`.

    Raises:
        DistrainError: as `work` did before.
        Defect: something else went wrong.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _leave(work, writer)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, encoding="utf-8") as words:
        said = words.read()
    if not said:
        raise Defect("the launcher ended before it could say why\n")
    match json.loads(said):
        case {"run_dir": str(path)}:
            return RunDir(Path(path))
        case {"error": str(sentence), "exit_code": int(code)}:
            error = DistrainError(sentence)
            error.exit_code = code
            raise error
        case told:
            raise Defect(str(told["traceback"]))


def _leave(work: Callable[[Callable[[RunDir], None]], int], writer: int) -> NoReturn:
    """Become the launcher that nobody waits for."""
    os.setsid()
    if os.fork():
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)

    def say(**words: object) -> None:
        nonlocal writer
        if writer >= 0:
            fd, writer = writer, -1
            with open(fd, "w", encoding="utf-8") as file:
                json.dump(words, file)

    def is_there(rundir: RunDir) -> None:
        log = os.open(rundir.launcher_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 2)
        os.close(log)
        say(run_dir=str(rundir.path))  # nobody there to hear it: they have changed their mind, and it ends here

    code = EXIT_DEFECT
    try:
        code = work(is_there)
    except DistrainError as error:
        print(f"distrain: {error}", file=sys.stderr)
        say(error=str(error), exit_code=error.exit_code)
        code = error.exit_code
    except BaseException:  # noqa: BLE001 - this process ends here, and whatever it was is told
        traceback.print_exc()
        say(traceback=traceback.format_exc())
    finally:
        sys.stderr.flush()
        os._exit(code)
