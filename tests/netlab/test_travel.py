"""What travels to a host and back: code, arguments, environment, results; over how many connections; what stays."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from netlab.lab import Lab
from netlab.launch import Launch, write_job
from netlab.programs import HELLO, STAYS_UNTIL

BLOB_BYTES = 3_000_000
HOSTILE = [
    "plain",
    "two words",
    "",
    "'single' and \"double\"",
    "$(touch pwned) `touch pwned` ${HOME}",
    "; touch pwned; #",
    "-leading --dashes",
    "a\nnew line\n",
    "back\\slash \\n",
    "!event *? [a-z] ~ {a,b} %s",
    "tab\tand \x01 bell \x07",
    "größe 測試 \N{PILE OF POO}",
]
TELLS = """
import json, os, sys
told = {"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}
with open(os.path.join(os.environ["DISTRAIN_OUTPUT_DIR"], "told.json"), "w") as file:
    json.dump(told, file)
"""


def test_one_connection_a_host_and_nothing_installed(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    (user / "hello.py").write_text(HELLO)
    before = {host: lab.logins(host) for host in lab.hosts}
    run = launch("--workers", "host1:2,host2", "hello.py")
    run.wait(0)
    assert {host: lab.logins(host) - before[host] for host in lab.hosts} == {"host1": 1, "host2": 1, "host3": 0}
    for task in ("worker:0", "worker:1", "worker:2"):
        assert run.log(task) == f"hello from {task}\n"
    lab.none_left()
    for host in ("host1", "host2"):
        assert {path.name for path in lab.home(host).iterdir()} - {".ssh", ".pyenv"} == {".cache"}
        assert [path.name for path in (lab.home(host) / ".cache").iterdir()] == ["distrain"]
        cache = lab.home(host) / ".cache" / "distrain"
        others = [path for path in cache.rglob("*") if path.is_file() and cache / "code" not in path.parents]
        assert [path.name for path in others] in ([], [".lock"]), "nothing of the run is kept but its code"
        there = lab.run(host, sys.executable, "-c", "import distrain")
        assert "No module named 'distrain'" in there.stderr
    assert lab.belongings("host3") == set()


def test_code_is_sent_once(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    (user / "blob").write_bytes(os.urandom(BLOB_BYTES))
    (user / "digest.py").write_text(
        "import hashlib\nprint(hashlib.sha256(open('blob', 'rb').read()).hexdigest(), flush=True)\n"
    )

    def sent() -> int:
        before = lab.bytes_sent()
        run = launch("--workers", "host1,host2", "digest.py")
        run.wait(0)
        digest = hashlib.sha256((user / "blob").read_bytes()).hexdigest()
        assert [run.log(task) for task in ("worker:0", "worker:1")] == [f"{digest}\n"] * 2
        return lab.bytes_sent() - before

    assert sent() > 2 * BLOB_BYTES
    assert sent() < 200_000, "both hosts have it"
    (user / "blob").write_bytes(os.urandom(BLOB_BYTES))
    assert sent() > 2 * BLOB_BYTES, "it has changed"
    blob = (user / "blob").read_bytes()
    (stored,) = (path for path in lab.home("host1").glob(".cache/distrain/code/*/blob") if path.read_bytes() == blob)
    stored.write_bytes(b"not what it was")
    assert BLOB_BYTES < sent() < 2 * BLOB_BYTES, "host1's copy was damaged"


def test_code_arrives_as_it_is(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    names = [f"file {text.replace('/', '-')}" for text in HOSTILE] + ["-n", "--help.txt", "$(touch pwned)"]
    for name in names:
        (user / "data" / name).parent.mkdir(exist_ok=True)
        (user / "data" / name).write_text(name)
    Path(os.fsdecode(os.fsencode(user / "data") + b"/not \xff UTF-8")).write_text("bytes")
    (user / "tool").write_text("#!/bin/sh\necho tool runs\n")
    (user / "tool").chmod(0o755)
    (user / "link").symlink_to("data/-n")
    (user / "empty").mkdir()
    (user / ".gitignore").write_text("*.secret\n/ignored/\n")
    (user / "key.secret").write_text("not for hosts")
    (user / "ignored").mkdir()
    (user / "ignored" / "file").write_text("not for hosts")
    (user / ".git").mkdir()
    (user / ".git" / "config").write_text("not for hosts")
    (user / "lists.py").write_text(
        "import json, os, subprocess\n"
        "def kind(path):\n"
        "    if os.path.islink(path): return 'link ' + os.readlink(path)\n"
        "    if os.path.isdir(path): return 'folder'\n"
        "    return ('run ' if os.access(path, os.X_OK) else '') + open(path, 'rb').read().hex()\n"
        "found = {os.fsencode(os.path.join(folder, name)).hex(): kind(os.path.join(folder, name))\n"
        "         for folder, folders, names in os.walk('.') for name in folders + names}\n"
        "json.dump(found, open(os.path.join(os.environ['DISTRAIN_OUTPUT_DIR'], 'found.json'), 'w'))\n"
        "subprocess.run(['./tool'], check=True)\n"
    )
    run = launch("--workers", "host2", "lists.py")
    run.wait(0)
    found = json.loads((run.rundir / "output" / "found.json").read_text())
    there = {os.fsdecode(bytes.fromhex(path)).removeprefix("./"): kind for path, kind in found.items()}
    here = {}
    for folder, folders, files in os.walk(user):
        for path in (Path(folder, name) for name in folders + files):
            name = str(path.relative_to(user))
            if name.startswith((".git/", "ignored", "key.secret")) or name == ".git":
                continue
            content = "" if path.is_dir() else path.read_bytes().hex()
            here[name] = "folder" if path.is_dir() else f"{'run ' if name == 'tool' else ''}{content}"
    here["link"] = "link data/-n"
    assert there == here
    assert run.log("worker:0") == "tool runs\n"


def test_a_link_out_of_the_folder_is_refused(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    (user / "hello.py").write_text(HELLO)
    (user / "secrets").symlink_to("/etc/shadow")
    before = lab.logins("host1")
    run = launch("--workers", "host1", "hello.py")
    run.wait(2)
    assert "secrets is a link to /etc/shadow" in run.text
    assert lab.logins("host1") == before


def test_arguments_and_environment_arrive_as_they_are(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    (user / "tells.py").write_text(TELLS)
    env = {f"HOSTILE_{index}": text for index, text in enumerate(HOSTILE) if "\0" not in text}
    programs = {
        "script": ["tells.py", *HOSTILE],
        "command": [sys.executable, "tells.py", *HOSTILE],
    }
    for program in programs.values():
        run = launch("--workers", "host1", write_job(user, name="hostile", program=program, env=env))
        run.wait(0)
        told = json.loads((run.rundir / "output" / "told.json").read_text())
        assert told["argv"] == HOSTILE
        assert {name: told["env"].get(name) for name in env} == env
    assert not [*user.rglob("pwned"), *(lab.folder / "hosts").rglob("pwned")]


def test_no_environment_value_is_on_a_command_line_and_all_files_are_private(
    lab: Lab, launch: Callable[..., Launch], user: Path
) -> None:
    (user / "stays.py").write_text(STAYS_UNTIL)
    (user / "tool").write_text("#!/bin/sh\n")
    (user / "tool").chmod(0o755)
    secret = "s3cr3t-0f-th3-t3st"
    job = write_job(user, name="private", program=["stays.py", "/root/go"], env={"API_TOKEN": secret})
    run = launch("--workers", "host1:2", job)
    run.wait_for("stays", "worker:0", "worker:1")
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert secret.encode() not in entry.read_bytes(), entry
        except OSError:
            continue
    found = []
    for path in lab.belongings("host1"):
        found += [path] if path.name != ".cache" else []  # as common a folder as /tmp, and not distrain's own
        found += path.rglob("*")
    # What Python compiles, it writes as it always does; the folder that it lies in is private.
    ours = [path for path in found if not path.is_symlink() and "__pycache__" not in path.parts]
    assert len(ours) > 20
    for path in ours:
        runs = path.is_dir() or path.name == "tool"
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if runs else 0o600), path
    (lab.home("host1") / "go").touch()
    run.wait(0)
    for path in (run.rundir, *run.rundir.rglob("*")):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert secret not in run.text


def test_results_end_in_the_run_directory(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    (user / "works.py").write_text(
        "import os, distrain\n"
        "output = os.environ['DISTRAIN_OUTPUT_DIR']\n"
        "os.makedirs(output + '/deep/er', exist_ok=True)\n"
        "open(output + '/deep/er/weights', 'wb').write(os.urandom(5_000_000))\n"
        "open(output + '/who', 'w').write(os.environ['DISTRAIN_TASK'])\n"
        "for step in range(3):\n"
        "    distrain.report(step=step, loss=1 / (step + 1))\n"
        "print('worked', flush=True)\n"
    )
    run = launch("--workers", "host1,host2", "works.py")
    run.wait(0)
    assert (run.rundir / "output" / "who").read_text() == "worker:0"
    assert (run.rundir / "from" / "host2" / "output" / "who").read_text() == "worker:1"
    assert (run.rundir / "output" / "deep" / "er" / "weights").stat().st_size == 5_000_000
    assert [run.log(task) for task in ("worker:0", "worker:1")] == ["worked\n"] * 2
    *_, last = (json.loads(line) for line in (run.rundir / "metrics.jsonl").read_text().splitlines())
    assert (last["step"], last["metrics"]["loss"]) == (2, pytest.approx(1 / 3))
    assert run.summary["state"] == "succeeded"
    assert stat.S_IMODE(run.rundir.stat().st_mode) == 0o700
    hidden = {path.name for path in run.rundir.rglob(".*")}
    assert hidden == {".lock", ".agents"}, "other hidden names are for what is not whole yet"
