"""The way through ssh: its command line, the quoting for any login shell, what gets in between, and what failures mean.

A fake `ssh` stands in for the real one: it prints what it was told to, or hands the command to a login shell as sshd
would, with a home of its own.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distrain.errors import HostError
from distrain.job.cluster import Host
from distrain.launcher.hosts.bundle import open_bundle
from distrain.launcher.hosts.link import AgentLink
from distrain.launcher.transports import open_transport
from distrain.launcher.transports.ssh import CONNECT_TIMEOUT_S, for_any_shell
from distrain.wire import AgentNote, Goodbye, Message, Welcome

SHELLS = ("sh", "dash", "bash", "zsh", "ksh", "bsd-csh", "tcsh", "fish", "busybox sh")

HOSTILE = (
    *("", " ", "a b", "'", '"', "''\"\"", "$(touch pwned)", "`touch pwned`", "$HOME", "~", "!", "!!", "a!b", "#c"),
    *("\\", "\\\\", "\\n", "\\'", "'\\''!", "\n", "a\nb\n", "\n\n", "\t", "-rf", "--", "*", "?[a]{b,c}", "%h"),
    *("; touch pwned", "| touch pwned", "&", "> pwned", "^a^b", "@", "=ls", "(x)", "$n", "\x7f\x01", "é✓"),
)

FAKE = """\
#!/bin/sh
printf '%s\\0' "$@" >"$FAKE_SSH/argv"
[ ! -e "$FAKE_SSH/stderr" ] || cat "$FAKE_SSH/stderr" >&2
[ ! -e "$FAKE_SSH/exit" ] || exit "$(cat "$FAKE_SSH/exit")"
for command; do :; done
unset SHLVL
export HOME="$FAKE_SSH" SSH_CLIENT="127.0.0.1 1 2" ZDOTDIR="$FAKE_SSH" XDG_CONFIG_HOME="$FAKE_SSH"
exec $(cat "$FAKE_SSH/shell") -c "$command"
"""


class Ssh:
    """What the fake one does, and what it was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prints("")
        self.shell("sh")

    def prints(self, text: str, *, exit_code: int | None = None) -> None:
        (self.folder / "stderr").write_text(text)
        if exit_code is not None:
            (self.folder / "exit").write_text(str(exit_code))

    def shell(self, command: str) -> None:
        """Which login shell the host has."""
        if shutil.which(command.split()[0]) is None:
            pytest.skip(f"{command} is not installed")
        (self.folder / "shell").write_text(command)

    def startup_file(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(text)

    @property
    def argv(self) -> list[str]:
        return (self.folder / "argv").read_text().split("\0")[:-1]


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ssh:
    folder = tmp_path / "ssh"
    folder.mkdir()
    (folder / "ssh").write_text(FAKE)
    (folder / "ssh").chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SSH", str(folder))
    return Ssh(folder)


@pytest.fixture
def connect(ssh: Ssh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., AgentLink]]:
    links: list[AgentLink] = []

    def connect_one(python: str = sys.executable, host: Host | None = None, **options: object) -> AgentLink:
        given = {"cache": str(tmp_path_factory.getbasetemp() / "code"), **options}
        host = host or Host("host7", "ssh")
        links.append(AgentLink(host.name, open_transport(host), open_bundle(), python=python, **given))  # type: ignore[arg-type]
        return links[-1]

    yield connect_one
    for link in links:
        link.close(timeout_s=15.0)
        assert link.wait(5.0) is not None


def hear(link: AgentLink, until: Callable[[list[Message]], bool], timeout_s: float = 20.0) -> list[Message]:
    heard: list[Message] = []
    deadline = time.monotonic() + timeout_s
    while not until(heard):
        assert time.monotonic() < deadline, heard
        select.select(list(link.interest()), (), (), 0.05)
        heard += link.receive()
    return heard


def welcomed(heard: list[Message]) -> bool:
    return any(isinstance(message, Welcome) for message in heard)


def refusal(link: AgentLink) -> str:
    with pytest.raises(HostError) as error:
        hear(link, welcomed)
    return str(error.value)


# ---- the command line


def test_the_command_line(ssh: Ssh) -> None:
    command = open_transport(Host("host7", "ssh")).command(["python3"])
    assert command == [
        *("ssh", "-T", "-e", "none", "-a", "-x", "-o", "ClearAllForwardings=yes", "-o", "BatchMode=yes"),
        *("-o", "RemoteCommand=none", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"),
        *("--", "host7", "exec /bin/sh -c 'exec python3'"),
    ]


def test_a_port_and_a_key_that_are_named_are_used_and_no_other_key(ssh: Ssh) -> None:
    given = open_transport(Host("me@host7", "ssh", port=2222, key="-my key")).command(["python3"])[14:-1]
    assert given == ["-p", "2222", "-i", "-my key", "-o", "IdentitiesOnly=yes", "--", "me@host7"]


def test_host_keys_are_checked_as_the_user_says(ssh: Ssh) -> None:
    options = " ".join(open_transport(Host("host7", "ssh", port=1, key="k")).command(["python3"]))
    assert not [word for word in ("HostKey", "KnownHosts", "Control", "StrictHost") if word in options]


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh on this machine")
def test_the_real_ssh_understands_it(tmp_path: Path) -> None:
    """`ssh -G` reads options and configuration as for a connection, and prints what came of them."""
    config = tmp_path / "config"
    config.write_text("Host *\n RemoteCommand ls\n LocalForward 1234 localhost:1\n ForwardAgent yes\n")
    key = tmp_path / "a key"
    key.touch()
    command = open_transport(Host("me@host7", "ssh", port=2222, key=str(key))).command(["python3"])
    found = subprocess.run(["ssh", "-G", "-F", config, *command[1:]], capture_output=True, text=True, timeout=20)
    assert found.returncode == 0, found.stderr
    said = dict(line.split(" ", 1) for line in found.stdout.splitlines() if " " in line)
    assert (said["host"], said["user"], said["port"]) == ("host7", "me", "2222")
    assert (said["batchmode"], said["identitiesonly"], said["forwardagent"]) == ("yes", "yes", "no")
    assert said["clearallforwardings"] == "yes"
    assert said["identityfile"] == str(key)
    assert said.get("remotecommand", "none") == "none"


@pytest.mark.parametrize(
    "name",
    [
        "-oProxyCommand=id",
        "me@-oProxyCommand=id",
        "a b",
        "a;b",
        "$(id)",
        "`id`",
        "a'b",
        'a"b',
        "a\nb",
        "a|b",
        "me@",
        "",
    ],
)
def test_what_is_no_name_never_gets_to_ssh(ssh: Ssh, name: str) -> None:
    with pytest.raises(HostError, match="is no name of a host; give"):
        open_transport(Host(name, "ssh"))


@pytest.mark.parametrize("name", ["host7", "me@host-7.example.org", "10.0.0.1", "me@fe80::1%eth0", "gpu_7"])
def test_what_is_a_name_is_taken(ssh: Ssh, name: str) -> None:
    assert open_transport(Host(name, "ssh")).command(["x"])[-2] == name


def test_without_ssh_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="host7: there is no ssh on this machine's PATH; install"):
        open_transport(Host("host7", "ssh"))


# ---- through a login shell


@pytest.mark.processes
@pytest.mark.parametrize("shell", SHELLS)
def test_hostile_arguments_arrive_as_they_are(ssh: Ssh, tmp_path: Path, shell: str) -> None:
    ssh.shell(shell)
    say = "import sys, json; print(json.dumps(sys.argv[1:]))"
    for python in _hostile_pythons(tmp_path / "there"):
        command = open_transport(Host("host7", "ssh")).command([python, "-S", "-c", say, *HOSTILE])
        found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "there", timeout=60)
        assert (found.returncode, found.stderr) == (0, "")
        assert json.loads(found.stdout) == list(HOSTILE)
    assert not list(tmp_path.rglob("pwned"))


def _hostile_pythons(folder: Path) -> Iterator[str]:
    folder.mkdir()
    names = ("a b", "it's", 'say "hi"', "$(touch pwned)", "`touch pwned`", "new\nline\n", "a;b", "a!b", "back\\slash")
    for name in (*names, "-c"):
        (folder / name).mkdir()
        (folder / name / "python").symlink_to(os.path.realpath(sys.executable))
        yield "-c/python" if name == "-c" else str(folder / name / "python")


@pytest.mark.processes
@pytest.mark.parametrize("shell", SHELLS)
def test_an_agent_behind_each_shell(ssh: Ssh, connect: Callable[..., AgentLink], shell: str) -> None:
    ssh.shell(shell)
    heard = hear(connect(), welcomed)
    assert [type(message) for message in heard] == [Welcome]


STARTUP_FILES = {
    "bash": ".bashrc",
    "zsh": ".zshenv",
    "bsd-csh": ".cshrc",
    "tcsh": ".tcshrc",
    "fish": "fish/config.fish",
}


@pytest.mark.processes
@pytest.mark.parametrize("shell", STARTUP_FILES)
def test_a_startup_file_that_prints_a_megabyte(ssh: Ssh, connect: Callable[..., AgentLink], shell: str) -> None:
    ssh.shell(shell)
    ssh.startup_file(
        STARTUP_FILES[shell],
        f"{sys.executable} -S -c 'print(\"Hello, distrain-agent 1 have\" * 40000, end=str())'\nls /no/such/thing\n",
    )
    heard = hear(connect(), welcomed)
    assert [type(message) for message in heard] == [Welcome], "nor is what it prints on stderr worth a word"


@pytest.mark.processes
def test_a_startup_file_that_reads_gets_nothing_of_ours(ssh: Ssh, connect: Callable[..., AgentLink]) -> None:
    ssh.shell("bash")
    ssh.startup_file(".bashrc", "read -t 0.5 line\necho $line >$HOME/eaten\n")
    hear(connect(), welcomed)
    assert (ssh.folder / "eaten").read_text() == "\n"


@pytest.mark.processes
def test_a_startup_file_that_waits_for_input_for_ever(ssh: Ssh, connect: Callable[..., AgentLink]) -> None:
    ssh.shell("bash")
    ssh.startup_file(".bashrc", "read line\n")
    assert refusal(connect(python="python3", timeout_s=0.7)) == (
        "host7: no answer within 0.7 s; ssh got no answer from Python there; a start-up file of the login shell may be "
        "waiting for input, or the host is overloaded: try `ssh host7 python3 -V`"
    )


@pytest.mark.processes
def test_a_greeting_is_not_shown_and_what_comes_later_is(ssh: Ssh, connect: Callable[..., AgentLink]) -> None:
    ssh.prints("Authorized use only!\nhost7: Permission denied for all others.\n\n")
    ssh.startup_file(".bashrc", "(sleep 600 & echo $! >$HOME/pid; wait; echo later >&2) 2>&2 >/dev/null &\n")
    ssh.shell("bash")
    link = connect()
    try:
        assert [type(message) for message in hear(link, welcomed)] == [Welcome]
    finally:
        os.kill(int((ssh.folder / "pid").read_text()), 15)

    def notes(heard: list[Message]) -> list[str]:
        return [message.message for message in heard if isinstance(message, AgentNote)]

    heard = hear(link, lambda heard: "later" in notes(heard))
    assert not [note for note in notes(heard) if "denied" in note]


# ---- failures

CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Offending ED25519 key in /home/me/.ssh/known_hosts:3
Host key for [host7]:2222 has changed and you have requested strict checking.
Host key verification failed.
"""
UNPROTECTED = """\
@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @
Permissions 0644 for '/home/me/.ssh/id' are too open.
It is required that your private key files are NOT accessible by others.
Load key "/home/me/.ssh/id": bad permissions
me@host7: Permission denied (publickey).
"""
BANNER = "*** Unauthorized access: permission denied. Connection closed by law. Host key verification failed? ***\n"


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("Host key verification failed.", "not known on this machine; run `ssh host7` once by hand"),
        ("No ED25519 host key is known for host7 and you have requested strict checking.\r\n"
         "Host key verification failed.\r\n", "not known on this machine; run `ssh host7` once by hand"),
        (CHANGED, "somebody is in between; compare its fingerprint"),
        (CHANGED, "`ssh-keygen -R '[host7]:2222'`"),
        ("me@host7: Permission denied (publickey,password).", "it takes publickey,password); `ssh host7` must work"),
        ("Permission denied (publickey).", "see `ssh-add -l`"),
        ("Warning: Identity file /no/key not accessible: No such file or directory.\n"
         "me@host7: Permission denied (publickey).", "the key /no/key cannot be read (No such file or directory)"),
        (UNPROTECTED, "others may read the key /home/me/.ssh/id, so ssh does not use it; chmod 600 it"),
        ('Load key "/a/key": error in libcrypto\nme@host7: Permission denied (publickey).', "/a/key cannot be used"),
        ("Received disconnect from 10.0.0.7 port 22:2: Too many authentication failures\n"
         "Disconnected from 10.0.0.7 port 22", "after too many keys of this user's agent (`ssh-add -l` lists them)"),
        ("sign_and_send_pubkey: signing failed for ED25519 \"k\" from agent: agent refused operation\n"
         "me@host7: Permission denied (publickey).", "ssh-agent refused to use its key"),
        ("ssh: Could not resolve hostname host7: Name or service not known", "the name host7 is not known"),
        ("ssh: Could not resolve hostname host7: Temporary failure in name resolution", "the name host7 is not known"),
        ("ssh: connect to host 10.0.0.7 port 22: Connection refused", "10.0.0.7 refuses connections on port 22"),
        ("ssh: connect to host 10.0.0.7 port 22: Connection timed out", "10.0.0.7 does not answer on port 22"),
        ("ssh: connect to host 10.0.0.7 port 22: Operation timed out", "10.0.0.7 does not answer on port 22"),
        ("ssh: connect to host 10.0.0.7 port 22: No route to host", "no way from this machine to 10.0.0.7"),
        ("ssh: connect to host 10.0.0.7 port 22: Network is unreachable", "no way from this machine to 10.0.0.7"),
        ("ssh: connect to host 10.0.0.7 port 22: Host is down", "cannot be reached on port 22: Host is down"),
        ("Connection timed out during banner exchange\nConnection to 10.0.0.7 port 22 timed out",
         "does not answer as an ssh server"),
        ("kex_exchange_identification: Connection closed by remote host\nConnection closed by 10.0.0.7 port 22",
         "closed the connection before saying who it is; it, or a jump host, may limit connections (MaxStartups"),
        ("kex_exchange_identification: read: Connection reset by peer\nConnection reset by 10.0.0.7 port 22",
         "closed the connection before saying who it is"),
        ("kex_exchange_identification: banner line contains invalid characters", "before saying who it is"),
        ("ssh_exchange_identification: Connection closed by remote host", "before saying who it is"),
        ("channel 0: open failed: connect failed: No route to host\nstdio forwarding failed\n"
         "kex_exchange_identification: Connection closed by remote host", "its jump host cannot reach it"),
        ("Unable to negotiate with 10.0.0.7 port 22: no matching host key type found. Their offer: ssh-rsa",
         "no matching host key type found (it offers ssh-rsa)"),
        ("Connection closed by 10.0.0.7 port 22", "its ssh server ended the connection; see sshd's log"),
        ("Connection reset by 10.0.0.7 port 22", "its ssh server ended the connection"),
        ("Connection to host7 closed by remote host.", "its ssh server ended the connection"),
        ("Received disconnect from 10.0.0.7 port 22:11: bye", "ended the connection: bye"),
        ("Timeout, server host7 not responding.", "host7 no longer answers"),
        ("client_loop: send disconnect: Broken pipe", "the connection was lost (Broken pipe)"),
        ("packet_write_wait: Connection to 10.0.0.7 port 22: Broken pipe", "the connection was lost (Broken pipe)"),
        ("Read from remote host host7: Connection reset by peer\nclient_loop: send disconnect: Broken pipe",
         "the connection was lost"),
        ("Bad owner or permissions on /home/me/.ssh/config", "configuration on this machine cannot be used"),
        ("/home/me/.ssh/config: line 1: Bad configuration option: nonsense\n"
         "/home/me/.ssh/config: terminating, 1 bad configuration options", "`ssh host7` says where"),
        ("hostname contains invalid characters", "correct host and user"),
        ("", "ssh ended without a word"),
    ],
)  # fmt: skip
def test_what_ssh_says_becomes_a_sentence(ssh: Ssh, connect: Callable[..., AgentLink], stderr: str, words: str) -> None:
    ssh.prints((BANNER if stderr else "") + stderr + ("\n" if stderr else ""), exit_code=255)
    sentence = refusal(connect(python="python3"))
    assert sentence.startswith("host7: ")
    assert words in sentence
    assert "\n" not in sentence
    assert "***" not in sentence


def test_what_is_not_known_is_shown(ssh: Ssh, connect: Callable[..., AgentLink]) -> None:
    ssh.prints(BANNER + "something new\n", exit_code=255)
    assert refusal(connect()).endswith("something new")


def test_the_command_to_try_is_the_one_with_port_and_key(ssh: Ssh, connect: Callable[..., AgentLink]) -> None:
    ssh.prints("Host key verification failed.\n", exit_code=255)
    sentence = refusal(connect(host=Host("me@host7", "ssh", port=2222, key="/a key")))
    assert "`ssh -p 2222 -i '/a key' me@host7`" in sentence


@pytest.mark.processes
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("language", ["C", "de_DE.UTF-8"])
def test_no_python_there(
    ssh: Ssh, connect: Callable[..., AgentLink], monkeypatch: pytest.MonkeyPatch, shell: str, language: str
) -> None:
    """Told by the exit code, as the words are a shell's own, in the language of the host."""
    monkeypatch.setenv("LC_ALL", language)
    ssh.shell(shell)
    sentence = refusal(connect(python="no-such-python3"))
    assert sentence.startswith("host7: there is no no-such-python3 there, where a login without a terminal looks")
    assert "Python 3.11 or newer, or name it with --python" in sentence


@pytest.mark.processes
def test_a_python_that_cannot_be_executed(ssh: Ssh, connect: Callable[..., AgentLink], tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("")
    assert "python3 cannot be executed there" in refusal(connect(python=str(tmp_path / "python3")))


def test_a_home_is_not_expanded_and_that_is_said(ssh: Ssh, connect: Callable[..., AgentLink]) -> None:
    assert refusal(connect(python="~/venv/bin/python")).endswith("looked for as written, so write ~ out")


@pytest.mark.parametrize(
    "said", ["This account is currently not available.", "This service allows sftp connections only."]
)
def test_an_account_that_runs_no_commands(ssh: Ssh, connect: Callable[..., AgentLink], said: str) -> None:
    ssh.prints(said + "\n", exit_code=1)
    assert "this account may not run commands there" in refusal(connect())


def test_an_account_whose_shell_refuses_on_its_standard_output(ssh: Ssh, connect: Callable[..., AgentLink]) -> None:
    """As `nologin` does."""
    ssh.startup_file(".bashrc", "echo This account is currently not available.; exit 1\n")
    ssh.shell("bash")
    assert "this account may not run commands there" in refusal(connect())


@pytest.mark.processes
@pytest.mark.parametrize(
    ("says", "code", "printed"),
    [
        ("", 0, ""),
        ("", 3, ""),
        ("echo hello; echo 'go \x1b[31maway'; ", 0, " (the last that it printed: 'go \\x1b[31maway')"),
        ("echo hello; ", 3, " (the last that it printed: 'hello')"),
        ("echo use the queue >&2; ", 0, " (the last that it printed: 'use the queue')"),
    ],
)
def test_a_startup_file_that_exits(
    ssh: Ssh, connect: Callable[..., AgentLink], says: str, code: int, printed: str
) -> None:
    ssh.startup_file(".bashrc", f"{says}exit {code}\n")
    ssh.shell("bash")
    assert refusal(connect(python="python3")) == (
        f"host7: its login shell ended with exit code {code} before it ran the command{printed}; does a start-up file "
        "there (.bashrc, .profile) call exit, or is the key for another command only (command= in authorized_keys)? "
        "`ssh host7 python3 -V` must print a version"
    )


@pytest.mark.processes
def test_a_startup_file_that_exits_with_a_complaint_is_quoted(ssh: Ssh, connect: Callable[..., AgentLink]) -> None:
    ssh.startup_file(".bashrc", "echo no more licences >&2; exit 3\n")
    ssh.shell("bash")
    assert refusal(connect()) == "host7: the agent could not be started (exit code 3)\nno more licences"


@pytest.mark.parametrize("exit_code", [0, 1, 126, 127])
def test_how_an_agent_ends_is_not_the_logins_doing(ssh: Ssh, exit_code: int) -> None:
    transport = open_transport(Host("host7", "ssh"))
    assert transport.explain(["python3"], exit_code, "", None) is None
    assert transport.explain(["python3"], exit_code, "", "") is not None


@pytest.mark.processes
def test_ssh_killed_on_this_machine(ssh: Ssh, connect: Callable[..., AgentLink]) -> None:
    link = connect()
    hear(link, welcomed)
    os.kill(link.pid, 9)
    sentence = "host7: ssh was killed by SIGKILL on this machine, and the connection with it"
    with pytest.raises(HostError, match=sentence):
        hear(link, lambda heard: False)


@pytest.mark.processes
def test_one_process_on_this_machine_and_goodbye(ssh: Ssh, connect: Callable[..., AgentLink]) -> None:
    link = connect()
    hear(link, welcomed)
    link.send(Goodbye())
    link.close(timeout_s=15.0)
    assert link.wait(5.0) == 0
    assert ssh.argv[-1] == for_any_shell(link._handshake.argv)
