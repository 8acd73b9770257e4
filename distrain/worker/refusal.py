"""The one exception that says: the job is at fault, not distrain."""

from __future__ import annotations


class Refusal(Exception):
    """The user's job is at fault. The text is one sentence that says what is wrong and what to do; no traceback."""
