"""Which address of a host is taken, and what is said when none will do."""

from __future__ import annotations

from distrain.launcher.hosts.reach import Offer, Target, judge, targets

ONE = Offer("host1", ("10.0.0.1", "172.17.0.1"), (41000, 41001), "first")
TWO = Offer("host2", ("10.0.0.2",), (42000,), "second")


def test_every_host_tries_every_address_on_every_port() -> None:
    assert targets((ONE, TWO)) == (
        Target("host1", "10.0.0.1", 41000, "first"),
        Target("host1", "10.0.0.1", 41001, "first"),
        Target("host1", "172.17.0.1", 41000, "first"),
        Target("host1", "172.17.0.1", 41001, "first"),
        Target("host2", "10.0.0.2", 42000, "second"),
    )


def test_the_first_address_that_all_reach_is_taken() -> None:
    all_well = [None] * 5
    assert judge((ONE, TWO), {"host1": all_well, "host2": all_well}).addresses == {
        "host1": "10.0.0.1",
        "host2": "10.0.0.2",
    }
    only_the_second = ["timed out", "timed out", None, None, None]
    reach = judge((ONE, TWO), {"host1": all_well, "host2": only_the_second})
    assert (reach.addresses["host1"], reach.complaints) == ("172.17.0.1", {})


def test_an_address_that_leads_elsewhere_is_told_with_what_to_do() -> None:
    wrong = Offer("host2", ("127.0.1.1",), (42000,), "second", given=True)
    reach = judge((ONE, wrong), {"host1": [None] * 4 + ["refused"], "host2": [None] * 5})
    assert reach.addresses == {"host1": "10.0.0.1"}
    assert reach.complaints == {
        "host2": "its address 127.0.1.1 cannot be reached by the others (from host1, 127.0.1.1 port 42000: refused); "
        "give the address by which they reach it, as cluster.hosts address"
    }


def test_a_firewall_is_told_with_the_ports_to_open() -> None:
    blocked = ["timed out"] * 4 + [None]
    reach = judge((ONE, TWO), {"host1": [None] * 5, "host2": blocked})
    said = reach.complaints["host1"]
    assert said.startswith("none of its addresses (10.0.0.1, 172.17.0.1) can be reached by all the others (from host2,")
    assert "cluster.ports" in said


def test_a_host_without_an_address_is_told() -> None:
    alone = Offer("host3", (), (43000,), "third")
    assert "has no address" in judge((alone, TWO), {"host2": [None], "host3": [None]}).complaints["host3"]
