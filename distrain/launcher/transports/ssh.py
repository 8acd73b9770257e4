"""A host behind the system's `ssh`: one process per host, configured as the user's ssh is.

Owns the command line, the quoting that gets through any login shell, and what ssh's failures mean. Host keys are
checked as ssh is configured to; nothing is asked for, as nobody may be there to answer.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
from collections.abc import Sequence

from distrain.errors import HostError
from distrain.job.cluster import Host
from distrain.launcher.transports.local import broken_python

CONNECT_TIMEOUT_S = 15
"""For the connection alone. Less than a handshake may take, so that ssh can say what it waited for."""

_SSH_FAILED = 255
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
_MOST_SHOWN = 200

_OPTIONS = (
    "-T",  # no terminal
    *("-e", "none"),  # and no character in the stream that means something
    *("-a", "-x", "-o", "ClearAllForwardings=yes"),  # nothing of this machine is offered to the host
    *("-o", "BatchMode=yes"),
    *("-o", "RemoteCommand=none"),  # one in the user's configuration would be in the way of ours
    *("-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"),
)

_NO_DESTINATION = re.compile(r"""[\s/'"`$\\;&<>|(){}]""")
"""What may be in no user's or host's name: a `ProxyCommand` of the user's hands both to a shell."""


class Ssh:
    """The way to one host. `host.port` and `host.key` stand above what the user's configuration says."""

    def __init__(self, host: Host) -> None:
        self._destination = host.name
        self._given = [
            *(() if host.port is None else ("-p", str(host.port))),
            *(() if host.key is None else ("-i", host.key)),
        ]
        # With a key named, those in the user's agent would come first and might be one too many for the server.
        self._only = () if host.key is None else ("-o", "IdentitiesOnly=yes")

    def command(self, argv: Sequence[str]) -> list[str]:
        return ["ssh", *_OPTIONS, *self._given, *self._only, "--", self._destination, for_any_shell(argv)]

    def explain(self, argv: Sequence[str], exit_code: int | None, stderr: str, stdout: str | None) -> str | None:
        by_hand = shlex.join(["ssh", *self._given, self._destination])
        if exit_code is None:
            return (
                "ssh got no answer from Python there; a start-up file of the login shell may be waiting for input, or "
                f"the host is overloaded: try `{by_hand} {shlex.quote(argv[0])} -V`"
            )
        if exit_code < 0:
            name = signal.Signals(-exit_code).name
            return f"ssh was killed by {name} on this machine, and the connection with it; run the command again"
        if exit_code == _SSH_FAILED:
            return _meaning(stderr, by_hand)
        if stdout is None:
            return None  # how an agent ends is none of our doing
        if known := broken_python(argv[0], stderr):
            return known
        if exit_code in (_NOT_FOUND, _NOT_EXECUTABLE):
            return _no_python(argv[0], exit_code)
        if _NO_COMMANDS.search(stderr) or _NO_COMMANDS.search(stdout):
            return "this account may not run commands there; log in as another user, as in USER@HOST"
        if exit_code == 0 or (exit_code < _NOT_EXECUTABLE and not stderr.strip()):
            return _never_ran(f"{by_hand} {shlex.quote(argv[0])} -V", exit_code, stderr.strip() or stdout.strip())
        return None


def open_host(host: Host) -> Ssh:
    """Raises HostError: no host can have this name, or there is no ssh on this machine."""
    _, _, name = host.name.rpartition("@")
    if _NO_DESTINATION.search(host.name) or not host.name.isprintable() or not name or "-" in (host.name[0], name[0]):
        raise HostError(
            f"{host.name!r} is no name of a host; give a host's name or address, USER@HOST, or a Host of ~/.ssh/config"
        )
    if shutil.which("ssh") is None:
        raise HostError(
            f"{host.name}: there is no ssh on this machine's PATH; install OpenSSH's client (openssh-client)"
        )
    return Ssh(host)


# ---- quoting


def for_any_shell(argv: Sequence[str]) -> str:
    """The command line that runs `argv`, whatever the login shell: POSIX ones, csh, tcsh, fish.

    Only a POSIX shell is told the arguments. What the login shell sees is one quoted word without what these shells
    see differently: newlines, and quotes, backslashes and exclamation marks inside quotes.
    """
    first, *rest = argv
    # Such a name is no option of `exec` this way, and still the same file.
    words = [f"./{first}" if first.startswith("-") else first, *rest]
    script = "exec " + " ".join(map(shlex.quote, words))
    if "\n" in script:
        script = r"n=$(printf '\nx'); n=${n%x}; " + script.replace("\n", """'"$n"'""")
    quoted = re.sub(r"['!\\]", r"'\\\g<0>'", script)
    return f"exec /bin/sh -c '{quoted}'"


# ---- what failures mean


def _no_python(python: str, exit_code: int) -> str:
    if exit_code == _NOT_EXECUTABLE:
        return f"{python} cannot be executed there; name another Python with --python"
    home = "; it is looked for as written, so write ~ out" if python.startswith("~") else ""
    return (
        f"there is no {python} there, where a login without a terminal looks for it; install Python 3.11 or newer, or "
        f"name it with --python or `python` in cluster.hosts{home}"
    )


def _never_ran(by_hand: str, exit_code: int, printed: str) -> str:
    last = f" (the last that it printed: {printed.splitlines()[-1][-_MOST_SHOWN:]!r})" if printed else ""
    return (
        f"its login shell ended with exit code {exit_code} before it ran the command{last}; does a start-up file there "
        "(.bashrc, .profile) call exit, or is the key for another command only (command= in authorized_keys)? "
        f"`{by_hand}` must print a version"
    )


_NO_COMMANDS = re.compile(r"account is currently not available|sftp connections only", re.IGNORECASE)

_FAILURES = (
    # Whole lines of ssh's, so that a greeting that speaks of denied permissions is none; the more telling ones first.
    (
        r"Host key for (\S+) has changed and you have requested strict checking\.",
        "its host key is not the one that this machine knows: it was installed anew, or somebody is in between; "
        "compare its fingerprint with what its administrator says, then `ssh-keygen -R '{0}'` and `{ssh}` once by hand",
    ),
    (
        r"@ +WARNING: REVOKED HOST KEY DETECTED! +@",
        "its host key is revoked in this machine's known_hosts; do not use it, and tell its administrator",
    ),
    (
        r"Host key verification failed\.",
        "its host key is not known on this machine; run `{ssh}` once by hand and compare the fingerprint that it "
        "shows, or have the key put into ~/.ssh/known_hosts",
    ),
    (r"Warning: Identity file (.+) not accessible: (.+)\.", "the key {0} cannot be read ({1}); name another"),
    (r"Permissions \d+ for '(.+)' are too open\.", "others may read the key {0}, so ssh does not use it; chmod 600 it"),
    (r'Load key "(.+)": (.+)', "the key {0} cannot be used ({1}); see `ssh-keygen -y -f` on it, or name another"),
    (
        r"(?:Received disconnect|Disconnected|Disconnecting) .*Too many authentication failures.*",
        "it gave up after too many keys of this user's agent (`ssh-add -l` lists them); name the right one, as `key` "
        "in cluster.hosts or as IdentityFile with IdentitiesOnly in ~/.ssh/config",
    ),
    (
        r".*: agent refused operation",
        "ssh-agent refused to use its key; it may want to be confirmed or unlocked: try `{ssh}` by hand",
    ),
    (
        r"(?:\S+: )?Permission denied \((.*)\)\.",
        "it did not let us in: permission denied (it takes {0}); `{ssh}` must work without a password: see "
        "`ssh-add -l`, and whether the key is in ~/.ssh/authorized_keys there, or name user and key (USER@HOST, and "
        "`key` in cluster.hosts)",
    ),
    (
        r"ssh: Could not resolve host(?:name)? (.*?):? .*",
        "the name {0} is not known; correct it, or add it to the DNS, /etc/hosts or ~/.ssh/config",
    ),
    (
        r"ssh: connect to host (\S+) port (\d+): Connection refused",
        "{0} refuses connections on port {1}; is sshd running there, and is it the right port?",
    ),
    (
        r"ssh: connect to host (\S+) port (\d+): (?:Connection|Operation) timed out",
        "{0} does not answer on port {1}; is it up, and does a firewall let this machine through?",
    ),
    (
        r"ssh: connect to host (\S+) port (\d+): (No route to host|Network is unreachable)",
        "there is no way from this machine to {0} (port {1}: {2}); is it up, and does it take a VPN to get there?",
    ),
    (r"ssh: connect to host (\S+) port (\d+): (.+)", "{0} cannot be reached on port {1}: {2}; try `{ssh}` by hand"),
    (
        r"Connection timed out during banner exchange|Connection to \S+ port \d+ timed out",
        "something takes the connection but does not answer as an ssh server; is it overloaded, is it the right port?",
    ),
    (
        r"stdio forwarding failed",
        "its jump host cannot reach it; try `{ssh}` by hand, and see ProxyJump in ~/.ssh/config",
    ),
    (
        r"Unable to negotiate with .*: (.+)\. Their offer: (.*)",
        "it speaks another ssh: {0} (it offers {1}); update it, or allow that for it in ~/.ssh/config",
    ),
    (
        r"(?:kex|ssh)_exchange_identification: .*",
        "it closed the connection before saying who it is; it, or a jump host, may limit connections (MaxStartups, "
        "PerSourcePenalties, fail2ban): wait a minute, try `{ssh}` by hand, and see sshd's log there",
    ),
    (
        r"Bad owner or permissions on .+|.+: terminating, \d+ bad configuration options",
        "ssh's configuration on this machine cannot be used; `{ssh}` says where",
    ),
    (r"(?:hostname|remote username) contains invalid characters", "ssh refuses such a name; correct host and user"),
    (r"Timeout, server (\S+) not responding\.", "{0} no longer answers; is it up, and the network between?"),
    (
        r"(?:client_loop: send disconnect|packet_write_wait|\S*ssh_dispatch_run_fatal|Read from remote host)\b.*: (.+)",
        "the connection was lost ({0}); is it up, and the network between?",
    ),
    (
        r"Connection (?:to|closed by|reset by) .*",
        "its ssh server ended the connection; see sshd's log there (journalctl -u ssh), and try `{ssh}` by hand",
    ),
    (r"Received disconnect from \S+ port \d+:\d+: (.*)", "its ssh server ended the connection: {0}"),
)
"""Lines of OpenSSH 8 to 10, and what each of them means. `{ssh}`: how to try it by hand."""


def _meaning(stderr: str, by_hand: str) -> str | None:
    lines = [line.strip() for line in stderr.splitlines()]
    for pattern, meaning in _FAILURES:
        for line in lines:
            if found := re.fullmatch(pattern, line):
                return meaning.format(*(group or "" for group in found.groups()), ssh=by_hand)
    if not any(lines):
        return (
            "ssh ended without a word, as it does when what it ran there was killed, or with LogLevel QUIET; "
            f"try `{by_hand}` by hand"
        )
    return None
