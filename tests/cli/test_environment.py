"""scripts/environment.sh, with stand-ins for uv and Python on the PATH: which of them makes the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

SCRIPT = Path(__file__).parents[2] / "scripts" / "environment.sh"

UV = """\
#!/bin/sh
case "$*" in
    *--help) echo --group ;;
    "$UV_REFUSES "*) echo "error: invalid peer certificate" >&2; exit 2 ;;
    venv\\ *) for folder; do :; done; mkdir -p "$folder/bin"; cp "$(command -v python3)" "$folder/bin/python" ;;
    *) echo "uv $*" >>"$CALLS" ;;
esac
"""
PYTHON = f"""\
#!/bin/sh
case "$*" in
    "-c import ensurepip"*) [ "$HAS_VENV" ] ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip install "*) echo "$*" >>"$CALLS" ;;
    *) exec {sys.executable} "$@" ;;
esac
"""
INSTEAD = "distrain: uv failed, its own words are above: trying pip in its place"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for folder in ("scripts", "bin"):
        (tmp_path / folder).mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "calls").touch()
    (tmp_path / "scripts" / "ready").write_text(
        'set -eu\n. "$(dirname "$(readlink -f "$0")")/environment.sh"\nenvironment test\necho ready\n'
    )
    for name, text in (("uv", UV), ("python3", PYTHON)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    for name in ("python3.11", "python3.12", "python3.13"):  # those of this machine are out of the play
        (tmp_path / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def ready(repository: Path, *, uv_refuses: str = "nothing", has_venv: bool = True) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": f"{repository / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(repository / "calls"),
        "UV_REFUSES": uv_refuses,
        "HAS_VENV": "yes" if has_venv else "",
    }
    command = ["/bin/sh", str(repository / "scripts" / "ready")]
    return subprocess.run(command, env=env, text=True, capture_output=True, timeout=60, check=False)


def calls(repository: Path) -> list[str]:
    return (repository / "calls").read_text().splitlines()


def test_uv_installs_where_it_can(repository: Path) -> None:
    done = ready(repository)
    assert (done.returncode, done.stdout) == (0, "ready\n")
    assert INSTEAD not in done.stderr
    (call,) = calls(repository)
    assert call.startswith("uv pip install")


@pytest.mark.parametrize("step", ["pip install", "venv"])
def test_pip_installs_where_uv_fails(repository: Path, step: str) -> None:
    done = ready(repository, uv_refuses=step)
    assert (done.returncode, done.stdout) == (0, "ready\n")
    lines = done.stderr.splitlines()
    assert lines.index("error: invalid peer certificate") + 1 == lines.index(INSTEAD)
    assert [call.split("--quiet")[0] for call in calls(repository)] == ["-m pip install "] * 2
    assert "--editable . --group test" in calls(repository)[-1]
    again = ready(repository, uv_refuses=step)
    assert (again.returncode, again.stdout, again.stderr) == (0, "ready\n", "")


def test_what_neither_can_install_is_said_once(repository: Path) -> None:
    done = ready(repository, uv_refuses="pip install", has_venv=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "error: invalid peer certificate",
        "distrain: the install failed, its own words are above; the same command starts it afresh",
    ]
