"""`distrain launch`: a job file, a script or a command on the hosts that its options name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from distrain.cli.options import SET, host_options, missing, run_options


def is_job_file(target: str) -> bool:
    return target.endswith((".yaml", ".yml"))


class _Launch(click.Command):
    """Options end at the target, what follows being its own; but a job file has nothing of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = False
        values, _, _ = self.make_parser(ctx).parse_args(list(args))
        words = values.get("target")
        ctx.allow_interspersed_args = isinstance(words, tuple | list) and is_job_file("".join(words[:1]))
        return super().parse_args(ctx, args)


@click.command(cls=_Launch)
@host_options
@SET
@click.option("--no-keras-repair", is_flag=True, help="Leave Keras in a script as it is installed.")
@run_options
@click.argument("target", nargs=-1, type=click.UNPROCESSED, metavar="TARGET [ARGS]...")
def launch(
    target: tuple[str, ...],
    sets: tuple[str, ...],
    no_keras_repair: bool,
    runs_dir: Path,
    name: str | None,
    resume: str | None,
    detach: bool,
    dry_run: bool,
    as_json: bool,
    plain: bool,
    **hosts: Any,
) -> int:
    """Run TARGET on hosts, over SSH: a job file (JOB.yaml), a script (SCRIPT.py) or any command, with its ARGS.

    \b
    distrain launch --workers host1,host2:2 JOB.yaml --set training.epochs=1
    distrain launch --workers host1,host2 --ps host3 SCRIPT.py --lr 0.1
    distrain launch --workers 4 -- ./a-program --of=mine

    Scripts and commands start once per task, and learn from TF_CONFIG, torchrun's variables and DISTRAIN_... who and
    where the others are. With --resume, TARGET may be left out: then it is what the run had.
    """
    from distrain.cli.hosts import Asked
    from distrain.cli.start import Manner, origin_of, resumption, start
    from distrain.errors import UsageError
    from distrain.job.load import load_job, program_job
    from distrain.launcher.runs.resume import recorded

    asked, how = Asked(**hosts), Manner(runs_dir, dry_run=dry_run, as_json=as_json, plain=plain, detach=detach)
    origin = origin_of(resume, how)
    job_file = Path(target[0]) if target and is_job_file(target[0]) else None
    if not target:
        if origin is None:
            raise missing("'TARGET [ARGS]...'")
        job, job_file = recorded(origin, sets, name, asked.given())
    elif job_file is None:
        job = program_job(target, sets, name, asked.given())
    elif len(target) > 1:
        raise UsageError(f"a job file takes no arguments, and {target[1]!r} follows {job_file}; use --set KEY=VALUE")
    else:
        job = load_job(job_file, sets, name, asked.given())
    if no_keras_repair:
        if job.program is None:
            raise UsageError(
                f"--no-keras-repair is for scripts, and {job_file or resume} trains without Keras's fit; leave it out"
            )
        job = replace(job, program=replace(job.program, keras_repair=False))
    return start(asked.applied(job), how, job_file=job_file, resume=resumption(origin, name))
