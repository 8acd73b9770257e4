"""This machine: the agent is started behind a pipe, the way it is started anywhere else behind a connection."""

from __future__ import annotations

from collections.abc import Sequence

from distrain.job.cluster import Host

_ERRORS = (
    ("No module named 'encodings'", "its standard library is missing; reinstall that Python"),
    ("error while loading shared libraries", "a library that it needs is missing; reinstall that Python"),
)
"""What a Python prints when it cannot even start, and what that means."""


class Local:
    def command(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def explain(self, argv: Sequence[str], exit_code: int | None, stderr: str, stdout: str | None) -> str | None:
        return broken_python(argv[0], stderr)


def open_host(host: Host) -> Local:
    return Local()


def broken_python(python: str, stderr: str) -> str | None:
    """What is wrong with a Python that printed this and ended; None: nothing that is known."""
    return next((f"{python} does not start: {meaning}" for printed, meaning in _ERRORS if printed in stderr), None)
