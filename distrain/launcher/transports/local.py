"""This machine: the agent is started behind a pipe, the way it is started anywhere else behind a connection."""

from __future__ import annotations

from collections.abc import Sequence

_ERRORS = (
    ("No module named 'encodings'", "its standard library is missing; reinstall that Python"),
    ("error while loading shared libraries", "a library that it needs is missing; reinstall that Python"),
)
"""What the Python here prints when it cannot even start, and what that means."""


def command(host: str, argv: Sequence[str]) -> list[str]:
    return list(argv)


def explain(host: str, argv: Sequence[str], exit_code: int | None, stderr: str) -> str | None:
    return next((f"{argv[0]} does not start: {meaning}" for printed, meaning in _ERRORS if printed in stderr), None)
