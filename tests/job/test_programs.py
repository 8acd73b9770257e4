# ruff: noqa: E501  (a sentence stays on one line)
"""Programs in a job: their words, what a job may not say beside them, their start and what each task is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distrain.errors import JobError
from distrain.job.cluster import hosts_of, place
from distrain.job.dump import to_yaml
from distrain.job.file.source import Place
from distrain.job.file.tree import node_of
from distrain.job.load import parse_job, program_job
from distrain.job.plan import HostFacts, Plan, make_plan, placeholder_addresses
from distrain.job.spec import JobSpec, Named, ProgramSpec


def job(text: str) -> JobSpec:
    return parse_job(text, "job.yaml")


def complaints(text: str) -> list[str]:
    with pytest.raises(JobError) as caught:
        job(text)
    return str(caught.value).split("\n")


# ---- the words


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ('[train.py, --lr, "0.1"]', ("train.py", "--lr", "0.1")),
        ("[train.py, --lr, 0.10, -n, 1e3, --on, yes, --none, null]", ("train.py", "--lr", "0.10", "-n", "1e3", "--on", "yes", "--none", "null")),
        ("train.py", ("train.py",)),
        ("['my train.py', '', ' ', 'a;b $(c)', \"d\\ne\", --, -x]", ("my train.py", "", " ", "a;b $(c)", "d\ne", "--", "-x")),
        ("{argv: ./run}", ("./run",)),
        ("{argv: ./run, keras_repair: true}", ("./run",)),
    ],
)  # fmt: skip
def test_words_are_taken_as_they_are_written(text: str, argv: tuple[str, ...]) -> None:
    spec = job(f"program: {text}")
    assert spec.program == ProgramSpec(argv)
    assert job(to_yaml(spec)) == spec


EXAMPLE = 'write it as a list, such as [train.py, --lr, "0.1"]'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("program: python train.py", f'1:10: program.argv is "python train.py", and it must name a program; {EXAMPLE}'),
        ("program: []", f"1:10: program.argv is an empty list, and it must name a program; {EXAMPLE}"),
        ("program: {keras_repair: false}", f"1:10: program has no argv; {EXAMPLE}"),
        ("program: {argv: }", f"1:16: program.argv is empty, and it must name a program; {EXAMPLE}"),
        ("program: {agrv: [x]}", '1:11: program has no key "agrv"; did you mean "argv"?'),
        (
            "program: [-x]",
            "1:11: the program that program.argv names begins with a dash; begin with the script or command; one whose name begins with a dash is written ./-name",
        ),
        (
            "program: ['']",
            "1:11: the program that program.argv names is empty; begin with the script or command; one whose name begins with a dash is written ./-name",
        ),
        (
            "program: [x, {lr: 1}]",
            '1:14: program.argv.1 is a mapping, and an argument is text; give text; an empty argument is written ""',
        ),
        ('program: [x, "a\\0b"]', "1:14: program.argv.1 holds the character U+0000; remove it"),
        (
            "{program: x, model: mlp}",
            "1:21: model is given beside a program, and a program builds its own model; remove model, or remove program to have distrain train",
        ),
        (
            "{program: x, warm: false}",
            "1:20: warm is given beside a program, and a program is always started by itself; remove warm, or remove program to have distrain train",
        ),
        (
            "{program: x, cluster: {threads_per_worker: 2}}",
            "1:44: cluster.threads_per_worker is given beside a program, and a program chooses its own number of threads; remove cluster.threads_per_worker, or remove program to have distrain train",
        ),
        (
            "{program: x, watchdog: {nan: stop}}",
            "1:30: watchdog.nan is given beside a program, and a program looks at its own loss; remove watchdog.nan, or remove program to have distrain train",
        ),
        ("{program: x, code: [a]}", "1:20: code is a list, and it must be text; write the text"),
        (
            "{program: x, env: {TF_CONFIG: a}}",
            "1:20: TF_CONFIG cannot be set by a job: distrain writes it for each task from cluster and strategy; remove it",
        ),
        (
            "env: {KERAS_BACKEND: jax}",
            "1:22: KERAS_BACKEND cannot be set by a job: distrain trains with Keras's TensorFlow backend; remove it",
        ),
    ],
)
def test_what_no_program_may_be(text: str, sentence: str) -> None:
    assert complaints(text) == [f"job.yaml:{sentence}"]


def test_each_key_of_training_is_refused_beside_a_program() -> None:
    text = "program: x\nmodel: mlp\ndataset: mnist\ntraining: {epochs: 2}\nstrategy: Mirrored\ncheckpoint: false\nwarm: true\n"
    assert len(complaints(text + "cluster: {devices_per_worker: 2, threads_per_worker: 2}")) == 8


def test_a_program_that_cannot_be_read_is_not_taken_for_training() -> None:
    assert len(complaints("{program: [-x], cluster: {ps: 1, evaluators: 1, chief: 1}, env: {KERAS_BACKEND: jax}}")) == 1


@pytest.mark.parametrize(
    "cluster", ["[a]", "3", "{hosts: {x: 1}}", "{hosts: [[a], {host: [b]}, ~]}", "{hosts: }", "", "x"]
)
def test_options_are_laid_over_whatever_a_file_says(cluster: str) -> None:
    given = [("cluster.workers", None), ("cluster.hosts", node_of(Place("--workers"), [{"host": "a"}]))]
    if cluster == "[a]":
        with pytest.raises(JobError, match=r"^--workers: cluster is a list"):
            parse_job(f"{{program: [x], cluster: {cluster}}}", "job.yaml", given=given)
    else:
        spec = parse_job(f"{{program: [x], cluster: {cluster}}}", "job.yaml", given=given)
        assert [host.name for host in hosts_of(spec)] == ["a"]


def test_a_program_may_be_given_by_itself() -> None:
    given = [("cluster.workers", node_of(Place("--workers"), 2))]
    spec = program_job(["sub/my train.py", "--x"], ["env.A=1", "code=false"], given=given)
    assert (spec.name, spec.program, spec.cluster.workers) == ("my-train", ProgramSpec(("sub/my train.py", "--x")), 2)
    assert (spec.env, spec.code) == ({"A": "1"}, False)
    assert program_job(["x"], name="other").name == "other"
    with pytest.raises(JobError, match=r"^--set training.epochs: training is given beside a program, and "):
        program_job(["x"], ["training.epochs=1"])


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("{}", None),
        ("program: x", "."),
        ("{program: x, code: false}", None),
        ("{program: x, code: src}", "src"),
        ("code: true", "."),
        ("code: ../lib", "../lib"),
        ("model: 'm:f'", "."),
        ("dataset: 'm:f'", "."),
        ("training: {metrics: ['m:f']}", "."),
        ("training: {callbacks: 'm:f'}", "."),
        ("training: {optimizer: {learning_rate: 'm:f'}}", "."),
        ("training: {optimizer: {learning_rate: {name: 'm:f'}}}", "."),
        ("{model: 'm:f', code: false}", None),
    ],
)
def test_hosts_get_the_users_code_where_there_is_any(text: str, folder: str | None) -> None:
    assert job(text).code_folder == folder


# ---- the plan


def plan(text: str) -> Plan:
    """Addresses are 10.0.0.<host>:<20000 + place in plan order>."""
    spec = job(text)
    hosts = [host.name for host in hosts_of(spec)]
    placements = place(spec)
    addresses = {
        placement.task: f"10.0.0.{hosts.index(placement.host.name) + 1}:{20000 + number}"
        for number, placement in enumerate(placements)
    }
    facts = {
        name: HostFacts(
            f"/{name}/python",
            f"/{name}/code",
            f"/{name}/run",
            f"/{name}/run/output",
            f"/{name}/run/checkpoints",
            (),
            8,
            4,
        )
        for name in hosts
    }
    return make_plan(spec, placements, addresses, run="run-1", attempt=1, facts=facts)


def test_what_each_of_four_workers_on_two_hosts_is_told() -> None:
    tasks = plan("{program: [train.py, --lr, 0.1], env: {MINE: x}, cluster: {hosts: [a:2, b:2]}}").tasks
    assert [(str(task.task), task.host, task.slot) for task in tasks] == [
        ("worker:0", "a", 0),
        ("worker:1", "a", 1),
        ("worker:2", "b", 0),
        ("worker:3", "b", 1),
    ]
    all_workers = ["10.0.0.1:20000", "10.0.0.1:20001", "10.0.0.2:20002", "10.0.0.2:20003"]
    for rank, task in enumerate(tasks):
        host, local_rank = divmod(rank, 2)
        assert json.loads(task.env["TF_CONFIG"]) == {
            "cluster": {"worker": all_workers},
            "task": {"type": "worker", "index": rank},
        }
        assert json.loads(task.env["DISTRAIN_ADDRESSES"]) == {f"worker:{n}": all_workers[n] for n in range(4)}
        assert {key: value for key, value in task.env.items() if key not in ("TF_CONFIG", "DISTRAIN_ADDRESSES")} == {
            "PYTHONUNBUFFERED": "1",
            "MINE": "x",
            "MASTER_ADDR": "10.0.0.1",
            "MASTER_PORT": "20000",
            "RANK": str(rank),
            "WORLD_SIZE": "4",
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": str(host),
            "GROUP_WORLD_SIZE": "2",
            "ROLE_NAME": "default",
            "ROLE_RANK": str(rank),
            "ROLE_WORLD_SIZE": "4",
            "TORCHELASTIC_RUN_ID": "run-1",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "0",
            "TORCHELASTIC_USE_AGENT_STORE": "False",
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": ",".join(all_workers),
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "4",
            "KERAS_DISTRIBUTION_PROCESS_ID": str(rank),
            "DISTRAIN_RUN": "run-1",
            "DISTRAIN_ATTEMPT": "1",
            "DISTRAIN_TASK": f"worker:{rank}",
            "DISTRAIN_ROLE": "worker",
            "DISTRAIN_INDEX": str(rank),
            "DISTRAIN_HOST": "ab"[host],
            "DISTRAIN_CHIEF": "1" if rank == 0 else "0",
            "DISTRAIN_RANK": str(rank),
            "DISTRAIN_WORLD_SIZE": "4",
            "DISTRAIN_LOCAL_RANK": str(local_rank),
            "DISTRAIN_LOCAL_WORLD_SIZE": "2",
            "DISTRAIN_ADDRESS": all_workers[rank],
            "DISTRAIN_OUTPUT_DIR": f"/{'ab'[host]}/run/output",
        }


def test_roles_are_told_as_tensorflow_reads_them() -> None:
    hosts = "[{host: a, roles: [chief]}, {host: a, slots: 2, roles: [worker]}, {host: b, roles: [ps]}, {host: c, roles: [evaluator]}]"
    chief, first, second, ps, evaluator = plan(f"{{program: [x], cluster: {{hosts: {hosts}}}}}").tasks
    cluster = {
        "chief": ["10.0.0.1:20000"],
        "worker": ["10.0.0.1:20001", "10.0.0.1:20002"],
        "ps": ["10.0.0.2:20003"],
    }
    for task in (chief, first, second, ps):
        assert json.loads(task.env["TF_CONFIG"]) == {
            "cluster": cluster,
            "task": {"type": task.task.role, "index": task.task.index},
        }
    told = json.loads(evaluator.env["TF_CONFIG"])
    assert told["task"] == {"type": "evaluator", "index": 0}
    assert told["cluster"].keys() == {"chief", "worker", "ps"}, "TensorFlow wants it beside the cluster, not in it"
    assert [task.env.get("RANK") for task in (chief, first, second, ps, evaluator)] == ["0", "1", "2", None, None]
    assert second.env["LOCAL_RANK"] == second.env["DISTRAIN_LOCAL_RANK"] == "2"
    assert {task.env["MASTER_PORT"] for task in (chief, first, second)} == {"20000"}
    for task in (ps, evaluator):
        told = {name for name in task.env if not name.startswith("DISTRAIN_")}
        assert told <= {"PYTHONUNBUFFERED", "TF_CONFIG"}
        assert "DISTRAIN_RANK" not in task.env
        assert task.env["DISTRAIN_ADDRESS"] == task.address
    assert [task.env["DISTRAIN_CHIEF"] for task in (chief, first, ps, evaluator)] == ["1", "0", "0", "0"]


def test_a_program_of_one_task_is_told_of_a_cluster_of_one_but_by_tensorflow() -> None:
    (only,) = plan("program: [x]").tasks
    assert "TF_CONFIG" not in only.env
    assert only.address == "10.0.0.1:20000"
    assert (only.env["RANK"], only.env["WORLD_SIZE"], only.env["MASTER_PORT"]) == ("0", "1", "20000")
    # Nor has a worker without peers a cluster because somebody evaluates beside it, who is told what it is.
    worker, evaluator = plan("{program: [x], cluster: {evaluators: 1}}").tasks
    assert "TF_CONFIG" not in worker.env
    assert json.loads(evaluator.env["TF_CONFIG"])["task"]["type"] == "evaluator"


def test_the_jobs_environment_overrules_dialects() -> None:
    (only,) = plan("{program: [x], env: {MASTER_ADDR: ib0, KERAS_BACKEND: jax}}").tasks
    assert (only.env["MASTER_ADDR"], only.env["KERAS_BACKEND"]) == ("ib0", "jax")


def test_a_program_learns_how_often_it_may_be_restarted() -> None:
    counts = [plan(f"{{program: [x], restart: {restart}}}").tasks[0].env for restart in ("false", "4")]
    assert [env["TORCHELASTIC_MAX_RESTARTS"] for env in counts] == ["0", "4"]


def test_an_ipv6_address_keeps_its_brackets_but_for_torch() -> None:
    spec = job("{program: [x], cluster: {hosts: ['[fd00::1]', '[fd00::2]']}}")
    placements = place(spec)
    addresses = placeholder_addresses(spec, placements)
    facts = {host.name: HostFacts("python3", "c", "r", "o", "k", (), 1, 0) for host in hosts_of(spec)}
    first, second = make_plan(spec, placements, addresses, run="r", attempt=1, facts=facts).tasks
    assert first.address == "[fd00::1]:<port of worker:0>"
    assert (second.env["MASTER_ADDR"], second.env["MASTER_PORT"]) == ("fd00::1", "<port of worker:0>")


@pytest.mark.parametrize(
    ("program", "argv"),
    [
        ("[train.py, --lr]", ("/a/python", "-m", "distrain.worker.script", "train.py", "--lr")),
        (
            "{argv: [train.py, -x], keras_repair: false}",
            ("/a/python", "-m", "distrain.worker.script", "--no-keras-repair", "train.py", "-x"),
        ),
        ("[./run, 'a b;$(c)']", ("./run", "a b;$(c)")),
        ("{argv: [./run.sh], keras_repair: false}", ("./run.sh",)),
    ],
)
def test_a_script_starts_in_the_hosts_python_and_a_command_as_it_is(program: str, argv: tuple[str, ...]) -> None:
    (task,) = plan(f"{{program: {program}, cluster: {{hosts: [a]}}}}").tasks
    assert task.argv == argv
    assert (task.warm, task.cwd, task.assignment, task.stdin()) == (False, "/a/code", None, b"")


def test_a_dry_run_names_the_hosts_and_leaves_the_ports_open() -> None:
    spec = job("{program: [x], cluster: {hosts: [me@a, {host: b, address: 10.0.0.9}, local]}}")
    assert [*placeholder_addresses(spec, place(spec)).values()] == [
        "a:<port of worker:0>",
        "10.0.0.9:<port of worker:1>",
        "<address of this machine>:<port of worker:2>",
    ]


def test_no_secret_of_a_program_is_in_a_plan_or_a_written_job() -> None:
    text = "{program: [t.py, --api-token, hunter2, --password=hunter2, --auth, --plain, seen], env: {A_KEY: hunter2}, cluster: {hosts: [{host: a, key: ~/.ssh/id}]}}"
    shown = plan(text).to_json()
    assert "hunter2" not in json.dumps(shown)
    assert shown["job"]["program"]["argv"] == [
        "t.py",
        "--api-token",
        "***",
        "--password=***",
        "--auth",
        "--plain",
        "seen",
    ]
    assert shown["job"]["cluster"]["hosts"][0]["key"] == "~/.ssh/id"
    assert "hunter2" not in to_yaml(job(text))
    assert "key: ~/.ssh/id" in to_yaml(job(text))
    assert plan(text).tasks[0].argv[-5] == "hunter2"


def test_a_plan_of_a_program_says_nothing_of_training() -> None:
    shown = plan("{program: [x], cluster: 2}").to_json()
    assert shown["job"].keys() == {"name", "program", "cluster", "restart", "elastic", "watchdog", "env", "code"}
    assert (shown["tasks"][0]["chief"], shown["tasks"][1]["chief"], shown["tasks"][0]["threads"]) == (True, False, None)
    assert shown["tasks"][1]["TF_CONFIG"]["task"] == {"type": "worker", "index": 1}
    assert "program" not in JobSpec("x", model=Named("mlp")).to_json()


def test_options_take_the_place_of_the_files_hosts_and_keep_how_they_are_reached(tmp_path: Path) -> None:
    place_ = Place("--workers")
    offers = node_of(place_, [{"host": "a", "slots": 2, "roles": ["worker"]}, {"host": "c", "roles": ["worker"]}])
    text = "{program: [x], cluster: {workers: 1, hosts: [{host: a, port: 22, slots: 7, roles: [ps]}, b]}}"
    given = [("cluster.workers", None), ("cluster.hosts", offers)]
    spec = parse_job(text, "job.yaml", ["cluster.hosts.1.port=23"], given=given)
    assert [(host.host, host.slots, host.roles, host.port) for host in spec.cluster.hosts] == [
        ("a", 2, ("worker",), 22),
        ("c", 1, ("worker",), 23),
    ]
    assert spec.cluster.workers == 3
