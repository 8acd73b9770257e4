"""What waits for the launcher: in order, bounded in memory, and never in the way of training."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from pathlib import Path

import pytest

from distrain.agent import outbox
from distrain.agent.outbox import Outbox


class Reader:
    """A pipe whose reading end is read when a test says so."""

    def __init__(self) -> None:
        self.fd, self.write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self.write_fd, False)
        self.got = bytearray()

    def take(self, box: Outbox) -> None:
        """Send and read until nothing waits."""
        while box:
            box.send(self.write_fd)
            self.read()

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.got += os.read(self.fd, 1 << 20)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.mark.parametrize("seed", range(5))
def test_every_byte_in_order_whatever_the_pace(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(outbox, "MEMORY_BYTES", 10_000)
    monkeypatch.setattr(outbox, "SEGMENT_BYTES", 30_000)
    choose = random.Random(seed)
    box = Outbox(str(tmp_path))
    sent = bytearray()
    for _ in range(2000):
        frame = choose.randbytes(choose.choice((1, 50, 3000)))
        sent += frame
        box.append(frame)
        if choose.random() < 0.3:
            box.send(reader.write_fd)
            reader.read()
    reader.take(box)
    assert reader.got == sent
    assert list(tmp_path.iterdir()) == [], "spilled files have no name"


def test_spilled_files_are_given_back(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "SEGMENT_BYTES", 1 << 20)
    box = Outbox(str(tmp_path))
    for _ in range(20):
        box.append(bytes(1 << 20))
    before = len(os.listdir("/proc/self/fd"))
    reader.take(box)
    assert len(os.listdir("/proc/self/fd")) <= before - 15
    assert not box


@pytest.mark.processes
def test_a_full_disk_means_no_room_until_there_is_some(reader: Reader, tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk to fill")
    try:
        box = Outbox(str(tmp_path))
        frames = [bytes([number]) * 300_000 for number in range(100)]
        added = 0
        while box.has_room:
            box.append(frames[added])
            added += 1
        assert outbox.MEMORY_BYTES < added * 300_000 < outbox.MEMORY_BYTES + 3_000_000
        box.append(b"what must be told all the same")
        reader.take(box)
        assert box.has_room
        box.append(b"later")
        reader.take(box)
        assert reader.got == b"".join(frames[:added]) + b"what must be told all the same" + b"later"
        box.close()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_after_it_is_closed_nothing_is_kept(tmp_path: Path) -> None:
    box = Outbox(str(tmp_path))
    for _ in range(10):
        box.append(bytes(1 << 20))
    box.close()
    box.append(b"more")
    assert not box
