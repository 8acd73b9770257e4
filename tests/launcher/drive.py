"""Runs a job as `distrain run` does, with the interpreter of the tasks as a parameter.

Usage: drive.py JOB RUNS_DIR PYTHON
"""

import sys
from pathlib import Path

from distrain.job.load import load_job
from distrain.launcher.run import run_job

job, runs_dir, python = sys.argv[1:4]
result = run_job(load_job(Path(job)), job_file=Path(job), runs_dir=Path(runs_dir), plain=True, python=python)
sys.exit(result.exit_code)
