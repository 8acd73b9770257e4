"""Sums through shared memory among processes of one host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.tensorflow


def slow(_peer: int) -> bool:
    """A peer that has not come is only slow."""
    return True


TASKS = """
import json, multiprocessing, sys
import numpy as np
from distrain.worker.strategies.neighbours import Neighbours, PeerGone

name, count, leaves_at = sys.argv[1], *map(int, sys.argv[2:])
forked = multiprocessing.get_context("fork")  # TensorFlow is imported once, and runs no operation
all_listen = forked.Barrier(count)


def task(index, result):
    neighbours = Neighbours(name, index, count, lambda peer: True)
    all_listen.wait(60)
    neighbours.meet()
    random = np.random.default_rng(index)
    sums = []
    for step in range(50):
        if index == 1 and step == leaves_at:
            for peer in neighbours._peers.values():  # they are at that step, too, and wait for this one
                peer.recv(1)
            sys.exit()
        values = [
            random.standard_normal((7, 3)).astype(np.float32),
            np.float32(random.standard_normal()),
            random.standard_normal(5),
            np.zeros((0, 4), np.float32),
            random.integers(0, 100, 1001),
        ]
        try:
            total = neighbours.exchange([np.asarray(value) for value in values])
        except PeerGone as gone:
            sums = f"{step}: {gone}"
            break
        sums.append([part.tolist() for part in total])
    result.send(sums)


results, tasks = [], []
for index in range(count):
    reader, writer = forked.Pipe(duplex=False)
    tasks.append(forked.Process(target=task, args=(index, writer)))
    tasks[-1].start()
    writer.close()
    results.append(reader)
told = []
for reader in results:
    try:
        told.append(reader.recv())
    except EOFError:
        told.append(None)
print(json.dumps(told))
"""


def outcomes(count: int, leaves_at: int = -1) -> list[object]:
    """What each of `count` tasks has at its end: all its sums, or who was gone at which step."""
    ran = subprocess.run(
        [sys.executable, "-c", TASKS, uuid.uuid4().hex, str(count), str(leaves_at)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    return json.loads(ran.stdout)


@pytest.mark.parametrize("count", [2, 3])
def test_every_task_gets_the_same_sums(count: int) -> None:
    import numpy as np

    first, *others = outcomes(count)
    assert all(other == first for other in others)
    assert isinstance(first, list)
    randoms = [np.random.default_rng(index) for index in range(count)]
    for matrix, scalar, vector, none, whole in first:
        parts = [
            (
                random.standard_normal((7, 3)).astype(np.float32),
                np.float32(random.standard_normal()),
                random.standard_normal(5),
                random.integers(0, 100, 1001),
            )
            for random in randoms
        ]
        expected = [sum(column[1:], start=column[0]) for column in zip(*parts, strict=True)]
        for value, total in zip((matrix, scalar, vector, whole), expected, strict=True):
            np.testing.assert_array_equal(np.asarray(value, total.dtype), total)
        assert none == []


def test_one_that_ends_before_it_has_said_its_name_is_missed_too() -> None:
    from distrain.worker.strategies.neighbours import Neighbours, PeerGone

    name = uuid.uuid4().hex
    neighbours = Neighbours(name, 0, 2, slow)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(neighbours._address(0))
    with pytest.raises(PeerGone, match="is gone"):
        neighbours.meet()


def test_the_first_sum_waits_for_one_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from distrain.worker.strategies import neighbours

    monkeypatch.setattr(neighbours, "_SILENCE_S", 0.05)
    name, asked = uuid.uuid4().hex, threading.Event()

    def slow_once_asked(_peer: int) -> bool:
        asked.set()
        return True

    first, second = neighbours.Neighbours(name, 0, 2, slow), neighbours.Neighbours(name, 1, 2, slow_once_asked)

    def late() -> list[np.ndarray]:
        first.meet()
        assert asked.wait(30)
        return first.exchange([np.float32([1])])

    with ThreadPoolExecutor(1) as thread:
        of_first = thread.submit(late)
        second.meet()
        assert second.exchange([np.float32([2])])[0] == of_first.result(30)[0] == 3
    for peer in (*first._peers.values(), *second._peers.values()):
        peer.close()


def test_another_users_process_is_waited_for_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    from distrain.worker.strategies.neighbours import Neighbours

    neighbours = Neighbours(uuid.uuid4().hex, 0, 2, slow)
    monkeypatch.setattr(os, "getuid", lambda: 12345678)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(neighbours._address(0))
        with pytest.raises(PermissionError, match="has taken the place"):
            neighbours.meet()


def test_another_users_process_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from distrain.worker.strategies.neighbours import Neighbours

    neighbours = Neighbours(uuid.uuid4().hex, 1, 2, slow)
    monkeypatch.setattr(os, "getuid", lambda: 12345678)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.bind(neighbours._address(0))
        stranger.listen()
        with pytest.raises(PermissionError, match="has taken the place"):
            neighbours.meet()
        accepted, _ = stranger.accept()
        with accepted:
            assert accepted.recv(1) == b""


def test_who_leaves_is_missed_by_all_others() -> None:
    assert outcomes(3, leaves_at=20) == ["20: worker:1 is gone", None, "20: worker:1 is gone"]
