"""What the doctor finds, what it makes of it, and how it says so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distrain.cli.doctor import _block, _row
from distrain.job.cluster import LOCAL, Host
from distrain.job.spec import ClusterSpec, HostSpec, JobSpec, ProgramSpec, StrategySpec
from distrain.launcher.doctor import Advice, Findings, Seen, advise
from distrain.launcher.hosts.reach import Reach
from distrain.launcher.hosts.survey import survey
from distrain.wire import PROTOCOL, Decoder, Examined, OpenRun, Welcome, encode

VERSIONS = {"python": "3.11.7", "tensorflow": "2.21.0", "keras": "3.15.1"}
WELCOME = Welcome(1, "h", 1, "3.11.7", cores=4, memory_bytes=1 << 34, gpus=0, addresses=("10.0.0.1",))


def seen(name: str, versions: dict[str, str] | None = None, **given: Any) -> Seen:
    examined = Examined(VERSIONS if versions is None else versions, free_bytes=1 << 34, gpus=(), time=0.0)
    values = {"welcome": WELCOME, "examined": examined, "ports": (1, 2), "clock_ahead_s": 0.01, **given}
    return Seen(Host(name, "ssh"), "python3", **values)


def advice(*hosts: Seen, job: JobSpec | None = None, reach: Reach | None = None) -> list[tuple[str, str | None, str]]:
    found = advise(Findings(hosts, VERSIONS, reach), job)
    return [(each.level, each.host, each.message) for each in found]


def job(workers: int = 2, **given: Any) -> JobSpec:
    hosts = (HostSpec("host1", workers // 2), HostSpec("host2", workers - workers // 2))
    strategy = StrategySpec("MultiWorkerMirrored")
    return JobSpec("j", **{"strategy": strategy, "cluster": ClusterSpec(workers=workers, hosts=hosts), **given})


def program(**given: Any) -> JobSpec:
    return replace(job(**given), program=ProgramSpec(("train.py",)), strategy=StrategySpec())


# ---- advice


def test_a_tpu_needs_the_tensorflow_that_knows_it() -> None:
    tpu = JobSpec("j", strategy=StrategySpec("TPU"), cluster=ClusterSpec(hosts=(HostSpec("host1"),)))
    ((level, _, message),) = advice(seen("host1"), job=tpu)
    assert level == "error"
    assert message.startswith("TensorFlow is 2.21.0 on host1, and strategy TPU needs 2.19, the last that knows TPUs")
    right = {**VERSIONS, "tensorflow": "2.19.1"}
    assert not [each for each in advice(seen("host1", right), job=tpu) if "TPU" in each[2]]


def test_healthy_hosts_need_none() -> None:
    hosts = (seen("host1"), seen("host2"))
    assert advice(*hosts) == advice(*hosts, job=job()) == advice(*hosts, job=program()) == []


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        ({"trouble": "host1: it is off"}, "error", "host1: it is off"),
        ({"versions": {"python": "3.11.7"}}, "error", "TensorFlow is not installed for python3 there; install it with"),
        ({"versions": {"python": "3.11.7", "tensorflow": "2.21.0"}}, "error", "Keras is not installed for python3"),
        ({"examined": Examined({}, 1 << 34, (), 0.0, "it has no python3")}, "error", "it has no python3"),
        ({"examined": Examined(VERSIONS, 32 << 20, (), 0.0)}, "warning", "only 32 MB are free on the disk for runs"),
        ({"examined": Examined(VERSIONS, 31 << 20, (), 0.0)}, "error", "only 31 MB are free on the disk for runs"),
        ({"ports": (1,), "ports_wanted": 2}, "error", "of the ports in cluster.ports 1 are free, and 2 needed"),
        ({"clock_ahead_s": 1.5}, "warning", "its clock is 1.5 s ahead of this machine's"),
        ({"clock_ahead_s": -90.0}, "warning", "its clock is 90.0 s behind this machine's"),
    ],
)
def test_one_host(given: dict[str, Any], level: str, words: str) -> None:
    ((found, host, message),) = advice(seen("host1", **given), seen("host2"))
    assert (found, host) == (level, "host1")
    assert words in message


def test_a_clock_that_is_off_a_little_is_none_of_it() -> None:
    assert advice(seen("host1", clock_ahead_s=0.99), seen("host2", clock_ahead_s=-0.99)) == []


def test_a_host_that_was_not_reached_is_told_once() -> None:
    lost = Seen(Host("host1", "ssh"), "python3", trouble="host1: no way there")
    assert advice(lost, seen("host2"), job=job()) == [("error", "host1", "host1: no way there")]


def test_a_program_needs_no_tensorflow() -> None:
    bare = {"python": "3.11.7"}
    assert advice(seen("host1", bare), seen("host2", bare), job=program()) == []


def test_hosts_that_cannot_reach_each_other() -> None:
    reach = Reach({"host2": "10.0.0.2"}, {"host1": "its address 127.0.1.1 cannot be reached by the others"})
    assert advice(seen("host1"), seen("host2"), reach=reach) == [
        ("error", "host1", "its address 127.0.1.1 cannot be reached by the others")
    ]


def test_releases_that_differ_between_hosts() -> None:
    older = {**VERSIONS, "keras": "3.14.0"}
    ((level, host, message),) = advice(*(seen(f"host{n}") for n in range(5)), seen("old", older))
    assert (level, host) == ("error", None)
    assert message == (
        "Keras is not the same everywhere: 3.15.1 on host0, host1 and 3 more, 3.14.0 on old; install one release on "
        "all, as with `python3 -m pip install keras==3.15.1`"
    )


def test_pythons_that_differ_between_hosts_in_more_than_the_last_number() -> None:
    assert advice(seen("host1"), seen("host2", {**VERSIONS, "python": "3.11.2"})) == []
    ((level, _, message),) = advice(seen("host1"), seen("host2", {**VERSIONS, "python": "3.12.7"}))
    assert level == "warning"
    assert "Python is not the same everywhere: 3.11 on host1, 3.12 on host2" in message


def test_a_release_that_differs_from_this_machines() -> None:
    older = {**VERSIONS, "tensorflow": "2.20.0"}
    ((level, _, message),) = advice(seen("host1", older), seen("host2", older))
    assert level == "warning"
    assert message.startswith("TensorFlow is 2.20.0 on the hosts and 2.21.0 on this machine")


@pytest.mark.parametrize(
    ("package", "version", "level", "words"),
    [
        ("tensorflow", "2.20.0", "warning", "Mirrored was tested with TensorFlow 2.21, and there is 2.20.0 on"),
        ("tensorflow", "2.210.0", "warning", "`python3 -m pip install 'tensorflow==2.21.*'`"),
        ("keras", "3.16.0", "warning", "was tested with Keras 3.15, and there is 3.16.0 on host1 and host2"),
        ("keras", "2.15.0", "error", "Keras is 2.15.0 on host1 and host2, and distrain trains models of Keras 3"),
    ],
)  # fmt: skip
def test_releases_that_training_was_not_tested_with(package: str, version: str, level: str, words: str) -> None:
    other = {**VERSIONS, package: version}
    hosts = (seen("host1", other), seen("host2", other))
    assert [each for each in advice(*hosts, job=job()) if words in each[2] and each[0] == level]
    assert not [each for each in advice(*hosts, job=program()) if "tested" in each[2] or "Keras 3" in each[2]]


@pytest.mark.parametrize("make", [job, program])
def test_legacy_keras(make: Any) -> None:
    hosts = (seen("host1"), seen("host2"))
    ((level, _, message),) = advice(*hosts, job=make(env={"TF_USE_LEGACY_KERAS": "1"}))
    assert level == "warning"
    assert "TF_USE_LEGACY_KERAS is set" in message
    assert advice(*hosts, job=make(env={"TF_USE_LEGACY_KERAS": "0"})) == []


def test_hosts_that_are_not_alike() -> None:
    ((level, _, message),) = advice(seen("host1"), seen("host2", welcome=replace(WELCOME, gpus=2)), job=job())
    assert level == "warning"
    assert "different numbers of GPUs (0 on host1, 2 on host2)" in message


def test_more_tasks_than_cores() -> None:
    ((level, host, message),) = advice(seen("host1"), seen("host2"), job=job(workers=9))
    assert (level, host) == ("warning", "host2")
    assert message == "5 tasks would share its 4 cores; give it fewer slots"


# ---- with real agents

SSH = """\
#!/bin/sh
while [ "$1" != -- ]; do shift; done
host=$2
shift 2
case $host in
    off*) echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255 ;;
    heard*) cd "$FAKE_HOMES"; cat said; head -c "$(cat bytes)" >heard; exit ;;
esac
export HOME="$FAKE_HOMES/$host" XDG_CACHE_HOME="$FAKE_HOMES/$host/cache"
mkdir -p "$HOME"
exec sh -c "$1"
"""


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for ssh, whose hosts are this machine with a home each. Returns the folder of the homes."""
    for folder in ("bin", "homes"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin" / "ssh").write_text(SSH)
    (tmp_path / "bin" / "ssh").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_HOMES", str(tmp_path / "homes"))
    return tmp_path / "homes"


@pytest.mark.processes
def test_this_machine_alone() -> None:
    findings = survey((LOCAL,), None)
    (found,) = findings.hosts
    assert found.trouble is None
    assert found.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert dict(found.versions).items() >= dict(findings.here).items()
    assert findings.reach is None
    assert found.round_trip_s is not None
    assert found.clock_ahead_s is not None
    assert abs(found.clock_ahead_s) < 1.0
    assert found.ports is not None
    assert len(found.ports) == 1


@pytest.mark.processes
def test_several_hosts_at_once_one_of_which_is_off(far: Path) -> None:
    """They are all this machine, so one address leads to them all, and the words on the ports tell them apart."""
    hosts = tuple(Host(name, "ssh", python=sys.executable, address="127.0.0.1") for name in ("a", "off7", "b"))
    findings = survey(hosts, None)
    assert [seen.trouble is None for seen in findings.hosts] == [True, False, True]
    assert findings.reach == Reach({"a": "127.0.0.1", "b": "127.0.0.1"}, {})
    assert [each.host for each in advise(findings, None)] == ["off7"]
    assert [path for path in far.glob("*/cache/distrain/runs/*") if not path.name.startswith(".")] == []


@pytest.mark.processes
def test_the_first_that_an_agent_hears_is_that_a_run_opens(far: Path) -> None:
    """It says for how long the launcher may be silent."""
    expected = OpenRun("doctor", 300.0)
    (far / "said").write_bytes(f"distrain-agent {PROTOCOL} have\n".encode() + encode(WELCOME))
    (far / "bytes").write_text(str(len(encode(expected))))
    (seen,) = survey((Host("heard", "ssh"),), None).hosts
    assert seen.trouble is not None
    assert list(Decoder().feed((far / "heard").read_bytes())) == [expected]


@pytest.mark.processes
def test_an_address_that_leads_nowhere(far: Path) -> None:
    hosts = tuple(
        Host(name, "ssh", python=sys.executable, address=address)
        for name, address in (("a", "127.0.0.1"), ("b", "127.0.0.1:x"))
    )
    found = advise(survey(hosts, None), None)
    assert [(each.level, each.host) for each in found] == [("error", "b")]
    assert "its address 127.0.0.1:x cannot be reached by the others" in found[0].message


@pytest.mark.processes
def test_a_python_that_is_not_there(far: Path) -> None:
    (found,) = survey((Host("a", "ssh", python="no-such-python3"),), None).hosts
    assert found.trouble is not None
    assert found.trouble.startswith("a: there is no no-such-python3 there")


def run(*arguments: str, columns: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distrain", "doctor", *arguments]
    environment = {**os.environ, "COLUMNS": columns}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.processes
def test_the_table_is_whole_and_the_exit_code_says_whether_they_can(far: Path) -> None:
    shown = run("--workers", "host-with-a-long-name.example.org,off7", "--python", sys.executable, columns="200")
    assert shown.returncode == 3
    assert shown.stderr == ""
    assert "…" not in shown.stdout
    lines = shown.stdout.splitlines()
    (head,) = [line for line in lines if "TensorFlow" in line and "free disk" in line]
    assert "others reach it at" in head
    (reached,) = [line for line in lines if line.startswith(" host-with-a-long-name")]
    assert re.search(r"host key and login ok, \d+ ms +3\.\d+\.\d+ ", reached)
    (off,) = [line for line in lines if line.startswith(" off7")]
    assert "not reached" in off
    assert [line for line in lines if line.startswith("error: off7: there is no way from this machine to off7")]


@pytest.mark.processes
def test_where_the_table_is_too_wide_each_host_gets_a_few_lines(far: Path) -> None:
    """A pipe counts as 80 columns."""
    shown = run("--workers", "host1,off7", "--python", sys.executable)
    assert (shown.returncode, shown.stderr) == (3, "")
    *blocks, space, advice = shown.stdout.splitlines()
    expected = (
        r"host1: host key and login ok, \d+ ms",
        r"  Python 3\.\d+\.\d+ · TensorFlow \S+ · Keras \S+",
        r"  cores \d+ · memory \d+ GiB · free disk \d+ GiB · GPUs \S.* · clock [+-]\d\.\d s",
        r"  others reach it at \S+",
        r"off7: not reached",
    )
    for line, pattern in zip(blocks, expected, strict=True):
        assert re.fullmatch(pattern, line), line
        assert len(line) <= 80
    assert space == ""
    assert advice.startswith("error: off7: there is no way from this machine to off7")


@pytest.mark.processes
def test_the_table_appears_as_soon_as_it_fits() -> None:
    width = max(map(len, run(columns="500").stdout.splitlines()))
    assert "TensorFlow   " in run(columns=str(width)).stdout
    assert run(columns=str(width - 1)).stdout.startswith("local: this machine\n  Python ")


def test_a_block_leaves_out_what_is_not_known_and_tells_the_address() -> None:
    bare = seen("host1", {"python": "3.11.7"}, round_trip_s=0.0012, clock_ahead_s=None)
    findings = Findings((bare,), VERSIONS, Reach({"host1": "10.0.0.1"}, {}))
    assert _block(_row(bare, findings)).splitlines() == [
        "host1: host key and login ok, 1 ms",
        "  Python 3.11.7 · TensorFlow none · Keras none",
        "  cores 4 · memory 16 GiB · free disk 16 GiB · GPUs 0",
        "  others reach it at 10.0.0.1",
    ]


@pytest.mark.processes
def test_json(far: Path) -> None:
    shown = run("--json", "--workers", "off7,off8")
    told = json.loads(shown.stdout)
    assert shown.returncode == 3
    assert (told["ok"], told["format"]) == (False, 1)
    assert [(host["host"], host["reached"]) for host in told["hosts"]] == [("off7", False), ("off8", False)]
    assert [each["level"] for each in told["advice"]] == ["error", "error"]
    assert Advice(**told["advice"][0]).message.startswith("off7: there is no way from this machine")
