"""Every error that a user can meet, each with its exit code.

The text of such an error is one sentence that says what is wrong and what to do next; it is printed
without a traceback. Any other exception is a defect of distrain and keeps its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass

EXIT_OK = 0
EXIT_TASK_FAILED = 1
EXIT_USAGE = 2
EXIT_HOST = 3
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class DistrainError(Exception):
    """A mistake or a mishap that is told in a sentence."""

    exit_code: int = EXIT_TASK_FAILED


class UsageError(DistrainError):
    """The command is wrong."""

    exit_code = EXIT_USAGE


class HostError(DistrainError):
    """A host cannot be reached, refuses, or lacks what a run needs."""

    exit_code = EXIT_HOST


@dataclass(frozen=True, order=True)
class Complaint:
    """One thing that is wrong with a job, and what to do about it.

    `line` and `column` count from 1; 0 means that the complaint belongs to no place in the file.
    """

    file: str
    line: int
    column: int
    problem: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.problem}; {self.remedy}"


class JobError(UsageError):
    """The job is wrong. Carries every complaint, in the order of the file."""

    def __init__(self, complaints: tuple[Complaint, ...]) -> None:
        self.complaints = tuple(sorted(complaints))
        super().__init__("\n".join(str(complaint) for complaint in self.complaints))
