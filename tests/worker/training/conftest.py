"""Clusters of real tasks, forked from one preloaded process as the agent forks them."""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from distrain.job.spec import (
    CheckpointSpec,
    ClusterSpec,
    DatasetSpec,
    JobSpec,
    Named,
    StrategySpec,
    TrainingSpec,
    WatchdogSpec,
)

PR_SET_CHILD_SUBREAPER = 36
DEADLINE_S = 90.0
MLP = Named("mlp")
HERE = str(Path(__file__).parent)
_NUMBERS = itertools.count()


@dataclass
class Task:
    """A task that was started: what it printed and said, and once it has ended, how (negative: by that signal)."""

    name: str
    pid: int
    output: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    seen_at: list[float] = field(default_factory=list)
    status: int | None = None
    reader: threading.Thread | None = None
    stacks: int = -1

    def poll(self) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                self.reader.join(timeout=10)
                os.close(self.stacks)
        return self.status

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def losses(self) -> list[float]:
        return [e["metrics"]["step_loss"] for e in self.of("metrics") if e["split"] == "train"]


class Preloaded:
    """The agent's side of the preload protocol."""

    def __init__(self, log: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        with theirs, open(log, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "distrain.worker.preload"],
                env={**os.environ, "DISTRAIN_PRELOAD_FD": str(theirs.fileno()), "TF_CPP_MIN_LOG_LEVEL": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.log = log
        self._socket.settimeout(DEADLINE_S)
        self.greeting = json.loads(self._socket.recv(65536))

    def fork(self, name: str, text: str, env: Mapping[str, str], folder: Path) -> Task:
        asked = {"task": name, "env": dict(env), "cwd": str(folder), "argv": ["distrain", name]}
        request = os.memfd_create("request")
        os.write(
            request,
            json.dumps(asked).encode(),
        )
        stdin = os.memfd_create("stdin")
        os.write(stdin, text.encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        stacks = os.memfd_create("stacks")
        output = folder / f"{name.replace(':', '-')}.log"
        reader, writer = os.pipe()
        with open(output, "wb") as printed:
            descriptors = [request, stdin, printed.fileno(), writer, stacks]
            socket.send_fds(self._socket, [b"fork"], descriptors)
            answer = json.loads(self._socket.recv(65536))
        for descriptor in (request, stdin, writer):
            os.close(descriptor)
        assert answer["task"] == name, answer
        task = Task(name, answer["pid"], output, stacks=stacks)
        task.reader = threading.Thread(target=_read, args=(reader, task), daemon=True)
        task.reader.start()
        return task

    def close(self) -> None:
        self._socket.close()
        assert self.process.wait(timeout=10) == 0, self.log.read_text()


def _read(descriptor: int, task: Task) -> None:
    with open(descriptor, "rb") as stream:
        for line in stream:
            task.seen_at.append(time.monotonic())
            task.events.append(json.loads(line))


class Cluster:
    """The tasks of one attempt of a run."""

    def __init__(self, run: str, run_dir: Path, attempt: int) -> None:
        self.tasks: dict[str, Task] = {}
        self.starts: dict[str, Callable[[], Task]] = {}
        self.run = run
        self.run_dir = run_dir
        self.attempt = attempt

    @property
    def chief(self) -> Task:
        return self.tasks.get("chief:0") or self.tasks["worker:0"]

    def wait(self, deadline_s: float = DEADLINE_S) -> Cluster:
        """Wait for the chief, or for the first task that fails; end the others as the launcher would."""
        wait_until(
            lambda: self.chief.poll() is not None or any(t.poll() for t in self.tasks.values()), deadline_s, self
        )
        if self.chief.poll() == 0:
            ending = [task for task in self.tasks.values() if not self._serves(task)]
            wait_until(lambda: all(task.poll() is not None for task in ending), 40, self)
        self.end()
        return self

    def succeed(self) -> Cluster:
        self.wait()
        assert self.chief.status == 0, self.report()
        assert not any(task.of("failure") for task in self.tasks.values()), self.report()
        return self

    def _serves(self, task: Task) -> bool:
        """Whether it never ends by itself."""
        role = task.name.partition(":")[0]
        return role in ("ps", "dispatcher", "data") or (role == "worker" and "chief:0" in self.tasks)

    def again(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a task by that signal, if it has been started, and start it at its address."""
        if name in self.tasks:
            self.tasks[name].kill(number)
            wait_until(lambda: self.tasks[name].poll() is not None, 20, self)
        self.tasks[name] = self.starts[name]()

    def end(self) -> None:
        for task in self.tasks.values():
            task.kill()
        wait_until(lambda: all(task.poll() is not None for task in self.tasks.values()), 10, self)

    def report(self) -> str:
        return "\n".join(f"--- {t.name}: {t.status}\n{t.text[-3000:]}" for t in self.tasks.values())


def wait_until(condition: Callable[[], bool], deadline_s: float, cluster: Cluster | None = None) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s} s in vain\n{cluster.report() if cluster else ''}")
        select.select([], [], [], 0.01)


def job(
    strategy: str = "OneDevice",
    *,
    model: Named = MLP,
    dataset: DatasetSpec | None = None,
    batch_size: int = 96,
    workers: int = 1,
    ps: int = 0,
    devices: int = 1,
    evaluators: int = 0,
    data_workers: int = 0,
    checkpoint: CheckpointSpec | None = None,
    nan: str = "stop",
    **keys: Any,
) -> JobSpec:
    """`keys`: of `strategy`, such as `sync_every` or `layout`, of `dataset`, such as `shard`, and of `training`."""
    of_strategy, of_dataset = _taken(StrategySpec, keys), _taken(DatasetSpec, keys)
    return JobSpec(
        name="test",
        model=model,
        dataset=replace(dataset or DatasetSpec("digits", batch_size=batch_size), **of_dataset),
        training=TrainingSpec(**keys),
        strategy=StrategySpec(strategy, **of_strategy),
        cluster=ClusterSpec(
            workers=workers,
            ps=ps,
            devices_per_worker=devices,
            evaluators=evaluators,
            data_workers=data_workers,
        ),
        checkpoint=checkpoint,
        watchdog=WatchdogSpec(nan=nan),
    )


def _taken(kind: type, keys: dict[str, Any]) -> dict[str, Any]:
    """Those of `keys` that `kind` has, which are then gone from `keys`."""
    return {field.name: keys.pop(field.name) for field in fields(kind) if field.name in keys}


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    process = Preloaded(tmp_path_factory.mktemp("preload") / "log")
    assert process.greeting.get("preloaded"), process.log.read_text()
    yield process
    process.close()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def start(preloaded: Preloaded, tmp_path: Path) -> Iterator[Callable[[JobSpec], Cluster]]:
    """Starts the tasks of a job, with a run directory of their own; none outlives the test."""
    started: list[Cluster] = []

    def start_job(
        spec: JobSpec,
        only: tuple[str, ...] = (),
        after: Cluster | None = None,
        resume: dict[str, Any] | None = None,
        beside: Cluster | None = None,
    ) -> Cluster:
        """`after`: another attempt of that run, which goes on from what `resume` says. `beside`: the same attempt."""
        of = after or beside
        folder = of.run_dir if of else tmp_path / f"run-{len(started)}"
        folder.mkdir(exist_ok=True)
        run = of.run if of else f"test-{os.getpid()}-{next(_NUMBERS)}"
        cluster = Cluster(run, folder, beside.attempt if beside else len(started) + 1)
        started.append(cluster)
        for name, text, env in tasks_of(spec, folder, resume=resume, attempt=cluster.attempt, run=run):
            cluster.starts[name] = functools.partial(preloaded.fork, name, text, env, folder)
            if only and name not in only:
                continue
            cluster.tasks[name] = cluster.starts[name]()
        return cluster

    yield start_job
    for cluster in started:
        cluster.end()


def tasks_of(
    spec: JobSpec,
    folder: Path,
    import_paths: tuple[str, ...] = (HERE,),
    threads: int = 1,
    resume: dict[str, Any] | None = None,
    attempt: int = 1,
    run: str = "",
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Each task's name, assignment and environment."""
    strategy, cluster = spec.strategy.name, spec.cluster
    roles = {"chief": int(strategy == "ParameterServer"), "worker": cluster.workers, "ps": cluster.ps}
    addresses = {role: [f"127.0.0.1:{_free_port()}" for _ in range(count)] for role, count in roles.items() if count}
    beside = {
        "evaluator": cluster.evaluators,
        "dispatcher": int(cluster.data_workers > 0),
        "data": cluster.data_workers,
    }
    data_service = None
    if cluster.data_workers:
        dispatcher, *workers = (f"127.0.0.1:{_free_port()}" for _ in range(1 + cluster.data_workers))
        data_service = {"dispatcher": dispatcher, "workers": workers}
    run = run or f"test-{os.getpid()}-{next(_NUMBERS)}"
    training = [(role, index) for role, of_role in addresses.items() for index in range(len(of_role))]
    names = [*training, *((role, index) for role, count in beside.items() for index in range(count))]
    for role, index in names:
        assignment = {
            "format": 1,
            "task": f"{role}:{index}",
            "chief": (role, index) == training[0],
            "run": run,
            "run_dir": str(folder),
            "attempt": attempt,
            "threads": threads,
            "one_host": True,
            "import_paths": list(import_paths),
            "checkpoints": str(folder / "checkpoints") if spec.checkpoint else None,
            "resume": resume,
            "data_service": data_service,
            "job": spec.to_json(),
        }
        env = {"TEST_TASK": f"{role}-{index}"}
        if (role, index) in training and (len(training) > 1 or strategy == "MultiWorkerMirrored"):
            env["TF_CONFIG"] = json.dumps({"cluster": addresses, "task": {"type": role, "index": index}})
        yield f"{role}:{index}", json.dumps(assignment), env


def _free_port() -> int:
    """A port that was free a moment ago: TensorFlow cannot be given one that is held."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.fixture
def make_job() -> Callable[..., JobSpec]:
    return job
