"""The launcher's half of the handshake that `agent/bootstrap.py` describes: bytes in, bytes out, no descriptors.

Owns the stub, which is the program on the host's command line, and what the answers mean. Nothing is sent before the
stub has said `begin`: a login's start-up file that reads from its standard input would get it instead.
"""

from __future__ import annotations

import json

from distrain.launcher.hosts.bundle import Bundle
from distrain.wire import PROTOCOL

MINIMUM_PYTHON = (3, 11)

_STUB = """\
import sys
sys.path = [p for p in sys.path if p]
import os
def read(n):
    data = os.read(0, n)
    return data + read(n - len(data)) if data and len(data) < n else data
if sys.version_info < {minimum}:
    os.write(1, ('\\ndistrain-agent {protocol} error "its Python is %d.%d, distrain needs {needed} or newer there"\\n'
        % sys.version_info[:2]).encode())
    sys.exit(1)
os.write(1, '\\ndistrain-agent {protocol} begin\\n'.encode())
source = read({size})
if len(source) == {size}:
    exec(compile(source, 'distrain-bootstrap', 'exec'))
"""
"""It must run in any Python, to say that it is too old."""

_MARK = b"distrain-agent "
_MAX_NOISE_BYTES = 1 << 23
_KEPT_NOISE_BYTES = 8192


class Refusal(Exception):
    """There will be no agent. The message is a sentence without the host's name."""


class Handshake:
    """One handshake, from `argv` until `is_done`."""

    def __init__(
        self, bundle: Bundle, python: str, cache: str | None, minimum_python: tuple[int, int] = MINIMUM_PYTHON
    ) -> None:
        stub = _STUB.format(
            minimum=minimum_python,
            needed=".".join(map(str, minimum_python)),
            protocol=PROTOCOL,
            size=len(bundle.bootstrap),
        )
        # Nothing of the user's environment or folder may change what the agent imports: -E, -s, -S, and the stub's
        # first lines. Older Pythons do not know -I, and could not tell that they are old.
        self.argv = [python, "-E", "-s", "-S", "-c", stub]
        request = {"protocol": PROTOCOL, "bundle": bundle.digest, "size": len(bundle.data), "cache": cache}
        self.is_done = False
        self.noise = b""
        """The end of what else was printed there, such as a login's greeting."""
        self._noise_bytes = 0
        self._opening = bundle.bootstrap + json.dumps(request).encode() + b"\n"
        self._bundle = bundle
        self._line = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take what arrived. Returns what to send now, and, once `is_done`, what came after the handshake.

        Raises:
            Refusal: the host has refused, or what it prints is no handshake.
        """
        *lines, self._line = (self._line + data).split(b"\n")
        answer = b""
        for number, line in enumerate(lines):
            if not line.startswith(_MARK):
                self.noise = (self.noise + line + b"\n")[-_KEPT_NOISE_BYTES:]
                self._noise_bytes += len(line) + 1
                continue
            match line[len(_MARK) :].split(b" ", 2):
                case [protocol, *_] if protocol != str(PROTOCOL).encode():
                    raise Refusal("the agent there speaks another protocol; update distrain")
                case [_, b"error", sentence]:
                    raise Refusal(json.loads(sentence))
                case [_, b"begin"]:
                    answer = self._opening
                case [_, b"need"]:
                    answer = self._bundle.data
                case [_, b"have"]:
                    self.is_done = True
                    return answer, b"\n".join([*lines[number + 1 :], self._line])
        if self._noise_bytes + len(self._line) > _MAX_NOISE_BYTES:
            raise Refusal("its login prints without end; make its shell's start-up files silent for commands")
        return answer, b""
