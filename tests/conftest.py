"""What the tests of faults have found out, as the table of docs/faults.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fault_run import Outcome
from fault_table import Row, table

KEY = pytest.StashKey[list[Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-faults", action="store_true", help="try every fault, not a few for each strategy")
    parser.addoption("--write-faults", metavar="FILE", help="write what came of the faults into FILE, as a table")


@pytest.fixture
def all_faults(request: pytest.FixtureRequest) -> bool:
    """Whether every fault is to be tried, which takes minutes."""
    return bool(request.config.getoption("--all-faults"))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, str, str, Outcome], None]:
    """Keeps what came of a fault: its name, the strategy, the place, the outcome."""
    rows = request.config.stash.setdefault(KEY, [])
    return lambda fault, strategy, place, outcome: rows.append(Row(fault, strategy, place, outcome))


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = session.config.getoption("--write-faults")
    if file:
        Path(file).write_text(table(session.config.stash.get(KEY, [])))
