"""The messages between launcher, agent and worker: their values, and how they become bytes.

Three streams, all owned here:

- launcher <-> agent: frames. A frame is a header of two big-endian unsigned 32-bit lengths, then that many
  bytes of JSON (an object whose "type" names the message) and that many bytes of payload (raw, may be empty).
- worker -> agent: one JSON object a line, with at least "kind", on the file descriptor that DISTRAIN_EVENTS_FD names.
- agent <-> preload, the process that imports TensorFlow once and forks a task per request: packets, on the
  SOCK_SEQPACKET socket whose descriptor DISTRAIN_PRELOAD_FD names.

      preload -> agent   {"preloaded": true, "seconds": 4.2, "versions": {...}}     once, when the import is done
                         {"preload_error": "ImportError: ..."}                      instead, and it exits with 1
      agent -> preload   FORK, with the descriptors [request, stdin, output, events] (SCM_RIGHTS); `request` is a file
                         that holds {"task": "...", "env": {...}, "cwd": "...", "argv": [...]} and may be longer than
                         a packet; `env` is what the task's environment has beyond preload's
      preload -> agent   {"task": "...", "pid": 1234}   or   {"task": "...", "error": "a sentence"}

  Each packet of preload's is one JSON object. It forks twice, and the process between has been reaped before the
  answer is sent: the task is then a child of the agent, its nearest subreaper, leads a session of its own and dies
  with the agent. No request is sent before the import is done. The end of the socket ends the process.

A task is named `role:index` on the wire, times are Unix seconds on the sender's clock. Standard library only:
this module travels to hosts that have nothing else.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

PROTOCOL = 1
"""Both ends must speak the same number; the agent is shipped by the launcher, so they do."""

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""No honest frame is larger. A larger header means that something else wrote into the stream."""

EVENTS_FD_VARIABLE = "DISTRAIN_EVENTS_FD"
EVENTS_FD = 3
"""The descriptor that a task has its event stream on."""

PRELOAD_FD_VARIABLE = "DISTRAIN_PRELOAD_FD"
FORK = b"fork"

_HEADER = struct.Struct(">II")


class WireError(Exception):
    """The stream does not hold what this protocol writes. The message quotes the first odd bytes."""


@dataclass(frozen=True)
class Message:
    """A value that crosses between launcher and agent. `payload`, where a message has one, crosses as raw bytes."""

    PAYLOAD: ClassVar[str | None] = None


# ---- launcher -> agent


@dataclass(frozen=True)
class Preload(Message):
    """Import TensorFlow once, ahead of warm tasks. `env` is set before the import; sent before any StartTask."""

    python: str
    env: Mapping[str, str]
    import_paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReservePorts(Message):
    """Hold `count` TCP ports until the agent ends. `among` lists the candidates, in order; empty: any free port."""

    count: int
    among: tuple[int, ...] = ()


@dataclass(frozen=True)
class StartTask(Message):
    """Start one task in a process group of its own.

    `warm`: fork it from the preloaded process, which runs distrain's worker; `argv` is then only what it is called.
    `stdin` is what the task reads on its standard input, and no environment value or secret is in `argv`.
    """

    PAYLOAD: ClassVar[str | None] = "stdin"

    task: str
    attempt: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    warm: bool
    stdin: bytes = b""


@dataclass(frozen=True)
class StopTasks(Message):
    """TERM to each process group now, KILL once to what is left `grace_s` later. Empty `tasks`: all of them."""

    tasks: tuple[str, ...]
    grace_s: float


@dataclass(frozen=True)
class Goodbye(Message):
    """End, leaving no process: what the agent also does when the stream closes."""


# ---- agent -> launcher


@dataclass(frozen=True)
class Welcome(Message):
    """The agent runs. `cores` are those that it may use, `memory_bytes` the machine's."""

    protocol: int
    hostname: str
    pid: int
    python: str
    cores: int
    memory_bytes: int
    gpus: int


@dataclass(frozen=True)
class PortsReserved(Message):
    """Answers ReservePorts. Fewer ports than asked for: no more of the candidates were free."""

    ports: tuple[int, ...]


@dataclass(frozen=True)
class TaskStarted(Message):
    task: str
    attempt: int
    time: float
    pid: int


@dataclass(frozen=True)
class TaskOutput(Message):
    """Bytes that the task printed, stdout and stderr in the order of writing. Any bytes, cut anywhere."""

    PAYLOAD: ClassVar[str | None] = "data"

    task: str
    attempt: int
    data: bytes = b""


@dataclass(frozen=True)
class TaskEvent(Message):
    """One line from the task's event stream; `data` is the object less its kind."""

    task: str
    attempt: int
    time: float
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class TaskUsage(Message):
    """What the task's process group uses now: resident memory in bytes, and CPU seconds so far."""

    task: str
    attempt: int
    memory_bytes: int
    cpu_s: float


@dataclass(frozen=True)
class TaskExited(Message):
    """The task's main process ended: by `signal` when that is not None, else with `exit_code`.

    Sent as soon as it is known, after the output and events that were already there. Or it never ran: then `message`
    says why, `exit_code` is 127 (not found), 126 (not executable) or 125 (any other reason).
    """

    task: str
    attempt: int
    time: float
    exit_code: int | None
    signal: int | None
    message: str | None = None


@dataclass(frozen=True)
class TaskCleared(Message):
    """Nothing of the task is left: no process, no byte of output unsent."""

    task: str
    attempt: int


@dataclass(frozen=True)
class AgentEnding(Message):
    """The agent ends, and with it every task of the host, though the launcher did not ask for it. `reason`: why."""

    reason: str


@dataclass(frozen=True)
class AgentNote(Message):
    """A sentence from the agent about itself, for the people at the launcher."""

    level: str
    message: str


_MESSAGES: dict[str, type[Message]] = {
    message.__name__: message
    for message in (
        Preload,
        ReservePorts,
        StartTask,
        StopTasks,
        Goodbye,
        Welcome,
        PortsReserved,
        TaskStarted,
        TaskOutput,
        TaskEvent,
        TaskUsage,
        TaskExited,
        TaskCleared,
        AgentEnding,
        AgentNote,
    )
}


def encode(message: Message) -> bytes:
    """The frame for `message`."""
    head: dict[str, Any] = {"type": type(message).__name__}
    payload = b""
    for part in fields(message):
        value = getattr(message, part.name)
        if part.name == message.PAYLOAD:
            payload = value
        else:
            head[part.name] = dict(value) if isinstance(value, Mapping) else value
    text = json.dumps(head, separators=(",", ":")).encode()
    return _HEADER.pack(len(text), len(payload)) + text + payload


@dataclass
class Decoder:
    """Turns a stream of bytes, cut anywhere, back into messages."""

    _held: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages completed by `data`.

        Raises:
            WireError: the stream holds something else.
        """
        self._held += data
        start = 0
        try:
            while len(self._held) - start >= _HEADER.size:
                text_length, payload_length = _HEADER.unpack_from(self._held, start)
                if text_length + payload_length > MAX_FRAME_BYTES:
                    raise WireError(f"not a distrain message: {bytes(self._held[start : start + 80])!r}")
                text_start = start + _HEADER.size
                payload_start = text_start + text_length
                end = payload_start + payload_length
                if len(self._held) < end:
                    break
                with memoryview(self._held) as view:
                    text, payload = bytes(view[text_start:payload_start]), bytes(view[payload_start:end])
                start = end
                yield _message(text, payload)
        finally:
            del self._held[:start]


def _message(text: bytes, payload: bytes) -> Message:
    try:
        head = json.loads(text)
        message_type = _MESSAGES[head.pop("type")]
        if message_type.PAYLOAD is not None:
            head[message_type.PAYLOAD] = payload
        for part in fields(message_type):
            if isinstance(head.get(part.name), list):
                head[part.name] = tuple(head[part.name])
        return message_type(**head)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"not a distrain message: {text[:80]!r} ({error})") from error
