"""What a rule is: the keys that it looks at, and the sentence that it has for a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distrain.job.spec import JobSpec

Sentence = tuple[str, ...] | None
"""The problem and its remedy, then the paths, most exact first, of which the first that is given gets the complaint."""


@dataclass(frozen=True)
class Rule:
    """`paths`: the keys that it looks at; the complaint goes to the first that the file gives, those of the sentence
    before these.
    """

    paths: tuple[str, ...]
    judge: Callable[[JobSpec], Sentence]


def counted(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
