"""One host of a run: its connection, and what is learnt of it from the welcome until it is prepared for tasks.

Knows the order of the questions and what the answers mean for this host alone. Several hosts together, and when there
is a host to talk to at all, are `hosts`'s.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from distrain import wire
from distrain.contact import Contact
from distrain.errors import HostError
from distrain.job.cluster import Host, Task
from distrain.job.dialects import preload_environment
from distrain.job.plan import HostFacts
from distrain.launcher.events import Event, now
from distrain.launcher.hosts.incoming import Incoming
from distrain.launcher.hosts.link import AgentLink
from distrain.launcher.hosts.outgoing import parts_of_code, parts_of_folder
from distrain.launcher.hosts.reach import Offer
from distrain.launcher.outset import Outset
from distrain.launcher.runs.checkpoints import ABOUT
from distrain.launcher.transports import open_transport, python_on

_PINGS_PER_TIMEOUT = 4
_TOLD_EVERY_S = 5.0
_TOLD_FROM_BYTES = 8 << 20


class Session:
    """The host `host` of the run that `outset` begins, on which `addressed` tasks want ports.

    `token` is said to whoever tries those; "": nobody will. `of_chief`: the chief is there, which fills the run
    directory; what other hosts leave comes below `from/<host>`.

    Raises:
        HostError: the connection cannot be started at all.
    """

    def __init__(self, host: Host, outset: Outset, *, of_chief: bool, addressed: tuple[Task, ...], token: str) -> None:
        self.host = host
        self.welcome: wire.Welcome | None = None
        self.ports: tuple[int, ...] = ()
        self.versions: dict[str, str] = {}
        self.addressed = addressed
        self._outset = outset
        self._job = outset.job
        self._token = token
        self._python = python_on(host, outset.python)
        self._from = "" if of_chief else f"from/{host.name}"
        self._incoming = Incoming(outset.rundir.path, prefix=self._from)
        self._folder: str | None = None
        self._received_bytes = 0
        self._part_at = self._told_at = -math.inf
        self._unsent: Iterator[wire.Message] = iter(())
        self._there: dict[str, str | None] = {}
        """Checkpoints that its agent has, by name, with the digest of each."""
        self._coming: deque[tuple[str, str | None]] = deque()
        """Those that are on their way there."""
        self._awaited: set[type[wire.Message]] = set()
        self._contact: Contact | None = None
        self._heard_at = 0.0
        self._pinged_at = time.monotonic()
        self._pings = 0
        inherits = outset.agents_fd if self.is_local else None  # a connection may outlive what it was for
        self.link = AgentLink(host.name, open_transport(host), outset.bundle, python=self._python, inherits=inherits)

    @property
    def is_local(self) -> bool:
        return self.host.transport == "local"

    # ---- what is heard

    def take(self, message: wire.Message) -> Iterator[Event]:
        """What a message means that concerns the host and none of its tasks.

        Raises:
            HostError: the host cannot be used.
            DistrainError: what it sends cannot be kept here.
        """
        match message:
            case wire.Welcome():
                self.welcome = message
                yield self._event(
                    "host_opened",
                    hostname=message.hostname,
                    cores=message.cores,
                    memory_bytes=message.memory_bytes,
                    python=message.python,
                )
                self._open()
            case wire.CodeWanted():
                self._send_code()
            case wire.RunOpened(folder, error):
                if error is not None:
                    raise HostError(f"{self.host.name}: {error}")
                self._folder = folder
                self._prepare()
            case wire.Examined(versions, error=error):
                self.versions = dict(versions)
                self._check_versions(error)
            case wire.PortsReserved(ports):
                self.ports += ports
                self._check_ports()
            case wire.FilePart():
                yield from self._transfer_told(len(message.data))
                if message.ends:
                    self._received_bytes = 0
                path = self._incoming.take(message)
                if path is not None:
                    self._there[PurePosixPath(path).name] = _digest(self._outset.rundir.path / path)
                    yield self._event("file_received", path=path)
            case wire.FileKept(artifact, error):
                if error is not None:
                    raise HostError(f"{self.host.name}: {artifact} could not be brought there: {error}")
                if self._coming:
                    self._there = dict((self._coming.popleft(),))  # of what was there before, nothing is known now
            case wire.Harmed(kind, error):
                yield self._event("harmed", injury=kind, error=error)
            case wire.AgentEnding(reason, preempted):
                message_text = f"{self.host.name}: {reason}, and everything on {self.host.name} with it"
                yield self._event("host_ending", message=message_text, preempted=preempted)
            case wire.AgentNote(level, text):
                yield self._event("agent_note", level=level, message=text)
        if type(message) in self._awaited:
            self._awaited.discard(type(message))
            if not self._awaited:
                yield self._event("host_prepared")

    def _transfer_told(self, size_bytes: int) -> Iterator[Event]:
        """A note now and then while large files take long to arrive."""
        at = time.monotonic()
        if at - self._part_at > _TOLD_EVERY_S:
            self._received_bytes, self._told_at = 0, at
        self._part_at = at
        self._received_bytes += size_bytes
        if self._received_bytes >= _TOLD_FROM_BYTES and at - self._told_at > _TOLD_EVERY_S:
            self._told_at = at
            message = f"files are arriving, {self._received_bytes >> 20:,} MiB until now"
            yield self._event("note", level="info", message=message)

    def _event(self, kind: str, **data: Any) -> Event:
        return Event(now(), kind, host=self.host.name, data=data)

    # ---- preparing

    def _open(self) -> None:
        if self.is_local:
            self._prepare()
            return
        self._contact = Contact(self._job.cluster.contact_timeout_s)
        code = self._outset.code
        order = wire.OpenRun(
            self._outset.rundir.name,
            self._job.cluster.contact_timeout_s,
            *((code.digest, len(code.data)) if code else ()),
        )
        self._ask(order, wire.RunOpened)

    def _send_code(self) -> None:
        assert self._outset.code is not None
        self._unsent = chain(self._unsent, parts_of_code(self._outset.code.data))
        self.send_more()

    def lacks(self, checkpoint: Path) -> bool:
        """Whether this checkpoint must be brought there before tasks can go on from it: under its name, there may be
        another one.
        """
        if self.is_local:
            return False
        digest = _digest(checkpoint)
        return digest is None or self._there.get(checkpoint.name) != digest

    def bring(self, checkpoint: Path, folder: str) -> None:
        """Send it, if it is not on its way, into `folder` of what tasks see as the run directory. `FileKept` answers.

        Raises:
            HostError: it cannot be read here.
        """
        coming = checkpoint.name, _digest(checkpoint)
        if coming not in self._coming:
            self._coming.append(coming)
            self._unsent = chain(self._unsent, parts_of_folder(checkpoint, f"{folder}/{checkpoint.name}"))
        self.send_more()

    def forget(self, checkpoint: str) -> None:
        """The checkpoint of that name is damaged there."""
        self._there.pop(checkpoint, None)

    def keep_only(self, checkpoints: Iterable[str]) -> None:
        """The chief, which is there, has thinned its checkpoints out to these names."""
        if not self.is_local:  # where it has done so itself
            kept = frozenset(checkpoints)
            self._there = {name: digest for name, digest in self._there.items() if name in kept}
            self._incoming.keep_only(kept)

    def send_more(self) -> None:
        """More of what is large, if the connection has room: what is said meanwhile must not wait behind all of it.

        Raises:
            HostError: it cannot be read here.
        """
        while self.link.is_low:
            try:
                message = next(self._unsent, None)
            except OSError as error:
                raise HostError(f"{self.host.name}: {error.filename} cannot be sent: {error.strerror}") from error
            if message is None:
                return
            self.link.send(message)

    def _prepare(self) -> None:
        if self._job.starts_warm:
            paths = self.facts().import_paths
            self.link.send(wire.Preload(self._python, preload_environment(self._job), paths))
        if not self.is_local and self._job.program is None:
            self._ask(wire.Examine(self._python), wire.Examined)
        # Asked even where no port is wanted: the answer is what makes the host prepared.
        order = wire.ReservePorts(len(self.addressed), self._job.cluster.ports, self._token)
        self._ask(order, wire.PortsReserved)

    def _ask(self, order: wire.Message, answer: type[wire.Message]) -> None:
        self._awaited.add(answer)
        self.link.send(order)

    def _check_versions(self, error: str | None) -> None:
        name = self.host.name
        if error is not None:
            raise HostError(f"{name}: {error}")
        for package, title in (("tensorflow", "TensorFlow"), ("keras", "Keras")):
            if package not in self.versions:
                raise HostError(
                    f"{name}: {title} is not installed for {self._python} there; install it with "
                    f"`{self._python} -m pip install tensorflow`, or name another interpreter with --python"
                )

    def _check_ports(self) -> None:
        wanted = len(self.addressed)
        if len(self.ports) < wanted:
            raise HostError(
                f"{self.host.name}: {wanted} ports are needed, and only {len(self.ports)} of those in cluster.ports "
                "are free; name more of them, or leave cluster.ports out to take any free port"
            )

    def assign(self, addressed: tuple[Task, ...], *, of_chief: bool) -> bool:
        """Give it other tasks. True: it needs more ports for that, and will be prepared again."""
        self.addressed = addressed
        if self._from != (folder := "" if of_chief else f"from/{self.host.name}"):
            self._from = folder
            self._incoming.abandon()
            self._incoming = Incoming(self._outset.rundir.path, prefix=folder)
        if len(addressed) <= len(self.ports):
            return False
        more = len(addressed) - len(self.ports)
        among = tuple(port for port in self._job.cluster.ports if port not in self.ports)
        self._ask(wire.ReservePorts(more, among, self._token), wire.PortsReserved)
        return True

    # ---- contact

    def keep_contact(self) -> None:
        """Say that we are here, when it is time to.

        Raises:
            HostError: nothing has been heard for too long.
        """
        if self._contact is None:
            return
        if self.link.heard_at != self._heard_at:
            self._heard_at = self.link.heard_at
            self._contact.heard()
        elif self._contact.due <= time.monotonic() and self._contact.look():
            raise HostError(
                f"{self.host.name}: nothing has been heard from it for {self._contact.timeout_s:g} s; the network is "
                "cut or the host is frozen; what runs there ends by itself as soon as it notices the same"
            )
        if time.monotonic() - self._pinged_at >= self._contact.timeout_s / _PINGS_PER_TIMEOUT:
            self._pinged_at = time.monotonic()
            self._pings += 1
            self.link.send(wire.Ping(self._pings))

    def close(self) -> None:
        """End the connection without waiting for the agent, which ends what it had."""
        self.link.close()
        self.forget_halves()

    def forget_halves(self) -> None:
        """Nothing more arrives: what has arrived in part goes."""
        self._incoming.abandon()

    # ---- what the plan must know

    def offer(self) -> Offer:
        """How the other hosts may reach this one."""
        assert self.welcome is not None
        given = (self.host.address,) if self.host.address is not None else ()
        return Offer(self.host.name, given or self.welcome.addresses, self.ports, self._token, given=bool(given))

    def facts(self) -> HostFacts:
        """Where and with what tasks run here."""
        assert self.welcome is not None
        place, run_dir = self._outset.place, str(Path(self._outset.rundir.path, self._from))
        checkpoints = str(self._outset.rundir.path / "checkpoints")
        if self._folder is not None:
            run_dir = f"{self._folder}/run"
            checkpoints = f"{run_dir}/checkpoints"
            if self._job.program is None or place.root is not None:
                place = place.in_copy(f"{self._folder}/code")
        return HostFacts(
            python=self._python,
            cwd=place.cwd,
            run_dir=run_dir,
            output_dir=f"{run_dir}/output",
            checkpoints=checkpoints,
            import_paths=place.import_paths,
            cores=self.welcome.cores,
            gpus=self.welcome.gpus,
        )


def _digest(checkpoint: Path) -> str | None:
    """Tells it from any other: what describes it holds the digests of all else. None: that cannot be read."""
    try:
        return hashlib.sha256((checkpoint / ABOUT).read_bytes()).hexdigest()
    except OSError:
        return None
