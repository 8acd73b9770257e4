"""Sums among tasks that share a host: through shared memory, in place of TensorFlow's ring over gRPC.

On a CPU the ring spends more time in copying and in the network stack than a small model spends in a step. Here every
task writes its values where all can read them, adds up one share of everybody's, and hands the graph the whole result
where it lies. Validation, votes and whatever else is exchanged stay with TensorFlow.

    listen (before the tasks find each other)  ->  meet (after)  ->  summed, at every step

Additions are made in the order of the tasks' indices, so a sum has the same bits in every task and every run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import mmap
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from distrain.worker.model.step import all_reduced
from distrain.worker.strategies.interface import PeerGone

_RESULTS = 2
"""A task may be one step ahead of another that still reads the result before."""
_ALIGNMENT_BYTES = 64
"""What TensorFlow wants of memory that it is to use without a copy."""
_SILENCE_S = 3.0
_INDEX = struct.Struct(">I")
_CREDENTIALS = struct.Struct("3i")


class Neighbours:
    """Tasks `0` to `count - 1` of one host and user, of which this is `index`. `name` is the meeting's, one a run.

    `answers(index)` is asked about a task that has not come for `_SILENCE_S`: whether it is only slow.
    """

    def __init__(self, name: str, index: int, count: int, answers: Callable[[int], bool]) -> None:
        self._answers = answers
        self._name = name
        self._index = index
        self._count = count
        self._peers: dict[int, socket.socket] = {}
        self._memory: _Memory | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self._address(index))
        self._listener.listen(count)

    def meet(self) -> None:
        """Connect to all others, who listen by now.

        Raises:
            PeerGone: one of them has ended.
            PermissionError: another user's process has taken the name of one of them.
        """
        with self._listener, contextlib.ExitStack() as opened:
            for index in range(self._index):
                peer = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                with _gone(f"worker:{index}"):
                    peer.connect(self._address(index))
                    _check_user(peer)
                    peer.sendall(_INDEX.pack(self._index))
                self._peers[index] = peer
            while len(self._peers) < self._count - 1:
                peer = opened.enter_context(self._listener.accept()[0])
                _check_user(peer)
                with _gone("a worker that was to take part"):
                    (index,) = _INDEX.unpack(_received(peer, _INDEX.size))
                self._peers[index] = peer
            opened.pop_all()
        for peer in self._peers.values():
            peer.settimeout(_SILENCE_S)

    def summed(self, values: Sequence[Any]) -> list[tf.Tensor]:
        """In a replica context: the sums of each of `values` over all tasks.

        Each is an array of its own, although TensorFlow spends 5 microseconds on every one that it gets from Python:
        what is cut out of a larger one it takes for memory of its own, and writes into it.
        The gradient of an embedding names the few rows that it has: TensorFlow sends no others, and keeps these.
        """
        dense = [value for value in values if not isinstance(value, tf.IndexedSlices)]
        sums = tf.numpy_function(lambda *parts: self.exchange(parts), dense, [value.dtype for value in dense])
        for value, total in zip(dense, sums, strict=True):
            total.set_shape(value.shape)
        sparse = [value for value in values if isinstance(value, tf.IndexedSlices)]
        remaining = {True: iter(all_reduced(sparse) if sparse else ()), False: iter(sums)}
        return [next(remaining[isinstance(value, tf.IndexedSlices)]) for value in values]

    def exchange(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The sums of `values`, of the same shapes and dtypes in every task and call.

        The arrays that are returned are overwritten by the call after the next.

        Raises:
            PeerGone: a task has ended.
        """
        if self._memory is None:
            self._memory = _Memory(self._share_file, self._index, self._count, values)
        self._memory.write(values)
        self._wait_for_all()
        self._memory.add_up()
        self._wait_for_all()
        return self._memory.take_result()

    def _wait_for_all(self) -> None:
        """Until every task has come here as often as this one."""
        for index, peer in self._peers.items():
            with _gone(f"worker:{index}"):
                peer.send(b"\0")
        for index, peer in self._peers.items():
            self._heard(index, functools.partial(_received, peer, 1))

    def _heard(self, index: int, receive: Callable[[], Any]) -> Any:
        """What `receive` gets from a task, which may take its time.

        Raises:
            PeerGone: it has ended, or does not answer.
        """
        while True:
            try:
                with _gone(f"worker:{index}"):
                    return receive()
            except TimeoutError:
                if not self._answers(index):
                    raise PeerGone(f"worker:{index} does not answer") from None

    def _address(self, index: int) -> str:
        """A name without a file, known only within the host, and short whatever the run is called."""
        return f"\0distrain/{hashlib.sha256(self._name.encode()).hexdigest()}/{index}"

    def _share_file(self, size: int) -> int:
        """A descriptor of the memory that all share, `size` bytes, which the first task makes."""
        if self._index == 0:
            file = os.memfd_create("distrain-sum", os.MFD_CLOEXEC)
            os.ftruncate(file, size)
            for index, peer in self._peers.items():
                with _gone(f"worker:{index}"):
                    socket.send_fds(peer, [b"\0"], [file])
            return file
        return self._heard(0, functools.partial(_received_file, self._peers[0]))


class _Memory:
    """Rows of the same layout: one of values for each task, then the results. Only the tasks' order in time keeps what
    one writes from what another reads.
    """

    def __init__(self, share: Callable[[int], int], index: int, count: int, values: Sequence[np.ndarray]) -> None:
        self._index = index
        self._count = count
        places, runs, row_bytes = _layout(values)
        file = share((count + _RESULTS) * row_bytes)
        rows = np.frombuffer(mmap.mmap(file, (count + _RESULTS) * row_bytes), np.uint8).reshape(-1, row_bytes)
        os.close(file)
        self._own = [_view(rows[index], place, value) for place, value in zip(places, values, strict=True)]
        self._results = [
            [_view(row, place, value) for place, value in zip(places, values, strict=True)] for row in rows[count:]
        ]
        # By result, then dtype: everybody's share of the values that is ours to add up, and where their sum goes.
        self._sums = [
            [
                (
                    [_share(row[run].view(dtype), index, count) for row in rows[:count]],
                    _share(result[run].view(dtype), index, count),
                )
                for dtype, run in runs.items()
            ]
            for result in rows[count:]
        ]
        self._turn = 0

    def write(self, values: Sequence[np.ndarray]) -> None:
        for place, value in zip(self._own, values, strict=True):
            place[...] = value

    def add_up(self) -> None:
        for (first, second, *others), total in self._sums[self._turn]:
            np.add(first, second, out=total)
            for other in others:
                np.add(total, other, out=total)

    def take_result(self) -> list[np.ndarray]:
        result = self._results[self._turn]
        self._turn = (self._turn + 1) % _RESULTS
        return result


def _layout(values: Sequence[np.ndarray]) -> tuple[list[slice], dict[np.dtype, slice], int]:
    """Where in a row each value lies and each dtype's run of values, as slices of bytes; and the row's length."""
    places: dict[int, slice] = {}
    runs: dict[np.dtype, slice] = {}
    offset = 0
    for dtype in dict.fromkeys(value.dtype for value in values):
        start = offset
        for number, value in enumerate(values):
            if value.dtype == dtype:
                places[number] = slice(offset, offset + value.nbytes)
                offset += -(-value.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        runs[dtype] = slice(start, offset)
    return [places[number] for number in range(len(values))], runs, offset


def _view(row: np.ndarray, place: slice, like: np.ndarray) -> np.ndarray:
    return row[place].view(like.dtype).reshape(like.shape)


def _share(values: np.ndarray, index: int, count: int) -> np.ndarray:
    return values[len(values) * index // count : len(values) * (index + 1) // count]


@contextlib.contextmanager
def _gone(who: str) -> Iterator[None]:
    """The end of the connection to a task is the task's end."""
    try:
        yield
    except ConnectionError:
        raise PeerGone(f"{who} is gone") from None


def _received(peer: socket.socket, size: int) -> bytes:
    data = peer.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise ConnectionResetError
    return data


def _received_file(peer: socket.socket) -> int:
    said, files, _, _ = socket.recv_fds(peer, 1, 1)
    if not said:
        raise ConnectionResetError
    return files[0]


def _check_user(peer: socket.socket) -> None:
    _, user, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if user != os.getuid():
        raise PermissionError(f"a process of user {user} has taken the place of one of this run's tasks")
