"""Before the first step: hosts that cannot reach each other, and tasks that do not come, are named and end the run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from netlab.lab import Lab
from netlab.launch import Launch, write_job
from netlab.programs import HELLO
from process_table import wait_until

TOY_WORKER = Path(__file__).parents[1] / "launcher" / "toy_worker.py"


def no_task_started(run: Launch) -> bool:
    return not [event for event in run.events if event["kind"] == "task_started"]


# ---- finding each other


@pytest.mark.parametrize("address", ["127.0.1.1", "somewhere.else.invalid", "nobody's"])
def test_an_address_that_others_cannot_reach(lab: Lab, launch: Callable[..., Launch], user: Path, address: str) -> None:
    (user / "hello.py").write_text(HELLO)
    if address == "nobody's":
        address = lab.address("host1").rpartition(".")[0] + ".253"
    hosts = ["host1", {"host": "host2", "address": address}, "host3"]
    job = write_job(user, name="reach", program=["hello.py"], cluster={"workers": 3, "hosts": hosts})
    run = launch(job)
    run.wait(3)
    told = run.summary["first_failure"]["message"]
    assert told.startswith(f"host2: its address {address} cannot be reached by the others"), told
    assert "cluster.hosts address" in told
    assert no_task_started(run)


def test_an_address_that_is_another_hosts(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    """Somebody answers there, on the very port; it is not the one that was meant."""
    (user / "hello.py").write_text(HELLO)
    answering = "import socket\nlistener = socket.create_server(('', 41000))\nwhile True: listener.accept()"
    hosts = ["host1", {"host": "host2", "address": lab.address("host3")}]
    cluster = {"workers": 2, "hosts": hosts, "ports": [41000]}
    with lab.running("host3", sys.executable, "-S", "-c", answering):
        run = launch(write_job(user, name="reach", program=["hello.py"], cluster=cluster))
        run.wait(3)
    told = run.summary["first_failure"]["message"]
    assert told.startswith("host2: ")
    assert f"{lab.address('host3')} port 41000: another program answers there" in told
    assert no_task_started(run)


def test_a_firewall_between_hosts(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    """This machine reaches both, and they do not reach each other."""
    (user / "hello.py").write_text(HELLO)
    wall = ("blackhole", f"{lab.address('host1')}/32")
    assert lab.run("host2", "ip", "route", "add", *wall).returncode == 0
    try:
        run = launch("--workers", "host1,host2", "hello.py")
        run.wait(3)
    finally:
        assert lab.run("host2", "ip", "route", "delete", *wall).returncode == 0
    told = run.summary["first_failure"]["message"]
    assert told.startswith("host")
    assert "cannot be reached" in told
    assert "let the hosts connect to each other" in told
    assert no_task_started(run)


def test_one_bad_address_of_several_is_passed_over(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    """As the bridge of a container engine: every host has it, and it leads to that host itself."""
    (user / "hello.py").write_text(HELLO)
    bridge = "ip link add bridge0 type bridge && ip address add 172.17.0.1/16 dev bridge0 && ip link set bridge0 up"
    for host in ("host1", "host2"):
        assert lab.run(host, "sh", "-c", bridge).returncode == 0
    try:
        run = launch("--workers", "host1,host2", "hello.py")
        run.wait(0)
    finally:
        for host in ("host1", "host2"):
            assert lab.run(host, "ip", "link", "delete", "bridge0").returncode == 0
    assert run.plan("worker:1")["address"].startswith(lab.address("host2") + ":")


# ---- the start barrier


@pytest.fixture
def toy_python(lab: Lab) -> str:
    """A Python on the hosts whose worker has no TensorFlow, and does what the job's environment tells it."""
    for host in lab.hosts:
        shutil.copy(TOY_WORKER, lab.home(host) / "toy_worker.py")
        python = lab.home(host) / "toy-python"
        python.write_text(
            "#!/bin/sh\n"
            f'if [ "$1 $2" = "-m distrain.worker" ]; then exec {sys.executable} -S /root/toy_worker.py; fi\n'
            f'exec {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
    return "/root/toy-python"


def toy_job(user: Path, **env: str) -> str:
    return write_job(
        user,
        name="toy",
        strategy="MultiWorkerMirrored",
        dataset={"name": "digits", "batch_size": 60},
        warm=False,
        env=env,
    )


def test_a_task_that_is_overdue_is_named_within_ten_seconds(
    lab: Lab, launch: Callable[..., Launch], user: Path, toy_python: str
) -> None:
    job = toy_job(user, TOY_WORKER_0="ready,after=/root/go,train,done", TOY="after=/root/go,ready,train,done")
    run = launch("--workers", "host1,host2", job, python=toy_python)
    wait_until(lambda: "waiting for worker:1 on host2: " in run.text, 12, "the sentence")
    for host in ("host2", "host1"):
        (lab.home(host) / "go").touch()
    run.wait(0)


def test_a_task_that_never_comes_ends_the_run(launch: Callable[..., Launch], user: Path, toy_python: str) -> None:
    job = toy_job(user, TOY_WORKER_1="wait", TOY="ready,wait")
    run = launch("--workers", "host1,host2", job, python=toy_python, sets=("cluster.start_timeout_s=3",))
    run.wait(1)
    first = run.summary["first_failure"]
    assert (first["task"], first["host"]) == ("worker:1", "host2")
    assert first["message"].startswith("not ready after 3 s: waiting for worker:1 on host2: ")


def test_a_task_that_ends_before_it_is_ready_is_the_cause(
    launch: Callable[..., Launch], user: Path, toy_python: str
) -> None:
    job = toy_job(user, TOY_WORKER_1="exit=1", TOY="wait")
    run = launch("--workers", "host1,host2", job, python=toy_python)
    run.wait(1)
    first = run.summary["first_failure"]
    assert (first["task"], first["host"], first["exit_code"]) == ("worker:1", "host2", 1)
    assert "worker:1 on host2" in run.text
