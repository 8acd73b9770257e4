"""What a task says of itself: one JSON object a line, on a file descriptor of its own, never among what it prints.

Owns the writing and the rates. What the kinds mean is in docs/events.md; reading them is the agent's part.
Nothing here raises into training: without a reader, events are dropped. Standard library only.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distrain.wire import EVENTS_FD_VARIABLE
from distrain.worker.refusal import Ending, Refusal

PROGRESS_INTERVAL_S = 0.25
METRICS_INTERVAL_S = 0.1

_IN_A_LAYER = "Exception encountered when calling "
_STYLE = re.compile(r"\x1b\[\d*m")
_OWN_CODE = str(Path(__file__).parent.parent) + os.sep
_NOT_THE_USERS = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}", "<", "__autograph_generated_file")


class Events:
    """A stream of events, safe to use from every thread."""

    def __init__(self, descriptor: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._lock = threading.Lock()
        self._sent_at: dict[str, float] = {}

    @classmethod
    def from_environment(cls) -> Events:
        """The stream that the agent opened; one that drops everything when there is no agent."""
        text = os.environ.get(EVENTS_FD_VARIABLE, "")
        if not text.isdigit():
            return cls(None)
        try:
            os.set_inheritable(int(text), False)
        except OSError:
            return cls(None)
        events = cls(int(text))
        # A process that is forked while another thread sends would never get the lock.
        os.register_at_fork(
            before=events._lock.acquire, after_in_parent=events._lock.release, after_in_child=events._lock.release
        )
        return events

    @property
    def are_heard(self) -> bool:
        """Whether somebody reads them, as far as is known."""
        return self._descriptor is not None

    def send(self, kind: str, **data: Any) -> None:
        """Write one event now. Arrays become lists, and values that JSON does not know their text. Numbers that are
        none stay so, as `NaN` and `Infinity`: a loss that diverged is not one that is absent.
        """
        if self._descriptor is None:
            return
        line = json.dumps({"kind": kind, **_plain(data)}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                self._descriptor = None

    def send_at_most(self, interval_s: float, kind: str, **data: Any) -> None:
        """Write the event unless one of this kind was sent through here less than `interval_s` ago."""
        now = self._clock()
        if now - self._sent_at.get(kind, -math.inf) >= interval_s:
            self._sent_at[kind] = now
            self.send(kind, **data)

    def phase(self, phase: str) -> None:
        self.send("phase", phase=phase)

    def note(self, message: str, level: str = "info") -> None:
        self.send("note", level=level, message=message)

    def ready(self, *, parameters: int, replicas: int) -> None:
        """The task stands and waits for nothing more; TensorFlow is imported by now."""
        import keras
        import tensorflow as tf

        versions = {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__}
        self.send("ready", versions=versions, parameters=parameters, replicas=replicas)

    def failure(self, error: BaseException) -> None:
        """Say why the task ends: a Refusal and an Ending are told by their sentence alone, anything else with its
        traceback."""
        if isinstance(error, Refusal):
            self.send("failure", message=str(error), traceback="", where=users_frame(error), job_error=True)
            return
        if isinstance(error, Ending):
            self.send("failure", message=str(error), traceback="", job_error=False, why=error.why, **error.facts)
            return
        text = "".join(traceback.format_exception(error))
        self.send("failure", message=headline(error), traceback=text, where=users_frame(error), job_error=False)


def headline(error: BaseException) -> str:
    """The one line of `error` that says most: `ValueError: no such thing`.

    An error inside a TensorFlow graph opens with words that fit any, and says what happened below its stack. So does
    one in a layer of Keras's, which says it in bold.
    """
    lines = "".join(traceback.format_exception_only(error)).splitlines()
    first, *others = [line for line in lines if line.strip() and not line.startswith((" ", "\t"))] or lines
    if _IN_A_LAYER in first and others:
        return f"{first} {_STYLE.sub('', others[0])}"
    if not first.endswith("Graph execution error:"):
        return first.removeprefix(f"{type(error).__module__}.")
    telling = (line for line in others if not line.startswith(("Detected at node", "<stack traces")))
    return f"{type(error).__name__}: {next(telling, first)}"


def users_frame(error: BaseException) -> str | None:
    """`file:line` of the innermost frame in the user's own code; None when no frame of `error` is there."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not _is_library(file):
            found = f"{file}:{line}"
    return found


def _is_library(file: str) -> bool:
    return file.startswith((_OWN_CODE, sys.base_prefix + os.sep + "lib")) or any(
        part in file for part in _NOT_THE_USERS
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | int | float | None):
        return value
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return _plain(value.tolist())
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)
