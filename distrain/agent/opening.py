"""From OpenRun to RunOpened: a folder for the run, with the user's code in it, which may have to be asked for.

Code that arrives is written to a file at once, so its size costs no memory. All else that takes long is done aside.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from distrain.agent import code
from distrain.agent.aside import Asides
from distrain.agent.folder import RunFolder
from distrain.wire import CodePart, CodeWanted, Message, OpenRun, RunOpened, WireError

_KILLED = "the agent's helper process ended before the user's code was in place; see whether memory runs short there"


class Opening:
    """Fills `folder` for `order`. `cache` is the folder of distrain's code; `emit` is given the answers."""

    def __init__(
        self, order: OpenRun, folder: RunFolder, cache: str | None, asides: Asides, emit: Callable[[Message], None]
    ) -> None:
        self._order = order
        self._folder = folder
        self._cache = cache
        self._asides = asides
        self._emit = emit
        self._arriving: int | None = None
        self._left_bytes = 0
        if order.code:
            asides.run(partial(code.from_cache, order.code, cache, folder.code), self._looked)
        else:
            self._opened("here")

    def take(self, part: CodePart) -> None:
        """More of the code has arrived.

        Raises:
            WireError: nobody has asked for it.
        """
        if len(part.data) > self._left_bytes:
            raise WireError("more of the user's code than was announced")
        self._left_bytes -= len(part.data)
        if self._arriving is None:
            return  # it could not be kept, which has been told
        try:
            rest = memoryview(part.data)
            while rest:
                rest = rest[os.write(self._arriving, rest) :]
        except OSError as error:
            self._close()
            self._opened(code.trouble(error, self._folder.path))
            return
        if not self._left_bytes:
            self._close()
            self._asides.run(
                partial(code.from_file, self._path, self._order.code, self._cache, self._folder.code), self._opened
            )

    @property
    def _path(self) -> str:
        return os.path.join(self._folder.path, ".arriving")

    def _looked(self, result: str | None) -> None:
        """The cache has been looked into."""
        if result != "wanted":
            self._opened(result)
            return
        try:
            self._arriving = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            self._opened(code.trouble(error, self._folder.path))
            return
        self._left_bytes = self._order.code_bytes
        self._emit(CodeWanted())
        if not self._left_bytes:
            self.take(CodePart())

    def _opened(self, result: str | None) -> None:
        error = None if result == "here" else result or _KILLED
        self._emit(RunOpened(self._folder.path, error))

    def _close(self) -> None:
        assert self._arriving is not None
        os.close(self._arriving)
        self._arriving = None
