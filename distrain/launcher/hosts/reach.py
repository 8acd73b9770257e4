"""By which address the hosts of a run reach each other: what each of them is to try, and what the answers mean. Pure.

A host may have several addresses, of which some lead nowhere from elsewhere, or to another machine: 127.0.1.1, a
container bridge's, one behind a NAT. So every host tries every address of every host, itself included, on the ports
that will be used. One that all reach is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MOST_ADDRESSES = 4
PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Offer:
    """How `host` may be reached: `ports` on each of `addresses`, the likeliest first, where `token` is said.

    `given`: the user wrote the address, and no other is looked for.
    """

    host: str
    addresses: tuple[str, ...]
    ports: tuple[int, ...]
    token: str
    given: bool = False


@dataclass(frozen=True)
class Target:
    """One connection to try."""

    host: str
    address: str
    port: int
    token: str

    def to_wire(self) -> tuple[str, int, str]:
        return self.address, self.port, self.token


def targets(offers: Sequence[Offer]) -> tuple[Target, ...]:
    """What each of the hosts is to try. Empty where nobody listens."""
    return tuple(_targets(offers))


def _targets(offers: Sequence[Offer]) -> Iterator[Target]:
    for offer in offers:
        for address in offer.addresses[:MOST_ADDRESSES]:
            for port in offer.ports:
                yield Target(offer.host, address, port, offer.token)


@dataclass(frozen=True)
class Reach:
    """What was found: `addresses` by host, for each host that all reach, and a sentence for each that is not."""

    addresses: Mapping[str, str]
    complaints: Mapping[str, str]


def judge(offers: Sequence[Offer], results: Mapping[str, Sequence[str | None]]) -> Reach:
    """Which address of each host all reach. `results`: for each host that has tried, what came of `targets(offers)`."""
    addresses: dict[str, str] = {}
    complaints: dict[str, str] = {}
    tried = targets(offers)
    for offer in offers:
        failures: dict[str, list[tuple[str, int, str]]] = {address: [] for address in offer.addresses[:MOST_ADDRESSES]}
        for prober, found in results.items():
            for target, result in zip(tried, found, strict=True):
                if target.host == offer.host and result is not None:
                    failures[target.address].append((prober, target.port, result))
        best = min(failures, key=lambda address: len(failures[address]), default=None)
        if best is None:
            complaints[offer.host] = (
                "it has no address by which other hosts could reach it; give one, as cluster.hosts address"
            )
        elif failures[best]:
            complaints[offer.host] = _complaint(offer, best, failures[best])
        else:
            addresses[offer.host] = best
    return Reach(addresses, complaints)


def _complaint(offer: Offer, address: str, failures: Sequence[tuple[str, int, str]]) -> str:
    prober, port, reason = failures[0]
    probers = dict.fromkeys(name for name, *_ in failures)
    others = f" and {len(probers) - 1} more" if len(probers) > 1 else ""
    from_where = "the host itself" if prober == offer.host else prober
    if len(offer.addresses) > 1 and not offer.given:
        what = f"none of its addresses ({', '.join(offer.addresses[:MOST_ADDRESSES])}) can be reached by all the others"
    else:
        what = f"its address {address} cannot be reached by the others"
    if reason in ("refused", "another program answers there") or address.startswith("127."):
        remedy = "give the address by which they reach it, as cluster.hosts address"
    else:
        remedy = (
            "let the hosts connect to each other on these ports (cluster.ports chooses which), "
            "or give another address, as cluster.hosts address"
        )
    return f"{what} (from {from_where}{others}, {address} port {port}: {reason}); {remedy}"
