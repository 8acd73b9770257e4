"""Facts of this host that take programs to find out: what is installed for the tasks' interpreter, and its GPUs.

Blocks, and so is done aside. TensorFlow is not imported: what packages say of themselves is enough, and costs less.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

_TIMEOUT_S = 20.0
_GPU_TIMEOUT_S = 10.0
_TAIL_CHARACTERS = 300

_TELL_VERSIONS = """
import json, platform
from importlib import metadata, util
known = {
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-rocm", "tensorflow-tpu", "tf-nightly", "tf-nightly-cpu"),
    "keras": ("keras", "keras-nightly"),
    "torch": ("torch",),
}
versions = {"python": platform.python_version()}
for module, packages in known.items():
    if util.find_spec(module) is None:
        continue
    versions[module] = "unknown"
    for package in packages:
        try:
            versions[module] = metadata.version(package)
            break
        except metadata.PackageNotFoundError:
            pass
print("\\n" + json.dumps(versions))
"""


def examine(python: str, folder: str | None) -> dict[str, Any]:
    """The fields of `wire.Examined` but the time. `folder` None: there is no run's folder yet."""
    versions, error = _versions(python)
    disk = os.statvfs(folder or tempfile.gettempdir())
    free_bytes = disk.f_bavail * disk.f_frsize
    return {"versions": versions, "free_bytes": free_bytes, "gpus": _gpus(), "error": error}


def _versions(python: str) -> tuple[dict[str, str], str | None]:
    """What is installed, or the sentence why `python` cannot tell."""
    remedy = "name another interpreter with --python"
    try:
        exit_code, printed = _run((python, "-c", _TELL_VERSIONS), _TIMEOUT_S)
    except FileNotFoundError:
        return {}, f"{python}: command not found there; install Python, or {remedy}"
    except OSError as error:
        return {}, f"{python} cannot be started there: {error.strerror}; {remedy}"
    except subprocess.TimeoutExpired:
        return (
            {},
            f"{python} did not answer within {_TIMEOUT_S:g} s; see whether the host is overloaded, or {remedy}",
        )
    if exit_code == 0:
        with contextlib.suppress(ValueError, IndexError):
            found = json.loads(printed.strip().splitlines()[-1])
            if isinstance(found, dict):
                return found, None
    tail = printed.strip()[-_TAIL_CHARACTERS:]
    return {}, f"{python} could not tell its packages' versions (exit code {exit_code}); {remedy}" + (
        f"\n{tail}" if tail else ""
    )


def _gpus() -> tuple[str, ...]:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        exit_code, printed = _run(("nvidia-smi", "-L"), _GPU_TIMEOUT_S)
        if exit_code == 0:
            return tuple(re.findall(r"^GPU \d+: (.*?)(?: \(UUID: .*\))?$", printed, re.MULTILINE))
    names = []
    for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information")):
        with contextlib.suppress(OSError), open(path) as file:
            names += re.findall(r"^Model:\s*(.+?)\s*$", file.read(), re.MULTILINE)
    return tuple(names)


def _run(argv: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Exit code and output of a program, which is killed with all of its group if it takes longer.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it took longer.
    """
    with subprocess.Popen(
        argv,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, printed.decode(errors="replace")
