"""The documentation lists the keys that there are, with their types and defaults, and its examples are right."""

from __future__ import annotations

import re
from dataclasses import MISSING, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from distrain.cli.hosts import Asked
from distrain.job.file.schema import keys
from distrain.job.load import load_job, parse_job
from distrain.job.spec import STRATEGIES, Named

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docs" / "job-file.md").read_text()


def spelled(path: str, default: Any) -> str:
    """A default as the documentation writes it."""
    if default is MISSING:
        return "the file's name" if path == "name" else "must be given"
    if path in ("watchdog.step_timeout_s", "strategy.layout"):
        return "`auto`"
    if isinstance(default, Named):
        return f"`{default.name}`"
    if is_dataclass(default):
        return "below"
    if isinstance(default, tuple):
        return f"`[{', '.join(str(getattr(item, 'name', item)) for item in default)}]`"
    return "none" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_every_key_is_documented_as_it_is() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.+?) \| (.+) \|$", TEXT.replace(r"\|", "¦"), re.MULTILINE)
    documented = [(path, kind.replace("¦", "|"), default) for path, kind, default, _ in rows]
    assert sorted(documented) == sorted((path, kind.words, spelled(path, default)) for path, kind, default in keys())


@pytest.mark.parametrize("example", re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
def test_examples_are_right(example: str) -> None:
    parse_job(example, "example.yaml")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_configs_are_right(path: Path) -> None:
    assert load_job(path).name == path.stem


def test_there_is_a_config_for_each_strategy() -> None:
    jobs = [load_job(path) for path in sorted((REPOSITORY / "configs").glob("*.yaml"))]
    strategies = {job.strategy.name for job in jobs}
    assert strategies == set(STRATEGIES)
    assert {job.dataset.name for job in jobs} == {"digits", "mnist"}


def test_the_hostfiles_are_right(tmp_path: Path) -> None:
    (documented,) = re.findall(r"^```text\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (tmp_path / "hosts").write_text(documented)
    for file in (tmp_path / "hosts", REPOSITORY / "configs" / "hostfile.example"):
        job = parse_job("strategy: MultiWorkerMirrored", "job.yaml", given=Asked(hostfile=file).given())
        assert [(host.host, host.slots) for host in job.cluster.hosts] == [("host1", 1), ("me@host2", 3), ("host3", 4)]
