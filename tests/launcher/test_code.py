"""Which files of the user's travel, and what arrives: ignore rules, links, run bits, hostile names, the bound."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import distrain.launcher.hosts.code as code_module
from distrain.errors import UsageError
from distrain.launcher.hosts.code import Code, collect


def read(code: Code) -> dict[str, tuple[str, bytes]]:
    """What `data` says, read as the format is described."""
    entries: dict[str, tuple[str, bytes]] = {}
    rest = code.data
    while rest:
        path, kind, length, rest = rest.split(b"\0", 3)
        entries[os.fsdecode(path)] = (kind.decode(), rest[: int(length)])
        rest = rest[int(length) :]
    return entries


def paths(root: Path, **options: object) -> list[str]:
    return list(read(collect(root, **options)))  # type: ignore[arg-type]


def make(root: Path, *names: str, **contents: str) -> None:
    """Files with these names; a name that ends in a slash is a folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).mkdir() if name.endswith("/") else (root / name).write_text(name)


def test_what_arrives(tmp_path: Path) -> None:
    make(tmp_path, "train.py", "pkg/model.py", "pkg/empty.txt", "start.sh", "nothing/", "z")
    (tmp_path / "pkg" / "empty.txt").write_text("")
    (tmp_path / "start.sh").chmod(0o755)
    (tmp_path / "z").chmod(0o444)
    (tmp_path / "pkg" / "latest").symlink_to("../train.py")
    code = collect(tmp_path)
    assert read(code) == {
        "nothing": ("d", b""),
        "pkg/empty.txt": ("f", b""),
        "pkg/latest": ("l", b"../train.py"),
        "pkg/model.py": ("f", b"pkg/model.py"),
        "start.sh": ("x", b"start.sh"),
        "train.py": ("f", b"train.py"),
        "z": ("f", b"z"),
    }
    assert code.digest == hashlib.sha256(code.data).hexdigest()


def test_the_same_files_make_the_same_code_anywhere(tmp_path: Path) -> None:
    names = ["b.py", "a-b.py", "a/b.py", "a.py", "ä.py", "a/z/q.py"]
    make(tmp_path / "one", *names)
    make(tmp_path / "other", *reversed(names))
    os.utime(tmp_path / "other" / "b.py", (1, 1))
    assert collect(tmp_path / "one") == collect(tmp_path / "other")
    (tmp_path / "link").symlink_to("other")
    assert collect(tmp_path / "link") == collect(tmp_path / "other")
    (tmp_path / "other" / "a.py").chmod(0o700)
    assert collect(tmp_path / "one").digest != collect(tmp_path / "other").digest
    assert list(read(collect(tmp_path / "one"))) == ["a-b.py", "a.py", "a/b.py", "a/z/q.py", "b.py", "ä.py"]


HOSTILE = [
    "-rf",
    "--",
    "a b",
    "new\nline",
    "tab\t",
    "it's",
    '"',
    "$(id)",
    "`id`",
    ";",
    "*",
    "\\",
    "é✓",
    "~",
    "#x",
    "!x",
    "x ",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_arrive(tmp_path: Path, name: str) -> None:
    make(tmp_path, f"{name}/{name}")
    assert read(collect(tmp_path)) == {f"{name}/{name}": ("f", f"{name}/{name}".encode())}


def test_a_name_that_is_no_text_arrives(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / name).write_bytes(b"\0\n\xff")
    assert read(collect(tmp_path)) == {name: ("f", b"\0\n\xff")}


def test_what_is_nobodys_code_stays(tmp_path: Path) -> None:
    make(
        tmp_path, "a.py", ".git/HEAD", "sub/.git", "sub/__pycache__/a.cpython-311.pyc", "old.pyc", "node_modules/x/y.js"
    )
    make(tmp_path, "env/pyvenv.cfg", "env/bin/python", "elsewhere/r-1/plan.json", "elsewhere/r-1/events.jsonl")
    make(tmp_path, "runs/x", "plan.json", ".env", "pyc.py", "node_modules/x/y.js")
    assert paths(tmp_path, skip=(tmp_path / "runs",)) == [".env", "a.py", "elsewhere", "plan.json", "pyc.py", "sub"]


def test_a_runs_folder_that_is_a_link_stays(tmp_path: Path) -> None:
    make(tmp_path, "here/a.py", "large/runs/x")
    (tmp_path / "here" / "runs").symlink_to(tmp_path / "large" / "runs")
    assert paths(tmp_path / "here", skip=(tmp_path / "here" / "runs",)) == ["a.py"]


def test_sockets_and_pipes_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.py")
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        assert paths(tmp_path) == ["a.py"]


# ---- ignore rules

GITIGNORE = """\
# a comment
*.log
!keep.log
/only-here
build/
data/*
!data/vocabulary.txt
**/cache
deep/**/x
\\#odd
trailing\\{space}
[ab].tmp
""".replace("{space}", " ")


def _tree_with_rules(root: Path) -> None:
    make(
        root,
        *("a.log", "keep.log", "sub/b.log", "only-here", "sub/only-here", "build/x", "sub/build/y", "file/build"),
        *(
            "data/big",
            "data/vocabulary.txt",
            "data/more/vocabulary.txt",
            "sub/cache/z",
            "deep/x",
            "deep/a/b/x",
            "deep/y",
        ),
        *(
            "deep/y",
            "#odd",
            "trailing ",
            "trailing",
            "a.tmp",
            "c.tmp",
            "sub/keep.log",
            "sub/again.log",
            "sub/inner/again.log",
        ),
    )
    (root / ".gitignore").write_text(GITIGNORE)
    (root / "sub" / ".gitignore").write_text("\ufeff!again.log\r\n/inner/*.py\r\n")
    make(root, "sub/inner/a.py", "inner/a.py", "sub/inner/deeper/a.py")


def test_gitignore_means_what_git_says(tmp_path: Path) -> None:
    """Compared with git itself, in a repository of the same files."""
    _tree_with_rules(tmp_path)
    git = ["git", "-c", "core.excludesFile=/dev/null", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    code = {path for path, (kind, _) in read(collect(tmp_path)).items() if kind != "d"}
    assert code == set(listed.stdout.split("\0")[:-1])
    assert {"keep.log", "data/vocabulary.txt", "sub/again.log", "sub/inner/again.log", "file/build"} <= code
    assert not code & {"a.log", "build/x", "data/big", "sub/inner/a.py", "deep/a/b/x", "#odd"}


def test_distrainignore_comes_after_gitignore(tmp_path: Path) -> None:
    make(tmp_path, "a.bin", "b.bin", "notes.md", "sub/a.bin")
    (tmp_path / ".gitignore").write_text("*.bin\n")
    (tmp_path / ".distrainignore").write_text("!a.bin\n*.md\n")
    (tmp_path / "sub" / ".distrainignore").write_text("a.bin\n")
    assert paths(tmp_path) == [".distrainignore", ".gitignore", "a.bin", "sub/.distrainignore"]


def test_the_rules_of_the_repository_around_it_count(tmp_path: Path) -> None:
    make(
        tmp_path, ".git/HEAD", "experiments/one/a.py", "experiments/one/b.ckpt", "experiments/one/out/x", "out/one/c.py"
    )
    (tmp_path / ".gitignore").write_text("*.ckpt\n/experiments/one/out\nout/\n")
    (tmp_path / "experiments" / ".gitignore").write_text("!b.ckpt\n")
    assert paths(tmp_path / "experiments" / "one") == ["a.py", "b.ckpt"]
    assert paths(tmp_path / "out" / "one") == ["c.py"], "what stands in an ignored folder was asked for"


def test_above_a_folder_in_no_repository_nothing_counts(tmp_path: Path) -> None:
    make(tmp_path, "here/a.py")
    (tmp_path / ".gitignore").write_text("*.py\n")
    assert paths(tmp_path / "here") == ["a.py"]


def test_rules_that_cannot_be_understood(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("fine\n!\n")
    with pytest.raises(UsageError, match=r"the ignore rules in .* cannot be understood: .*; correct them"):
        collect(tmp_path)


# ---- links


@pytest.mark.parametrize("target", ["../b/f", "f", ".", "..", "missing", "../b/../b/f", "self"])
def test_links_inside_are_kept(tmp_path: Path, target: str) -> None:
    make(tmp_path, "a/f", "b/f")
    (tmp_path / "a" / "self").symlink_to(target)
    assert read(collect(tmp_path))["a/self"] == ("l", target.encode())


def test_an_absolute_link_inside_becomes_a_relative_one(tmp_path: Path) -> None:
    make(tmp_path, "a/f", "b/f")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b" / "f")
    assert read(collect(tmp_path))["a/link"] == ("l", b"../b/f")


@pytest.mark.parametrize("target", ["/etc/hostname", "../../outside", "../..", "/", "../here/../../outside"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, target: str) -> None:
    make(tmp_path, "here/a/f", "outside")
    (tmp_path / "here" / "through").symlink_to(".")
    (tmp_path / "here" / "a" / "link").symlink_to(target)
    with pytest.raises(UsageError) as error:
        collect(tmp_path / "here")
    assert str(error.value) == (
        f"a/link is a link to {target}, which is outside of {tmp_path / 'here'} and not on other hosts; "
        "put in its place what it links to, or keep it here with a line in .distrainignore or .gitignore"
    )
    (tmp_path / "here" / ".distrainignore").write_text("link\n")
    assert "a/link" not in paths(tmp_path / "here")


@pytest.mark.parametrize(("count", "rest"), [(2, ""), (10, ""), (13, " and 3 more")])
def test_all_links_out_of_the_folder_are_told_at_once(tmp_path: Path, count: int, rest: str) -> None:
    make(tmp_path, "here/f")
    names = [f"link{number:02}" for number in range(count)]
    for name in names:
        (tmp_path / "here" / name).symlink_to("../data\t1")
    (tmp_path / "here" / "inside").symlink_to("f")
    with pytest.raises(UsageError) as error:
        collect(tmp_path / "here")
    told = ", ".join(f"{name} to '../data\\t1'" for name in names[:10])
    assert str(error.value) == (
        f"{count} links lead out of {tmp_path / 'here'}, to what is not on other hosts: {told}{rest}; put in their "
        "places what they link to, or keep them here with lines in .distrainignore or .gitignore"
    )
    (tmp_path / "here" / ".distrainignore").write_text("link*\n")
    assert "inside" in paths(tmp_path / "here")


def test_a_link_whose_text_stays_inside_but_leads_out_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "here/f", "x")
    (tmp_path / "here" / "through").symlink_to(".")
    (tmp_path / "here" / "link").symlink_to("through/../x")
    with pytest.raises(UsageError, match=r"link is a link to through/\.\./x, which is outside"):
        collect(tmp_path / "here")


# ---- what cannot travel


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads everything, so the system's answer is made up."""
    make(tmp_path, "a.py", "secret.py")
    opened = open

    def refuse(path: str, *args: object, **options: object) -> object:
        if str(path).endswith("secret.py"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UsageError, match=r"secret.py cannot be read \(Permission denied\); make it readable, or keep"):
        collect(tmp_path)


@pytest.mark.parametrize("name", ["missing", "a.py"])
def test_no_folder(tmp_path: Path, name: str) -> None:
    make(tmp_path, "a.py")
    with pytest.raises(UsageError, match="is no folder that code could be taken from; name another as `code`"):
        collect(tmp_path / name)


def test_too_much_names_the_largest_files(tmp_path: Path) -> None:
    """Sparse files: nothing of them is read before the sum is known."""
    for name, megabytes in {"a.bin": 100, "d/b.bin": 90, "c.bin": 66, "e.bin": 1}.items():
        make(tmp_path, name)
        os.truncate(tmp_path / name, megabytes << 20)
    with pytest.raises(UsageError) as error:
        collect(tmp_path)
    assert (
        "is 257 MB, more than the 256 MB that are sent to hosts; the largest files are a.bin (100 MB), d/b.bin"
        in str(error.value)
    )
    assert "c.bin (66 MB): keep data" in str(error.value)
    assert "e.bin" not in str(error.value)


def test_no_more_than_the_bound_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_module, "MAX_BYTES", 4)
    make(tmp_path, "abcd")
    assert paths(tmp_path) == ["abcd"]
    make(tmp_path, "e")
    with pytest.raises(UsageError, match="the largest files are abcd"):
        collect(tmp_path)


def test_what_vanishes_while_it_is_read_never_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.py", "b.tmp")
    walk = code_module._Tree.entries

    def entries(tree: code_module._Tree) -> list[code_module._Entry]:
        found = walk(tree)
        (tmp_path / "b.tmp").unlink()
        return found

    monkeypatch.setattr(code_module._Tree, "entries", entries)
    assert paths(tmp_path) == ["a.py"]


def test_nothing_else_is_imported_for_it() -> None:
    """The launcher's modules are imported at each start; this one only where code travels."""
    program = "import sys, distrain.cli; print('pathspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
