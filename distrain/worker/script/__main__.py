"""Runs a user's script as a task: `python -m distrain.worker.script [--no-keras-repair] SCRIPT ARGS…`.

The script runs as `python SCRIPT ARGS…` would run it: as `__main__`, with its own arguments, its folder first on
`sys.path`. What is added is that an uncaught exception is also told to the launcher, that the launcher sees whether the
script lives and where it stands (`vitals`), and that Keras is repaired if the script comes to use what needs it
(`keras_repair`). Standard library only, until the script imports more.
"""

from __future__ import annotations

import os
import sys
import traceback
from types import CodeType, ModuleType, TracebackType

from distrain.worker.script import keras_repair
from distrain.worker.script.report import events_of_this_process, vitals_of_this_process
from distrain.worker.telemetry import users_frame

NO_KERAS_REPAIR = "--no-keras-repair"


def main(argv: list[str]) -> None:
    """Run the script that `argv` names. Returns, or raises SystemExit, as the script does.

    Raises:
        SystemExit: the script's own; 1 for an exception of its, which has been told by then; 2 where it cannot be read.
    """
    repair = argv[:1] != [NO_KERAS_REPAIR]
    path, *arguments = argv if repair else argv[1:]
    events = events_of_this_process()
    vitals_of_this_process()
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        sentence = f"{path} cannot be read: {error.strerror}"
        events.send("failure", message=sentence, traceback="", where=None, job_error=True)
        sys.exit(_told(f"error: {sentence}", 2))
    if repair:
        keras_repair.install(events)
    sys.argv = [path, *arguments]
    if not sys.flags.safe_path:
        # What `python -m` put first is the current folder; a script's imports begin in its own.
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    module = _new_main(os.path.abspath(path))
    try:
        exec(_compiled(source, module.__file__), module.__dict__)
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            events.send("failure", message=leaving.code, traceback="", where=users_frame(leaving), job_error=False)
        raise
    except Exception as error:  # noqa: BLE001 - whatever the script raises is told, and ends it
        error.__traceback__ = _without_our_frames(error.__traceback__)
        events.failure(error)
        sys.stdout.flush()
        _print_as_python_would(error)
        sys.exit(1)


def _told(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr, flush=True)
    return code


def _compiled(source: bytes, path: str) -> CodeType:
    return compile(source, path, "exec", dont_inherit=True)


def _new_main(path: str) -> ModuleType:
    """A module that takes the place of this one as `__main__`, so that pickles and spawned processes find the script's
    names where a plain start would have them.
    """
    module = ModuleType("__main__")
    module.__file__ = path
    module.__builtins__ = __builtins__
    module.__spec__ = None  # multiprocessing then runs the file again, by its path
    sys.modules["__main__"] = module
    return module


def _without_our_frames(found: TracebackType | None) -> TracebackType | None:
    """`found` from the script's first frame on; where there is none, as for its syntax errors, nothing of it."""
    while found is not None and found.tb_frame.f_code.co_filename == __file__:
        found = found.tb_next
    return found


def _print_as_python_would(error: Exception) -> None:
    if sys.excepthook is sys.__excepthook__:
        traceback.print_exception(error)
    else:
        sys.excepthook(type(error), error, error.__traceback__)


if __name__ == "__main__":
    main(sys.argv[1:])
