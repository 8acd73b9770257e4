"""The messages between launcher, agent and worker: their values, and how they become bytes.

Three streams, all owned here:

- launcher <-> agent: frames. A frame is a header of two big-endian unsigned 32-bit lengths, then that many
  bytes of JSON (an object whose "type" names the message) and that many bytes of payload (raw, may be empty).
- worker -> agent: one JSON object a line, with at least "kind", on the file descriptor that DISTRAIN_EVENTS_FD names.
- agent <-> preload, the process that imports TensorFlow once and forks a task per request: packets, on the
  SOCK_SEQPACKET socket whose descriptor DISTRAIN_PRELOAD_FD names.

      preload -> agent   {"preloaded": true, "seconds": 4.2, "versions": {...}}     once, when the import is done
                         {"preload_error": "ImportError: ..."}                      instead, and it exits with 1
      agent -> preload   FORK, with the descriptors [request, stdin, output, events, stacks] (SCM_RIGHTS); `request` is
                         a file that holds {"task": "...", "env": {...}, "cwd": "...", "argv": [...]} and may be longer
                         than a packet; `env` is what the task's environment has beyond preload's
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

PROTOCOL = 1
"""Both ends must speak the same number; the agent is shipped by the launcher, so they do."""

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""No honest frame is larger. A larger header means that something else wrote into the stream."""

EVENTS_FD_VARIABLE = "DISTRAIN_EVENTS_FD"
EVENTS_FD = 3
"""The descriptor that a task has its event stream on."""

STACKS_FD_VARIABLE = "DISTRAIN_STACKS_FD"
STACKS_FD = 4
"""The descriptor of a file in memory, into which a task's Python stacks go on SIGUSR2. A task that has seen to that
writes a byte there first: to any other, the signal would be the end.
"""

PREEMPTED_EXIT = 42
"""The exit code of a task that was asked to leave, and left what a restart needs. TensorFlow's own choice, too."""

SCRATCH = ".scratch"
"""The folder in a run's own where tasks keep what only those of the same run and host need. Hidden names stay on the
host; it is gone when the run is over.
"""

PRELOAD_GONE = "the process that holds TensorFlow is gone"
"""How TaskExited.message begins where a task never ran for want of the process it was to be forked from: the next one
may well be there.
"""

PRELOAD_FD_VARIABLE = "DISTRAIN_PRELOAD_FD"
FORK = b"fork"

_HEADER = struct.Struct(">II")


class WireError(Exception):
    """The stream does not hold what this protocol writes. The message quotes the first odd bytes."""


@dataclass(frozen=True)
class Message:
    """A value that crosses between launcher and agent. `payload`, where a message has one, crosses as raw bytes."""

    PAYLOAD: ClassVar[str | None] = None


@dataclass(frozen=True)
class TaskMessage(Message):
    """What an agent says of one of its tasks."""

    task: str
    attempt: int


# ---- launcher -> agent


@dataclass(frozen=True)
class Preload(Message):
    """Import TensorFlow once, ahead of warm tasks. `env` is set before the import; sent before any StartTask."""

    python: str
    env: Mapping[str, str]
    import_paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenRun(Message):
    """Make this host ready for the run `run`, in a folder of its own that is gone when the agent ends. Sent first, and
    not to the launcher's own machine, where tasks work in the user's folder and write into the run directory.

    `code`: the digest of the user's code, `code_bytes` long, which is asked for if it is not here; "": none.
    `contact_timeout_s`: when nothing was heard of the launcher for so long, everything here ends.
    """

    run: str
    contact_timeout_s: float
    code: str = ""
    code_bytes: int = 0


@dataclass(frozen=True)
class CodePart(Message):
    """The next bytes of the user's code, which the agent has asked for. Answered by a Pong of number 0: a Ping may wait
    behind many of these.
    """

    PAYLOAD: ClassVar[str | None] = "data"

    data: bytes = b""


@dataclass(frozen=True)
class Ping(Message):
    """The launcher is there. Answered at once by a Pong of the same number."""

    number: int


@dataclass(frozen=True)
class Examine(Message):
    """Answered by Examined: facts that cost more than those of Welcome. `python`: the tasks' interpreter."""

    python: str


@dataclass(frozen=True)
class ReservePorts(Message):
    """Hold `count` TCP ports until the agent ends. `among` lists the candidates, in order; empty: any free port.

    `token`: until the first StartTask, who connects to one of them is told this, up to 64 ASCII characters, and a
    newline; "": nobody may connect.
    """

    count: int
    among: tuple[int, ...] = ()
    token: str = ""


@dataclass(frozen=True)
class Probe(Message):
    """Try to connect to each of `targets`, all at once: [address, port, token] each. Answered by Probed.

    With a token, whoever is there must say it; without, it is enough that somebody takes the connection. `number`
    comes back with the answer.
    """

    number: int
    targets: tuple[Sequence[Any], ...]
    timeout_s: float


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
    """TERM to each process group now, KILL once to what is left `grace_s` later. Empty `tasks`: all of them.

    `again`: tasks will be started here again, so that no TaskCleared waits for files but those that their tasks have
    announced: the rest stays for later. Should none be started after all, a StopTasks without it brings that: the
    last TaskCleared then comes once more, after the files.
    """

    tasks: tuple[str, ...]
    grace_s: float
    again: bool = False


@dataclass(frozen=True)
class DumpStacks(Message):
    """Have each of `tasks` tell where its threads are; one that is stopped goes on for that. Answered by a TaskStacks
    for each that is there, within about a second.
    """

    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Harm(Message):
    """Injure this host or its tasks, so that somebody can see a run recover. Answered by Harmed.

    `kind`: "kill" (SIGKILL to the tasks' main processes), "stop" (SIGSTOP, and SIGCONT `seconds` later), "fill" (take
    the free space of the file system that `folder` is on, for `seconds`; "": the run's folder here), "slow" (the
    network of this host, for `seconds`: `amount` are milliseconds of delay). Empty `tasks`: all of them. All but "kill"
    are undone at the latest when the agent ends, and not sooner with 0 `seconds`.
    """

    kind: str
    tasks: tuple[str, ...] = ()
    seconds: float = 0.0
    amount: float = 0.0
    folder: str = ""


@dataclass(frozen=True)
class Goodbye(Message):
    """End, leaving no process: what the agent also does when the stream closes."""


# ---- agent -> launcher


@dataclass(frozen=True)
class Welcome(Message):
    """The agent runs. `cores` are those that it may use, `memory_bytes` the machine's.

    `addresses`: those by which other machines may reach this one, the likeliest first; no loopback ones.
    """

    protocol: int
    hostname: str
    pid: int
    python: str
    cores: int
    memory_bytes: int
    gpus: int
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class CodeWanted(Message):
    """The user's code of the OpenRun is not here: send it, in as many CodeParts as it takes."""


@dataclass(frozen=True)
class RunOpened(Message):
    """Answers OpenRun. `folder` holds `code`, a copy of the user's code, empty without any, which is where tasks
    start, and `run`, what tasks see as the run directory. `error`: why there is no such folder, a sentence.
    """

    folder: str
    error: str | None = None


@dataclass(frozen=True)
class FilePart(Message):
    """Bytes of something that tasks left in the folder `run` of RunOpened, which belongs into the run directory; from
    the launcher, the other way: what an attempt needs there, such as a checkpoint. Answered by a FileKept then.

    `artifact` is its path in there, a file or a folder that becomes visible whole; `path` that of this file within
    the folder, "" for the file itself. Parts come in order, those of one artifact not mixed with another's. `begins`:
    the first of the artifact. `ends_file`, `ends`: the last of this file, of the artifact. A later artifact of the
    same path replaces the earlier one.
    """

    PAYLOAD: ClassVar[str | None] = "data"

    artifact: str
    path: str
    begins: bool
    ends_file: bool
    ends: bool
    executable: bool
    data: bytes = b""


@dataclass(frozen=True)
class FileKept(Message):
    """What the launcher sent is there, whole. `error`: why not, a sentence."""

    artifact: str
    error: str | None = None


@dataclass(frozen=True)
class Harmed(Message):
    """Answers Harm. `error`: why it could not be done, a sentence."""

    kind: str
    error: str | None = None


@dataclass(frozen=True)
class Pong(Message):
    number: int


@dataclass(frozen=True)
class Examined(Message):
    """Answers Examine. `versions`: of "python", and of "tensorflow", "keras" and "torch" where they are installed, as
    told by the packages' metadata; `error`: why the interpreter could not tell, a sentence. `free_bytes`: on the disk
    of the run's folder. `gpus`: their names. `time`: Unix seconds here, as this is sent.
    """

    versions: Mapping[str, str]
    free_bytes: int
    gpus: tuple[str, ...]
    time: float
    error: str | None = None


@dataclass(frozen=True)
class Probed(Message):
    """Answers Probe: for each target, in their order, None, or why not: "refused", "timed out", "no route", "another
    program answers there", or the system's own words.
    """

    number: int
    results: tuple[str | None, ...]


@dataclass(frozen=True)
class PortsReserved(Message):
    """Answers ReservePorts. Fewer ports than asked for: no more of the candidates were free."""

    ports: tuple[int, ...]


@dataclass(frozen=True)
class TaskStarted(TaskMessage):
    time: float
    pid: int


@dataclass(frozen=True)
class TaskOutput(TaskMessage):
    """Bytes that the task printed, stdout and stderr in the order of writing. Any bytes, cut anywhere."""

    PAYLOAD: ClassVar[str | None] = "data"

    data: bytes = b""


@dataclass(frozen=True)
class TaskEvent(TaskMessage):
    """One line from the task's event stream; `data` is the object less its kind."""

    time: float
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class TaskUsage(TaskMessage):
    """What the task's process group uses now: resident memory in bytes, and CPU seconds so far. `stopped`: its main
    process stands still, as SIGSTOP has it. `sent_bytes`, `received_bytes`: over TCP so far, None: cannot be told.
    """

    memory_bytes: int
    cpu_s: float
    stopped: bool = False
    sent_bytes: int | None = None
    received_bytes: int | None = None


@dataclass(frozen=True)
class TaskStacks(TaskMessage):
    """The Python stacks of all threads of a task, as faulthandler writes them; empty where it could not tell them."""

    PAYLOAD: ClassVar[str | None] = "data"

    data: bytes = b""


@dataclass(frozen=True)
class TaskExited(TaskMessage):
    """The task's main process ended: by `signal` when that is not None, else with `exit_code`.

    Sent as soon as it is known, after the output and events that were already there. Or it never ran: then `message`
    says why, `exit_code` is 127 (not found), 126 (not executable) or 125 (any other reason). `why`: what is known of
    a signal that nobody here sent, such as that memory ran out, a sentence.
    """

    time: float
    exit_code: int | None
    signal: int | None
    message: str | None = None
    why: str | None = None


@dataclass(frozen=True)
class TaskCleared(TaskMessage):
    """Nothing of the task is left: no process, no byte of output unsent, nor of the files that it leaves."""


@dataclass(frozen=True)
class AgentEnding(Message):
    """The agent ends, and with it every task of the host, though the launcher did not ask for it. `reason`: why.
    `preempted`: the host is asked to leave, and its tasks have some seconds to come to an end that can be resumed.
    """

    reason: str
    preempted: bool = False


@dataclass(frozen=True)
class AgentNote(Message):
    """A sentence from the agent about itself, for the people at the launcher."""

    level: str
    message: str


_MESSAGES: dict[str, type[Message]] = {
    message.__name__: message
    for message in (
        OpenRun,
        CodePart,
        Ping,
        Examine,
        Preload,
        ReservePorts,
        Probe,
        StartTask,
        StopTasks,
        DumpStacks,
        Harm,
        Goodbye,
        Welcome,
        CodeWanted,
        RunOpened,
        FilePart,
        FileKept,
        Harmed,
        Pong,
        Examined,
        Probed,
        PortsReserved,
        TaskStarted,
        TaskOutput,
        TaskEvent,
        TaskUsage,
        TaskStacks,
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
