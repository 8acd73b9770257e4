from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.driver import Host


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A code cache that all tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def open_host(cache: Path) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def open_one(**options: object) -> Host:
        hosts.append(Host(**{"cache": cache, **options}))  # type: ignore[arg-type]
        return hosts[-1]

    yield open_one
    for host in hosts:
        host.end()


@pytest.fixture
def host(open_host: Callable[..., Host]) -> Host:
    return open_host()
