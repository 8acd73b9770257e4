"""Runs without a terminal, and after their launcher: detached, looked at, stopped, killed and resumed.

The tasks are shells; launcher, agent and command line are real.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from process_table import MARK, marked, wait_until

pytestmark = pytest.mark.processes

WAIT_S = 60.0
UNTIL_ASKED = "echo begins; while [ ! -e go ]; do sleep 0.05; done; echo ends"


class Folder:
    """Where a user stands, with what is started from there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mark = uuid.uuid4().hex

    def distrain(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        process = self.begin(*words, **options)
        out, err = process.communicate(timeout=WAIT_S)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def begin(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "distrain", *words],
            cwd=self.path,
            env={**os.environ, MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def launch(self, script: str, *options: str, name: str = "a", workers: int = 1) -> Run:
        """A detached run of a shell script."""
        words = ("launch", "--workers", str(workers), "--name", name, "--detach", "--json", *options)
        done = self.distrain(*words, "--", "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        return Run(json.loads(done.stdout))

    def go(self) -> None:
        (self.path / "go").touch()

    def processes(self) -> list[Any]:
        return marked(self.mark)

    def close(self) -> None:
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


class Run:
    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.name: str = told["run"]
        self.pid: int = told["pid"]
        self.path = Path(told["run_dir"])

    def log(self, task: str = "worker-0") -> str:
        path = self.path / "logs" / f"{task}.log"
        return path.read_text() if path.exists() else ""

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return summary

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "events.jsonl").read_text().splitlines()]

    def printed(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.log().count(text) >= times, WAIT_S, f"{text!r} in {self.log()!r}")

    def over(self) -> None:
        wait_until((self.path / "summary.json").exists, WAIT_S, "a summary")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    yield folder
    folder.close()


def gone(pid: int) -> Callable[[], bool]:
    return lambda: not Path(f"/proc/{pid}").exists()


# ---- without a terminal


def test_a_detached_run_goes_on_and_is_served_by_all_commands(folder: Folder) -> None:
    run = folder.launch(UNTIL_ASKED, workers=2)
    assert (run.told["state"], run.told["attempt"]) == ("running", 1)
    assert os.getsid(run.pid) not in (os.getsid(0), 0)
    assert {os.readlink(f"/proc/{run.pid}/fd/{number}") for number in (0, 1)} == {"/dev/null"}
    assert os.readlink(f"/proc/{run.pid}/fd/2") == str(run.path / "launcher.log")
    run.printed("begins")

    assert folder.distrain("logs", "last", "--task", "worker:0").stdout == "begins\n"
    listed = json.loads(folder.distrain("list", "--json").stdout)
    assert [(each["run"], each["state"]) for each in listed["runs"]] == [(run.name, "running")]
    assert re.search(rf"^{run.name} +running +sh +1 ", folder.distrain("list").stdout, re.MULTILINE)
    status = json.loads(folder.distrain("status", run.name[:5], "--json").stdout)
    assert (status["state"], status["pid"], status["summary"]) == ("running", run.pid, None)
    assert [(task["task"], task["state"]) for task in status["tasks"]] == [
        ("worker:0", "running"),
        ("worker:1", "running"),
    ]
    said = folder.distrain("status", str(run.path)).stdout
    assert f"{run.name}  running · sh · attempt 1" in said
    assert re.search(r"^  worker:1  local  running$", said, re.MULTILINE)

    attached = folder.begin("attach", "last")
    following = folder.begin("logs", "-f", "last")
    of_one = folder.begin("logs", "--follow", "last", "--task", "worker:1")
    assert attached.stdout is not None
    assert attached.stdout.readline().rstrip().endswith(f"distrain | {run.name} is going: 2 running")
    folder.go()
    out, err = attached.communicate(timeout=WAIT_S)
    assert (attached.returncode, err) == (0, "")
    assert "worker:0 | ends\n" in out
    assert "worker:1 | ends\n" in out
    assert f"\nsucceeded  {run.name}\n" in out
    out, _ = following.communicate(timeout=WAIT_S)
    assert following.returncode == 0
    assert out == (run.path / "logs" / "merged.log").read_text()
    assert out.count(" | ends\n") == 2
    assert of_one.communicate(timeout=WAIT_S)[0] == "begins\nends\n"

    wait_until(gone(run.pid), WAIT_S)
    assert (run.path / "launcher.log").read_bytes() == b""
    again = folder.distrain("attach", "last")
    assert (again.returncode, again.stdout.splitlines()[1]) == (0, f"succeeded  {run.name}")
    assert folder.distrain("status", "last").stdout.startswith(f"succeeded  {run.name}\n")
    assert json.loads(folder.distrain("status", "last", "--json").stdout)["summary"] == run.summary
    stopped = folder.distrain("stop", "last")
    assert (stopped.returncode, stopped.stderr) == (0, f"{run.name} is not going: succeeded\n")
    assert not folder.processes()


def test_people_are_told_how_to_get_at_it(folder: Folder) -> None:
    done = folder.distrain("launch", "--workers", "1", "--detach", "--runs-dir", "elsewhere", "--", "sh", "-c", "exit")
    (rundir,) = (folder.path / "elsewhere").iterdir()
    if "goes on" not in done.stdout:  # it was too quick
        assert f"succeeded  {rundir.name}" in done.stdout
        return
    said = done.stdout[done.stdout.index(f"{rundir.name} goes on") :]
    assert said.splitlines() == [
        f"{rundir.name} goes on without this terminal:",
        f"  distrain attach elsewhere/{rundir.name}   look at it",
        f"  distrain logs -f elsewhere/{rundir.name}  see what its tasks print",
        f"  distrain stop elsewhere/{rundir.name}     end it",
    ]
    assert folder.distrain("attach", f"elsewhere/{rundir.name}").returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "none.yaml"], 2, "distrain: none.yaml: there is no such file"),
        (["launch", "none.py"], 2, "distrain: there is no script none.py"),
        (["launch", "--runs-dir", "/proc/x", "--", "true"], 2, "distrain: cannot make a run directory in /proc/x: "),
        (["launch", "--resume", "last"], 2, "distrain: there are no runs in runs"),
        (["launch", "--workers", "127.0.0.1", "--set", "cluster.hosts.0.port=1", "--", "true"], 3, ""),
    ],
)
def test_what_keeps_it_from_going_is_told_here(folder: Folder, words: list[str], code: int, said: str) -> None:
    done = folder.distrain(words[0], "--detach", *words[1:])
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr
    if code == 3:
        assert "127.0.0.1 refuses connections on port 1" in done.stdout
        assert "\nfailed  true-" in done.stdout
    wait_until(lambda: not folder.processes(), WAIT_S)


@pytest.mark.parametrize("module", ["distrain.launcher.run.collect", "distrain.launcher.run.Loop"])
def test_a_defect_of_the_launcher_shows_its_traceback(folder: Folder, module: str) -> None:
    """Before there is a run directory it comes out here, and afterwards in the run's launcher.log."""
    main = folder.path / "main.py"
    main.write_text(
        "import sys\n"
        "import distrain.launcher.run\n"
        "def broken(*_, **__): raise RuntimeError('a defect')\n"
        f"{module} = broken\n"
        "from distrain.__main__ import main\n"
        "main()\n"
    )
    words = ["launch", "--workers", "127.0.0.1", "--detach", "--", "true"]
    done = subprocess.run(
        [sys.executable, "main.py", *words],
        cwd=folder.path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 1
    if module.endswith("collect"):
        assert "Traceback" in done.stderr
        assert "RuntimeError: a defect" in done.stderr
        return
    (rundir,) = (folder.path / "runs").iterdir()
    assert "RuntimeError: a defect" in (rundir / "launcher.log").read_text()
    assert f"{rundir.name} is lost: its launcher is gone" in done.stderr
    assert f"{rundir.relative_to(folder.path)}/launcher.log may tell why" in done.stderr


def test_an_interrupt_ends_the_looking_and_not_the_run(folder: Folder) -> None:
    run = folder.launch(UNTIL_ASKED)
    attached = folder.begin("attach", "last")
    assert attached.stdout is not None
    attached.stdout.readline()
    attached.send_signal(signal.SIGINT)
    out, err = attached.communicate(timeout=WAIT_S)
    assert (attached.returncode, err.strip()) == (130, "")
    assert f"{run.name} goes on without this terminal:" in out
    assert json.loads(folder.distrain("status", "last", "--json").stdout)["state"] == "running"
    folder.go()
    assert folder.distrain("attach", "last").returncode == 0


def test_a_failure_is_the_end_of_looking_too(folder: Folder) -> None:
    run = folder.launch("while [ ! -e go ]; do sleep 0.05; done; echo broken >&2; exit 7", "--set", "restart=false")
    attached = folder.begin("attach", "last")
    folder.go()
    out, _ = attached.communicate(timeout=WAIT_S)
    assert attached.returncode == 1
    assert f"\nfailed  {run.name}\n" in out
    assert "  | broken\n" in out
    assert folder.distrain("attach", "last").returncode == 1
    assert run.summary["exit_code"] == 1


# ---- stopping


@pytest.mark.parametrize("now", [False, True])
def test_stop_waits_until_nothing_is_left(folder: Folder, now: bool) -> None:
    """A task that takes no TERM would be killed after its grace, and with --now at once."""
    trap = "trap '' TERM; " if now else ""
    run = folder.launch(f"{trap}echo begins; while :; do sleep 0.05; done")
    run.printed("begins")
    done = folder.distrain("stop", *(["--now"] if now else []), "last")
    assert (done.returncode, done.stdout) == (0, f"{run.name}: stopped\n")
    assert (run.summary["state"], run.summary["exit_code"]) == ("stopped", 143)
    assert not folder.processes()
    stopping = [event["reason"] for event in run.events if event["kind"] == "stopping"]
    assert stopping == ["stopped by SIGTERM", *(["stopping at once"] if now else [])]


def test_a_run_in_the_foreground_can_be_stopped_and_looked_at(folder: Folder) -> None:
    foreground = folder.begin("launch", "--workers", "1", "--", "sh", "-c", UNTIL_ASKED)
    wait_until(lambda: folder.distrain("logs", "last").stdout.endswith(" | begins\n"), WAIT_S)
    attached = folder.begin("attach", "last")
    assert attached.stdout is not None
    attached.stdout.readline()
    assert folder.distrain("stop", "last").returncode == 0
    assert foreground.wait(WAIT_S) == attached.wait(WAIT_S) == 143
    for process in (foreground, attached):
        process.communicate()


# ---- going on


def test_a_launcher_that_is_killed_leaves_nothing_and_a_run_to_resume(folder: Folder) -> None:
    run = folder.launch("printf half; exec sleep 600", workers=2)
    run.printed("half")
    assert folder.distrain("launch", "--resume", "last").stderr.startswith(f"distrain: {run.name} is still going; ")
    os.kill(run.pid, signal.SIGKILL)
    wait_until(lambda: not folder.processes(), WAIT_S, "the agent's end")
    with (run.path / "events.jsonl").open("a") as events:
        events.write('{"time":1,"kind":"no')

    attached = folder.distrain("attach", "last")
    assert attached.returncode == 1
    assert attached.stderr.startswith(f"{run.name} is lost: its launcher is gone, and all that it had started with it;")
    assert f"distrain run --resume {run.name}" in attached.stderr
    assert folder.distrain("status", "last").stderr == attached.stderr
    assert re.search(rf"^{run.name} +lost ", folder.distrain("list").stdout, re.MULTILINE)
    assert folder.distrain("stop", "last").stderr == f"{run.name} is not going: lost\n"

    resumed = folder.distrain("run", "--resume", "last", "--detach", "--json")
    assert resumed.returncode == 0, resumed.stderr
    again = Run(json.loads(resumed.stdout))
    assert (again.path, again.told["attempt"]) == (run.path, 2)
    run.printed("half", 2)
    assert folder.distrain("stop", "last").returncode == 0
    lines = run.log().splitlines()
    assert [lines[0], re.sub(r"[-T:.\d]+", "", lines[1]), lines[2]] == ["half", "  attempt  ", "half"]
    kinds = [event["kind"] for event in run.events]
    assert kinds.count("run_started") == 2
    assert kinds.count("run_ended") == 1
    assert {event["attempt"] for event in run.events} == {1, 2}
    assert run.summary["attempts"] == 2
    assert run.summary["resumed_from"] == {"run": run.name, "step": 0}
    assert [path.name for path in (folder.path / "runs").iterdir()] == [run.name]

    other = folder.distrain("run", "--resume", run.name, "--name", "b", "--detach", "--json")
    new = Run(json.loads(other.stdout))
    assert new.name.startswith("b-")
    assert new.told["attempt"] == 1
    assert folder.distrain("stop", "last").stdout == f"{new.name}: stopped\n"
    assert new.summary["resumed_from"] == {"run": run.name, "step": 0}


def test_what_the_killed_launcher_left_has_ended_before_anything_starts(folder: Folder) -> None:
    script = 'trap "" TERM; echo "$$ begins"; while :; do date +%s.%N >> "beats-$$"; sleep 0.05; done'
    run = folder.launch(script)
    run.printed("begins")
    first = run.log().split()[0]
    os.kill(run.pid, signal.SIGKILL)
    done = folder.distrain("run", "--resume", "last", "--detach", "--json")
    assert done.returncode == 0, done.stderr
    run.printed("begins", 2)
    assert not Path(f"/proc/{first}").exists(), "it takes no TERM, and is killed after its grace"
    last_beat = float((folder.path / f"beats-{first}").read_text().split()[-1])
    beats = folder.path / f"beats-{run.log().split()[-2]}"
    wait_until(lambda: beats.exists() and "\n" in beats.read_text(), WAIT_S)
    assert last_beat < float(beats.read_text().split()[0])
    assert folder.distrain("stop", "--now", "last").returncode == 0


def test_what_has_succeeded_is_not_run_again(folder: Folder) -> None:
    folder.distrain("launch", "--workers", "1", "--", "true")
    (rundir,) = (folder.path / "runs").iterdir()
    before = {path: path.read_bytes() for path in rundir.rglob("*") if path.is_file()}
    done = folder.distrain("launch", "--resume", "last", "--json")
    assert done.returncode == 0
    assert done.stderr == f"{rundir.name} has succeeded, and there is nothing left to do\n"
    assert json.loads(done.stdout) == json.loads((rundir / "summary.json").read_text())
    assert {path: path.read_bytes() for path in rundir.rglob("*") if path.is_file()} == before


def test_secrets_must_be_given_again(folder: Folder) -> None:
    job = folder.path / "job.yaml"
    job.write_text("{program: [sh, -c, 'echo ${#API_TOKEN}; exit 3'], env: {API_TOKEN: abcd}, restart: false}")
    assert folder.distrain("run", "job.yaml").returncode == 1
    done = folder.distrain("run", "--resume", "last")
    assert done.returncode == 2
    assert " is a secret, which is not kept in its job.yaml; name the job again, as in " in done.stderr
    assert folder.distrain("run", "job.yaml", "--resume", "last").returncode == 1
    (rundir,) = (folder.path / "runs").iterdir()
    assert (rundir / "logs" / "worker-0.log").read_text().splitlines()[::2] == ["4", "4"]
    assert "abcd" not in (rundir / "job.yaml").read_text()


def test_logs_of_a_task_that_is_not_there(folder: Folder) -> None:
    folder.distrain("launch", "--workers", "2", "--", "sh", "-c", "printf '\\377\\0\\r'")
    done = folder.distrain("logs", "last", "--task", "worker:2")
    assert done.returncode == 2
    assert done.stderr.endswith(" has no log of 'worker:2'; there are those of worker:0, worker:1\n")
    command = [sys.executable, "-m", "distrain", "logs", "last", "--task", "worker:1"]
    assert subprocess.run(command, cwd=folder.path, capture_output=True, check=True).stdout == b"\xff\0\r"


def test_an_empty_folder_has_no_runs(folder: Folder) -> None:
    done = folder.distrain("list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "there are no runs here\n")
    assert json.loads(folder.distrain("list", "--json").stdout) == {"format": 1, "runs": []}
