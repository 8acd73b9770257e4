# ruff: noqa: E501  (a sentence stays on one line)
"""`distrain launch`: which words are whose, and what they make of a job. Nothing is started here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from distrain.cli import distrain
from distrain.cli import start as start_module
from distrain.cli.start import Manner
from distrain.errors import DistrainError, JobError, UsageError
from distrain.job.cluster import LOCAL, Host, hosts_of, place
from distrain.job.spec import HostSpec, JobSpec, ProgramSpec
from distrain.launcher import outset

JOB = "{strategy: MultiWorkerMirrored, dataset: {batch_size: 12}, cluster: {workers: 2}}"
PS = "{strategy: ParameterServer, cluster: {workers: 2}}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("job.yaml", JOB), ("ps.yml", PS), ("train.py", ""), ("sub/my train.py", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def launched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `launch` would have started."""
    seen: dict[str, Any] = {}

    def start(job: JobSpec, how: Manner, **more: Any) -> int:
        seen.update(vars(how), job=job, **more)
        return 0

    monkeypatch.setattr(start_module, "start", start)
    return seen


def launch(*words: str) -> None:
    distrain.main(["launch", *words], prog_name="distrain", standalone_mode=False)


def hosts(job: JobSpec) -> list[tuple[str, int, str]]:
    return [(offer.host, offer.slots, " ".join(offer.roles)) for offer in job.cluster.hosts]


def numbers(job: JobSpec) -> tuple[int, int, int, int]:
    cluster = job.cluster
    return cluster.chief, cluster.workers, cluster.ps, cluster.evaluators


# ---- whose words are whose


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (["train.py"], ["train.py"]),
        (["train.py", "--lr", "0.1", "--plain", "-h"], ["train.py", "--lr", "0.1", "--plain", "-h"]),
        (["--plain", "--", "train.py", "--", "--json"], ["train.py", "--", "--json"]),
        (["--", "./run", "--workers", "3"], ["./run", "--workers", "3"]),
        (["./run", "--dry-run"], ["./run", "--dry-run"]),
        (["sh", "-c", "echo $HOME; x"], ["sh", "-c", "echo $HOME; x"]),
        (["train.py", "", " ", "a;b", "$(c)", "d\ne", "'", '"', "job.yaml"], ["train.py", "", " ", "a;b", "$(c)", "d\ne", "'", '"', "job.yaml"]),
        (["train.py", "yes", "null", "1e3", "[x", "a: b", "*a"], ["train.py", "yes", "null", "1e3", "[x", "a: b", "*a"]),
    ],
)  # fmt: skip
def test_what_follows_the_program_is_its_own(launched: dict[str, Any], words: list[str], argv: list[str]) -> None:
    launch("--workers", "2", *words)
    assert launched["job"].program == ProgramSpec(tuple(argv))
    assert (launched["dry_run"], launched["as_json"], launched["job_file"]) == (False, False, None)
    assert launched["plain"] is (words[0] == "--plain")


@pytest.mark.parametrize(
    "words",
    [
        ["--workers", "a,b", "--dry-run", "--set", "training.epochs=3", "job.yaml"],
        ["job.yaml", "--workers", "a,b", "--dry-run", "--set", "training.epochs=3"],
        ["--workers", "a,b", "job.yaml", "--set", "training.epochs=3", "--dry-run"],
    ],
)
def test_options_may_follow_a_job_file(launched: dict[str, Any], words: list[str]) -> None:
    launch(*words)
    job = launched["job"]
    assert (job.training.epochs, hosts(job)) == (3, [("a", 1, "worker"), ("b", 1, "worker")])
    assert (launched["dry_run"], launched["job_file"]) == (True, Path("job.yaml"))


def test_a_run_is_named_after_what_runs(launched: dict[str, Any]) -> None:
    for words, name in (
        (["sub/my train.py"], "my-train"),
        (["/usr/bin/env", "x"], "env"),
        (["job.yaml"], "job"),
        (["--name", "mine", "train.py"], "mine"),
    ):
        launch(*words)
        assert launched["job"].name == name


def test_set_concerns_the_job_that_a_program_makes(launched: dict[str, Any]) -> None:
    sets = ["name=n", "env.API_TOKEN=a=b c", "cluster.ports=[20000-20009]", "code=false", "cluster.hosts.1.port=2222"]
    launch("--workers", "a,b", *(word for option in sets for word in ("--set", option)), "train.py", "--set", "x=1")
    job = launched["job"]
    assert (job.name, job.env, job.code) == ("n", {"API_TOKEN": "a=b c"}, False)
    assert len(job.cluster.ports) == 10
    assert [offer.port for offer in job.cluster.hosts] == [None, 2222]
    assert job.program == ProgramSpec(("train.py", "--set", "x=1"))


def test_the_repair_of_keras_can_be_left_out(launched: dict[str, Any]) -> None:
    launch("--no-keras-repair", "train.py", "--no-keras-repair")
    assert launched["job"].program == ProgramSpec(("train.py", "--no-keras-repair"), keras_repair=False)


# ---- hosts


@pytest.mark.parametrize(
    ("options", "offers", "counts"),
    [
        ([], [], (0, 1, 0, 0)),
        (["--workers", "4"], [], (0, 4, 0, 0)),
        (["--workers", "2", "--ps", "1", "--chief", "1", "--evaluator", "1"], [], (1, 2, 1, 1)),
        (["--workers", "a,me@b:2"], [("a", 1, "worker"), ("me@b", 2, "worker")], (0, 3, 0, 0)),
        (["--workers", "a, b:2"], [("a", 1, "worker"), ("b", 2, "worker")], (0, 3, 0, 0)),
        (["--workers", "[fd00::1]:2,[fd00::2]"], [("fd00::1", 2, "worker"), ("fd00::2", 1, "worker")], (0, 3, 0, 0)),
        (
            ["--workers", "a:2", "--ps", "a,b", "--chief", "c", "--evaluator", "d"],
            [("a", 2, "worker"), ("a", 1, "ps"), ("b", 1, "ps"), ("c", 1, "chief"), ("d", 1, "evaluator")],
            (1, 2, 2, 1),
        ),
        # A number beside hosts is of tasks on this machine.
        (["--workers", "2", "--ps", "b"], [("local", 2, "worker"), ("b", 1, "ps")], (0, 2, 1, 0)),
        (["--workers", "local:2,b"], [("local", 2, "worker"), ("b", 1, "worker")], (0, 3, 0, 0)),
        (["--workers", "a", "--ps", "0"], [("a", 1, "worker")], (0, 1, 0, 0)),
        (["--hostfile", "hosts"], [("a", 1, ""), ("b", 3, "")], (0, 4, 0, 0)),
        (["--hostfile", "hosts", "--workers", "2", "--ps", "1"], [("a", 1, ""), ("b", 3, "")], (0, 2, 1, 0)),
        (["--hostfile", "hosts", "--ps", "1", "--chief", "c"], [("c", 1, "chief"), ("a", 1, ""), ("b", 3, "")], (1, 3, 1, 0)),
    ],
)  # fmt: skip
def test_options_name_hosts_and_numbers(
    launched: dict[str, Any],
    folder: Path,
    options: list[str],
    offers: list[tuple[str, int, str]],
    counts: tuple[int, ...],
) -> None:
    (folder / "hosts").write_text("a\nb:3\n")
    launch(*options, "train.py")
    assert hosts(launched["job"]) == offers
    assert numbers(launched["job"]) == counts
    assert len(place(launched["job"])) == sum(counts)


def test_options_overrule_a_job_file(launched: dict[str, Any], folder: Path) -> None:
    (folder / "job.yaml").write_text(
        "{strategy: MultiWorkerMirrored, dataset: {batch_size: 12}, "
        "cluster: {workers: 1, hosts: [{host: a, port: 2222, key: k}, z:4]}}"
    )
    launch("--workers", "a:2,b", "job.yaml")
    assert launched["job"].cluster.hosts == (
        HostSpec("a", 2, ("worker",), port=2222, key="k"),
        HostSpec("b", 1, ("worker",)),
    )
    assert launched["job"].cluster.workers == 3
    launch("--workers", "3", "job.yaml")
    assert (hosts(launched["job"]), launched["job"].cluster.workers) == ([("a", 1, ""), ("z", 4, "")], 3)
    (folder / "hosts").write_text("c:4")
    launch("--hostfile", "hosts", "job.yaml")
    assert (hosts(launched["job"]), launched["job"].cluster.workers) == ([("c", 4, "")], 4)


def test_the_chief_of_a_parameter_server_job_goes_where_it_is_told(launched: dict[str, Any]) -> None:
    launch("--workers", "a,b", "--ps", "c:2", "--chief", "d", "ps.yml")
    assert [(str(p.task), p.host.name) for p in place(launched["job"])] == [
        ("chief:0", "d"),
        ("worker:0", "a"),
        ("worker:1", "b"),
        ("ps:0", "c"),
        ("ps:1", "c"),
    ]


def test_the_interpreter_is_every_hosts(launched: dict[str, Any]) -> None:
    launch("--python", "/opt/my python;x", "--workers", "a,b:2", "train.py")
    assert {host.python for host in hosts_of(launched["job"])} == {"/opt/my python;x"}
    launch("--python", "/opt/py", "--workers", "3", "train.py")
    assert launched["job"].cluster.hosts == (HostSpec("local", 3, python="/opt/py"),)
    launch("--python", "/opt/py", "ps.yml")
    assert [host.python for host in hosts_of(launched["job"])] == ["/opt/py"]
    assert len(place(launched["job"])) == 4


HOSTFILE = """\
# comment

host1                     # one
  me@host2:3
host3 slots=2
host4\tslots = 4 max_slots=8
[fd00::1]:2
host1 max-slots=9
"""


def test_a_hostfile_is_read_as_open_mpi_has_it(launched: dict[str, Any], folder: Path) -> None:
    (folder / "hosts").write_bytes(b"\xef\xbb\xbf" + HOSTFILE.replace("\n", "\r\n").encode())
    launch("--hostfile", "hosts", "train.py")
    assert hosts(launched["job"]) == [
        ("host1", 1, ""),
        ("me@host2", 3, ""),
        ("host3", 2, ""),
        ("host4", 4, ""),
        ("fd00::1", 2, ""),
        ("host1", 1, ""),
    ]
    assert launched["job"].cluster.workers == 13
    assert [host.name for host in hosts_of(launched["job"])] == ["host1", "me@host2", "host3", "host4", "fd00::1"]


ONE_A_LINE = "write one host a line, such as host1 slots=2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# none\n", "hosts: the file names no hosts; write one host a line"),
        ("a\n\n  b c\n", f'hosts:3:3: "c" follows the host, and is no slots=N; {ONE_A_LINE}'),
        ("a slots=2 gpus=1", f'hosts:1:1: "gpus" follows the host, and is no slots=N; {ONE_A_LINE}'),
        ("a slots=x", 'hosts:1:1: cluster.hosts.0.slots is "x", which is no whole number; give 1 or more'),
        ("a slots=", "hosts:1:1: cluster.hosts.0.slots is empty, which is no whole number; give 1 or more"),
        ("a\nb:0", "hosts:2:1: cluster.hosts.1.slots is 0; give 1 or more"),
        ("a:2 slots=3", "hosts:1:1: a:2 says its slots twice; keep one of the two"),
        ("a\n-oProxyCommand=x", 'hosts:2:1: cluster.hosts.1.host is "-oProxyCommand=x", which begins with a dash, as options do; '),
        ("fd00::1", 'hosts:1:1: cluster.hosts.0 is "fd00::1", and a host has one colon; '),
        ("a\0b", "hosts:1:2: character U+0000 cannot be in a text file; remove it"),
        ("\xff", "hosts:1:1: byte 0xff at offset 0 is not UTF-8; save the file as UTF-8"),
    ],
)  # fmt: skip
def test_a_hostfile_is_complained_about_at_its_line(
    launched: dict[str, Any], folder: Path, text: str, said: str
) -> None:
    (folder / "hosts").write_bytes(text.encode("latin-1"))
    with pytest.raises(DistrainError) as caught:
        launch("--hostfile", "hosts", "train.py")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothere", "sub"])
def test_a_hostfile_that_cannot_be_read_is_told(launched: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=r"^--hostfile: .* cannot be read: .*; check its name and its permissions$"):
        launch("--hostfile", name, "train.py")


# ---- mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "a,-oX", "train.py"], '--workers: cluster.hosts.1.host is "-oX", which begins with a dash'),
        (["--workers", "a,,b", "train.py"], "--workers: cluster.hosts.1.host is empty, and it must name a host"),
        (["--workers", "", "train.py"], "--workers: cluster.hosts.0.host is empty, and it must name a host"),
        (["--workers", "a;b", "train.py"], '--workers: cluster.hosts.0.host is "a;b", which holds ";"'),
        (["--workers", "a\nb", "train.py"], '--workers: cluster.hosts.0.host is "a\ufffdb", which holds "\ufffd"'),
        (["--workers", "a,3", "train.py"], "--workers: cluster.hosts.1.host is 3, which is a number, and no host"),
        (["--workers", "a:x", "train.py"], '--workers: cluster.hosts.0.slots is "x", which is no whole number'),
        (["--workers", "0", "train.py"], "--workers: cluster.workers is 0; give 1 or more"),
        (["--chief", "a,b", "train.py"], "--chief: cluster.chief is 2; give 1 or less"),
        (["--ps", "a", "train.py"], "--ps: the job has 2 tasks (1 worker, 1 ps), and the hosts have no slot for worker:0"),
        (["--workers", "a,b", "--hostfile", "h", "train.py"], "--workers names hosts, and --hostfile does too; keep one"),
        (["--python", "-c", "train.py"], '--python: the interpreter is "-c", which begins with a dash'),
        (["--set", "training.epochs=1", "train.py"], "--set training.epochs: training is given beside a program"),
        (["--name", "a/b", "train.py"], '--name: name is "a/b"; it names a directory'),
        (["--", "-x"], "-x: the program that program.argv names begins with a dash"),
        (["", "x"], ": the program that program.argv names is empty"),
        (["x", "\udcff"], "x: program.argv.1 holds the character U+DCFF; remove it"),
        (["job.yaml", "train.py"], "a job file takes no arguments, and 'train.py' follows job.yaml"),
        (["nothere.yaml"], "nothere.yaml: there is no such file; check the path"),
        (["--no-keras-repair", "job.yaml"], "--no-keras-repair is for scripts, and job.yaml trains without"),
        (["--evaluator", "2", "ps.yml"], "--evaluator: cluster.evaluators is 2, and one evaluator sees every checkpoint"),
        (["--chief", "1", "job.yaml"], "--chief: cluster.chief is 1, and strategy MultiWorkerMirrored has no chief"),
        (["--ps", "1", "job.yaml"], "--ps: cluster.ps is 1, and strategy MultiWorkerMirrored has no parameter servers"),
        (["--workers", "a,b", "job.yaml", "--set", "strategy=Mirrored"], "--workers: cluster.workers is 2, and strategy Mirrored"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_option(launched: dict[str, Any], words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        launch(*words)
    assert str(caught.value).startswith(said)
    assert caught.value.exit_code == 2
    assert not launched


def test_all_mistakes_are_told_at_once(launched: dict[str, Any]) -> None:
    with pytest.raises(JobError) as caught:
        launch("--workers", "a b,c:0", "--chief", "d,e", "--set", "code=[]", "train.py")
    assert len(caught.value.complaints) == 4


def test_a_target_must_be_named(launched: dict[str, Any]) -> None:
    with pytest.raises(click.MissingParameter):
        launch("--workers", "2")


# ---- doctor


@pytest.fixture
def examined(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `doctor` would have examined."""
    seen: dict[str, Any] = {}

    def examine(job: JobSpec | None, hosts: tuple[Host, ...], *, as_json: bool) -> int:
        seen.update(job=job, hosts=hosts, as_json=as_json)
        return 3

    monkeypatch.setitem(sys.modules, "distrain.cli.doctor", SimpleNamespace(examine=examine))
    return seen


@pytest.mark.parametrize(
    ("words", "named", "hosts"),
    [
        ([], None, [LOCAL]),
        (["--workers", "a,b:2", "--ps", "a", "--json"], None, [Host("a", "ssh"), Host("b", "ssh")]),
        (["--hostfile", "hosts", "--python", "/p"], None, [Host("c", "ssh", python="/p"), Host("d", "ssh", python="/p")]),
        (["job.yaml"], "job", [LOCAL]),
        (["--workers", "a,b", "job.yaml", "--set", "cluster.hosts.0.port=22"], "job", [Host("a", "ssh", 22), Host("b", "ssh")]),
    ],
)  # fmt: skip
def test_doctor_knows_hosts_as_launch_does(
    examined: dict[str, Any], folder: Path, words: list[str], named: str | None, hosts: list[Host]
) -> None:
    (folder / "hosts").write_text("c\nd\n")
    assert distrain.main(["doctor", *words], prog_name="distrain", standalone_mode=False) == 3
    assert (examined["job"] and examined["job"].name, list(examined["hosts"])) == (named, hosts)
    assert examined["as_json"] is ("--json" in words)


# ---- scripts


def program(*argv: str, code: str | bool | None = None, host: str = "away") -> JobSpec:
    cluster = JobSpec("x").cluster
    hosts = (HostSpec(host),)
    return JobSpec("x", program=ProgramSpec(argv), code=code, cluster=type(cluster)(hosts=hosts))


@pytest.mark.parametrize(
    ("stand", "script", "code", "path"),
    [
        (".", "train.py", None, "train.py"),
        (".", "./sub/../train.py", None, "train.py"),
        (".", "{}/sub/my train.py", None, "sub/my train.py"),
        (".", "{}/-x.py", None, "./-x.py"),
        ("sub", "../train.py", "..", "../train.py"),
        ("sub", "{}/sub/my train.py", "..", "my train.py"),
        ("link", "my train.py", None, "my train.py"),
        (".", "nothere.py", False, "nothere.py"),
        (".", "/opt/nothere.py", False, "/opt/nothere.py"),
    ],
)
def test_a_script_is_seen_from_where_the_user_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stand: str, script: str, code: str | bool | None, path: str
) -> None:
    (folder / "link").symlink_to("sub")
    (folder / "-x.py").touch()
    monkeypatch.chdir(folder / stand)
    settled = outset.settled(program(script.format(folder), "--lr", code=code))
    assert settled.program == ProgramSpec((path, "--lr"))


def test_a_script_of_this_machine_may_be_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "sub")
    job = program("../train.py", host="local")
    assert outset.settled(job) == job
    command = program("./nothere")
    assert outset.settled(command) == command


@pytest.mark.parametrize(
    ("script", "host", "said"),
    [
        ("trian.py", "away", "there is no script trian.py; did you mean train.py?"),
        ("trian.py", "local", "there is no script trian.py; did you mean train.py?"),
        ("no/train.py", "local", "there is no script no/train.py; there is no directory no either; check the path"),
        ("folder.py", "local", "folder.py is a folder, and a script is a file; name a file in it"),
        ("../outside.py", "away", "../outside.py is outside {0}, the folder that the hosts get; change into the script's folder, or set code to a folder that holds both it and the current one"),
    ],
)  # fmt: skip
def test_a_script_that_no_task_could_start_is_told(folder: Path, script: str, host: str, said: str) -> None:
    (folder / "folder.py").mkdir()
    (folder.parent / "outside.py").touch()
    with pytest.raises(UsageError) as caught:
        outset.settled(program(script, host=host))
    assert str(caught.value) == said.format(folder)


@pytest.mark.skipif("os.geteuid() == 0", reason="root may read everything")
def test_an_unreadable_script_is_told(folder: Path) -> None:
    (folder / "train.py").chmod(0)
    with pytest.raises(UsageError, match=r"^train\.py cannot be read; check its permissions$"):
        outset.settled(program("train.py"))


# ---- the command itself


@pytest.mark.processes
def test_a_dry_run_shows_the_hosts(folder: Path) -> None:
    command = [sys.executable, "-m", "distrain", "launch", "--workers", "host1,me@host2:2", "--ps", "host3"]
    words = ["--set", "env.A_TOKEN=hunter2", "--dry-run", "--json", "train.py", "--lr", "$(x); y"]
    done = subprocess.run([*command, *words], cwd=folder, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    tasks = json.loads(done.stdout)["tasks"]
    assert [(task["task"], task["host"]) for task in tasks] == [
        ("worker:0", "host1"),
        ("worker:1", "me@host2"),
        ("worker:2", "me@host2"),
        ("ps:0", "host3"),
    ]
    assert {tuple(task["argv"][1:]) for task in tasks} == {
        ("-m", "distrain.worker.script", "train.py", "--lr", "$(x); y")
    }
    assert tasks[0]["TF_CONFIG"]["cluster"]["worker"][0] == "host1:<port of worker:0>"
    assert "hunter2" not in done.stdout
    assert sorted(os.listdir(folder)) == ["job.yaml", "ps.yml", "sub", "train.py"]
