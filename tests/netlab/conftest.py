"""A lab of three hosts with an sshd each, and distrain started as a user with that ssh on the PATH would start it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from netlab.lab import FOLDERS, MNIST, ROOT, Lab, netlab, no_lab, take_down_abandoned
from netlab.launch import Launch

HERE = Path(__file__).parent
IMPOSSIBLE = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.netlab)
            item.add_marker(pytest.mark.processes)


@pytest.fixture(scope="session")
def hosts() -> Iterator[Lab]:
    """Hosts with this Python, but without this repository: distrain is not there."""
    take_down_abandoned()
    folder = Path(f"{FOLDERS}{os.getpid()}")
    shown = [sys.prefix, sys.base_prefix, *([str(MNIST)] if MNIST.is_dir() else [])]
    made = netlab(folder, "up", "3", "--hide", str(ROOT), *(word for each in shown for word in ("--show", each)))
    if made.returncode == IMPOSSIBLE:
        no_lab(made.stderr.strip())
    assert made.returncode == 0, made.stderr
    try:
        yield Lab(folder)
    finally:
        gone = netlab(folder, "down")
    assert gone.returncode == 0, gone.stderr


@pytest.fixture
def lab(hosts: Lab) -> Iterator[Lab]:
    """The hosts, which every test finds as they were made, and must leave without a process."""
    yield hosts
    left = hosts.restore()
    assert left == []


@pytest.fixture
def spare(hosts: Lab) -> Iterator[Path]:
    """The folder of one more lab, which is neither there yet nor afterwards. `hosts`: where a lab is possible."""
    folder = Path(f"{FOLDERS}{os.getpid()}-spare")
    try:
        yield folder
    finally:
        gone = netlab(folder, "down")
    assert gone.returncode == 0, gone.stderr


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """The folder where the user stands."""
    folder = tmp_path / "user"
    folder.mkdir()
    return folder


@pytest.fixture
def launch(lab: Lab, user: Path, tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """Starts `distrain launch` with words, in a folder of the user's; see Launch."""
    with ExitStack() as started:

        def start(*words: str, **options: object) -> Launch:
            launch = Launch(lab, user, tmp_path, words, **options)  # type: ignore[arg-type]
            started.callback(launch.close)
            return launch

        yield start
