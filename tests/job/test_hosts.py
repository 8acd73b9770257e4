# ruff: noqa: E501  (a sentence stays on one line)
"""The hosts of a job: how they are written, what may not be written, and which task runs where."""

from __future__ import annotations

import pytest

from distrain.errors import JobError, UsageError
from distrain.job.cluster import LOCAL, Host, hosts_of, place, serves, shrunk, tasks_of
from distrain.job.dump import to_yaml
from distrain.job.load import parse_job
from distrain.job.spec import ClusterSpec, HostSpec, JobSpec, ProgramSpec


def job(cluster: str, rest: str = "program: [./run]") -> JobSpec:
    return parse_job(f"cluster: {cluster}\n{rest}", "job.yaml")


def complaints(cluster: str, rest: str = "program: [./run]") -> list[str]:
    with pytest.raises(JobError) as caught:
        job(cluster, rest)
    return str(caught.value).split("\n")


# ---- how hosts are written


@pytest.mark.parametrize(
    ("text", "host", "slots"),
    [
        ("host1", "host1", 1),
        ("host1:2", "host1", 2),
        ("me@host1", "me@host1", 1),
        ("me@host1.example.org:16", "me@host1.example.org", 16),
        ("my_alias-2", "my_alias-2", 1),
        ("10.0.0.7:3", "10.0.0.7", 3),
        ("'[fd00::1]'", "fd00::1", 1),
        ("'[fd00::1]:2'", "fd00::1", 2),
        ("'me@[fe80::1%eth0]:2'", "me@fe80::1%eth0", 2),
        ("{host: 'fd00::1', slots: 2}", "fd00::1", 2),
        ("{host: '[fd00::1]'}", "fd00::1", 1),
        ("{host: 'me@fd00::1'}", "me@fd00::1", 1),
        ("local:4", "local", 4),
        ("localhost", "localhost", 1),
        ("yes", "yes", 1),
        ("a" * 255, "a" * 255, 1),
    ],
)
def test_a_host_is_a_destination_and_slots(text: str, host: str, slots: int) -> None:
    (offer,) = job(f"{{hosts: [{text}]}}").cluster.hosts
    assert offer == HostSpec(host, slots)
    assert job(f"{{hosts: {text}}}").cluster.hosts == (offer,)


REMEDY = "a host is a name, an alias of ssh's, an address, or user@ before one of these, of letters, digits, . _ and -"
APART = "write each host as an entry of its own"
COLON = "slots follow as host:2, and an IPv6 address stands in brackets, as in [fd00::1]:2"


@pytest.mark.parametrize(
    ("text", "shown", "flaw", "remedy"),
    [
        ("-oProxyCommand=evil", "-oProxyCommand=evil", "begins with a dash, as options do", REMEDY),
        ("--", "--", "begins with a dash, as options do", REMEDY),
        ("-l@host", "-l@host", "begins with a dash, as options do", REMEDY),
        ("me@-oX", "me@-oX", "begins with a dash, as options do", REMEDY),
        ("@host", "@host", "has no name where one must be", REMEDY),
        ("me@", "me@", "has no name where one must be", REMEDY),
        ("a@b@c", "a@b@c", 'holds "@"', REMEDY),
        ("a b", "a b", 'holds " "', REMEDY),
        (" a", " a", 'holds " "', REMEDY),
        ("a\\tb", "a\ufffdb", 'holds "\ufffd"', REMEDY),
        ("a\\nb", "a\ufffdb", 'holds "\ufffd"', REMEDY),
        ("a\\e[31m", "a\ufffd[31m", 'holds "\ufffd"', REMEDY),
        ("a;reboot", "a;reboot", 'holds ";"', REMEDY),
        ("$(reboot)", "$(reboot)", 'holds "$"', REMEDY),
        ("`id`", "`id`", 'holds "`"', REMEDY),
        ("a|b", "a|b", 'holds "|"', REMEDY),
        ("a&b", "a&b", 'holds "&"', REMEDY),
        ("a>b", "a>b", 'holds ">"', REMEDY),
        ("a'b", "a'b", 'holds "\'"', REMEDY),
        ('a\\"b', 'a"b', 'holds """', REMEDY),
        ("a\\\\b", "a\\b", 'holds "\\"', REMEDY),
        ("*", "*", 'holds "*"', REMEDY),
        ("a#b", "a#b", 'holds "#"', REMEDY),
        ("me%x@host", "me%x@host", 'holds "%"', REMEDY),
        ("%h", "%h", 'holds "%"', REMEDY),
        ("ssh://host", "ssh://host", 'holds ":"', COLON),
        ("h\u00f6st", "h\u00f6st", 'holds "\u00f6"', REMEDY),
        ("a,b:2", "a,b", 'holds ","', APART),
        ("host.", "host.", "does not begin and end with a letter or digit", REMEDY),
        (".host", ".host", "does not begin and end with a letter or digit", REMEDY),
        ("4", "4", "is a number, and no host", REMEDY),
        ("[fd00::1", "[fd00::1", 'holds "["', COLON),
        ("[fd00::g]", "[fd00::g]", 'holds "["', COLON),
        ("[fe80::1%a;b]", "[fe80::1%a;b]", 'holds "["', COLON),
    ],
)
def test_nothing_that_ssh_a_shell_or_a_terminal_would_obey_is_a_host(
    text: str, shown: str, flaw: str, remedy: str
) -> None:
    quoted = shown if shown == "4" else f'"{shown}"'
    (complaint,) = complaints(f'{{hosts: [{{host: "{text.removesuffix(":2")}"}}]}}')
    said = complaint.partition("cluster.hosts.0.host is ")[2].replace(f'"{shown}"', quoted)
    assert said == f"{quoted}, which {flaw}; {remedy}"


@pytest.mark.parametrize("text", ["-oProxyCommand=evil", "a b", "a;reboot", "$(reboot)", "a,b:2", "4", "fd00::1:x"])
def test_the_short_form_is_as_strict(text: str) -> None:
    assert len(complaints(f'{{hosts: ["{text}"]}}')) == 1


@pytest.mark.parametrize(
    ("hosts", "sentence"),
    [
        (
            "[fd00::1]",
            '1:19: cluster.hosts.0 is "fd00::1", and a host has one colon; an IPv6 address stands in brackets, as in [fd00::1] or [fd00::1]:2',
        ),
        ("['host1:']", "1:19: cluster.hosts.0.slots is empty, which is no whole number; give 1 or more"),
        ("[host1:0]", "1:19: cluster.hosts.0.slots is 0; give 1 or more"),
        ("[host1:two]", '1:19: cluster.hosts.0.slots is "two", which is no whole number; give 1 or more'),
        ("[host1:2000]", "1:19: cluster.hosts.0.slots is 2000; give 1024 or less"),
        ("['']", f"1:19: cluster.hosts.0.host is empty, and it must name a host; {REMEDY}"),
        ("[~]", "1:19: cluster.hosts.0 is empty; give host:slots, or {host: ..., slots: 2}"),
        ("[{slots: 2}]", "1:19: cluster.hosts.0 names no host; write {host: ..., slots: 2}"),
        ("[{hst: a}]", '1:20: cluster.hosts.0 has no key "hst"; did you mean "host"?'),
        ("[[a]]", "1:19: cluster.hosts.0 is a list; give host:slots, or {host: ..., slots: 2}"),
        ("[{host: a, slot: 2}]", '1:29: cluster.hosts.0 has no key "slot"; did you mean "slots"?'),
        (
            "[{host: a, roles: [wroker]}]",
            '1:37: cluster.hosts.0.roles.0 is "wroker", which is none of its values; did you mean "worker"?',
        ),
        ("[{host: a, port: 70000}]", "1:35: cluster.hosts.0.port is 70000; give 65535 or less"),
        (
            "[{host: a, key: -oX}]",
            '1:34: cluster.hosts.0.key is "-oX", which begins with a dash, as options do; write the path',
        ),
        (
            '[{host: a, python: "a\\nb"}]',
            '1:37: cluster.hosts.0.python is "a\ufffdb", which holds a control character; write the path',
        ),
        ("[{host: a, python: []}]", "1:37: cluster.hosts.0.python is a list, and it must be a path; write the path"),
        (
            "[{host: a, address: me@b}]",
            f'1:38: cluster.hosts.0.address is "me@b", which holds "@"; {REMEDY}',
        ),
        (
            "[{host: a, port: 1}, {host: a, port: 2, roles: [ps]}]",
            "1:55: a is named twice, with port 1 and port 2; give the host one port",
        ),
        (
            "[{host: local, key: k}]",
            "1:38: local is this machine, which no connection leads to, so that its key means nothing; remove key, or name the machine as ssh knows it",
        ),
    ],
)
def test_what_no_list_of_hosts_may_say(hosts: str, sentence: str) -> None:
    assert complaints(f"{{hosts: {hosts}}}") == [f"job.yaml:{sentence}"]


def test_everything_that_is_wrong_with_hosts_is_told_at_once() -> None:
    assert len(complaints("{hosts: [a b, {host: c, prt: 1, slots: 0}, d], chief: 2}", "modle: cnn")) == 5


def test_hosts_are_written_so_that_they_read_back_as_they_were() -> None:
    hosts = (
        HostSpec("me@fe80::1%eth0", 2, ("worker", "ps"), 2222, "~/.ssh/id 1", "/opt/my python", "fd00::1"),
        HostSpec("1e3"),
        HostSpec("local", 3),
    )
    written = JobSpec("x", program=ProgramSpec(("./run",)), cluster=ClusterSpec(workers=2, hosts=hosts))
    assert parse_job(to_yaml(written), "job.yaml") == written


# ---- hosts, and which task runs where


def test_a_host_is_one_however_often_it_is_named() -> None:
    text = (
        "{hosts: [b, {host: a, port: 22, roles: [ps]}, {host: a, key: k, python: p, address: x}, localhost, local:2]}"
    )
    assert hosts_of(job(text)) == (Host("b", "ssh"), Host("a", "ssh", 22, "k", "p", "x"), LOCAL)
    assert hosts_of(job("{}")) == (LOCAL,)


def where(spec: JobSpec) -> str:
    """Every task of the job, by its host."""
    by_host: dict[str, list[str]] = {}
    for placement in place(spec):
        tasks = by_host.setdefault(placement.host.name, [])
        assert placement.slot == len(tasks)
        tasks.append(str(placement.task))
    return "; ".join(f"{host}: {', '.join(tasks)}" for host, tasks in by_host.items())


PS = "strategy: ParameterServer"
MULTI = "{strategy: MultiWorkerMirrored, dataset: {batch_size: 12}}"


@pytest.mark.parametrize(
    ("cluster", "rest", "placed"),
    [
        ("{hosts: [a, b:2]}", None, "a: worker:0; b: worker:1, worker:2"),
        ("{workers: 2, hosts: [a:2, b:2]}", None, "a: worker:0, worker:1"),
        ("{hosts: [a, {host: p, roles: [ps]}]}", None, "a: worker:0; p: ps:0"),
        ("{ps: 1, hosts: [a:2, b]}", None, "a: worker:0, worker:1; b: ps:0"),
        ("{hosts: [a:2, {host: c, roles: [chief]}]}", None, "c: chief:0; a: worker:0, worker:1"),
        (
            "{hosts: [{host: e, slots: 2, roles: [evaluator]}, a]}",
            None,
            "a: worker:0; e: evaluator:0, evaluator:1",
        ),
        # Slots that name a role go first, whatever their place in the list.
        ("{workers: 1, hosts: [a, {host: b, roles: [worker]}]}", None, "b: worker:0"),
        (
            "{workers: 2, ps: 2, hosts: [a:2, {host: b, slots: 2, roles: [worker]}]}",
            None,
            "b: worker:0, worker:1; a: ps:0, ps:1",
        ),
        # One host, its slots apart for two roles.
        (
            "{hosts: [{host: a, roles: [ps]}, {host: a, slots: 2, roles: [worker]}]}",
            None,
            "a: worker:0, worker:1, ps:0",
        ),
        ("{chief: 1, ps: 1, hosts: [a:4]}", None, "a: chief:0, worker:0, worker:1, ps:0"),
        ("{workers: 2, ps: 1}", None, "local: worker:0, worker:1, ps:0"),
        # The chief of a ParameterServer job takes no slot, unless a host is for it.
        ("{hosts: [a, b]}", PS, "a: chief:0, worker:0; b: ps:0"),
        ("{hosts: [a:2, {host: p, slots: 2, roles: [ps]}]}", PS, "a: chief:0, worker:0, worker:1; p: ps:0, ps:1"),
        ("{hosts: [a:2, {host: c, roles: [chief]}]}", PS, "c: chief:0; a: worker:0, ps:0"),
        ("{hosts: [a, b:2]}", MULTI, "a: worker:0; b: worker:1, worker:2"),
        ("{hosts: [a]}", "strategy: Mirrored", "a: worker:0"),
    ],
)
def test_tasks_fill_the_slots_of_their_role(cluster: str, rest: str | None, placed: str) -> None:
    spec = (
        job(cluster, rest or "program: [./run]")
        if rest != MULTI
        else parse_job(f"{MULTI[:-1]}, cluster: {cluster}}}", "job.yaml")
    )
    assert where(spec) == placed


@pytest.mark.parametrize(
    ("cluster", "rest", "sentence"),
    [
        (
            "{workers: 4, hosts: [a, b:2]}",
            "program: [./run]",
            "1:30: the job has 4 tasks (4 workers), and the hosts have no slot for worker:3 (a: 1, b: 2); give more hosts or slots, or ask for fewer tasks",
        ),
        (
            "{workers: 1, ps: 1, hosts: [{host: a, slots: 4, roles: [worker]}]}",
            "program: [./run]",
            "1:37: the job has 2 tasks (1 worker, 1 ps), and the hosts have no slot for ps:0 (a: 4 for worker); give more hosts or slots, or ask for fewer tasks",
        ),
        (
            "{workers: 9, hosts: [{host: a, slots: 4, roles: [worker, ps]}]}",
            "program: [./run]",
            "1:30: the job has 9 tasks (9 workers), and the hosts have no slot for worker:4, worker:5, worker:6 and 2 more (a: 4 for worker and ps); give more hosts or slots, or ask for fewer tasks",
        ),
        (
            "{hosts: [a]}",
            PS,
            "1:18: the job has 3 tasks (1 chief, 1 worker, 1 ps), and the hosts have no slot for ps:0 (a: 1); give more hosts or slots, or ask for fewer tasks",
        ),
        (
            "{hosts: [a, b]}",
            "strategy: Mirrored",
            "1:18: cluster.workers is 2, and strategy Mirrored trains in one process; choose strategy MultiWorkerMirrored or ParameterServer for several workers, or set cluster.workers to 1",
        ),
        (
            "{chief: 1}",
            "strategy: Mirrored",
            "1:18: cluster.chief is 1, and strategy Mirrored has no chief of its own: worker:0 does its work; leave the chief out, or choose strategy ParameterServer",
        ),
        (
            "{evaluators: 2, ps: 1, workers: 1}",
            PS,
            "1:23: cluster.evaluators is 2, and one evaluator sees every checkpoint; set cluster.evaluators to 1",
        ),
        (
            "{ports: [1], hosts: [a, b:2]}",
            "program: [./run]",
            "1:18: cluster.ports lists 1 port, and 2 tasks on b need one each; list more, or remove cluster.ports",
        ),
        ("{start_timeout_s: 0}", PS, "1:28: cluster.start_timeout_s is 0; give a number of seconds, 1 or more"),
        (
            "{contact_timeout_s: .inf}",
            PS,
            "1:30: cluster.contact_timeout_s is .inf; give a number of seconds, 1 or more",
        ),
    ],
)
def test_tasks_without_a_slot_are_told_with_the_numbers(cluster: str, rest: str, sentence: str) -> None:
    assert complaints(cluster, rest) == [f"job.yaml:{sentence}"]


def test_ports_are_counted_by_host() -> None:
    assert job("{ports: [1, 2], hosts: [a:2, b:2]}").cluster.ports == (1, 2)


def test_a_job_made_in_python_is_placed_or_refused_alike() -> None:
    spec = JobSpec("x", program=ProgramSpec(("./run",)), cluster=ClusterSpec(workers=2, hosts=(HostSpec("a"),)))
    with pytest.raises(UsageError, match=r"no slot for worker:1 \(a: 1\); give more hosts"):
        place(spec)


SPREAD = "{strategy: MultiWorkerMirrored, dataset: {batch_size: 12}, elastic: 2}"


@pytest.mark.parametrize(
    ("cluster", "rest", "gone", "placed"),
    [
        ("{hosts: [a, b, c]}", SPREAD, "b", "a: worker:0; c: worker:1"),
        ("{hosts: [a, b, c]}", SPREAD, "a b", None),
        ("{hosts: [a:2, b:2, c]}", SPREAD.replace("12", "10"), "c", "a: worker:0, worker:1"),
        ("{hosts: [a:2, b:2]}", SPREAD.replace("12", "4"), "", "a: worker:0, worker:1; b: worker:2, worker:3"),
        ("{workers: 2, hosts: [a:2, b:2]}", SPREAD, "a", "b: worker:0, worker:1"),
        ("{workers: 2, hosts: [a:2, b]}", SPREAD, "a", None),
        ("{workers: 3, ports: [1, 2], hosts: [a:2, b:3]}", SPREAD, "a", "b: worker:0, worker:1"),
        ("{workers: 4, hosts: [a:4]}", SPREAD, "a", None),
        ("{workers: 3}", SPREAD, "local", None),
        ("{hosts: [a, b]}", SPREAD.replace(", elastic: 2", ""), "b", None),
        # What serves must still fit, and the implied chief moves to the first host that is left.
        ("{hosts: [a, b, c]}", f"{PS}\nelastic: true", "a", "b: chief:0, worker:0; c: ps:0"),
        ("{hosts: [a, b, {host: p, roles: [ps]}]}", f"{PS}\nelastic: true", "p", "a: chief:0, worker:0; b: ps:0"),
        ("{hosts: [a, {host: p, roles: [ps]}]}", f"{PS}\nelastic: true", "p", None),
        ("{hosts: [a, b, {host: c, roles: [chief]}]}", "program: [x]\nelastic: true", "b", "c: chief:0; a: worker:0"),
        ("{hosts: [a, b, {host: c, roles: [chief]}]}", "program: [x]\nelastic: true", "c", "a: chief:0; b: worker:0"),
        ("{hosts: [a, {host: c, roles: [chief]}]}", "program: [x]\nelastic: true", "c", None),
    ],
)
def test_a_job_goes_on_with_what_fits_on_the_hosts_that_are_left(
    cluster: str, rest: str, gone: str, placed: str | None
) -> None:
    text = rest.removesuffix("}") + f", cluster: {cluster}}}" if rest.startswith("{") else f"{rest}\ncluster: {cluster}"
    smaller = shrunk(parse_job(text, "job.yaml"), frozenset(gone.split()))
    assert (None if smaller is None else where(smaller)) == placed


@pytest.mark.parametrize(
    ("cluster", "rest", "serving"),
    [
        ("{workers: 2, ps: 1}", PS, ["worker:0", "worker:1", "ps:0"]),
        ("{workers: 2}", "{}", []),
        ("{workers: 2, ps: 1, evaluators: 1}", "program: [x]", ["ps:0", "evaluator:0"]),
        ("{workers: 2, chief: 1, evaluators: 1}", "program: [x]", ["evaluator:0"]),
        ("{workers: 1, chief: 1, ps: 1}", "program: [x]", ["worker:0", "ps:0"]),
    ],
)
def test_tasks_that_serve_never_end_by_themselves(cluster: str, rest: str, serving: list[str]) -> None:
    spec = job(cluster, rest) if rest != "{}" else parse_job("{strategy: MultiWorkerMirrored, cluster: 2}", "job.yaml")
    assert [str(task) for task in tasks_of(spec) if serves(spec, task)] == serving
