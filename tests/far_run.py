"""A run on several hosts that are all this machine: launcher, link, guards and agents are real, `ssh` is a stand-in.

The stand-in takes ssh's command line, gives each host a home of its own, and runs the command through a shell there. A
host is gone as long as there is a file `<host>.gone`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from process_table import MARK, Process, marked, wait_until

SSH = """\
#!/bin/sh
while [ "$1" != -- ]; do shift; done
host=$2
shift 2
echo "$host" >>"$FAR_FOLDER/connections"
case $host in
    unknown*) echo "ssh: Could not resolve hostname $host: Name or service not known" >&2; exit 255 ;;
esac
if [ -e "$FAR_FOLDER/$host.gone" ]; then
    echo "ssh: connect to host $host port 22: No route to host" >&2
    exit 255
fi
export HOME="$FAR_FOLDER/$host"
unset XDG_CACHE_HOME
mkdir -p "$HOME"
cd "$HOME"
if [ -n "$FAR_BYTES_PER_S" ]; then
    exec 3<&0
    "$FAR_PYTHON" -c "$FAR_SLOWLY" <&3 | sh -c "$*"
else
    sh -c "$*"
fi
"""

SLOWLY = """\
import os, time
rate = int(os.environ["FAR_BYTES_PER_S"])
while data := os.read(0, 65536):
    os.write(1, data)
    time.sleep(len(data) / rate)
"""


class FarRun:
    """A run in a launcher process of its own. `hosts`: each a name or a mapping as in `cluster.hosts`."""

    def __init__(
        self, folder: Path, program: list[str] | None, hosts: list[Any], *, bytes_per_s: int | None = None, **keys: Any
    ) -> None:
        """`program` None: `keys` say what is trained. `bytes_per_s`: how fast the connections take what is sent."""
        self.mark = uuid.uuid4().hex
        self.folder = folder
        bin_folder = folder / "bin"
        bin_folder.mkdir(exist_ok=True)
        ssh = bin_folder / "ssh"
        ssh.write_text(SSH)
        ssh.chmod(0o700)
        self.here = folder / "project"
        self.here.mkdir(exist_ok=True)
        common = {"address": "127.0.0.1", "python": sys.executable}
        offers = [{**common, **(host if isinstance(host, dict) else {"host": host})} for host in hosts]
        cluster = {"hosts": offers, "contact_timeout_s": 30, **keys.pop("cluster", {})}
        job = folder / "job.yaml"
        what = {} if program is None else {"program": program}
        job.write_text(json.dumps({"name": "far", **what, "cluster": cluster, **keys}))
        self.runs = folder / "runs"
        self.out = folder / f"out-{self.mark}"
        before = set(self.runs.iterdir()) if self.runs.exists() else set()
        self._before = before
        with self.out.open("wb") as out:
            self.launcher = subprocess.Popen(
                [sys.executable, "-m", "distrain", "run", str(job), "--runs-dir", str(self.runs), "--plain"],
                cwd=self.here,
                env={
                    **os.environ,
                    MARK: self.mark,
                    "FAR_FOLDER": str(folder),
                    "FAR_BYTES_PER_S": "" if bytes_per_s is None else str(bytes_per_s),
                    "FAR_PYTHON": sys.executable,
                    "FAR_SLOWLY": SLOWLY,
                    "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
                },
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def close(self) -> None:
        """End what is left of it."""

        def ended() -> bool:
            left = self.processes()
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            return not left

        try:
            wait_until(ended, 10, "the end of what was killed")
        finally:
            self.launcher.wait(10)

    @property
    def rundir(self) -> Path:
        (found,) = set(self.runs.iterdir()) - self._before
        return found

    @property
    def text(self) -> str:
        return self.out.read_text(errors="replace")

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.rundir / "summary.json").read_text())
        return summary

    @property
    def events(self) -> list[dict[str, Any]]:
        text = (self.rundir / "events.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def log(self, task: str) -> str:
        return (self.rundir / "logs" / f"{task.replace(':', '-')}.log").read_text()

    def connections(self) -> list[str]:
        """The hosts that were connected to, once for each time."""
        return sorted((self.folder / "connections").read_text().split())

    def wait_for(self, kind: str, count: int = 1, timeout_s: float = 30) -> None:
        def there() -> bool:
            if self.launcher.poll() is not None:
                raise AssertionError(f"the launcher ended early with {self.launcher.returncode}:\n{self.text}")
            files = [path for path in self.runs.glob("*/events.jsonl") if path.parent not in self._before]
            return bool(files) and sum(event["kind"] == kind for event in self.events) >= count

        wait_until(there, timeout_s, f"{count} times {kind}")

    def processes(self) -> list[Process]:
        return marked(self.mark)

    def agents(self) -> list[int]:
        """The pids of the agents, one for each host."""
        names = {process.pid: Path(f"/proc/{process.pid}/comm").read_text().strip() for process in self.processes()}
        return [pid for pid, name in names.items() if name == "distrain-agent"]

    def wait(self, timeout_s: float = 40) -> int:
        return self.launcher.wait(timeout_s)

    def none_left(self, timeout_s: float = 10) -> float:
        return wait_until(lambda: not self.processes(), timeout_s, f"no process left of {self.processes()}")
