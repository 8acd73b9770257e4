# ruff: noqa: E501  (a sentence stays on one line)
"""What some strategy, dataset or task would not heed is refused; what it does heed is not."""

from __future__ import annotations

import pytest

from distrain.errors import JobError
from distrain.job.dump import to_yaml
from distrain.job.load import parse_job

MWMS = "strategy: MultiWorkerMirrored\ncluster: {workers: 2}\n"
SERVERS = "strategy: ParameterServer\ncluster: {workers: 2}\n"
CSV = "dataset: {name: csv, path: x.csv, args: {label: y"
RECORDS = (
    "dataset: {name: tfrecord, path: x, args: {label: y, features: {x: {dtype: float32, shape: [4]}, y: {dtype: int64}"
)


def records(keys: str) -> str:
    return RECORDS.replace("path: x,", f"path: x, {keys},") + "}}}\n"


INPUT = [
    (
        records("shard: examples") + "strategy: ParameterServer",
        "1:43: dataset.shard is examples, and ParameterServer's workers take whole batches, each out of all examples; remove dataset.shard",
    ),
    (
        "dataset: {name: 'a:b', shard: files}\nstrategy: ModelParallel\ncluster: 2",
        "1:31: dataset.shard is files, and under strategy ModelParallel all devices compute the same examples: every worker reads all of them; remove dataset.shard",
    ),
    (
        records("shard: files") + "strategy: {name: Hybrid, mesh: {batch: 1, model: 2}}\ncluster: 2",
        "1:43: dataset.shard is files, and under strategy Hybrid all devices compute the same examples: every worker reads all of them; remove dataset.shard",
    ),
    (
        records("shard: examples, deterministic: false") + "cluster: {data_workers: 2}",
        "1:43: dataset.shard is examples, and with dataset.deterministic false the data workers are dealt files, and whoever asks first gets a batch; remove dataset.shard, or dataset.deterministic",
    ),
    (
        "dataset: {name: image_folder, path: x, parallel_reads: 4, args: {image_size: [28, 28]}}",
        "1:56: dataset.parallel_reads is 4, and dataset image_folder reads an image when it decodes it; remove it, or give dataset.parallel_calls",
    ),
    (
        "dataset: {name: mnist, parallel_reads: 4}",
        "1:40: dataset.parallel_reads is 4, and dataset mnist is held in memory by every worker; remove it",
    ),
    (
        "dataset: {name: 'tfds:mnist', parallel_reads: 4}",
        "1:47: dataset.parallel_reads is 4, and tensorflow_datasets reads its files in its own way; remove it",
    ),
    (
        "dataset: {name: 'a:b', parallel_reads: 4}",
        "1:40: dataset.parallel_reads is 4, and a:b reads what it reads by itself; remove it, and say so in the function, as in interleave(..., num_parallel_calls=4)",
    ),
    (
        "dataset: {name: mnist, parallel_calls: 4}",
        "1:40: dataset.parallel_calls is 4, and dataset mnist is held in memory by every worker: nothing is decoded; remove it",
    ),
    (
        "dataset: {name: 'a:b', parallel_calls: 4}",
        "1:40: dataset.parallel_calls is 4, and a:b decodes what it decodes by itself; remove it, and say so in the function, as in map(..., num_parallel_calls=4)",
    ),
    (
        "dataset: {name: mnist, deterministic: false}",
        "1:39: dataset.deterministic is false, and dataset mnist is held in memory by every worker: the order of its examples costs nothing; remove dataset.deterministic",
    ),
    (
        SERVERS + RECORDS + "}}}\ntraining: {shuffle: false}",
        "4:21: training.shuffle is false, and ParameterServer's workers read dataset tfrecord each from its beginning: all would train on the same examples; remove training.shuffle, or choose strategy MultiWorkerMirrored",
    ),
    (
        "dataset: {name: 'tfds:mnist', args: {image_size: 28}}",
        "1:50: dataset.args.image_size is 28; write [height, width]",
    ),
]

KEYS_OF_STRATEGIES = [
    (
        "strategy: ParameterAveraging\ncluster: {workers: 2, devices_per_worker: 2}",
        "2:43: cluster.devices_per_worker is 2, and strategy ParameterAveraging uses one device per worker; give more cluster.workers, and remove cluster.devices_per_worker",
    ),
    (
        "strategy: {name: ModelParallel, layout: {a: [model], b: [null, batch]}}\ncluster: 2",
        '1:41: strategy.layout divides "b" over batch, and ModelParallel\'s mesh has no dimension but model; write model, or choose strategy Hybrid',
    ),
]

STEPS = [
    (
        MWMS + "training: {loss: {name: mse, reduction: mean_with_sample_weight}}",
        "3:18: the loss mse has the reduction mean_with_sample_weight, and 2 replicas each take a part of a batch: each part would be divided by its own weights' sum, not the batch's; remove the reduction, or choose strategy OneDevice or ParameterServer",
    ),
    (
        "strategy: {name: OneDevice, accumulate: 2}\ntraining: {loss: {a: mse, b: {name: mae, reduction: mean_with_sample_weight}}}",
        "2:18: the loss mae has the reduction mean_with_sample_weight, and strategy.accumulate cuts a batch into 2 parts: each part would be divided by its own weights' sum, not the batch's; remove the reduction, or remove strategy.accumulate",
    ),
    (
        "strategy: TPU\ntraining: {loss: {name: mse, reduction: mean_with_sample_weight}}",
        "2:18: the loss mse has the reduction mean_with_sample_weight, and the cores of a TPU each take a part of a batch: each part would be divided by its own weights' sum, not the batch's; remove the reduction, or choose strategy OneDevice or ParameterServer",
    ),
    (
        MWMS + "training: {loss: Dice}",
        "3:18: the loss Dice without the axes of an example is one number for all examples of a batch, and 2 replicas each take a part of a batch; give it the axes of an example, such as axis: [1, 2, 3], or choose strategy OneDevice or ParameterServer",
    ),
    (
        MWMS + "training: {loss: {name: Dice, axis: [0, 1]}}",
        "3:18: the loss Dice without the axes of an example is one number for all examples of a batch, and 2 replicas each take a part of a batch; give it the axes of an example, such as axis: [1, 2, 3], or choose strategy OneDevice or ParameterServer",
    ),
    (
        "strategy: {name: OneDevice, accumulate: 4}\ntraining: {loss: tversky}",
        "2:18: the loss tversky without the axes of an example is one number for all examples of a batch, and strategy.accumulate cuts a batch into 4 parts; give it the axes of an example, such as axis: [1, 2, 3], or remove strategy.accumulate",
    ),
    (
        "strategy: {name: MultiWorkerMirrored, accumulate: 4}\ncluster: 2\ntraining: {loss: tversky}",
        "3:18: the loss tversky without the axes of an example is one number for all examples of a batch, and strategy.accumulate cuts a batch into 4 parts; give it the axes of an example, such as axis: [1, 2, 3], or choose strategy OneDevice or ParameterServer without accumulate",
    ),
    (
        "strategy: Mirrored\ncluster: {devices_per_worker: 2}\ntraining: {loss: Circle}",
        "3:18: the loss Circle compares the examples of a batch, and 2 replicas each take a part of a batch; choose strategy OneDevice or ParameterServer",
    ),
    (
        MWMS + "training: {jit_compile: true, loss: {ignore_class: 0}}",
        "3:37: the loss sparse_categorical_crossentropy has ignore_class, and 2 replicas each take a part of a batch: in a step that XLA compiles they cannot tell each other how much of it counts; remove training.jit_compile, or ignore_class",
    ),
    (
        "strategy: {name: OneDevice, accumulate: 2}\ntraining: {loss: {ignore_class: 0}}",
        "2:18: the loss sparse_categorical_crossentropy has ignore_class, and strategy.accumulate cuts a batch into 2 parts; remove strategy.accumulate, or ignore_class",
    ),
    (
        "training: {loss: {name: mse, reduction: none}}",
        "1:18: the loss mse has the reduction none, and what a step makes smaller is one number; remove the reduction, or give sum",
    ),
    (
        "training: {loss: {name: mse, reduction: null}}",
        "1:18: the loss mse has the reduction none, and what a step makes smaller is one number; remove the reduction, or give sum",
    ),
    (
        MWMS + "training: {optimizer: {name: adam, gradient_accumulation_steps: 4}}",
        "3:65: gradient_accumulation_steps has Keras ask at each step whether weights are to change, and within such a condition MultiWorkerMirrored cannot change them; give strategy.accumulate 4 and dataset.batch_size 512 in its place: the same, in one step",
    ),
    (
        "strategy: {name: Mirrored, accumulate: 2}\ntraining: {optimizer: {args: {gradient_accumulation_steps: 4}}}",
        "2:60: gradient_accumulation_steps has Keras ask at each step whether weights are to change, and within such a condition Mirrored cannot change them; give strategy.accumulate 8 and dataset.batch_size 512 in its place: the same, in one step",
    ),
    (
        "training: {optimizer: {name: sgd, ema_overwrite_frequency: 5}}",
        "1:60: the optimizer's ema_overwrite_frequency is given, and without use_ema it keeps no averages of the weights; give use_ema: true, or remove ema_overwrite_frequency",
    ),
    (
        SERVERS + "training: {optimizer: {use_ema: true, ema_overwrite_frequency: 5}}",
        "3:64: the optimizer's ema_overwrite_frequency puts averages in the place of weights, and ParameterServer's other workers would lose what they change meanwhile; remove it: with use_ema alone the averages become the model's weights at the end",
    ),
    (
        "training: {precision: mixed_float16, optimizer: {loss_scale_factor: 1024}}",
        "1:69: the optimizer's loss_scale_factor is 1024, and with training.precision mixed_float16 the loss is scaled by what Keras finds out; remove loss_scale_factor, or choose mixed_bfloat16",
    ),
    (
        SERVERS + "training: {precision: mixed_float16}",
        "3:23: training.precision is mixed_float16, whose scale of the loss ParameterServer's workers would change under each other's steps; choose mixed_bfloat16, which needs no scale, or strategy MultiWorkerMirrored",
    ),
    (
        SERVERS + "training: {jit_compile: true}",
        "3:25: training.jit_compile is true, and ParameterServer's weights live on its servers, out of reach of a step that XLA compiles; remove training.jit_compile",
    ),
]

VALIDATION = [
    (
        "cluster: {evaluators: 1}\ntraining: {validation: 5}",
        "2:24: training.validation is 5, and the evaluator evaluates each checkpoint, whatever its epoch; remove training.validation, and give checkpoint.every_epochs 5",
    ),
    (
        CSV + "}}\ncluster: {evaluators: 1}",
        "2:23: cluster.evaluators is 1, and dataset csv has no examples for validation; give dataset.args validation_split or validation_path, or remove cluster.evaluators",
    ),
    (
        CSV + "}}\ntraining: {validation: 5}",
        "2:24: training.validation is 5, and dataset csv has no examples for it; give dataset.args validation_split or validation_path, or remove training.validation",
    ),
    (
        CSV + "}}\ntraining: {callbacks: EarlyStopping}",
        "2:23: callback EarlyStopping watches val_loss, and dataset csv has no examples for validation; set its monitor to a training metric such as loss, or give dataset.args validation_split or validation_path",
    ),
    (
        "training: {validation: false}\ncheckpoint: {keep_best: 3}",
        "2:25: checkpoint.keep_best is 3, of those with the smallest validation loss, and training.validation is false; remove checkpoint.keep_best, or set training.validation to true",
    ),
    (
        "cluster: {evaluators: 1}\ncheckpoint: {keep_best: 3}",
        "2:25: checkpoint.keep_best is 3, of those with the smallest validation loss, and beside an evaluator nobody who trains validates; remove checkpoint.keep_best, or remove cluster.evaluators",
    ),
    (
        "training: {callbacks: SwapEMAWeights}",
        "1:23: callback SwapEMAWeights swaps weights for their averages, and the optimizer adam keeps none; give the optimizer use_ema: true, or remove the callback",
    ),
    (
        "training: {callbacks: SwapEMAWeights, validation: false, optimizer: {use_ema: true}}",
        "1:23: callback SwapEMAWeights swaps weights for the time of validation, and training.validation is false; give it swap_on_epoch: true, or set training.validation to true",
    ),
]

HEEDED = [
    "dataset: {name: 'tfds:mnist', parallel_calls: 4, args: {image_size: [28, 28]}}",
    records("parallel_reads: 2, parallel_calls: 4, deterministic: false") + "training: {cache: true, prefetch: 2}",
    records("shard: examples") + "cluster: {data_workers: 2}",
    records("shard: files") + "strategy: {name: Hybrid, mesh: {batch: 2, model: 1}}\ncluster: 2",
    "training: {cache: true}",
    SERVERS + "training: {shuffle: false}",
    "strategy: {name: Mirrored, implementation: ring, pack_bytes: 1000}\ncluster: {devices_per_worker: 2}",
    "strategy: {name: MultiWorkerMirrored, implementation: ring, pack_bytes: 1000}\ncluster: 2",
    "strategy: {name: MultiWorkerMirrored, pack_bytes: 1000}\ncluster: {hosts: [a, b]}",
    "strategy: {name: MultiWorkerMirrored, pack_bytes: 1000}\ncluster: 2",
    "strategy: ParameterAveraging\ncluster: 2\ntraining: {steps_per_call: 12}",
    "strategy: TPU\ntraining: {jit_compile: true}",
    "training: {prefetch: 2, optimizer: {use_ema: false, ema_momentum: 0.9}}",
    "strategy: {name: MultiWorkerMirrored, pack_bytes: 1000, compression: float16}",
    "strategy: {name: ParameterAveraging, sync_every: 4}\ncluster: 2\ntraining: {steps_per_call: 12}",
    "training: {loss: {name: mse, reduction: mean_with_sample_weight}}",
    SERVERS + "training: {loss: {name: mse, reduction: mean_with_sample_weight}}",
    "strategy: {name: Hybrid, mesh: {batch: 2, model: 1}}\ncluster: 2\ntraining: {loss: {name: mse, reduction: mean_with_sample_weight}}",
    MWMS + "training: {loss: {name: mse, reduction: sum}}",
    MWMS + "training: {loss: {name: Dice, axis: [1, 2, 3]}}",
    MWMS + "training: {loss: {ignore_class: 0}}",
    "training: {jit_compile: true, loss: {ignore_class: 0}}",
    "training: {optimizer: {gradient_accumulation_steps: 4}}",
    "strategy: ModelParallel\ncluster: 2\ntraining: {optimizer: {gradient_accumulation_steps: 4}}",
    "strategy: ParameterServer\ntraining: {optimizer: {use_ema: true, ema_overwrite_frequency: 5}}",
    "training: {callbacks: SwapEMAWeights, optimizer: {use_ema: true}}",
    "training: {callbacks: {name: SwapEMAWeights, swap_on_epoch: true}, validation: false, optimizer: {use_ema: true}}",
    "training: {precision: mixed_bfloat16, optimizer: {loss_scale_factor: 1024}}",
    CSV + ", validation_split: 0.1}}\ncluster: {evaluators: 1}",
]


@pytest.mark.parametrize(("text", "sentence"), INPUT + KEYS_OF_STRATEGIES + STEPS + VALIDATION)
def test_what_would_not_be_heeded_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_job(text, "job.yaml")
    assert str(caught.value) == f"job.yaml:{sentence}"


@pytest.mark.parametrize("text", HEEDED)
def test_what_is_heeded_is_not(text: str) -> None:
    job = parse_job(text, "job.yaml")
    assert parse_job(to_yaml(job), "job.yaml") == job


@pytest.mark.parametrize("strategy", ["OneDevice", "Mirrored", "MultiWorkerMirrored", "ParameterAveraging"])
def test_a_job_for_many_replicas_may_be_tried_with_one(strategy: str) -> None:
    """So that a sweep over `--workers 1,2` needs no two jobs."""
    keys = "" if strategy == "OneDevice" else ", implementation: ring"
    keys += ", compression: float16, pack_bytes: 1000" if "Mirrored" in strategy else ""
    assert parse_job(f"strategy: {{name: {strategy}{keys}}}", "job.yaml").replicas == 1


def test_all_that_would_not_be_heeded_is_told_at_once() -> None:
    text = "dataset: {name: mnist, parallel_reads: 2, parallel_calls: 2, deterministic: false}"
    with pytest.raises(JobError) as caught:
        parse_job(text, "job.yaml")
    assert len(str(caught.value).split("\n")) == 3
