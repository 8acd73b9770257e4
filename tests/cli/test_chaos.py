"""`distrain chaos` as a user meets it: what it refuses before anything starts, and its account in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documented_events import undocumented
from far_run import SSH

from distrain.cli.chaos import account
from distrain.launcher.chaos import Case, Injury, Kind

pytestmark = pytest.mark.processes

LOCAL = "{strategy: MultiWorkerMirrored, cluster: 2}"
FAR = "{strategy: MultiWorkerMirrored, cluster: {hosts: [me@alpha, beta]}}"

PROGRAM = """\
import os
import time

import distrain

for step in range(1, 101):
    distrain.report(step)
    time.sleep(0.02)
    # It would go on for ever, were it not killed once.
    while step == 50 and os.environ["DISTRAIN_ATTEMPT"] == "1":
        distrain.report(step)
        time.sleep(0.02)
"""


def chaos(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distrain", "chaos", "job.yaml", *words]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **env}, text=True, capture_output=True, timeout=120, check=False
    )


def events_in(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("runs/*/events.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("job", "words", "sentence"),
    [
        (LOCAL, (), "nothing says how to injure the run; give --kill worker, for example"),
        (LOCAL, ("--kill", "wroker"), '--kill wroker: the job has nothing of that name; did you mean "worker"?'),
        (LOCAL, ("--kill", "ps"), "--kill ps: the job has nothing of that name; choose one of any, worker, "),
        (LOCAL, ("--stop", "worker:2"), "--stop worker:2: the job has nothing of that name; did you mean "),
        (LOCAL, ("--cut", "any"), "--cut any: no connection leads to this machine that could be cut; "),
        (FAR, ("--cut", "local"), "--cut local: no connection leads to this machine that could be cut; "),
        (FAR, ("--fill", "betta"), '--fill betta: the job has nothing of that name; did you mean "beta"?'),
        (LOCAL, ("--slow", "any"), "--slow any: write the host and the delay, as in any=200ms"),
        (LOCAL, ("--slow", "local=0ms"), "--slow local=0ms: write the host and the delay, as in any=200ms"),
    ],
)
def test_what_cannot_be_injured_is_refused_before_the_start(
    tmp_path: Path, job: str, words: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "job.yaml").write_text(job)
    done = chaos(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"distrain: {sentence}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("time", ["soon", "0", "-5s", "5 parsecs"])
def test_a_time_is_a_duration(tmp_path: Path, time: str) -> None:
    (tmp_path / "job.yaml").write_text(LOCAL)
    done = chaos(tmp_path, "--kill", "any", f"--every={time}")
    assert done.returncode == 2
    assert f"'{time}' is no duration; write for example 20s, 5m or 200ms" in done.stderr


def test_a_job_that_is_never_restarted_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("program: [x.py]")
    (tmp_path / "x.py").touch()
    done = chaos(tmp_path, "--kill", "any", "--every", "1.5m", "--dry-run")
    assert done.returncode == 0
    assert done.stderr == "distrain: job.yaml has restart: false, so that the first failure ends the run\n"


def test_a_program_is_killed_and_recovers(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("{program: [train.py], restart: {max: 5, backoff_s: 0}}")
    (tmp_path / "train.py").write_text(PROGRAM)
    done = chaos(tmp_path, "--kill", "any", "--times", "1", "--every", "500ms", "--json", "--plain")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (injury,) = told["injuries"]
    assert (injury["kind"], injury["targets"], injury["attempt"]) == ("kill", ["worker:0"], 1)
    assert injury["noticed"].startswith("worker:0")
    assert 0 <= injury["detected_s"] <= injury["resumed_s"]
    assert (told["state"], told["attempts"]) == ("succeeded", 2)
    assert told["verdict"].startswith("the run survived 1 injury: noticed within ")
    assert told["verdict"] in done.stderr
    (harm,) = [event for event in events_in(tmp_path) if event["kind"] == "harm"]
    assert (harm["injury"], harm["targets"], harm["host"]) == ("kill", ["worker:0"], "local")
    assert undocumented(events_in(tmp_path)) == []


def test_a_host_that_is_cut_off_is_lost_and_found_again(tmp_path: Path) -> None:
    """The connection to one of two hosts is silent for longer than the run waits for a word."""
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o700)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text(PROGRAM)
    offers = [{"host": name, "address": "127.0.0.1", "python": sys.executable} for name in ("one", "two")]
    job = {
        "program": ["train.py"],
        "cluster": {"hosts": offers, "contact_timeout_s": 2},
        "restart": {"max": 5, "backoff_s": 0},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    words = ("--cut", "two", "--lasting", "4s", "--times", "1", "--every", "500ms", "--json", "--plain")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = chaos(folder, *words, PATH=path, FAR_FOLDER=str(tmp_path), FAR_BYTES_PER_S="")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (injury,) = told["injuries"]
    assert (injury["kind"], injury["targets"]) == ("cut", ["two"])
    assert "two" in injury["noticed"]
    assert 1.5 <= injury["detected_s"] <= 20
    assert injury["resumed_s"] >= 4, "nobody comes through while it is cut off"
    assert (told["state"], told["attempts"]) == ("succeeded", 2)


def test_the_account_is_a_table_and_a_verdict() -> None:
    kill = Injury(Kind.KILL, "local", ("worker:1",))
    cases = (
        Case(kill, 112.0, 1, "worker:1 was killed by SIGKILL", 0.04, failed=True, resumed_s=2.26, steps_lost=31),
        Case(Injury(Kind.SLOW, "host1", (), 60.0, 200.0), 140.0, 2, "only root can\nslow a network", refused=True),
        Case(kill, 170.0, 2),
    )
    assert account(cases, "a verdict", began=100.0).splitlines() == [
        "after  injury                detected  training again  steps lost  noticed",
        "12 s   kill worker:1         0.0 s     2.3 s           31          worker:1 was killed by SIGKILL",
        "40 s   slow host1 by 200 ms  -         not done        -           only root can",
        "70 s   kill worker:1         -         never           -           nothing",
        "a verdict",
    ]
    assert account((), "a verdict", began=0.0) == "a verdict"
