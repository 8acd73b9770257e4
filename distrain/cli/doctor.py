"""`distrain doctor`: what was found out about each host, and a line of advice for each finding.

A table, or where that is wider than the terminal a few lines for each host.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import click

from distrain.errors import EXIT_HOST, EXIT_OK
from distrain.job.cluster import Host
from distrain.job.spec import JobSpec
from distrain.launcher.doctor import Advice, Findings, Seen, advise
from distrain.launcher.hosts.survey import survey

_UNKNOWN = "-"
_NUMBERS = ("cores", "memory", "free disk", "clock")
_LINES = (("Python", "TensorFlow", "Keras"), ("cores", "memory", "free disk", "GPUs", "clock"), ("others reach it at",))
"""Of a host's block, below the line with its name."""

_GIB = 1 << 30
_WIDEST = 1000


def examine(job: JobSpec | None, hosts: tuple[Host, ...], *, as_json: bool) -> int:
    """Look at `hosts`, for `job` if there is one, and say what is found. Returns 0, or 3 if they cannot train."""
    findings = survey(hosts, job)
    advice = advise(findings, job)
    if as_json:
        click.echo(json.dumps(_plain(findings, advice), indent=2))
    else:
        _show(findings, advice)
    return EXIT_HOST if any(each.level == "error" for each in advice) else EXIT_OK


def _show(findings: Findings, advice: tuple[Advice, ...]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    troubled = {each.host for each in advice if each.level == "error"}
    rows = [_row(seen, findings) for seen in findings.hosts]
    styles = ["red" if seen.host.name in troubled else "" for seen in findings.hosts]
    for title in rows[0]:
        table.add_column(title, justify="right" if title in _NUMBERS else "left", no_wrap=True)
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*map(Text, row.values()), style=style)
    console = Console(highlight=False, soft_wrap=True)
    console.width = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
    with console.capture() as capture:
        if console.width <= shutil.get_terminal_size().columns:
            console.print(table)
        else:
            for row, style in zip(rows, styles, strict=True):
                console.print(Text(_block(row), style))
            console.print()
        for each in advice:
            style = "red" if each.level == "error" else "yellow"
            console.print(Text.assemble((f"{each.level}: ", style), _sentence(each)))
        if not advice:
            console.print(Text("nothing found that would keep them from training", style="green"))
    click.echo(capture.get(), nl=False)


def _row(seen: Seen, findings: Findings) -> dict[str, str]:
    """One host's line: titles and texts."""
    welcome, examined = seen.welcome, seen.examined
    row = {"host": seen.host.name}
    if seen.trouble is not None and welcome is None:
        row["connection"] = "not reached"
    else:
        took = "" if seen.round_trip_s is None else f", {seen.round_trip_s * 1000:.0f} ms"
        # ssh lets nobody in before it has checked the host's key.
        row["connection"] = "this machine" if seen.host.transport == "local" else f"host key and login ok{took}"
    for package, title in (("python", "Python"), ("tensorflow", "TensorFlow"), ("keras", "Keras")):
        row[title] = seen.versions.get(package, "none" if examined and examined.error is None else _UNKNOWN)
    row["cores"] = str(welcome.cores) if welcome else _UNKNOWN
    row["memory"] = f"{welcome.memory_bytes / _GIB:.0f} GiB" if welcome else _UNKNOWN
    row["free disk"] = f"{examined.free_bytes / _GIB:.0f} GiB" if examined else _UNKNOWN
    row["GPUs"] = _UNKNOWN
    if examined and welcome:
        row["GPUs"] = ", ".join(examined.gpus) or str(welcome.gpus)
    row["clock"] = _UNKNOWN if seen.clock_ahead_s is None else f"{seen.clock_ahead_s:+.1f} s"
    if findings.reach is not None:
        row["others reach it at"] = findings.reach.addresses.get(seen.host.name, "no address" if welcome else _UNKNOWN)
    return row


def _block(row: dict[str, str]) -> str:
    """The same as lines, without what is not known."""
    lines = [f"{row['host']}: {row['connection']}"]
    for titles in _LINES:
        known = [f"{title} {row[title]}" for title in titles if row.get(title, _UNKNOWN) != _UNKNOWN]
        if known:
            lines.append("  " + " · ".join(known))
    return "\n".join(lines)


def _sentence(advice: Advice) -> str:
    if advice.host is None or advice.message.startswith(f"{advice.host}: "):
        return advice.message
    return f"{advice.host}: {advice.message}"


def _plain(findings: Findings, advice: tuple[Advice, ...]) -> dict[str, Any]:
    reach = findings.reach
    return {
        "format": 1,
        "ok": all(each.level != "error" for each in advice),
        "versions_here": dict(findings.here),
        "hosts": [
            {
                "host": seen.host.name,
                "transport": seen.host.transport,
                "reached": seen.welcome is not None,
                "python": seen.python,
                "versions": dict(seen.versions),
                "hostname": seen.welcome and seen.welcome.hostname,
                "cores": seen.welcome and seen.welcome.cores,
                "memory_bytes": seen.welcome and seen.welcome.memory_bytes,
                "gpus": list(seen.examined.gpus) if seen.examined else None,
                "free_bytes": seen.examined and seen.examined.free_bytes,
                "round_trip_s": seen.round_trip_s,
                "clock_ahead_s": seen.clock_ahead_s,
                "address": reach.addresses.get(seen.host.name) if reach else None,
            }
            for seen in findings.hosts
        ],
        "advice": [{"level": each.level, "host": each.host, "message": _sentence(each)} for each in advice],
    }
