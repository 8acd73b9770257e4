"""`distrain` and `python -m distrain`: runs the command line and turns what it raises into an exit code.

Imports nothing of weight by itself, so that an interrupt finds `main` in charge from the first moments on.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Exits with the code of the command. A DistrainError is told in its sentence; a defect keeps its traceback."""
    try:
        _open_standard_streams()
        code = _command()
    except KeyboardInterrupt:
        code = 130  # errors.EXIT_SIGINT, which may not have been imported yet
    sys.exit(code)


def _command() -> int:
    import click

    from distrain.cli import distrain
    from distrain.errors import EXIT_OK, EXIT_SIGINT, EXIT_TASK_FAILED, DistrainError

    code = EXIT_OK
    try:
        try:
            code = distrain.main(prog_name="distrain", standalone_mode=False)
        except click.ClickException as error:
            code = error.exit_code
            error.show()
        except DistrainError as error:
            code = error.exit_code
            click.echo(f"distrain: {error}", err=True)
        except click.Abort:
            code = EXIT_SIGINT
    except OSError as error:
        if not _was_printing(error):
            raise
        _stop_printing(error)
        code = code or EXIT_TASK_FAILED
    return code


def _was_printing(error: OSError) -> bool:
    """Whether it is the output that failed: all that commands print goes through click's `echo`."""
    import traceback

    import click

    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


def _stop_printing(error: OSError) -> None:
    """Say that nothing can be printed where that can be said, and leave nothing for the interpreter to flush."""
    sys.stdout = None
    # A closed pipe needs no words: whoever read the output has what they wanted, or has gone.
    sentence = f"distrain: the output cannot be written: {error.strerror}; make room, or send it elsewhere"
    if not isinstance(error, BrokenPipeError):
        try:
            print(sentence, file=sys.stderr, flush=True)
        except OSError:
            sys.stderr = None


def _open_standard_streams() -> None:
    """Standard streams that are closed lead nowhere, before a file or socket of ours gets their number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


if __name__ == "__main__":
    main()
