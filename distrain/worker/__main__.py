"""A task of distrain's own worker: reads its assignment from standard input, carries it out, says how it ended.

Exit codes: 0 done, 1 something failed (with a traceback), 2 the job is at fault (a sentence), 42 it was asked to leave
and has left what a restart needs.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback

from distrain.wire import PREEMPTED_EXIT
from distrain.worker.assignment import Assignment, read_assignment
from distrain.worker.refusal import Ending, Refusal
from distrain.worker.telemetry import Events
from distrain.worker.vitals import Preempted, Vitals


def main() -> int:
    """Carry out the assignment on standard input; the code to exit with. Every exception is told here."""
    faulthandler.enable()  # a crash in TensorFlow's own code then leaves every thread's Python stack in the log
    events = Events.from_environment()
    vitals = Vitals(events)
    vitals.stacks()
    try:
        assignment = read_assignment(sys.stdin.read())
        for path in reversed(assignment.import_paths):
            if path not in sys.path:
                sys.path.insert(0, path)
        _carry_out(assignment, events, vitals)
    except Preempted as preempted:
        print(f"{preempted}: ending", file=sys.stderr, flush=True)
        return PREEMPTED_EXIT
    except Refusal as refusal:
        events.failure(refusal)
        print(f"error: {refusal}", file=sys.stderr, flush=True)
        return 2
    except Ending as ending:
        events.failure(ending)
        print(f"error: {ending}", file=sys.stderr, flush=True)
        return 1
    except Exception as error:  # noqa: BLE001 - the last stop: whatever the user's code raises is told and ends the task
        events.failure(error)
        traceback.print_exception(error)
        sys.stderr.flush()
        return 1
    return 0


def _carry_out(assignment: Assignment, events: Events, vitals: Vitals) -> None:
    events.phase("importing TensorFlow")
    from distrain.worker.roles import carry_out

    carry_out(assignment, events, vitals)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # TensorFlow's threads may hang or abort in the interpreter's teardown; everything of ours is closed by now.
    os._exit(code)
