"""What goes to a host in parts arrives as it was."""

from __future__ import annotations

import os
from pathlib import Path

from distrain.launcher.hosts.incoming import Incoming
from distrain.launcher.hosts.outgoing import parts_of_code, parts_of_folder
from distrain.wire import CodePart, FilePart


def test_a_folder_comes_out_as_it_went_in(tmp_path: Path) -> None:
    folder = tmp_path / "step-00000010"
    folder.mkdir()
    content = {"checkpoint.json": b"{}", "empty": b"", "state.npz": os.urandom(600_000), "whole": bytes(1 << 18)}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    incoming = Incoming(run, prefix="")
    parts = [part for part in parts_of_folder(folder, "checkpoints/step-00000010") if isinstance(part, FilePart)]
    visible = [incoming.take(part) for part in parts]
    assert visible[:-1] == [None] * (len(parts) - 1)
    assert visible[-1] == "checkpoints/step-00000010"
    assert {path.name: path.read_bytes() for path in (run / "checkpoints/step-00000010").iterdir()} == content
    assert max(len(part.data) for part in parts) < 1 << 20, "what is said meanwhile goes between them"


def test_code_is_cut_into_parts_and_none_is_lost() -> None:
    data = os.urandom(700_001)
    parts = [part for part in parts_of_code(data) if isinstance(part, CodePart)]
    assert b"".join(part.data for part in parts) == data
    assert len(parts) == 3
