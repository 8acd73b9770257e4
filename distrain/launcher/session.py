"""One host of a run: its connection, and what is learnt of it from the welcome until it is prepared for tasks.

Knows the order of the questions and what the answers mean for this host alone. Several hosts together, and when there
is a host to talk to at all, are `hosts`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distrain import wire
from distrain.errors import HostError
from distrain.job.cluster import Host, Task
from distrain.job.dialects import preload_environment
from distrain.job.plan import HostFacts
from distrain.job.spec import JobSpec
from distrain.launcher.bundle import Bundle
from distrain.launcher.code import Code
from distrain.launcher.events import Event
from distrain.launcher.incoming import Incoming
from distrain.launcher.link import AgentLink
from distrain.launcher.reach import Offer
from distrain.launcher.transports import open_transport

_CODE_PART_BYTES = 1 << 20
_PINGS_PER_TIMEOUT = 4


@dataclass(frozen=True)
class Base:
    """Where the user stands, on this machine: what tasks here work in, and what tasks elsewhere get a copy of.

    `code_root` is the folder whose files are `code`, None where nothing travels.
    """

    cwd: str
    import_paths: tuple[str, ...]
    code_root: str | None = None
    code: Code | None = None


class Session:
    """The host `host`, on which `addressed` tasks want ports. `token` is said to whoever tries those.

    Raises:
        HostError: the connection cannot be started at all.
    """

    def __init__(
        self,
        host: Host,
        job: JobSpec,
        base: Base,
        bundle: Bundle,
        incoming: Incoming,
        *,
        run: str,
        run_dir: str,
        python: str,
        addressed: tuple[Task, ...],
        token: str,
    ) -> None:
        self.host = host
        self.link = AgentLink(host.name, open_transport(host), bundle, python=python)
        self.welcome: wire.Welcome | None = None
        self.ports: tuple[int, ...] = ()
        self.versions: dict[str, str] = {}
        self.addressed = addressed
        self._job = job
        self._base = base
        self._incoming = incoming
        self._run = run
        self._run_dir = run_dir
        self._python = python
        self._token = token
        self._folder: str | None = None
        self._awaited: set[type[wire.Message]] = set()
        self._heard_at = self._pinged_at = time.monotonic()
        self._pings = 0

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
        now = time.time()
        match message:
            case wire.Welcome():
                self.welcome = message
                yield self._event(
                    now,
                    "host_opened",
                    hostname=message.hostname,
                    cores=message.cores,
                    memory_bytes=message.memory_bytes,
                    python=message.python,
                )
                self._open(message)
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
                self.ports = ports
                self._check_ports()
            case wire.FilePart():
                path = self._incoming.take(message)
                if path is not None:
                    yield self._event(now, "file_received", path=path)
            case wire.AgentEnding(reason):
                message_text = f"{self.host.name}: {reason}, and everything on {self.host.name} with it"
                yield self._event(now, "host_ending", message=message_text)
            case wire.AgentNote(level, text):
                yield self._event(now, "agent_note", level=level, message=text)
        if type(message) in self._awaited:
            self._awaited.discard(type(message))
            if not self._awaited:
                yield self._event(now, "host_prepared")

    def _event(self, now: float, kind: str, **data: Any) -> Event:
        return Event(now, kind, host=self.host.name, data=data)

    # ---- preparing

    def _open(self, welcome: wire.Welcome) -> None:
        if self.is_local:
            self._prepare()
            return
        code = self._base.code
        contact_s = self._job.cluster.contact_timeout_s
        order = wire.OpenRun(self._run, contact_s, *((code.digest, len(code.data)) if code else ()))
        self._ask(order, wire.RunOpened)

    def _send_code(self) -> None:
        assert self._base.code is not None
        data = memoryview(self._base.code.data)
        for start in range(0, len(data), _CODE_PART_BYTES):
            self.link.send(wire.CodePart(bytes(data[start : start + _CODE_PART_BYTES])))

    def _prepare(self) -> None:
        if self._job.warm and self._job.program is None:
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

    # ---- contact

    def heard(self) -> None:
        """Something has arrived; or nothing could have, since nobody listened."""
        self._heard_at = time.monotonic()

    def keep_contact(self) -> None:
        """Say that we are here, when it is time to.

        Raises:
            HostError: nothing has been heard for too long.
        """
        if self.is_local or self.welcome is None:
            return
        now = time.monotonic()
        timeout_s = self._job.cluster.contact_timeout_s
        if now - self._heard_at >= timeout_s:
            raise HostError(
                f"{self.host.name}: nothing has been heard from it for {timeout_s:g} s; the network is cut or the host "
                "is frozen; what runs there ends by itself as soon as it notices the same"
            )
        if now - self._pinged_at >= timeout_s / _PINGS_PER_TIMEOUT:
            self._pinged_at = now
            self._pings += 1
            self.link.send(wire.Ping(self._pings))

    def close(self, timeout_s: float = 0.0) -> None:
        """End the connection, waiting at most so long until nothing is left on the host."""
        self.link.close(timeout_s)
        self._incoming.abandon()

    # ---- what the plan must know

    def offer(self) -> Offer:
        """How the other hosts may reach this one."""
        assert self.welcome is not None
        given = (self.host.address,) if self.host.address is not None else ()
        return Offer(self.host.name, given or self.welcome.addresses, self.ports, self._token, bool(given))

    def facts(self) -> HostFacts:
        """Where and with what tasks run here."""
        assert self.welcome is not None
        base = self._base
        cwd, import_paths, run_dir = base.cwd, base.import_paths, self._run_dir
        if self._folder is not None:
            run_dir = f"{self._folder}/run"
            if self._job.program is None or base.code_root is not None:
                cwd, import_paths = _copied(base, f"{self._folder}/code")
        return HostFacts(
            python=self._python,
            cwd=cwd,
            run_dir=run_dir,
            output_dir=f"{run_dir}/output",
            import_paths=import_paths,
            cores=self.welcome.cores,
            gpus=self.welcome.gpus,
        )


def _copied(base: Base, folder: str) -> tuple[str, tuple[str, ...]]:
    """The user's place and import paths in `folder`, a copy of `base.code_root`; those outside of it are left out."""
    if base.code_root is None:
        return folder, ()

    def there(path: str) -> str | None:
        relative = os.path.relpath(path, base.code_root)
        outside = relative == os.pardir or relative.startswith(os.pardir + os.sep)
        return None if outside else os.path.normpath(os.path.join(folder, relative))

    paths = dict.fromkeys(filter(None, (*map(there, base.import_paths), folder)))
    return there(base.cwd) or folder, tuple(paths)
