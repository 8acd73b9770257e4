"""`distrain` and `python -m distrain`: runs the command line and turns what it raises into an exit code."""

from __future__ import annotations

import sys

import click

from distrain.cli import distrain
from distrain.errors import EXIT_SIGINT, DistrainError


def main() -> None:
    """Exits with the code of the command. A DistrainError is told in its sentence; a defect keeps its traceback."""
    try:
        code = distrain.main(prog_name="distrain", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except DistrainError as error:
        click.echo(f"distrain: {error}", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_SIGINT
    except BrokenPipeError:
        # Whoever read the output has gone: there is nobody left to tell.
        code = 1
        sys.stdout = None
    sys.exit(code)


if __name__ == "__main__":
    main()
