"""A task without TensorFlow that speaks the worker's side of the protocol, for tests of the launcher.

Started in place of `python -m distrain.worker` by a stand-in for the interpreter. What it does is in the environment
variable TOY_<ROLE>_<INDEX>, else in TOY: names of the functions below, separated by commas, with an argument after `=`.
"""

import json
import os
import signal
import subprocess
import sys
import time

assignment = json.load(sys.stdin)
task = assignment["task"]
events = os.fdopen(int(os.environ["DISTRAIN_EVENTS_FD"]), "w", buffering=1)


def say(kind, **data):
    events.write(json.dumps({"kind": kind, **data}) + "\n")


def ready(_):
    say("ready", versions={"tensorflow": "none"}, parameters=0, replicas=1)


def train(_):
    if assignment["chief"]:
        say(
            "started",
            epochs=1,
            steps_per_epoch=10,
            first_step=0,
            batch_size=8,
            train_examples=80,
            validation_examples=0,
        )
    say("progress", epoch=1, step=10, examples_per_s=100.0, step_s=0.01)


def say_odd_things(_):
    say("progress")
    say("signal", number=2)
    say("task_cleared")


def done(_):
    figures = {"epochs": 1, "steps": 10, "examples_per_s": 100.0, "metrics": {"train": {"loss": 0.5}, "validation": {}}}
    say("done", **(figures if assignment["chief"] else {}))


def wait(_):
    """Until a signal ends it."""
    while True:
        signal.pause()


def ignore_term(_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def children(count):
    """Children in the same process group, and one that left it for a session of its own."""
    sleeper = [sys.executable, "-c", "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.pause()"]
    for index in range(int(count)):
        subprocess.Popen(sleeper, start_new_session=index == 0)


def fail(message):
    print("about to fail", flush=True)
    say("failure", message=f"ValueError: {message}", traceback="", where=None, job_error=False)
    print(f"ValueError: {message}", file=sys.stderr, flush=True)
    sys.exit(1)


def refuse(message):
    say("failure", message=message, traceback="", where=None, job_error=True)
    sys.exit(2)


def exit(code):
    print("last words", flush=True)
    os._exit(int(code))


def kill(number):
    print("last words", flush=True)
    os.kill(os.getpid(), int(number))


def after(path):
    """Waits for a file to appear."""
    while not os.path.exists(path):
        time.sleep(0.01)


def touch(path):
    open(f"{path}-{task.replace(':', '-')}", "w").close()


def lines(count):
    text = "".join(f"{task} line {number}\n" for number in range(int(count)))
    sys.stdout.write(text)
    sys.stdout.flush()


def flood(count):
    """So many bytes, in lines of 64."""
    block = b"x" * 63 + b"\n"
    for _ in range(int(count) // (1024 * len(block))):
        sys.stdout.buffer.write(1024 * block)
    sys.stdout.flush()


def raw(kind):
    data = {
        "unfinished": b"no newline at the end",
        "invalid": b"\xff\xfe\x80 not UTF-8\n",
        "long": b"x" * 10_000_000 + b"\n",
    }
    sys.stdout.buffer.write(data[kind])
    sys.stdout.flush()


variable = "TOY_" + task.replace(":", "_").upper()
for step in os.environ.get(variable, os.environ.get("TOY", "ready,train,done")).split(","):
    name, _, argument = step.partition("=")
    globals()[name](argument)
