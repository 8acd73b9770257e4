"""`distrain doctor` on real hosts: what it finds, and the exit code of a run that would meet the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from netlab.lab import Lab


def doctor(lab: Lab, folder: Path, *words: str, python: str = sys.executable) -> tuple[int, dict[str, Any]]:
    """Its exit code, and its findings."""
    done = subprocess.run(
        [sys.executable, "-m", "distrain", "doctor", "--json", "--python", python, *words],
        cwd=folder,
        env={**os.environ, "PATH": f"{lab.bin}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_hosts_in_order(lab: Lab, user: Path) -> None:
    before = {host: lab.logins(host) for host in lab.hosts}
    exit_code, found = doctor(lab, user, "--workers", "host1,host2,host3")
    assert exit_code == 0, found
    assert {host: lab.logins(host) - before[host] for host in lab.hosts} == dict.fromkeys(lab.hosts, 1)
    lab.none_left(timeout_s=1)


@pytest.mark.parametrize("name", ["nowhere.invalid", "host2"])
def test_a_host_out_of_reach_beside_one_in_order(lab: Lab, user: Path, name: str) -> None:
    keys = lab.home("host2") / ".ssh" / "authorized_keys"
    content = keys.read_bytes()
    keys.write_bytes(b"")
    try:
        exit_code, found = doctor(lab, user, "--workers", f"host1,{name}")
    finally:
        keys.write_bytes(content)
    assert exit_code == 3
    assert f"{name}: " in json.dumps(found)
    lab.none_left(timeout_s=1)


def test_hosts_that_do_not_reach_each_other(lab: Lab, user: Path) -> None:
    wall = ("blackhole", f"{lab.address('host1')}/32")
    assert lab.run("host2", "ip", "route", "add", *wall).returncode == 0
    try:
        exit_code, found = doctor(lab, user, "--workers", "host1,host2")
    finally:
        assert lab.run("host2", "ip", "route", "delete", *wall).returncode == 0
    assert exit_code == 3
    assert "cannot be reached" in json.dumps(found)


def test_a_python_without_tensorflow(lab: Lab, user: Path) -> None:
    for host, options in (("host1", ""), ("host2", "-S ")):
        python = lab.home(host) / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {options}"$@"\n')
        python.chmod(0o755)
    exit_code, found = doctor(lab, user, "--workers", "host1,host2", python="/root/python")
    assert exit_code == 3
    told = json.dumps(found)
    assert "host2: " in told
    assert "TensorFlow is not installed" in told
