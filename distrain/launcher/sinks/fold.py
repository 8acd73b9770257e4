"""What a terminal is spared: TensorFlow's start-up notices, the past of progress bars, control sequences, odd bytes.

Pure: bytes and times in, bytes out. Only the terminal sees what this makes; the log files have every byte.
"""

from __future__ import annotations

import re

from distrain.launcher.sinks.lines import LONGEST_LINE_BYTES, Lines

BAR_EVERY_S = 10.0
"""How often a progress bar in flight is shown as a line."""

# absl's form `I0000 00:00:1763.1 7621 port.cc:153] text`, and the older `2026-11-21 01:18:08.1: I port.cc:153] text`.
# Each notice is known by severity, source file and the start of its text: an error of the same file that is not
# in this table is shown, and so is anything that tells how peers find or lose each other.
_NOTICES = tuple(
    re.compile(
        rb"(?:%b\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+: %b )[^\]\n]*\b%b:\d+\] %b" % (s, s, file, text)
    )
    for s, file, text in (
        (rb"I", rb"port\.cc", rb"oneDNN custom operations are on"),
        (rb"[IW]", rb"cudart_stub\.cc", rb"Could not find cuda drivers"),
        (rb"I", rb"cpu_feature_guard\.cc", rb"This TensorFlow binary is optimized"),
        (rb"[EW]", rb"cuda_\w+\.cc", rb"failed call to cuInit"),
        (rb"[EW]", rb"cuda_\w+\.cc", rb"Unable to register cu\w+ (?:factory|plugin)"),
        (rb"I", rb"cuda_diagnostics\.cc", rb""),
        (rb"[EW]", rb"computation_placer\.cc", rb"computation placer already registered"),
        (rb"W", rb"gpu_device\.cc", rb"Cannot dlopen some GPU libraries"),
        (rb"W", rb"py_utils\.cc", rb"TF-TRT Warning: Could not find TensorRT"),
        (rb"I", rb"local_rendezvous\.cc", rb"Local rendezvous recv item cancelled"),
        (rb"[IW]", rb"local_rendezvous\.cc", rb"Local rendezvous is aborting with status: OUT_OF_RANGE: End of"),
        (rb"I", rb"grpc_server_lib\.cc", rb"Started server with target"),
        (rb"I", rb"eager_service_impl\.cc", rb"Creating \w+ eager service context with rendezvous_id"),
        (rb"I", rb"eager_service_impl\.cc", rb"SessionOptions: "),
        (rb"I", rb"dtensor_device\.cc", rb"DTensor cache key lookup missed for"),
        (rb"I", rb"coordination_service_agent\.cc", rb"Coordination agent has successfully connected"),
        (rb"I", rb"coordination_service\.(?:cc|h)", rb"/job:\S+ has connected to coordination service"),
        (rb"I", rb"coordination_service\.(?:cc|h)", rb"Waiting for 0/\d+ tasks to connect"),
        (rb"I", rb"coordination_service\.(?:cc|h)", rb"Barrier\(\S+\) has passed with status: OK"),
    )
)
_BEFORE_DUMP = b"] SessionOptions: "
"""A notice that is followed by a protocol buffer's text and an empty line."""
_OF_DUMP = re.compile(rb" *(?:\w+ \{|\}|\w+: \S.*)\n?")
_PREAMBLES = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    b"To enable the following instructions: ",
    b"Skipping registering GPU devices...",
)
_MARKS = (b".cc:", b".h:", b"absl::InitializeLog", b"To enable the following", b"Skipping registering GPU")
"""A chunk that holds none of these holds no notice."""

_ESCAPES = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, modes
    rb"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)"  # OSC, DCS and their kin: titles, links, pictures
    rb"|\x1b[ -/]*[0-Z\\^-~]"  # the short ones
)
_CONTROLS = bytes(byte for byte in range(0x20) if byte not in b"\t\n") + b"\x7f"
_C1 = re.compile(rb"\xc2[\x80-\x9f]")
_OVERWRITTEN = re.compile(rb"^[^\n]*\r(?=[^\r\n])", re.MULTILINE)


def is_notice(line: bytes) -> bool:
    """Whether `line` is one of the notices that TensorFlow prints when all is well."""
    return line.startswith(_PREAMBLES) or any(notice.match(line) for notice in _NOTICES)


def last_state(text: bytes) -> bytes:
    """Each line of `text` less what a carriage return lets the rest overwrite."""
    return _OVERWRITTEN.sub(b"", text) if b"\r" in text else text


def harmless(text: bytes) -> bytes:
    """`text` as valid UTF-8 with no control character but tab and newline."""
    if b"\x1b" in text:
        text = _ESCAPES.sub(b"", text)
    text = text.translate(None, _CONTROLS)
    if text.isascii():
        return text
    text = text.decode(errors="replace").encode()
    return _C1.sub(b"", text)


class Folder:
    """The output of many tasks, made fit for a terminal: `feed` gives whole lines, without a prefix."""

    def __init__(self, *, longest_line_bytes: int = LONGEST_LINE_BYTES) -> None:
        self._lines = Lines(longest_bytes=longest_line_bytes, tidy=last_state)
        self._bar_shown_at: dict[str, float] = {}
        self._folded_from: set[str] = set()
        self._dumping: set[str] = set()
        self._folded = 0

    def feed(self, time: float, task: str, data: bytes) -> bytes:
        lines = self._presentable(task, self._lines.feed(task, data))
        if lines:
            self._bar_shown_at.pop(task, None)
        if b"\r" in data:
            lines += self._bar(time, task)
        return lines

    def finish(self, task: str) -> bytes:
        """The unfinished line of `task`, as a line."""
        self._bar_shown_at.pop(task, None)
        return self._presentable(task, self._lines.finish(task))

    def finish_all(self) -> dict[str, bytes]:
        """The unfinished line of every task that has one."""
        return {task: self._presentable(task, line) for task, line in self._lines.finish_all().items()}

    def forget_unfinished(self) -> None:
        """What follows does not continue what was fed before."""
        self._lines.finish_all()

    def notices(self) -> str | None:
        """How much was folded until now, in words. None: nothing."""
        if not self._folded:
            return None
        lines, tasks = self._folded, len(self._folded_from)
        return (
            f"TensorFlow start-up notices: {lines} line{'s' * (lines != 1)} "
            f"from {tasks} task{'s' * (tasks != 1)} folded, in logs/"
        )

    def _bar(self, time: float, task: str) -> bytes:
        since = self._bar_shown_at.setdefault(task, time)
        if time - since < BAR_EVERY_S:
            return b""
        self._bar_shown_at[task] = time
        state = harmless(self._lines.held(task))
        return state + b"\n" if state.strip() else b""

    def _presentable(self, task: str, lines: bytes) -> bytes:
        if task in self._dumping or any(mark in lines for mark in _MARKS):
            kept = [line for line in lines.splitlines(keepends=True) if not self._is_folded(task, line)]
            folded = lines.count(b"\n") - b"".join(kept).count(b"\n")
            if folded:
                self._folded += folded
                self._folded_from.add(task)
                lines = b"".join(kept)
        return harmless(lines)

    def _is_folded(self, task: str, line: bytes) -> bool:
        if task in self._dumping and _OF_DUMP.fullmatch(line):
            return True
        if task in self._dumping:
            self._dumping.discard(task)
            if not line.strip():  # the last of it
                return True
        if not is_notice(line):
            return False
        if _BEFORE_DUMP in line:
            self._dumping.add(task)
        return True
