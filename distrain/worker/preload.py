"""A process that has imported TensorFlow and Keras once and forks tasks: `python -m distrain.worker.preload`.

What the agent, its parent, says to it and hears from it is described in `wire`.

No TensorFlow op runs here and no device is touched: threads and device handles do not survive a fork, plain memory
does.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import platform
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

from distrain.wire import (
    EVENTS_FD,
    EVENTS_FD_VARIABLE,
    FORK,
    PRELOAD_FD_VARIABLE,
    STACKS_FD,
    STACKS_FD_VARIABLE,
)
from distrain.worker import bytecode, roles
from distrain.worker.__main__ import main as run_task

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_ABOVE = 16
"""Descriptors are moved out of the way of 0 to 4 first: what the agent sent may have any number."""


def main() -> int:
    connection = socket.socket(fileno=int(os.environ.pop(PRELOAD_FD_VARIABLE)))
    connection.set_inheritable(False)
    agent = os.getppid()
    # A BLAS thread pool would not survive the fork; TensorFlow's own kernels do not use it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Whoever presses Ctrl-C, or asks all processes of a host to leave, means the tasks; the agent decides when this
    # process ends, by closing the socket.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    started = time.monotonic()
    gc.disable()  # it would walk all that is imported again and again, and find next to nothing
    try:
        with bytecode.cached(bytecode.cache_folder()):
            versions = import_everything()
    except BaseException as error:  # noqa: BLE001 - the agent must hear of whatever an import can raise
        traceback.print_exc()
        _send(connection, {"preload_error": "".join(traceback.format_exception_only(error)).strip()})
        return 1
    _check_forkable()
    gc.collect()
    gc.enable()
    gc.freeze()  # the collector never again writes into these objects, so tasks go on sharing their pages
    _send(connection, {"preloaded": True, "seconds": time.monotonic() - started, "versions": versions})
    while True:
        packet, descriptors = _receive(connection)
        if not packet:
            return 0
        if packet != FORK or len(descriptors) != 5:
            print(f"preload: not a request: {packet[:80]!r}, {len(descriptors)} descriptors", file=sys.stderr)
            return 1
        request = _read_request(descriptors[0])
        try:
            _send(connection, {"task": request["task"], "pid": _fork(request, descriptors, agent, connection)})
        except OSError as error:
            _send(connection, {"task": request["task"], "error": str(error)})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def import_everything() -> dict[str, str]:
    """Import what tasks will need, without running an op; the versions of Python, TensorFlow and Keras."""
    import keras
    import tensorflow as tf

    roles.import_all()
    return {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__}


def _check_forkable() -> None:
    from tensorflow.python.eager import context

    assert not context.context()._initialized, "an import has run a TensorFlow op: tasks cannot be forked"
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        print(f"preload: {threads} threads run ({names}); forked tasks will not have them", file=sys.stderr)


def _send(connection: socket.socket, answer: Mapping[str, Any]) -> None:
    # When the agent is gone, the next receive says so.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(json.dumps(answer).encode())


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    try:
        packet, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(8 * array.array("i").itemsize))
    except ConnectionResetError:
        return b"", []
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return packet, list(descriptors)


def _read_request(descriptor: int) -> dict[str, Any]:
    return json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))


def _fork(request: Mapping[str, Any], descriptors: list[int], agent: int, connection: socket.socket) -> int:
    """Fork the task; its pid, once it leads its own session and is the agent's child."""
    pid_reader, pid_writer = os.pipe()
    go_reader, go_writer = os.pipe()
    try:
        between = os.fork()
        if between == 0:
            os._exit(_fork_task(request, descriptors, agent, connection, pid_writer, go_reader, go_writer))
        os.close(pid_writer)
        pid_writer = -1
        pid = os.read(pid_reader, 32)
        # Only when the process between is reaped is the task the agent's child. Closing `go` tells it so: until then
        # its parent-death signal would be about the wrong parent.
        os.waitpid(between, 0)
    finally:
        for descriptor in (pid_reader, go_reader, go_writer, pid_writer):
            if descriptor >= 0:
                os.close(descriptor)
    if not pid:
        raise OSError("the task could not be forked: out of processes or memory")
    return int(pid)


def _fork_task(
    request: Mapping[str, Any],
    descriptors: list[int],
    agent: int,
    connection: socket.socket,
    pid_writer: int,
    go_reader: int,
    go_writer: int,
) -> int:
    """In the process between: fork the task and leave it to the agent. The code to exit with."""
    try:
        forked = os.fork()
    except OSError:
        return 1
    if forked == 0:
        os.setsid()
        connection.detach()  # its descriptor is closed below; the object must never close another's of that number
        os.close(go_writer)
        os.write(pid_writer, str(os.getpid()).encode())
        os.read(go_reader, 1)
        _become_task(request, descriptors, agent)
    return 0


def _become_task(request: Mapping[str, Any], descriptors: list[int], agent: int) -> NoReturn:
    code = 1
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != agent:
            os._exit(1)
        libc.prctl(_PR_SET_NAME, request["task"].encode()[:15], 0, 0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        stdin, output, events, stacks = (
            fcntl.fcntl(descriptor, fcntl.F_DUPFD, _ABOVE) for descriptor in descriptors[1:]
        )
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(events, EVENTS_FD, inheritable=False)
        os.dup2(stacks, STACKS_FD, inheritable=False)
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > STACKS_FD:
                with contextlib.suppress(OSError):  # the listing's own
                    os.close(descriptor)
        os.environ.update(request["env"])
        os.environ[EVENTS_FD_VARIABLE] = str(EVENTS_FD)
        os.environ[STACKS_FD_VARIABLE] = str(STACKS_FD)
        os.chdir(request["cwd"])
        sys.argv = list(request["argv"])
        sys.stdout.reconfigure(line_buffering=True)
        gc.enable()
        code = run_task()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - told, then the process ends below
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 1
        # Never back into the interpreter's teardown: TensorFlow's threads may hang there, and this stack is preload's.
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
