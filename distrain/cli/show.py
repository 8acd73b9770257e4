"""What commands print on stdout beside the sinks: a plan, a summary."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from distrain.job.plan import Plan
    from distrain.launcher.run import RunResult


def plan(plan: Plan, *, as_json: bool) -> None:
    """Every task with its host, command and environment, as it would start."""
    if as_json:
        click.echo(json.dumps(plan.to_json(), indent=2))
        return
    for index, task in enumerate(plan.to_json()["tasks"]):
        if index:
            click.echo()
        click.secho(str(task["task"]), bold=True)
        for key, value in task.items():
            if key == "argv":
                click.echo(f"  command: {shlex.join(value)}")
            elif key == "TF_CONFIG":
                click.echo(f"  TF_CONFIG: {json.dumps(value)}")
            elif key == "env":
                for name, text in value.items():
                    click.echo(f"  env {name}={text}")
            elif key != "task" and value is not None:
                click.echo(f"  {key}: {value}")


def summary(result: RunResult) -> None:
    click.echo(json.dumps(result.summary, indent=2))
