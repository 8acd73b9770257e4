"""Which process is whose: every living process below the agent, by the task that it belongs to."""

from __future__ import annotations

import os
from collections.abc import Collection

from distrain.agent import processes
from distrain.agent.processes import Process
from distrain.agent.task import Task


def by_task(tasks: Collection[Task], preload: int | None) -> dict[str, list[Process]]:
    """Of each task: its session and group, what is below those, and orphans of its. `preload` belongs to none."""
    leaders = {task.pid: task for task in tasks if task.pid is not None}
    members: dict[str, list[Process]] = {task.name: [] for task in tasks}
    owners: dict[int, Task | None] = {}
    for process in processes.below(processes.table(), os.getpid()):
        above = process.pid, process.session, process.group
        owner = next(filter(None, map(leaders.get, above)), None) or owners.get(process.parent)
        if owner is None and process.parent == os.getpid() and process.pid != preload:
            owner = next((task for task in tasks if task.owns_orphan(process)), None)
        owners[process.pid] = owner
        if owner is not None and process.alive:
            members[owner.name].append(process)
    return members
