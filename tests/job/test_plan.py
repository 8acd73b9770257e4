"""From a job to the exact start of each of its tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from distrain.job.cluster import Task, chief_of, hosts_of, needs_address, place, shrunk, tasks_of
from distrain.job.dialects import preload_environment
from distrain.job.dump import to_yaml
from distrain.job.load import parse_job
from distrain.job.masking import is_secret, masked, masked_arguments
from distrain.job.plan import HostFacts, Plan, Resume, make_plan, placeholder_addresses
from distrain.job.spec import JobSpec

MULTI_WORKER = "{strategy: MultiWorkerMirrored, cluster: 3, dataset: {batch_size: 96}}"
PARAMETER_SERVER = "{strategy: ParameterServer, cluster: {workers: 2, ps: 2}}"


def job(text: str) -> JobSpec:
    return parse_job(text, "job.yaml")


def plan(text: str, *, cores: Mapping[str, int] | None = None, gpus: int = 0, resume: Resume | None = None) -> Plan:
    spec = job(text)
    placements = place(spec)
    addresses = {
        placement.task: f"10.0.0.1:{20000 + number}"
        for number, placement in enumerate(placements)
        if needs_address(spec, placement.task)
    }
    facts = {
        host.name: HostFacts(
            python="/usr/bin/python3",
            cwd="/home/me",
            run_dir="/runs/job-1",
            output_dir="/runs/job-1/output",
            checkpoints="/runs/job-1/checkpoints",
            import_paths=("/home/me", "/jobs"),
            cores=(cores or {"local": 8})[host.name],
            gpus=gpus,
        )
        for host in hosts_of(spec)
    }
    return make_plan(spec, placements, addresses, run="job-1", attempt=2, facts=facts, resume=resume)


def names(tasks: tuple[Task, ...]) -> list[str]:
    return [str(task) for task in tasks]


@pytest.mark.parametrize(
    ("text", "tasks", "chief"),
    [
        ("{}", ["worker:0"], "worker:0"),
        ("{strategy: Mirrored, cluster: {devices_per_worker: 2}}", ["worker:0"], "worker:0"),
        (MULTI_WORKER, ["worker:0", "worker:1", "worker:2"], "worker:0"),
        (PARAMETER_SERVER, ["chief:0", "worker:0", "worker:1", "ps:0", "ps:1"], "chief:0"),
    ],
)
def test_the_tasks_of_each_strategy(text: str, tasks: list[str], chief: str) -> None:
    assert names(tasks_of(job(text))) == tasks
    assert names(tuple(sorted(set(tasks_of(job(text)))))) == tasks
    assert str(chief_of(tasks_of(job(text)))) == chief
    assert {needs_address(job(text), task) for task in tasks_of(job(text))} == {len(tasks) > 1}


def test_multi_worker_tf_config_has_workers_alone() -> None:
    first, second, _ = plan(MULTI_WORKER).tasks
    assert json.loads(second.env["TF_CONFIG"]) == {
        "cluster": {"worker": ["10.0.0.1:20000", "10.0.0.1:20001", "10.0.0.1:20002"]},
        "task": {"type": "worker", "index": 1},
    }
    assert (first.address, second.address) == ("10.0.0.1:20000", "10.0.0.1:20001")


def test_parameter_server_tf_config_lists_the_chief() -> None:
    tasks = plan(PARAMETER_SERVER).tasks
    configs = [json.loads(task.env["TF_CONFIG"]) for task in tasks]
    assert all(list(config["cluster"]) == ["chief", "worker", "ps"] for config in configs)
    assert [config["task"] for config in configs] == [
        {"type": "chief", "index": 0},
        {"type": "worker", "index": 0},
        {"type": "worker", "index": 1},
        {"type": "ps", "index": 0},
        {"type": "ps", "index": 1},
    ]


def test_a_job_of_one_task_has_no_tf_config_and_no_address() -> None:
    (only,) = plan("strategy: Mirrored").tasks
    assert "TF_CONFIG" not in only.env
    assert only.address is None


def test_every_task_learns_who_it_is_and_the_worker_reads_its_assignment() -> None:
    task = plan(PARAMETER_SERVER).tasks[2]
    told = {name: value for name, value in task.env.items() if name.startswith("DISTRAIN_")}
    assert told == {
        "DISTRAIN_RUN": "job-1",
        "DISTRAIN_ATTEMPT": "2",
        "DISTRAIN_TASK": "worker:1",
        "DISTRAIN_ROLE": "worker",
        "DISTRAIN_INDEX": "1",
        "DISTRAIN_HOST": "local",
        "DISTRAIN_CHIEF": "0",
        "DISTRAIN_RANK": "2",
        "DISTRAIN_WORLD_SIZE": "3",
        "DISTRAIN_LOCAL_RANK": "2",
        "DISTRAIN_LOCAL_WORLD_SIZE": "3",
        "DISTRAIN_ADDRESS": "10.0.0.1:20002",
        "DISTRAIN_ADDRESSES": (
            '{"chief:0": "10.0.0.1:20000", "worker:0": "10.0.0.1:20001", "worker:1": "10.0.0.1:20002", '
            '"ps:0": "10.0.0.1:20003", "ps:1": "10.0.0.1:20004"}'
        ),
    }
    assert task.argv == ("/usr/bin/python3", "-m", "distrain.worker")
    assert json.loads(task.stdin()) == {
        "format": 1,
        "task": "worker:1",
        "chief": False,
        "run": "job-1",
        "run_dir": "/runs/job-1",
        "attempt": 2,
        "threads": 4,
        "one_host": True,
        "data_service": None,
        "import_paths": ["/home/me", "/jobs"],
        "checkpoints": "/runs/job-1/checkpoints",
        "resume": None,
        "job": job(PARAMETER_SERVER).to_json(),
    }


STREAM = 'dataset: {name: "my.data:stream", batch_size: 96}'
FED = f"{{strategy: MultiWorkerMirrored, cluster: {{workers: 2, data_workers: 2, evaluators: 1}}, {STREAM}}}"


def test_tasks_beside_those_that_train_are_no_part_of_their_cluster() -> None:
    told = plan(FED)
    tasks = {str(task.task): task for task in told.tasks}
    assert list(tasks) == ["worker:0", "worker:1", "evaluator:0", "dispatcher:0", "data:0", "data:1"]
    assert [name for name, task in tasks.items() if task.chief] == ["worker:0"]
    assert [name for name, task in tasks.items() if "TF_CONFIG" in task.env] == ["worker:0", "worker:1"]
    config = json.loads(tasks["worker:1"].env["TF_CONFIG"])
    assert config["cluster"] == {"worker": ["10.0.0.1:20000", "10.0.0.1:20001"]}
    assert [name for name, task in tasks.items() if task.address is None] == ["evaluator:0"]
    assert json.loads(tasks["data:1"].env["DISTRAIN_ADDRESSES"]).keys() == tasks.keys() - {"evaluator:0"}
    assert threads(told) == {
        "worker:0": 1,
        "worker:1": 1,
        "evaluator:0": 1,
        "dispatcher:0": 1,
        "data:0": 1,
        "data:1": 1,
    }


def test_every_task_learns_where_examples_are_prepared() -> None:
    tasks = plan(FED).tasks
    address = {str(task.task): task.address for task in tasks}
    service = {"dispatcher": address["dispatcher:0"], "workers": [address["data:0"], address["data:1"]]}
    assert [json.loads(task.stdin())["data_service"] for task in tasks] == [service] * 6


def test_one_that_trains_alone_needs_no_address_whatever_stands_beside_it() -> None:
    worker, evaluator, dispatcher, data = plan(f"{{cluster: {{evaluators: 1, data_workers: 1}}, {STREAM}}}").tasks
    assert (worker.address, evaluator.address) == (None, None)
    assert None not in (dispatcher.address, data.address)
    assert all("TF_CONFIG" not in task.env for task in (worker, evaluator, dispatcher, data))


def where(text: str) -> dict[str, str]:
    return {str(placement.task): placement.host.name for placement in place(job(text))}


def test_what_is_added_runs_beside_the_chief_unless_a_host_names_it() -> None:
    two = f"strategy: MultiWorkerMirrored, {STREAM}"
    beside = where(f"{{{two}, cluster: {{hosts: [a, b:3], workers: 2, evaluators: 1, data_workers: 2}}}}")
    assert beside == {
        "worker:0": "a",
        "worker:1": "b",
        "evaluator:0": "a",
        "dispatcher:0": "a",
        "data:0": "b",
        "data:1": "b",
    }
    hosts = "[a:2, {host: b, roles: [evaluator]}, {host: c, roles: [dispatcher]}, {host: d, slots: 2, roles: data}]"
    apart = where(f"{{{two}, cluster: {{hosts: {hosts}}}, checkpoint: {{path: /shared}}}}")
    assert apart == {
        "worker:0": "a",
        "worker:1": "a",
        "evaluator:0": "b",
        "dispatcher:0": "c",
        "data:0": "d",
        "data:1": "d",
    }
    first = where("{strategy: ParameterServer, cluster: {hosts: [a, b], evaluators: 1, ps: 1}}")
    assert first == {"chief:0": "a", "worker:0": "a", "ps:0": "b", "evaluator:0": "a"}


def test_workers_on_one_host_are_so_whoever_is_elsewhere() -> None:
    text = f"{{strategy: MultiWorkerMirrored, cluster: {{hosts: [a:2, {{host: b, roles: [data]}}]}}, {STREAM}}}"
    tasks = plan(text, cores={"a": 8, "b": 8}).tasks
    assert {json.loads(task.stdin())["one_host"] for task in tasks} == {True}
    assert [(str(task.task), task.host) for task in tasks][-2:] == [("dispatcher:0", "a"), ("data:0", "b")]


def test_those_beside_stay_when_a_host_is_gone() -> None:
    text = (
        "{strategy: MultiWorkerMirrored, cluster: {hosts: [a:2, b:2], workers: 3, data_workers: 1, evaluators: 1}, "
        f"{STREAM}, elastic: 1}}"
    )
    smaller = shrunk(job(text), frozenset({"a"}))
    assert smaller is not None
    assert {str(p.task): p.host.name for p in place(smaller)} == {
        "worker:0": "b",
        "evaluator:0": "b",
        "dispatcher:0": "b",
        "data:0": "b",
    }


@pytest.mark.parametrize(
    ("checkpoint", "folder", "told"),
    [
        ("true", "/runs/job-1/checkpoints", "/runs/job-1/checkpoints"),
        ("{path: /shared/all}", "/shared/all/job-1", "/shared/all/job-1"),
        ("false", "/runs/job-1/checkpoints", None),
    ],
)
def test_every_task_learns_where_checkpoints_are_and_what_it_goes_on_from(
    checkpoint: str, folder: str, told: str | None
) -> None:
    resumed = plan(f"{PARAMETER_SERVER[:-1]}, checkpoint: {checkpoint}}}", resume=Resume("step-00000200", 215))
    for task in resumed.tasks:
        assert json.loads(task.stdin())["checkpoints"] == told
        assert json.loads(task.stdin())["resume"] == {"path": f"{folder}/step-00000200", "skip_to": 215}


def threads(the_plan: Plan) -> dict[str, int]:
    return {str(task.task): json.loads(task.stdin())["threads"] for task in the_plan.tasks}


def test_the_tasks_that_compute_share_the_cores_of_their_host() -> None:
    assert threads(plan(PARAMETER_SERVER, cores={"local": 7})) == {
        "chief:0": 1,
        "worker:0": 3,
        "worker:1": 3,
        "ps:0": 1,
        "ps:1": 1,
    }
    three = "{strategy: MultiWorkerMirrored, cluster: {hosts: [a, b:2]}, dataset: {batch_size: 96}}"
    apart = plan(three, cores={"a": 4, "b": 1})
    assert threads(apart) == {"worker:0": 4, "worker:1": 1, "worker:2": 1}
    said = "{strategy: MultiWorkerMirrored, cluster: {workers: 2, threads_per_worker: 3}}"
    assert threads(plan(said)) == {"worker:0": 3, "worker:1": 3}


def devices(text: str, gpus: int) -> list[str | None]:
    return [task.env.get("CUDA_VISIBLE_DEVICES") for task in plan(text, gpus=gpus).tasks]


def test_gpus_are_shared_in_equal_slices() -> None:
    two = "{strategy: MultiWorkerMirrored, cluster: {workers: 2, devices_per_worker: 2}}"
    assert devices(two, 4) == ["0,1", "2,3"]
    assert devices(two, 8) == ["0,1", "2,3"]
    assert devices(two, 1) == ["-1", "-1"]
    assert devices(two, 0) == [None, None]
    assert devices(PARAMETER_SERVER, 2) == ["-1", "0", "1", "-1", "-1"]
    assert devices("{cluster: {evaluators: 1}}", 2) == ["0", "1"]
    assert devices("{cluster: {evaluators: 1}}", 1) == ["0", "-1"]
    assert devices(FED, 2) == ["0", "1", "-1", "-1", "-1", "-1"]
    assert devices("env: {CUDA_VISIBLE_DEVICES: 3}", 4) == ["3"]


def test_what_precedes_the_import_is_the_same_for_every_task_and_the_job_may_overrule_it() -> None:
    spec = job("env: {OPENBLAS_NUM_THREADS: 2, MINE: x}")
    assert preload_environment(spec) == {
        "PYTHONUNBUFFERED": "1",
        "OPENBLAS_NUM_THREADS": "2",
        "MINE": "x",
        "KERAS_BACKEND": "tensorflow",
    }
    for task in plan(MULTI_WORKER).tasks:
        assert preload_environment(job(MULTI_WORKER)).items() <= task.env.items()


def test_a_dry_run_has_placeholders_for_the_ports() -> None:
    spec = job("{strategy: MultiWorkerMirrored, cluster: 2}")
    placements = place(spec)
    assert {str(task): address for task, address in placeholder_addresses(spec, placements).items()} == {
        "worker:0": "127.0.0.1:<port of worker:0>",
        "worker:1": "127.0.0.1:<port of worker:1>",
    }
    assert placeholder_addresses(job("{}"), place(job("{}"))) == {}


# ---- secrets

SECRET = "hunter2"


def every_text(value: Any) -> str:
    return json.dumps(value)


def test_no_secret_is_in_a_plan_or_a_written_job() -> None:
    text = f"""\
model: {{name: "m:f", api_key: {SECRET}, deep: {{dbPassword: {SECRET}, sizes: [1]}}}}
dataset: {{name: "d:f", path: "s3://me:{SECRET}@host/x"}}
env: {{WANDB_API_KEY: {SECRET}, HF_TOKEN: {SECRET}, URL: "https://me:{SECRET}@host", PLAIN: seen}}
"""
    shown = plan(text).to_json()
    assert SECRET not in every_text(shown)
    assert shown["tasks"][0]["env"]["PLAIN"] == "seen"
    assert SECRET not in to_yaml(job(text))
    harmless = """\
dataset:
  {name: tfrecord, path: x, args: {label: key, features: {token: {dtype: int64, shape: [8]}, key: {dtype: int64}}}}
strategy: {name: ModelParallel, layout: {token: [model]}}
cluster: 2
"""
    assert parse_job(to_yaml(job(harmless)), "job.yaml") == job(harmless)
    assert parse_job(to_yaml(job(text)), "job.yaml").model.args["deep"] == {"dbPassword": "***", "sizes": [1]}
    assert SECRET in plan(text).tasks[0].env["HF_TOKEN"]
    assert SECRET not in every_text(plan(text).tasks[0].argv)


def test_tf_config_is_an_object_in_the_plan() -> None:
    task = plan(MULTI_WORKER).to_json()["tasks"][0]
    assert task["TF_CONFIG"]["task"] == {"type": "worker", "index": 0}
    assert "TF_CONFIG" not in task["env"]


@pytest.mark.parametrize(
    "name",
    [
        "API_TOKEN",
        "token",
        "AWS_SECRET_ACCESS_KEY",
        "apiKey",
        "api-key",
        "db_password",
        "GOOGLE_CREDENTIALS",
        "MY_PASS",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["PATH", "max_tokens", "monkey", "keys_per_head", "learning_rate", "KEYBOARD", "key_dim", "passes"]
)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret(name)


def test_a_typed_command_is_masked() -> None:
    typed = ["run", "job.yaml", "--set", f"env.API_TOKEN={SECRET}", f"--set=env={{A: b, HF_TOKEN: {SECRET}}}", "--json"]
    shown = masked_arguments(typed)
    assert SECRET not in every_text(shown)
    assert shown[:2] == typed[:2]
    assert shown[4] == "--set=env={A: b, HF_TOKEN: ***}"


def test_nothing_is_masked_where_there_is_nothing() -> None:
    plain = {"api_key": None, "token": "", "auth": True, "n": [1, 2.5, True]}
    assert masked(plain) == plain
