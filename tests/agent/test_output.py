"""What tasks print arrives: every byte, in order, fast, with bounded memory while nobody reads."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from agent.driver import Host
from process_table import peak_bytes, wait_until

from distrain.wire import Goodbye, TaskOutput

pytestmark = pytest.mark.processes

LINES = "import sys\nfor number in range({count}): sys.stdout.write(f'{name} line {{number}}\\n')\n"


@pytest.mark.parametrize(
    "printed",
    [b"no newline at the end", b"\xff\xfe\x80\x00 not UTF-8\n", b"", b"\n\n", b"x" * 10_000_000],
    ids=["no newline", "not UTF-8", "nothing", "empty lines", "10 MB on one line"],
)
def test_bytes_arrive_as_they_are(host: Host, printed: bytes) -> None:
    host.start(["cat"], stdin=printed)
    host.cleared()
    assert host.output() == printed


def test_two_tasks_with_200_000_lines_each(host: Host) -> None:
    for name in ("worker:0", "worker:1"):
        host.run(LINES.format(count=200_000, name=name), task=name)
    for name in ("worker:0", "worker:1"):
        host.cleared(name)
        assert host.output(name) == b"".join(b"%s line %d\n" % (name.encode(), number) for number in range(200_000))


def test_lines_that_are_flushed_one_by_one_share_messages(host: Host) -> None:
    host.run("for number in range(20_000): print(number, flush=True)")
    host.cleared()
    assert host.output() == b"".join(b"%d\n" % number for number in range(20_000))
    assert len(host.all(TaskOutput)) < 2000


def test_a_line_arrives_soon(host: Host) -> None:
    host.run("import sys\nfor line in sys.stdin: pass\nprint('up', flush=True)\nimport time; time.sleep(600)")
    began = time.monotonic()
    host.until_output(b"up")
    assert time.monotonic() - began < 1.0


def test_a_reader_that_stops_costs_no_task_and_no_memory(host: Host, tmp_path: Path) -> None:
    """Two tasks print 120 MB while nobody reads: they finish, the agent stays small, and every byte comes later."""
    count, line = 600_000, b"x" * 99 + b"\n"
    done = [tmp_path / "0", tmp_path / "1"]
    for number, file in enumerate(done):
        host.run(
            f"import sys, pathlib\nfor _ in range({count}): sys.stdout.write('x' * 99 + '\\n')\n"
            f"sys.stdout.flush(); pathlib.Path({str(file)!r}).touch()",
            task=f"worker:{number}",
        )
    wait_until(lambda: all(file.exists() for file in done), 60.0, "the tasks are not held up by the reader")
    assert peak_bytes(host.agent_pid) < 64 << 20
    for number in range(2):
        host.cleared(f"worker:{number}")
        assert host.output(f"worker:{number}") == line * count


def test_a_reader_that_stops_gets_the_rest_after_goodbye(host: Host, tmp_path: Path) -> None:
    done = tmp_path / "done"
    host.run(f"import pathlib\nprint('x' * 20_000_000, flush=True)\npathlib.Path({str(done)!r}).touch()")
    wait_until(done.exists, 20.0, "the task is not held up")
    host.link.send(Goodbye())
    host.until(lambda: host.link.ended, "the end")
    host.exited()
    assert len(host.output()) == 20_000_001


def test_throughput(host: Host) -> None:
    """Well below what it does: this fails when a needless copy, or a message a line, creeps in."""
    size = 400_000_000
    began = time.monotonic()
    host.run(f"import os\nline = b'x' * 99_999 + b'\\n'\nfor _ in range({size // 100_000}): os.write(1, line)")
    host.cleared()
    took_s = time.monotonic() - began
    assert sum(len(message.data) for message in host.all(TaskOutput)) == size
    assert size / took_s > 60e6, f"{size / took_s / 1e6:.0f} MB/s"
