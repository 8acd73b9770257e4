"""A task without TensorFlow that speaks the worker's side of the protocol, for tests of the launcher.

Started in place of `python -m distrain.worker` by a stand-in for the interpreter. What it does is in the environment
variable TOY_<ROLE>_<INDEX>, else in TOY: names of the functions below, separated by commas, with an argument after `=`.
In a later attempt than the first it is in the variable of that name with _AGAIN, if there is one.
"""

import faulthandler
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

assignment = json.load(sys.stdin)
task = assignment["task"]
steps = 0
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


def step(number):
    """So many of 100 steps are done, in epochs of 10."""
    resume, first = assignment["resume"], 0
    if resume:
        saved = int(resume["path"][-8:])
        first = resume["skip_to"] or saved
        with open(os.path.join(resume["path"], "state.npz")) as file:
            assert file.read() == f"the state after {saved} steps"
    if assignment["chief"]:
        figures = {"train_examples": 80, "validation_examples": 0}
        say("started", epochs=10, steps_per_epoch=10, first_step=first, batch_size=8, **figures)
    global steps
    steps = int(number)
    say("progress", epoch=(steps + 9) // 10, step=steps, examples_per_s=100.0, step_s=0.01, busy_s=0.01)


def alive(doing):
    """Pulses as a worker sends them, and stacks when they are asked for."""
    faulthandler.register(signal.SIGUSR2, file=int(os.environ["DISTRAIN_STACKS_FD"]), all_threads=True)
    os.write(int(os.environ["DISTRAIN_STACKS_FD"]), b"\n")

    def beat():
        while True:
            say("pulse", step=steps, doing=doing, for_s=1.0)
            time.sleep(0.2)

    threading.Thread(target=beat, daemon=True).start()


def checkpoint(number):
    """The chief writes the checkpoint of that step."""
    if not assignment["chief"]:
        return
    name = f"step-{int(number):08d}"
    folder = os.path.join(assignment["checkpoints"], name)
    os.makedirs(folder, exist_ok=True)
    state = f"the state after {number} steps".encode()
    with open(os.path.join(folder, "state.npz"), "wb") as file:
        file.write(state)
    about = {
        "format": 2,
        "step": int(number),
        "epoch": int(number) // 10,
        "seed": 1,
        "attempt": assignment["attempt"],
        "steps_per_epoch": 10,
        "batch_size": 60,
        "workers": 2,
        "finished": False,
        "sha256": {"state.npz": hashlib.sha256(state).hexdigest()},
    }
    with open(os.path.join(folder, "checkpoint.json"), "w") as file:
        json.dump(about, file)
    path = os.path.relpath(folder, assignment["run_dir"])
    say("checkpoint", path=path, step=int(number), seconds=0.1, stall_s=0.0, kept=[name])


def preempted(number):
    """Ends as a worker does that was asked to leave."""
    say("preempted", step=int(number))
    os._exit(42)


def leave_when_asked(number):
    """SIGTERM ends it with a checkpoint."""

    def leave(_number, _frame):
        checkpoint(number)
        preempted(number)

    signal.signal(signal.SIGTERM, leave)


def nan(number):
    say("failure", why="nan", step=int(number), message=f"the loss is nan at step {number}", traceback="", where=None)
    sys.exit(1)


def say_odd_things(_):
    say("progress")
    say("signal", number=2)
    say("task_cleared")


def done(_):
    figures = {"epochs": 1, "steps": 10, "examples_per_s": 100.0, "metrics": {"train": {"loss": 0.5}, "validation": {}}}
    say("done", **(figures if assignment["chief"] else {}))


def validate(number):
    """As an evaluator that has found the checkpoint of that step."""
    say("phase", phase="validating")
    say("metrics", epoch=1, step=int(number), split="validation", metrics={"loss": int(number)}, examples_per_s=None)


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


def kill_once(path):
    """The first time that it gets here."""
    if not os.path.exists(path):
        open(path, "w").close()
        kill(9)


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


names = ["TOY_" + task.replace(":", "_").upper(), "TOY"]
if assignment["attempt"] > 1:
    names = [f"{name}_AGAIN" for name in names] + names
for part in next((os.environ[name] for name in names if name in os.environ), "ready,train,done").split(","):
    name, _, argument = part.partition("=")
    globals()[name](argument)
