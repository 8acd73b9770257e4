"""Runs commands as tasks and merges what they print, with the agent and the sinks of a `distrain run`.

merge_lines.py RUNS_DIR COMMAND… : each COMMAND is a JSON list of words. Logs go to a run directory, lines to stdout.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from pathlib import Path

from distrain import wire
from distrain.job.cluster import LOCAL
from distrain.launcher.events import Event
from distrain.launcher.hosts.bundle import open_bundle
from distrain.launcher.hosts.link import AgentLink
from distrain.launcher.runs.rundir import RunDir
from distrain.launcher.sinks import open_sinks
from distrain.launcher.transports import open_transport

TICK_S = 0.1


def main(runs_dir: Path, commands: list[list[str]]) -> None:
    sinks = open_sinks(RunDir.create(runs_dir, "lines", now=time.time()), plain=True, stream=sys.stdout)
    link = AgentLink("local", open_transport(LOCAL), open_bundle(), python=sys.executable)
    running = {f"worker:{index}" for index in range(len(commands))}
    for task, command in zip(sorted(running), commands, strict=True):
        link.send(wire.StartTask(task, 1, tuple(command), dict(os.environ), os.getcwd(), warm=False))
    while running:
        with selectors.DefaultSelector() as selector:
            for fd, mask in link.interest().items():
                selector.register(fd, mask)
            selector.select(TICK_S)
        now = time.time()
        for message in link.receive():
            match message:
                case wire.TaskOutput(task, _, data):
                    for sink in sinks:
                        sink.output(now, task, data)
                case wire.TaskCleared(task, _):
                    running.discard(task)
                    for sink in sinks:
                        sink.event(Event(now, "task_cleared", 1, task, "local"))
        for sink in sinks:
            sink.tick(now)
    link.send(wire.Goodbye())
    link.close(timeout_s=5.0)
    for sink in sinks:
        sink.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [json.loads(command) for command in sys.argv[2:]])
