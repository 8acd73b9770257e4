"""What a right job file means: defaults, short forms, `--set`, and the file that a run writes down."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pytest

from distrain.errors import JobError
from distrain.job.dump import to_yaml
from distrain.job.file.schema import keys
from distrain.job.load import load_job, parse_job
from distrain.job.spec import (
    CheckpointSpec,
    ClusterSpec,
    DatasetSpec,
    ElasticSpec,
    HostSpec,
    JobSpec,
    Named,
    ProgramSpec,
    RestartSpec,
    StrategySpec,
    TrainingSpec,
    WatchdogSpec,
)

FULL = """\
name: everything
model: {name: cnn, filters: 16, args: {dropout: 0.5}}
dataset:
  name: tfrecord
  path: /data/x
  batch_size: 96
  shard: examples
  parallel_reads: 4
  parallel_calls: 8
  deterministic: no
  args: {features: {x: {dtype: float32, shape: [4]}, y: {dtype: int64}}, label: y, validation_split: 1e-1}
training:
  epochs: 1e1
  steps_per_epoch: 50
  optimizer:
    name: sgd
    momentum: 1e-1
    nesterov: yes
    learning_rate: {name: ExponentialDecay, initial_learning_rate: 1e-3, decay_steps: 100, decay_rate: 0.9}
  loss: {name: sparse_categorical_crossentropy, from_logits: true}
  metrics:
    - accuracy
    - {name: SparseTopKCategoricalAccuracy, k: 3}
    - {name: "my.metrics:Mine", limit: 1_000, when: 2026-01-01, ratio: 1:30}
  callbacks: [{name: EarlyStopping, patience: 2}]
  seed: 0
  validation: 2
  precision: mixed_bfloat16
  jit_compile: on
  scale_learning_rate: 128
  warmup_steps: 500
  class_weight: {0: 1, 3: 2.5}
  shuffle: no
  cache: True
  prefetch: 0
  steps_per_call: 10
strategy: {name: MultiWorkerMirrored, implementation: ring, pack_bytes: 4194304, compression: bfloat16, accumulate: 2}
cluster:
  workers: 2
  hosts:
    - me@host1
    - {host: "[fd00::1]", slots: 2, roles: worker, port: 2222, key: ~/.ssh/my key, python: /opt/python3, address: a.b}
  devices_per_worker: 2
  threads_per_worker: 1
  ports: [20000, 20010-20012, 20011]
  start_timeout_s: 60
  contact_timeout_s: 2.5
checkpoint: {every_steps: 200, every_epochs: 2, every_s: 1.5, keep: 1, keep_best: 0, path: /shared/all/../of}
restart: {max: 5, window_s: 600, backoff_s: 0, on: [hang, crash]}
elastic: {min_workers: 1}
watchdog: {step_timeout_s: 90, nan: rollback}
env: {SOME_VAR: value, NUMBER: 010, TRICKY: "1e-3", EMPTY: "", SWITCH: "yes"}
warm: false
code: ../mine
"""

EVERYTHING = JobSpec(
    name="everything",
    model=Named("cnn", {"filters": 16, "dropout": 0.5}),
    dataset=DatasetSpec(
        "tfrecord",
        "/data/x",
        96,
        shard="examples",
        parallel_reads=4,
        parallel_calls=8,
        deterministic=False,
        args={
            "features": {"x": {"dtype": "float32", "shape": (4,)}, "y": {"dtype": "int64"}},
            "label": "y",
            "validation_split": 0.1,
        },
    ),
    training=TrainingSpec(
        epochs=10,
        steps_per_epoch=50,
        optimizer=Named(
            "sgd",
            {
                "momentum": 0.1,
                "nesterov": True,
                "learning_rate": {
                    "name": "ExponentialDecay",
                    "args": {"initial_learning_rate": 0.001, "decay_steps": 100, "decay_rate": 0.9},
                },
            },
        ),
        loss=Named("sparse_categorical_crossentropy", {"from_logits": True}),
        metrics=(
            Named("accuracy"),
            Named("SparseTopKCategoricalAccuracy", {"k": 3}),
            Named("my.metrics:Mine", {"limit": 1000, "when": "2026-01-01", "ratio": "1:30"}),
        ),
        callbacks=(Named("EarlyStopping", {"patience": 2}),),
        seed=0,
        validation=2,
        precision="mixed_bfloat16",
        jit_compile=True,
        scale_learning_rate=128,
        warmup_steps=500,
        class_weight={"0": 1.0, "3": 2.5},
        shuffle=False,
        cache=True,
        prefetch=0,
        steps_per_call=10,
    ),
    strategy=StrategySpec(
        "MultiWorkerMirrored", implementation="ring", pack_bytes=4194304, compression="bfloat16", accumulate=2
    ),
    cluster=ClusterSpec(
        workers=2,
        hosts=(
            HostSpec("me@host1"),
            HostSpec("fd00::1", 2, ("worker",), 2222, "~/.ssh/my key", "/opt/python3", "a.b"),
        ),
        devices_per_worker=2,
        threads_per_worker=1,
        ports=(20000, 20010, 20011, 20012),
        start_timeout_s=60.0,
        contact_timeout_s=2.5,
    ),
    checkpoint=CheckpointSpec(200, 2, 1.5, keep=1, keep_best=0, path="/shared/of"),
    restart=RestartSpec(5, 600.0, 0.0, ("hang", "crash")),
    elastic=ElasticSpec(1),
    watchdog=WatchdogSpec(90.0, "rollback"),
    env={"SOME_VAR": "value", "NUMBER": "010", "TRICKY": "1e-3", "EMPTY": "", "SWITCH": "yes"},
    warm=False,
    code="../mine",
)


def job(text: str, *sets: str) -> JobSpec:
    return parse_job(text, "dir/my job.yaml", sets)


def test_every_key_is_read() -> None:
    assert job(FULL) == EVERYTHING


def test_an_empty_mapping_is_a_job_of_defaults_named_after_its_file() -> None:
    assert job("{}") == JobSpec(name="my-job")
    assert job("training:\nenv:\n") == JobSpec(name="my-job")


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("model: mlp", "model: {name: mlp, args: {}}"),
        ("model: {filters: 8}", "model: {name: cnn, args: {filters: 8}}"),
        ("dataset: mnist", "dataset: {name: mnist}"),
        ("strategy: Mirrored", "strategy: {name: Mirrored}"),
        ("{strategy: MultiWorkerMirrored, cluster: 2}", "{strategy: MultiWorkerMirrored, cluster: {workers: 2}}"),
        ("strategy: ParameterServer", "{strategy: ParameterServer, cluster: {ps: 1}}"),
        ("training: {metrics: mse}", "training: {metrics: [{name: mse}]}"),
        ("training: {callbacks: TerminateOnNaN}", "training: {callbacks: [{name: TerminateOnNaN}]}"),
        ("training: {optimizer: Adam}", "training: {optimizer: {name: Adam}}"),
        ("training: {optimizer: {epsilon: 1e-5}}", "training: {optimizer: {name: adam, args: {epsilon: 0.00001}}}"),
        ("training: {validation: true}", "training: {validation: 1}"),
        ("training: {validation: false}", "training: {validation: 0}"),
        ("checkpoint: true", "checkpoint: {every_epochs: 1, every_s: 60, keep: 3, keep_best: 1, path: null}"),
        ("checkpoint: {keep: 5}", "checkpoint: {every_epochs: 1, every_steps: null, every_s: 60, keep: 5}"),
        ("restart: true", "restart: {max: 3, window_s: 3600, backoff_s: 1, on: [crash, hang, host_lost, preempted]}"),
        ("restart: 7", "restart: {max: 7}"),
        ("restart: 0", "restart: false"),
        ("restart: {on: hang}", "restart: {on: [hang]}"),
        ("{strategy: ParameterServer, elastic: true}", "{strategy: ParameterServer, elastic: {min_workers: 1}}"),
        ("{strategy: ParameterServer, elastic: 1}", "{strategy: ParameterServer, elastic: {min_workers: 1}}"),
        ("elastic: false", "elastic: null"),
        ("watchdog: {step_timeout_s: auto}", "watchdog:"),
        ("watchdog: {step_timeout_s: off}", "watchdog: {step_timeout_s: false}"),
        ("dataset: {path: null}", "dataset: {path: }"),
        ("cluster: {ports: 20000-20001}", "cluster: {ports: [20000, 20001]}"),
        ("\ufeffmodel: mlp", "model: mlp"),
        ("--- # one document\nmodel: mlp\n...\n", "model: mlp"),
        ("model: mlp\r\nwarm: no\r\n", "{model: mlp, warm: false}"),
    ],
)
def test_short_forms_mean_their_long_ones(short: str, long: str) -> None:
    assert job(short) == job(long)


def test_what_can_be_switched_off() -> None:
    assert job("checkpoint: false").checkpoint is None
    assert job("restart: false").restart is None
    assert job("{}").elastic is None
    assert job("watchdog: {step_timeout_s: false}").watchdog.step_timeout_s == 0.0
    assert job("watchdog: {step_timeout_s: auto}").watchdog.step_timeout_s is None


def test_only_what_is_said_of_checkpoints_holds() -> None:
    assert job("checkpoint: {every_s: 5}").checkpoint == CheckpointSpec(every_s=5.0)
    assert job("checkpoint: {every_steps: 5, every_epochs: 2}").checkpoint == CheckpointSpec(5, 2)


def test_the_folder_of_checkpoints_is_seen_from_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for text, folder in (("kept", f"{tmp_path}/kept"), ("~/kept", "/home/me/kept"), ("/a//b", "/a/b")):
        spec = job(f"checkpoint: {{path: {text}}}").checkpoint
        assert spec is not None
        assert spec.path == folder
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert job("checkpoint: {path: /kept}").checkpoint is not None
    with pytest.raises(JobError, match=r'1:20: checkpoint.path is "kept", seen from the current folder, which is not '):
        job("checkpoint: {path: kept}")


def test_a_program_is_not_restarted_unasked() -> None:
    assert job("program: [x]").restart is None
    assert job("{program: [x], restart: 2}").restart == RestartSpec(max=2)
    assert job("{program: [x], cluster: 2, elastic: true, watchdog: {step_timeout_s: 60}}").elastic == ElasticSpec()


def test_merge_keys_give_what_the_mapping_itself_does_not() -> None:
    text = """\
model: &model {name: cnn, filters: 8}
training:
  optimizer: &slow {name: sgd, learning_rate: 0.1, momentum: 0.5}
  loss: mse
  metrics:
  - {<<: [{name: mse}], name: mae}
dataset: {<<: {name: mnist, batch_size: 32}, batch_size: 64}
"""
    merged = job(text)
    assert merged.training.metrics == (Named("mae"),)
    assert (merged.dataset.name, merged.dataset.batch_size) == ("mnist", 64)


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        ("training.epochs=7", "training: {epochs: 7, metrics: [accuracy, mse]}"),
        ("training.metrics.1=mae", "training: {epochs: 2, metrics: [accuracy, mae]}"),
        ("training.metrics.1.name=mae", "training: {epochs: 2, metrics: [accuracy, mae]}"),
        ("training.metrics=[mae]", "training: {epochs: 2, metrics: [mae]}"),
        ("training={seed: 4}", "training: {seed: 4}"),
        (
            "training.optimizer.learning_rate=1e-2",
            "training: {epochs: 2, metrics: [accuracy, mse], optimizer: {name: adam, learning_rate: 0.01}}",
        ),
    ],
)
def test_options_are_laid_over_the_file(option: str, changed: str) -> None:
    rest = "strategy: Mirrored\n"
    assert job(rest + "training: {epochs: 2, metrics: [accuracy, mse]}", option) == job(rest + changed)


def test_options_reach_into_short_forms_and_follow_one_another() -> None:
    assert job("strategy: Mirrored", "strategy.name=OneDevice").strategy.name == "OneDevice"
    assert job("model: cnn", "model.filters=4", "model.dense=8").model == Named("cnn", {"filters": 4, "dense": 8})
    assert job("model: cnn", "training.seed=1", "training.seed=2").training.seed == 2
    assert job("model: cnn", "checkpoint=false", "env.A=x=y").env == {"A": "x=y"}
    assert job("training: {steps_per_epoch: 3}", "training.steps_per_epoch=").training.steps_per_epoch is None


@pytest.mark.parametrize("file", ["{}", "training: {metrics: }"])
def test_options_reach_into_a_default_list(file: str) -> None:
    assert job(file, "training.metrics.0=mse").training.metrics == (Named("mse"),)
    weighted = job(file, "training.metrics.0.dtype=float64").training.metrics
    assert weighted == (Named("accuracy", {"dtype": "float64"}),)
    restart = job("{}", "restart.on.0=hang").restart
    assert restart == RestartSpec(on=("hang", "hang", "host_lost", "preempted"))


@pytest.mark.parametrize(
    "text",
    [
        "training: {callbacks: {name: EarlyStopping, monitor: val_accuracy}}",
        "training: {callbacks: {name: EarlyStopping, monitor: learning_rate}}",
        "training: {metrics: acc, callbacks: {name: EarlyStopping, monitor: acc}}",
        "training: {metrics: [AUC, AUC], callbacks: {name: EarlyStopping, monitor: val_auc_1}}",
        "training: {metrics: {name: AUC, args: {name: area}}, callbacks: {name: EarlyStopping, monitor: area}}",
        "training: {callbacks: {name: ModelCheckpoint, filepath: all.keras, monitor: unused}}",
    ],
)
def test_what_the_logs_will_hold_may_be_watched(text: str) -> None:
    assert job(text).training.callbacks


@pytest.mark.parametrize(
    "own", ["model: my.nets:make", "training: {metrics: my.metrics:Mine}", "training: {callbacks: [my.calls:Mine]}"]
)
def test_anything_may_be_watched_where_code_of_ones_own_may_log_it(own: str) -> None:
    watching = "training.callbacks=[{name: EarlyStopping, monitor: val_mine}]"
    if "callbacks" in own:
        watching = watching.replace("=[", "=[my.calls:Mine, ")
    assert job(own, watching).training.callbacks


def test_one_hot_labels_are_not_ruled_out_where_nobody_knows() -> None:
    own = "{dataset: {name: npz, path: x.npz}, training: {loss: categorical_crossentropy}}"
    assert job(own).training.loss == Named("categorical_crossentropy")


def test_arguments_of_built_in_models_are_read_by_their_kinds() -> None:
    assert job("model: {name: mlp, hidden: [1e2, 64], dropout: 0}").model == Named(
        "mlp", {"hidden": [100, 64], "dropout": 0}
    )


def test_the_name_of_the_command_line_wins() -> None:
    assert parse_job("name: a", "f.yaml", name="b").name == "b"


# ---- the job as it is written into a run directory


def test_a_written_job_reads_back_as_itself() -> None:
    for original in (
        EVERYTHING,
        JobSpec(name="defaults"),
        JobSpec(name="program", program=ProgramSpec(("x",)), restart=None, elastic=ElasticSpec()),
        JobSpec(name="again", program=ProgramSpec(("x",)), watchdog=WatchdogSpec(30.0)),
        JobSpec(
            name="none",
            checkpoint=None,
            restart=None,
            watchdog=WatchdogSpec(0.0, "ignore"),
            model=Named("m.n:f", {"text": "1e-3", "list": [1, 2.5, None, {"a": "no"}]}),
        ),
    ):
        assert parse_job(to_yaml(original), "job.yaml") == original


def test_any_text_and_number_reads_back_as_itself() -> None:
    rng = random.Random(7)
    words = [
        "",
        " ",
        "~",
        "null",
        "yes",
        "Off",
        "010",
        "0x1f",
        "1_000",
        ".5",
        "1e-3",
        "-",
        "a: b",
        "#",
        "'",
        '"',
        "\\n",
        "\n",
    ]
    words += [
        "*x",
        "&x",
        "!x",
        "%",
        "@",
        "é",
        "\U0001f600",
        "\t",
        "=",
        "<<",
        "1:30",
        "2026-01-01",
        ".inf",
        "- a",
        "\x85",
        "\u2028",
    ]
    for _ in range(300):
        text = "".join(rng.choice(words) for _ in range(rng.randrange(1, 4)))
        number = rng.choice([rng.random() * 10 ** rng.randrange(-20, 15), rng.randrange(-(10**15), 10**15)])
        original = JobSpec(name="x", model=Named("m:f", {"a": text, "b": number, "c": [text]}), env={"A": text})
        assert parse_job(to_yaml(original), "job.yaml") == original


# ---- files that are none


def refusal(path: Path) -> str:
    with pytest.raises(JobError) as caught:
        load_job(path)
    return str(caught.value)


def test_a_file_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: mlp\n")
    assert load_job(tmp_path / "mine.yaml").name == "mine"


def test_a_directory_names_a_job_inside(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: mlp\n")
    assert refusal(tmp_path) == (
        f"{tmp_path}: this is a directory, and a job is a file; name a file, such as {tmp_path}/mine.yaml"
    )


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("model: mlp\n")
    missing = tmp_path / "quikstart.yaml"
    assert refusal(missing) == f"{missing}: there is no such file; did you mean {tmp_path}/quickstart.yaml?"
    assert "there is no directory" in refusal(tmp_path / "nowhere" / "x.yaml")


def test_a_missing_file_names_none_that_is_only_alike_in_its_ending(tmp_path: Path) -> None:
    (tmp_path / "inf.yaml").write_text("model: mlp\n")
    missing = tmp_path / "missing.yaml"
    assert refusal(missing) == f"{missing}: there is no such file; check the path"
    (tmp_path / "missing.yml").write_text("model: mlp\n")
    assert refusal(missing).endswith(f"did you mean {tmp_path}/missing.yml?")


def test_pipes_and_devices_are_refused_without_waiting_for_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert refusal(path) == (
            f"{path}: this is a pipe, socket or device, and a job is a regular file; name a YAML file"
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("model: mlp\n")
    (tmp_path / "x.yaml").chmod(0)
    assert "cannot be read: Permission denied" in refusal(tmp_path / "x.yaml")


def test_odd_paths(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(Path("a\0b"))
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / "loop")


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_bytes(b"x" * 300_000)
    assert "larger than 256 KiB" in refusal(tmp_path / "data.yaml")


# ---- whatever else a file may hold


def survives(source: str | bytes, *sets: str) -> None:
    with contextlib.suppress(JobError):
        parse_job(source, "job.yaml", sets)


def test_random_bytes_are_never_more_than_a_complaint() -> None:
    rng = random.Random(1)
    for _ in range(300):
        survives(rng.randbytes(rng.randrange(60)))


def test_random_yaml_is_never_more_than_a_complaint() -> None:
    rng = random.Random(2)
    tokens = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ": ",
        ":",
        "- ",
        "\n",
        "\n  ",
        "&a ",
        "*a",
        "<<: ",
        "'",
        '"',
        "\\U00110000",
        "\\x",
        "#",
    ]
    tokens += [
        "|",
        ">",
        "? ",
        "!!int ",
        "!x ",
        "!<",
        "%YAML 9999999999999999999.1\n",
        "---\n",
        "...",
        "\t",
        "~",
        "@",
        "`",
        "=",
        "_",
    ]
    tokens += [
        "model",
        "cnn",
        "training",
        "epochs",
        "metrics",
        "optimizer",
        "learning_rate",
        "env",
        "cluster",
        "ports",
        "1",
    ]
    tokens += [
        "9" * 5000,
        "1e999",
        "-.inf",
        ".nan",
        "0x" + "f" * 500,
        "\ufeff",
        "\x85",
        "\u2028",
        "name",
        "args",
        "checkpoint",
    ]
    for _ in range(3000):
        survives("".join(rng.choice(tokens) for _ in range(rng.randrange(25))))


def test_a_right_job_that_was_damaged_is_never_more_than_a_complaint() -> None:
    rng = random.Random(3)
    for _ in range(500):
        source = bytearray(FULL.encode())
        for _ in range(rng.randrange(1, 4)):
            start = rng.randrange(len(source))
            source[start : start + rng.randrange(6)] = rng.randbytes(rng.randrange(3))
        survives(bytes(source))


def test_any_value_under_any_key_is_never_more_than_a_complaint() -> None:
    values = [
        "",
        "1",
        "-1",
        "1e400",
        "x",
        "a:b",
        "yes",
        "[]",
        "[[]]",
        "{}",
        "{name: }",
        "{name: {}}",
        "{args: 1}",
        "[1, [2], {a: b}]",
    ]
    values += [
        "'  '",
        "{learning_rate: [1]}",
        "{learning_rate: {args: 3}}",
        "{: 1}",
        "{learning_rate: {name: [x]}}",
        "9" * 400,
    ]
    for path, _, _ in keys():
        for value in values:
            survives("model: cnn", f"{path}={value}", f"{path}.deep.er={value}", f"{path}.0={value}")


def test_random_options_are_never_more_than_a_complaint() -> None:
    rng = random.Random(4)
    for _ in range(500):
        survives(
            "metrics: [a]", "".join(rng.choice("ab.=0[]{}:, \n\t'\"&*!\udc80é\0") for _ in range(rng.randrange(12)))
        )


@pytest.mark.parametrize("value", ["a\nb", "*", "5", "null", "{a: b}", 'it\'s "quoted" $(x)', ""])
def test_a_variable_set_by_option_is_taken_as_it_is(value: str) -> None:
    assert parse_job("model: cnn", "job.yaml", [f"env.X={value}"]).env == {"X": value}
