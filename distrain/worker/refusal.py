"""The exceptions whose text is the whole story: a sentence for people, without a traceback."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """The user's job is at fault. The text is one sentence that says what is wrong and what to do; no traceback."""


class Ending(Exception):
    """Training cannot go on, and neither code nor job is to blame for sure. `why` is a word for programs: the failure's
    kind; `facts` is what else they are told.
    """

    def __init__(self, sentence: str, why: str, **facts: Any) -> None:
        super().__init__(sentence)
        self.why = why
        self.facts = facts
