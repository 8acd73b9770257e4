"""Programs of a user's for the hosts: Python without TensorFlow, each small enough to be read at a glance."""

from __future__ import annotations

HELLO = """
import os
print("hello from", os.environ["DISTRAIN_TASK"], flush=True)
"""

WAITS = """
import os, signal, subprocess, sys
# A child, and one that leaves the group for a session of its own; neither heeds SIGTERM.
stubborn = [sys.executable, "-S", "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"]
for own_session in (False, True):
    subprocess.Popen(stubborn, start_new_session=own_session)
print("waits", flush=True)
while True:
    signal.pause()
"""
"""Until a signal ends it."""

STAYS_UNTIL = """
import os, sys, time
print("stays", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
task, code = os.environ["DISTRAIN_TASK"], 0
for argument in sys.argv[2:]:
    name, _, wanted = argument.partition("=")
    code = int(wanted) if name == task else code
print("leaves", flush=True)
sys.exit(code)
"""
"""Until a file is there; then it ends with 0, or with the number that TASK=NUMBER among its arguments says."""
