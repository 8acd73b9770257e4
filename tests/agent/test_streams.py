"""A task's event stream, cut anywhere, becomes messages."""

from __future__ import annotations

import json

import pytest

from distrain.agent.streams import MAX_EVENT_BYTES, EventLines
from distrain.wire import AgentNote, Message, TaskEvent


def read(data: bytes, step: int) -> list[Message]:
    lines = EventLines("worker:0", 1)
    messages = [message for start in range(0, len(data), step) for message in lines.feed(data[start : start + step])]
    return messages + list(lines.finish())


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_lines_cut_anywhere(step: int) -> None:
    events = [{"kind": "progress", "step": number, "text": "é\n"} for number in range(20)]
    data = b"\n".join(json.dumps(event, ensure_ascii=False).encode() for event in events)
    got = read(data, step)
    assert all(isinstance(message, TaskEvent) for message in got)
    assert [{"kind": event.kind, **event.data} for event in got if isinstance(event, TaskEvent)] == events


@pytest.mark.parametrize("step", [4096, 1 << 30])
def test_a_line_that_is_too_long_costs_only_itself(step: int) -> None:
    long = b'{"kind": "' + b"x" * MAX_EVENT_BYTES + b'"}\n'
    got = read(long + b'{"kind": "good"}\n' + long + b'{"kind": "also good"}', step)
    assert [message.kind for message in got if isinstance(message, TaskEvent)] == ["good", "also good"]
    assert len([message for message in got if isinstance(message, AgentNote)]) == 2


def test_a_task_that_writes_rubbish_is_not_told_of_for_ever() -> None:
    notes = read(b"rubbish\n" * 1000, 4096)
    assert len(notes) == 10


def test_deep_nesting_is_no_event() -> None:
    (note,) = read(b"[" * 100_000, 1 << 20)
    assert isinstance(note, AgentNote)
