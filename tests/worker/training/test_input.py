"""How examples reach the steps: streams from files, however they are shared out, read, kept or prepared elsewhere."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.job.spec import CheckpointSpec, DatasetSpec, JobSpec, Named

from .conftest import wait_until

pytestmark = pytest.mark.tensorflow

SGD = Named("SGD", {"learning_rate": 0.05, "momentum": 0.9})
FEATURES = {"x": {"dtype": "float32", "shape": [8]}, "y": {"dtype": "int64"}, "n": {"dtype": "float32"}}
ARGS = {"features": FEATURES, "label": "y", "weight": "n", "classes": 2}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """480 examples in 5 files of several lengths, and 103 for validation. Each has its number for its weight."""
    folder = tmp_path_factory.mktemp("records")
    write_records(folder / "train", [100, 80, 120, 60, 120], 1)
    write_records(folder / "validation", [50, 53], 2)
    return folder


def write_records(folder: Path, sizes: Sequence[int], seed: int) -> None:
    import tensorflow as tf

    folder.mkdir()
    x = np.random.default_rng(seed).normal(size=(sum(sizes), 8)).astype(np.float32)
    numbers = iter(range(sum(sizes)))
    for part, size in enumerate(sizes):
        with tf.io.TFRecordWriter(str(folder / f"part.tfrecord-{part:05}")) as file:
            for number in itertools.islice(numbers, size):
                features = {
                    "x": tf.train.Feature(float_list=tf.train.FloatList(value=x[number])),
                    "y": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(x[number].sum() > 0)])),
                    "n": tf.train.Feature(float_list=tf.train.FloatList(value=[number])),
                }
                file.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


# ---- the order, without a cluster


def stream(folder: Path, **args: Any) -> Any:
    from distrain.worker.datasets import load_dataset
    from distrain.worker.telemetry import Events

    spec = {"name": "tfrecord", "path": str(folder / "train"), "args": {**ARGS, **args}}
    return load_dataset(spec, Events(None))


def taken(
    examples: Any, steps: range, workers: int, *, shuffle: bool = True, cache: bool = False, **keys: Any
) -> list[list[list[int]]]:
    """The numbers of the examples in the batches of `steps`: [step][worker][place]."""
    from distrain.worker.input.feed import Order, Share, StreamFeed
    from distrain.worker.input.pipeline import Pipeline

    order = Order(examples.size, 48, examples.size // 48, 1, shuffle)
    found = []
    for worker in range(workers):
        feed = StreamFeed(examples, order, Share(worker, 1, workers), Pipeline(cache, None, **keys))
        batches, source = [], feed.open(steps.start)
        for step in steps:
            if step % order.steps_per_epoch == 0:
                source = feed.open(step)
            (batch,) = feed.batches(step, source)
            batches.append([int(number) for number in batch[2].numpy()])
        found.append(batches)
    return [list(parts) for parts in zip(*found, strict=True)]


def joined(parts: list[list[list[int]]]) -> list[list[int]]:
    return [list(itertools.chain(*workers)) for workers in parts]


@pytest.mark.parametrize("cache", [False, True])
def test_by_examples_the_global_batches_are_the_same_however_many_workers_share_them(
    records: Path, cache: bool
) -> None:
    train = stream(records).train
    one = joined(taken(train, range(20), 1, cache=cache))
    assert sorted(itertools.chain(*one[:10])) == list(range(480))
    assert sorted(itertools.chain(*one[10:])) == list(range(480))
    assert one[:10] != one[10:]
    for workers in (2, 3):
        assert joined(taken(train, range(20), workers, cache=cache)) == one
    for keys in ({"parallel_reads": 1, "parallel_calls": 1}, {"parallel_reads": 3, "parallel_calls": 7}):
        assert joined(taken(train, range(20), 2, cache=cache, **keys)) == one
    assert taken(train, range(14, 20), 2, cache=cache) == taken(train, range(20), 2, cache=cache)[14:]
    assert joined(taken(train, range(2), 2, shuffle=False)) != one[:2]
    assert taken(train, range(10), 1, shuffle=False) == taken(train, range(10, 20), 1, shuffle=False)


def test_by_files_each_worker_draws_from_its_own_and_none_runs_out(records: Path) -> None:
    train = stream(records).train
    parts = taken(train, range(40), 2, shard="files")
    lengths = [100, 80, 120, 60, 120]
    of_file = np.repeat(range(5), lengths)
    for worker, files in enumerate(([0, 2, 4], [1, 3])):
        own = {number for number in range(480) if of_file[number] in files}
        seen = list(itertools.chain(*(step[worker] for step in parts)))
        assert set(seen) <= own, "nothing but its own"
        assert len(set(seen)) > 0.9 * len(own), "and each epoch others of them"
        first = list(itertools.chain(*(step[worker] for step in parts[:10])))
        assert len(set(first)) == min(len(own), len(first)), "none a second time before all were seen"
        later = list(itertools.chain(*(step[worker] for step in parts[10:20])))
        assert first != later
    assert taken(train, range(40), 2, shard="files") == parts
    assert taken(train, range(17, 40), 2, shard="files") == parts[17:]
    assert taken(train, range(17, 40), 2, shard="files", parallel_reads=1, parallel_calls=2) == parts[17:]
    kept = taken(train, range(20), 2, shard="files", cache=True)
    assert taken(train, range(13, 20), 2, shard="files", cache=True) == kept[13:]


def test_a_worker_decodes_its_part_alone(records: Path) -> None:
    import tensorflow as tf

    from distrain.worker.input.feed import Order, Share, StreamFeed
    from distrain.worker.input.pipeline import Pipeline

    train = stream(records).train
    for shard in ("examples", "files"):
        decoded = tf.Variable(0, dtype=tf.int64)

        def decode(record: Any, decoded: Any = decoded) -> Any:
            with tf.control_dependencies([decoded.assign_add(1)]):
                return train.decode(record)

        counted = dataclasses.replace(train, decode=decode)
        feed = StreamFeed(counted, Order(480, 48, 10, 1, True), Share(1, 1, 2), Pipeline(False, 0, shard))
        source = feed.open(5)
        for step in range(5, 10):
            feed.batches(step, source)
        assert 5 * 24 <= int(decoded) <= 7 * 24, shard


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_validation_has_each_example_once(records: Path, workers: int) -> None:
    from distrain.worker.input.feed import Share, validation_batches
    from distrain.worker.input.pipeline import Pipeline

    data = stream(records, validation_path=str(records / "validation"))
    for pipeline in (Pipeline(False, None), Pipeline(True, None), Pipeline(False, None, "files")):
        seen: list[int] = []
        for worker in range(workers):
            for _, _, numbers in validation_batches(data.validation, 48, Share(worker, 1, workers), pipeline):
                seen.extend(int(number) for number in numbers.numpy())
        assert sorted(seen) == list(range(103))


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_without_determinism_an_epoch_has_each_example_once(records: Path, workers: int, cache: bool) -> None:
    train = unsteady(stream(records).train)
    keys = {"deterministic": False, "ordered": False, "parallel_reads": 5, "parallel_calls": 5}
    steps = joined(taken(train, range(10), workers, cache=cache, **keys))
    assert sorted(itertools.chain(*steps)) == list(range(480))


def test_without_determinism_validation_has_each_example_once(records: Path) -> None:
    from distrain.worker.input.feed import Share, validation_batches
    from distrain.worker.input.pipeline import Pipeline

    validation = unsteady(stream(records, validation_path=str(records / "validation")).validation)
    pipeline = Pipeline(False, None, deterministic=False, ordered=False)
    batches = (validation_batches(validation, 16, Share(worker, 1, 2), pipeline) for worker in range(2))
    assert sorted(int(n) for each in batches for *_, numbers in each for n in numbers.numpy()) == list(range(103))


def unsteady(examples: Any) -> Any:
    """`examples` whose reading and decoding take now more, now less time."""
    import tensorflow as tf

    random = np.random.default_rng()

    def wait(record: Any) -> Any:
        time.sleep(random.exponential(0.0005))
        return record

    def read(*columns: Any) -> Any:
        return examples.source.read(*columns).map(lambda record: tf.py_function(wait, [record], tf.string))

    def decode(record: Any) -> Any:
        return examples.decode(tf.ensure_shape(tf.py_function(wait, [record], tf.string), []))

    return dataclasses.replace(examples, source=dataclasses.replace(examples.source, read=read), decode=decode)


def test_fewer_files_than_workers_are_refused(records: Path) -> None:
    from distrain.worker.datasets.examples import InMemory
    from distrain.worker.input.pipeline import Pipeline
    from distrain.worker.refusal import Refusal

    by_files = Pipeline(False, None, "files")
    by_files.check(stream(records).train, 5)
    with pytest.raises(
        Refusal, match=r"dataset\.shard is files, but the dataset has 5 for 6 workers: write one for each"
    ):
        by_files.check(stream(records).train, 6)
    with pytest.raises(Refusal, match=r"held in memory by every worker: leave dataset\.shard out"):
        by_files.check(InMemory(None, None, 9), 1)


# ---- training


def of_records(folder: Path, **keys: Any) -> DatasetSpec:
    args = {"features": {name: FEATURES[name] for name in "xy"}, "label": "y", "classes": 2}
    args["validation_path"] = str(folder / "validation")
    return DatasetSpec("tfrecord", path=str(folder / "train"), batch_size=48, args=args, **keys)


def trained(start: Callable[[JobSpec], Any], make_job: Any, dataset: DatasetSpec, **where: Any) -> Any:
    """A finished run of 30 steps, whose losses were told step by step."""
    run = start(thirty_steps(make_job, dataset, **where)).succeed()
    assert len(run.chief.losses()) == 30
    return run


def thirty_steps(make_job: Any, dataset: DatasetSpec, **where: Any) -> JobSpec:
    strategy = where.pop("strategy", "OneDevice")
    return make_job(strategy, **{"dataset": dataset, "optimizer": SGD, "epochs": 3, "steps_per_call": 1, **where})


ONE_EPOCH = {"epochs": 1, "steps_per_epoch": 30, "prefetch": 1}
"""Few batches are ready when a data worker is killed, and many of its are still to come."""
SLOWLY = (Named("user_code:Slowly", {"step_s": 0.2}),)


def test_training_on_files_is_one_computation(start: Any, make_job: Any, records: Path) -> None:
    """By examples, for any number of workers; from an input cluster in order, for any number of data workers."""
    one = trained(start, make_job, of_records(records))
    expected = one.chief.losses()
    assert expected[-1] < 0.9 * expected[0], "nothing was learnt, so equal losses would show nothing"
    ways = {
        "two workers": {"strategy": "MultiWorkerMirrored", "workers": 2},
        "two devices": {"strategy": "Mirrored", "devices": 2},
        "prepared by two": {"data_workers": 2},
        "two workers, prepared by two": {"strategy": "MultiWorkerMirrored", "workers": 2, "data_workers": 2},
    }
    validation = one.chief.of("done")[0]["metrics"]["validation"]
    for way, where in ways.items():
        run = trained(start, make_job, of_records(records), **where)
        assert run.chief.losses() == pytest.approx(expected, rel=1e-5), way
        assert run.chief.of("done")[0]["metrics"]["validation"] == pytest.approx(validation, rel=1e-5), way


def test_by_files_a_run_that_goes_on_in_an_epoch_is_one_that_did_not_stop(
    start: Any, make_job: Any, records: Path
) -> None:
    where = {"strategy": "MultiWorkerMirrored", "workers": 2}
    whole = trained(start, make_job, of_records(records, shard="files"), **where).chief.losses()
    spec = make_job(
        "MultiWorkerMirrored",
        workers=2,
        dataset=of_records(records, shard="files"),
        optimizer=SGD,
        epochs=3,
        steps_per_call=1,
        checkpoint=CheckpointSpec(every_steps=7, keep=9),
    )
    first = start(spec).succeed()
    (path,) = (first.run_dir / "checkpoints").glob("*14")
    again = start(spec, after=first, resume={"path": str(path), "skip_to": None}).succeed()
    assert again.chief.losses() == pytest.approx(whole[14:], rel=1e-5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_data_worker_that_is_killed_and_started_again_changes_nothing(
    number: int, start: Any, make_job: Any, records: Path
) -> None:
    expected = trained(start, make_job, of_records(records), **ONE_EPOCH).chief.losses()
    run = start(thirty_steps(make_job, of_records(records), data_workers=2, callbacks=SLOWLY, **ONE_EPOCH))
    for task, after in (("data:1", 4), ("dispatcher:0", 14)):
        wait_until(lambda after=after: len(run.chief.losses()) >= after or run.chief.poll() is not None, 90, run)
        assert run.chief.poll() is None, run.report()
        run.again(task, number)
    run.succeed()
    assert run.chief.losses() == pytest.approx(expected, rel=1e-5)


def test_a_data_worker_that_comes_late_is_waited_for(start: Any, make_job: Any, records: Path) -> None:
    expected = trained(start, make_job, of_records(records), **ONE_EPOCH).chief.losses()
    spec = thirty_steps(make_job, of_records(records), data_workers=2, **ONE_EPOCH)
    run = start(spec, only=("worker:0", "dispatcher:0", "data:1"))
    wait_until(lambda: bool(run.chief.of("started")), 90, run)
    run.again("data:0")
    run.succeed()
    assert run.chief.losses() == pytest.approx(expected, rel=1e-5)


def test_an_input_cluster_out_of_order_goes_on_when_a_data_worker_is_killed(
    start: Any, make_job: Any, records: Path
) -> None:
    where = {"strategy": "MultiWorkerMirrored", "workers": 2, "data_workers": 2, **ONE_EPOCH}
    run = start(thirty_steps(make_job, of_records(records, deterministic=False), callbacks=SLOWLY, **where))
    wait_until(lambda: len(run.chief.losses()) >= 4 or run.chief.poll() is not None, 90, run)
    assert run.chief.poll() is None, run.report()
    run.again("data:0")
    run.succeed()
    losses = run.chief.losses()
    assert len(losses) == 30
    assert losses[-1] < 0.9 * losses[0]


def test_examples_count_what_their_weights_say(start: Any, make_job: Any, records: Path, tmp_path: Path) -> None:
    """From files, from memory, and shared out: one computation, and another one than without weights."""
    args = {**of_records(records).args, "weight": "n", "features": FEATURES}
    weighted = dataclasses.replace(of_records(records), args=args)
    slow = {"optimizer": Named("SGD", {"learning_rate": 1e-4})}
    expected = trained(start, make_job, weighted, **slow).chief.losses()
    two = trained(start, make_job, weighted, strategy="MultiWorkerMirrored", workers=2, **slow).chief.losses()
    assert two == pytest.approx(expected, rel=1e-5)
    assert trained(start, make_job, of_records(records), **slow).chief.losses() != pytest.approx(expected, rel=1e-2)
    x = np.random.default_rng(1).normal(size=(480, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=(x.sum(axis=1) > 0).astype(int), w_train=np.arange(480))
    npz = DatasetSpec("npz", path=str(tmp_path / "data.npz"), batch_size=480)
    files = dataclasses.replace(weighted, batch_size=480)
    one_step = {"epochs": 1, "steps_per_call": 1, "validation": 0, **slow}
    found = [start(make_job(dataset=dataset, **one_step)).succeed().chief.losses() for dataset in (npz, files)]
    assert found[0] == pytest.approx(found[1], rel=1e-5), "all of both in one batch"


def test_images_are_one_computation_and_a_damaged_one_is_named(start: Any, make_job: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    random = np.random.default_rng(3)
    for name, brightness in (("dark", 80), ("light", 160)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(60):
            pixels = random.integers(0, 96, (9, 11, 3)) + brightness
            file = tmp_path / "images" / name / f"{number:02}.png"
            file.write_bytes(tf.io.encode_png(pixels.astype(np.uint8)).numpy())
    args = {"image_size": [8, 8], "validation_split": 0.2}
    images = DatasetSpec("image_folder", path=str(tmp_path / "images"), batch_size=24, args=args)
    where = {"epochs": 8, "steps_per_call": 1, "optimizer": SGD}
    ways = {
        "one": {},
        "two workers": {"strategy": "MultiWorkerMirrored", "workers": 2},
        "prepared elsewhere": {"data_workers": 1},
    }
    losses, validation = {}, {}
    for way, more in ways.items():
        run = start(thirty_steps(make_job, images, **{**where, **more})).succeed()
        losses[way] = run.chief.losses()
        validation[way] = run.chief.of("done")[0]["metrics"]["validation"]
    assert len(losses["one"]) == 32
    assert losses["one"][-1] < 0.9 * losses["one"][0], "nothing was learnt, so equal losses would show nothing"
    for way in ways:
        assert losses[way] == pytest.approx(losses["one"], rel=1e-5), way
        assert validation[way] == pytest.approx(validation["one"], rel=1e-5), way
    servers = {"strategy": "ParameterServer", "workers": 2, "ps": 1, "epochs": 30}
    adam = Named("adam", {"learning_rate": 0.003})  # steps that pass each other by upset momentum
    served = start(thirty_steps(make_job, images, **servers, optimizer=adam)).succeed()
    assert np.mean(served.chief.losses()[-20:]) < 0.65, "no better than to guess, which is 0.69"
    damaged = tmp_path / "images" / "light" / "00.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    for way, more in ways.items():
        run = start(thirty_steps(make_job, images, **{**where, **more})).wait()
        told = [event for task in run.tasks.values() for event in task.of("failure") if event["job_error"]]
        assert told, (way, run.report())
        assert f"{damaged} is damaged, or not what the job says" in told[0]["message"], way


def test_servers_of_an_input_cluster_end_at_a_signal(start: Any, make_job: Any, records: Path) -> None:
    run = start(make_job(dataset=of_records(records), data_workers=1), only=("dispatcher:0", "data:0"))
    wait_until(lambda: all(task.of("ready") for task in run.tasks.values()), 60, run)
    for task in run.tasks.values():
        asked_at = time.monotonic()
        task.kill(signal.SIGTERM)
        wait_until(lambda task=task: task.poll() is not None, 30, run)
        assert task.status == -signal.SIGTERM
        assert time.monotonic() - asked_at < 3


@pytest.mark.parametrize(
    ("dataset", "keys", "sentence"),
    [
        (DatasetSpec("digits"), {"data_workers": 1}, "data workers have nothing to prepare"),
        (DatasetSpec("user_code:generated", batch_size=48), {"data_workers": 1}, "runs Python for each example"),
        (DatasetSpec("user_code:streams", shard="files"), {}, "does not know the files behind the dataset"),
        (DatasetSpec("user_code:streams", parallel_calls=2), {}, "leave dataset.parallel_calls out"),
        (DatasetSpec("user_code:arrays", deterministic=False), {}, "leave dataset.deterministic out"),
        (
            DatasetSpec("user_code:streams"),
            {"strategy": "ParameterServer", "workers": 2, "ps": 1, "shuffle": False},
            "would take the same examples of a stream in the same order",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_refused(
    start: Any, make_job: Any, dataset: DatasetSpec, keys: dict[str, Any], sentence: str
) -> None:
    model = Named("mlp" if dataset.name == "digits" else "user_code:network")
    run = start(make_job(dataset=dataset, model=model, **keys)).wait()
    (failure,) = run.chief.of("failure")
    assert sentence in failure["message"]
    assert (failure["job_error"], run.chief.status) == (True, 2)
