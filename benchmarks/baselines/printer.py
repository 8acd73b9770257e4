"""Prints lines as fast as it can: printer.py LINES FOLDER NAME OTHERS…

When all are printed it waits for the others, so that none ends early: honcho ends everything when the first one does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main(lines: int, folder: Path, name: str, others: list[str]) -> None:
    for number in range(lines):
        print(f"step {number:>8} loss 0.{number % 9973:04d} accuracy 0.{number % 9967:04d} examples/s 4321.0")
    sys.stdout.flush()
    (folder / name).touch()
    while not all((folder / other).exists() for other in others):
        time.sleep(0.005)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
