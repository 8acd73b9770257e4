# ruff: noqa: E501  (a sentence stays on one line)
"""What no job may say of its strategy, its input, and the tasks beside those that train; and what it may."""

from __future__ import annotations

import pytest

from distrain.errors import JobError
from distrain.job.dump import to_yaml
from distrain.job.load import parse_job
from distrain.job.spec import JobSpec, MeshSpec, Named


def complaints(text: str) -> list[str]:
    with pytest.raises(JobError) as caught:
        parse_job(text, "job.yaml")
    return str(caught.value).split("\n")


MWMS = "strategy: MultiWorkerMirrored\ncluster: {workers: 2}\n"
STREAM = 'dataset: "my.data:stream"\n'
CSV = "dataset: {name: csv, path: x.csv, args: {label: y"
RECORDS = (
    "dataset: {name: tfrecord, path: x, args: {label: y, features: {x: {dtype: float32, shape: [4]}, y: {dtype: int64}"
)

VALUES = [
    (
        "strategy: {name: Mirrored, compresion: none}",
        '1:28: strategy has no key "compresion"; did you mean "compression"?',
    ),
    (
        "strategy: {name: Mirrored, compression: bf16}",
        '1:41: strategy.compression is "bf16", which is none of its values; did you mean "bfloat16"?',
    ),
    (
        "strategy: {name: Mirrored, compression: fp16}",
        '1:41: strategy.compression is "fp16", which is none of its values; did you mean "float16"?',
    ),
    (
        "strategy: {name: Mirrored, implementation: gloo}",
        '1:44: strategy.implementation is "gloo", which is none of its values; choose one of auto, ring, nccl',
    ),
    ("strategy: {name: Mirrored, pack_bytes: 0}", "1:40: strategy.pack_bytes is 0; give 1 or more"),
    ("strategy: {name: Mirrored, accumulate: 0}", "1:40: strategy.accumulate is 0; give 1 or more"),
    (
        "strategy: {name: ParameterServer, placement: size}",
        '1:46: strategy.placement is "size", which is none of its values; did you mean "by_size"?',
    ),
    ("strategy: {name: ParameterAveraging, sync_every: 0}", "1:50: strategy.sync_every is 0; give 1 or more"),
    (
        "strategy: {name: ParameterAveraging, outer_momentum: 1}",
        "1:54: strategy.outer_momentum is 1; give a number from 0 to below 1",
    ),
    (
        "strategy: ParameterAverageing",
        '1:11: strategy.name is "ParameterAverageing", which is none of its values; did you mean "ParameterAveraging"?',
    ),
    (
        "strategy: {name: Hybrid, mesh: 2x2}\ncluster: 2",
        '1:32: strategy.mesh is "2x2"; write {batch: 2, model: 2}: batch times model is the number of devices',
    ),
    (
        "strategy: {name: Hybrid, mesh: {batch: 2}}\ncluster: 2",
        "1:32: strategy.mesh has no model; write {batch: 2, model: 2}: batch times model is the number of devices",
    ),
    (
        "strategy: {name: Hybrid, mesh: {batch: 2, modle: 2}}\ncluster: 2",
        '1:43: strategy.mesh has no key "modle"; did you mean "model"?',
    ),
    (
        "strategy: {name: Hybrid, mesh: {batch: 0, model: 2}}\ncluster: 2",
        "1:40: strategy.mesh.batch is 0; give 1 or more",
    ),
    (
        "strategy: {name: ModelParallel, layout: model}\ncluster: 2",
        '1:41: strategy.layout is "model"; give auto, or a mapping such as {"dense.*/kernel": [null, model]}',
    ),
    (
        'strategy: {name: ModelParallel, layout: {"dense(": [model]}}\ncluster: 2',
        '1:42: strategy.layout holds "dense(", which is no regular expression: missing ), unterminated subpattern at '
        "position 5; mend it; a name as it is, such as dense/kernel, is one too",
    ),
    (
        "strategy: {name: ModelParallel, layout: {dense: model}}\ncluster: 2",
        '1:49: strategy.layout for "dense" is "model"; give a list of what each axis is divided over, such as [null, model]',
    ),
    (
        "strategy: {name: ModelParallel, layout: {dense: [null, modle]}}\ncluster: 2",
        '1:56: strategy.layout for "dense" holds "modle", which no mesh has; did you mean "model"?',
    ),
    (
        "strategy: {name: ModelParallel, layout: {dense: [model, model]}}\ncluster: 2",
        '1:57: strategy.layout for "dense" divides two axes over model; divide one axis over it, and write null for the other',
    ),
    (
        "training: {class_weight: [1, 2]}",
        "1:26: training.class_weight is a list; give a mapping such as {0: 1, 3: 2.5}; classes that it leaves out count 1",
    ),
    (
        "training: {class_weight: {cat: 2}}",
        '1:27: training.class_weight holds "cat", which is no class; name a class by its number, counted from 0',
    ),
    (
        "training: {class_weight: {0: -1}}",
        "1:30: training.class_weight of class 0 is -1; give a number, 0 or more",
    ),
    ("training: {warmup_steps: -1}", "1:26: training.warmup_steps is -1; give 0 or more"),
    (
        "training: {loss: {a: mse, b: nothing}}",
        '1:30: Keras has no loss "nothing"; ' + complaints("training: {loss: nothing}")[0].partition("; ")[2],
    ),
    (
        "training: {metrics: {a: [mse, acuracy]}}",
        '1:31: Keras has no metric "acuracy"; did you mean "accuracy"?',
    ),
    (
        "training: {loss: {from_logit: true}}",
        '1:19: SparseCategoricalCrossentropy has no argument "from_logit"; did you mean "from_logits"?',
    ),
    (
        "dataset: {name: mnist, shard: file}",
        '1:31: dataset.shard is "file", which is none of its values; did you mean "files"?',
    ),
    ("dataset: {name: mnist, parallel_reads: 17}", "1:40: dataset.parallel_reads is 17; give 16 or less"),
    (
        "dataset: 'tfds:My Set'",
        '1:10: dataset.name is "tfds:My Set", which is no name of tensorflow_datasets\'s; '
        "write for example tfds:mnist or tfds:glue/sst2:2.0.0",
    ),
    (
        f"{CSV}, lable: z}}}}",
        '1:52: dataset csv has no argument "lable"; did you mean "label"?',
    ),
    ("dataset: {name: csv, path: x.csv}", "1:10: dataset csv needs label; write args: {label: ...}"),
    (f"{CSV}, validation_split: 1}}}}", "1:70: dataset.args.validation_split is 1; give a number above 0 and below 1"),
    (
        "dataset: {name: image_folder, path: x, args: {image_size: 28}}",
        "1:59: dataset.args.image_size is 28; write [height, width]",
    ),
    (
        "dataset: {name: image_folder, path: x, args: {image_size: [28, 28], channels: 4}}",
        "1:79: dataset.args.channels is 4; give 1 for grey or 3 for colour",
    ),
    (
        "dataset: {name: tfrecord, path: x, args: {label: y}}",
        "1:42: dataset tfrecord needs features; write args: {features: ...}",
    ),
    (
        f"{RECORDS}, z: {{shape: [1]}}}}}}}}",
        "1:119: dataset.args.features.z has neither dtype nor image; give one: dtype for numbers, image for a picture",
    ),
    (
        f"{RECORDS}, z: {{image: jpg, shape: [2, 2, 3]}}}}}}}}",
        '1:127: dataset.args.features.z.image is "jpg", which is none of its values; did you mean "jpeg"?',
    ),
    (
        f"{RECORDS}, z: {{image: png}}}}}}}}",
        "1:119: dataset.args.features.z is an image of unknown size; "
        "give shape: [height, width, channels], or resize: [height, width]",
    ),
    (
        f"{RECORDS}, z: {{image: png, shape: [28, 28]}}}}}}}}",
        "1:119: dataset.args.features.z.shape is [28, 28], which no image has; "
        "write [height, width, channels], with 1 or 3 channels",
    ),
    ("model: {name: transformer, layers: 0}", "1:36: model.layers is 0; give 1 or more"),
    ("cluster: {data_workers: -1}", "1:25: cluster.data_workers is -1; give 0 or more"),
]

KEYS_ELSEWHERE = [
    (
        "OneDevice",
        "compression: float16",
        "compression is float16",
        "it says what gradients are rounded to on their way",
        "Mirrored or MultiWorkerMirrored",
    ),
    (
        "ParameterServer",
        "accumulate: 2",
        "accumulate is 2",
        "it says into how many parts each replica cuts its share of a batch",
        "OneDevice or Mirrored or MultiWorkerMirrored or ParameterAveraging",
    ),
    (
        "TPU",
        "accumulate: 2",
        "accumulate is 2",
        "it says into how many parts each replica cuts its share of a batch",
        "OneDevice or Mirrored or MultiWorkerMirrored or ParameterAveraging",
    ),
    (
        "Mirrored",
        "placement: by_size",
        "placement is by_size",
        "it says which parameter server holds which variable",
        "ParameterServer",
    ),
    (
        "MultiWorkerMirrored",
        "sync_every: 4",
        "sync_every is 4",
        "it says after how many steps weights are averaged",
        "ParameterAveraging",
    ),
    (
        "Mirrored",
        "layout: {a: [model]}",
        "layout is given",
        "it says which weights are divided over which devices",
        "ModelParallel or Hybrid",
    ),
    (
        "Mirrored",
        "mesh: {batch: 1, model: 1}",
        "mesh is given",
        "it says how devices stand in rows and columns",
        "Hybrid",
    ),
    ("OneDevice", "tpu: local", "tpu is local", "it says where the TPU is", "TPU"),
]

COMBINATIONS = [
    (
        "strategy: ModelParallel",
        "1:11: strategy ModelParallel divides weights over devices, and the job has one; "
        "give cluster.devices_per_worker or cluster.workers 2 or more, or choose strategy OneDevice",
    ),
    (
        "strategy: Hybrid\ncluster: {workers: 2, devices_per_worker: 2}",
        "1:11: strategy Hybrid has no mesh; "
        "give strategy.mesh, such as {batch: 2, model: 2}: batch times model is the number of devices, 4",
    ),
    (
        "strategy: {name: Hybrid, mesh: {batch: 2, model: 2}}\ncluster: {workers: 3}",
        "1:32: strategy.mesh is of 2 times 2 = 4 devices, and the job has 3 (3 workers); "
        "make batch times model 3, or change cluster.workers or cluster.devices_per_worker",
    ),
    (
        "strategy: {name: Hybrid, mesh: {batch: 3, model: 1}}\ncluster: {workers: 3}",
        "1:32: dataset.batch_size is 128, which does not divide among 3 replicas (the mesh's batch); "
        "the nearest that does: 126 or 129",
    ),
    (
        "strategy: {name: Hybrid, mesh: {batch: 2, model: 3}}\ncluster: {workers: 3, devices_per_worker: 2}",
        "1:50: strategy.mesh has rows of 3 devices, and workers have 2: a row is neither of whole workers, nor a worker of "
        "whole rows; make one a multiple of the other",
    ),
    (
        "strategy: ModelParallel\ncluster: 2\ntraining: {jit_compile: true}",
        "3:25: training.jit_compile is true, and strategy ModelParallel has DTensor make the step, not XLA; "
        "remove training.jit_compile",
    ),
    (
        "strategy: {name: OneDevice, accumulate: 2}\ntraining: {loss: {name: mse, reduction: sum}}",
        "1:41: strategy.accumulate is 2, and the loss mse has the reduction sum: parts of a batch need one that is a mean "
        "over the examples; remove the reduction, or strategy.accumulate",
    ),
    (
        "strategy: {name: Mirrored, accumulate: 65}\ncluster: {devices_per_worker: 2}",
        "1:40: strategy.accumulate is 65, and each of 2 replicas gets 64 examples; give 64 or less, or a larger dataset.batch_size",
    ),
    (
        "strategy: {name: OneDevice, accumulate: 2}\ndataset: {batch_size: 1}",
        "1:41: strategy.accumulate is 2, and the batch has 1 example; give 1 or less, or a larger dataset.batch_size",
    ),
    (
        "strategy: {name: ParameterServer, placement: by_size}",
        "1:46: strategy.placement is by_size, and the only parameter server holds every variable; "
        "remove strategy.placement, or give cluster.ps 2 or more",
    ),
    (
        "strategy: TPU\ncluster: {workers: 2}",
        "2:20: cluster.workers is 2, and strategy TPU has one, which takes all cores of the TPU; set cluster.workers to 1",
    ),
    (
        "strategy: TPU\ncluster: {devices_per_worker: 8}",
        "2:31: cluster.devices_per_worker is 8, and strategy TPU takes as many cores as the TPU has; "
        "remove cluster.devices_per_worker",
    ),
    (
        "strategy: ModelParallel\ncluster: 2\nelastic: 1",
        "3:10: elastic is given, and under strategy ModelParallel every worker holds a part of the weights; "
        "remove elastic, or choose strategy MultiWorkerMirrored or ParameterServer",
    ),
    (
        "cluster: {evaluators: 2}",
        "1:23: cluster.evaluators is 2, and one evaluator sees every checkpoint; set cluster.evaluators to 1",
    ),
    (
        "cluster: {evaluators: 1}\ncheckpoint: false",
        "1:23: cluster.evaluators is 1, and checkpoint is false: there is nothing that it could evaluate; "
        "have checkpoints written, or remove cluster.evaluators",
    ),
    (
        "cluster: {evaluators: 1}\ntraining: {validation: false}",
        "1:23: cluster.evaluators is 1, and training.validation is false: an evaluator does nothing but validate; "
        "remove one of the two",
    ),
    (
        "cluster: {evaluators: 1}\ntraining: {callbacks: EarlyStopping}",
        "2:23: callback EarlyStopping watches val_loss, and beside an evaluator nobody who trains validates; "
        "set its monitor to a training metric such as loss, or remove cluster.evaluators",
    ),
    (
        "strategy: MultiWorkerMirrored\ncluster: {hosts: [{host: a, roles: [worker]}, {host: b, roles: [evaluator]}]}",
        "2:18: the evaluator is to run on b, and the checkpoints are on a, where worker:0 writes them; "
        "give checkpoint.path, a folder that both see, or no host the role evaluator: it then runs beside worker:0, "
        "without a slot",
    ),
    (
        "cluster: {data_workers: 2}",
        "1:25: cluster.data_workers is 2, and dataset digits is held in memory by every worker: nothing is left to prepare; "
        "remove cluster.data_workers, or choose dataset tfrecord, image_folder, tfds:<name> or a function that returns a "
        "tf.data.Dataset",
    ),
    (
        f"{STREAM}strategy: ParameterServer\ncluster: {{data_workers: 2}}",
        "3:25: cluster.data_workers is 2, and ParameterServer's workers read and prepare for themselves; "
        "remove cluster.data_workers",
    ),
    (
        f"{STREAM}cluster: {{data_workers: 2}}\ntraining: {{cache: true}}",
        "2:25: cluster.data_workers is 2, and what they prepare is not kept; remove cluster.data_workers or training.cache",
    ),
    (
        "program: [x]\ncluster: {data_workers: 2}",
        "2:25: cluster.data_workers is given beside a program, and a program reads its own data; "
        "remove cluster.data_workers, or remove program to have distrain train",
    ),
    (
        "dataset: {name: mnist, shard: files}",
        "1:31: dataset mnist is held in memory by every worker, and has no files to share out; remove dataset.shard",
    ),
    (
        "dataset: {name: 'tfds:mnist', shard: files}",
        "1:38: dataset.shard is files, and those behind tfds:mnist are not known to distrain; choose shard: examples",
    ),
    (
        "dataset: {name: 'a:b', deterministic: false}\ntraining: {deterministic: true}",
        "1:39: dataset.deterministic is false, and training.deterministic asks for the same result every time; "
        "set dataset.deterministic to true",
    ),
    (
        "dataset: {name: 'a:b', deterministic: false}\nstrategy: ModelParallel\ncluster: 2",
        "1:39: dataset.deterministic is false, and under strategy ModelParallel every worker must read the same examples in "
        "the same order; set dataset.deterministic to true",
    ),
    (
        "dataset: {name: csv, args: {label: y}}",
        "1:17: dataset csv has no path; give dataset.path, the file, folder or pattern to read",
    ),
    (
        f"{CSV}, validation_split: 0.1, validation_path: z}}}}",
        "1:92: dataset.args has validation_split and validation_path; keep one of them",
    ),
    (f"{CSV}, features: [x, y]}}}}", '1:62: dataset.args.features holds "y", which is the label; take it out'),
    (
        f"{CSV}, header: false}}}}",
        '1:49: dataset.args.label is "y", and without a header columns have no names; '
        "give its number, counted from 0, or remove header",
    ),
    (
        f"{RECORDS.replace('label: y', 'label: yy')}}}}}}}",
        '1:50: dataset.args.label is "yy", which is none of its features; did you mean "y"?',
    ),
    (
        "dataset: {name: tfrecord, path: x, args: {label: y, features: {y: {dtype: int64}}}}",
        "1:63: the features of dataset tfrecord are y, and nothing is left to feed the model; add what the model is to see",
    ),
    (
        "training: {warmup_steps: 5, callbacks: ReduceLROnPlateau}",
        "1:40: callback ReduceLROnPlateau sets the learning rate, and so does training.warmup_steps; remove one of the two",
    ),
    (
        "model: {name: transformer, width: 30}",
        "1:35: model transformer has width 30, which does not divide among its 4 heads; the nearest that does: 28 or 32",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), VALUES + COMBINATIONS)
def test_what_no_job_may_say(text: str, sentence: str) -> None:
    assert complaints(text) == [f"job.yaml:{sentence}"]


@pytest.mark.parametrize(("strategy", "key", "given", "what", "where"), KEYS_ELSEWHERE)
def test_a_key_of_other_strategies_is_refused(strategy: str, key: str, given: str, what: str, where: str) -> None:
    head = f"strategy: {{name: {strategy}, "
    column = len(head) + key.index(": ") + 3
    problem = f"strategy.{given}, and strategy {strategy} knows no such thing: {what}"
    assert complaints(f"{head}{key}}}") == [f"job.yaml:1:{column}: {problem}; remove it, or choose strategy {where}"]


RIGHT = [
    "strategy: TPU",
    "strategy: {name: TPU, tpu: local}",
    "strategy: {name: ModelParallel, layout: auto}\ncluster: 2",
    'strategy: {name: ModelParallel, layout: {"dense.*/kernel": [null, model], b: [model]}}\ncluster: {devices_per_worker: 3}',
    "strategy: {name: Hybrid, mesh: {batch: 2, model: 2}}\ncluster: {workers: 2, devices_per_worker: 2}",
    "strategy: {name: ParameterAveraging, sync_every: 4, outer_momentum: 0.5, accumulate: 2}\ncluster: 2",
    "strategy: {name: ParameterServer, placement: by_size}\ncluster: {ps: 2, evaluators: 1}",
    f"{MWMS}elastic: 1\nrestart: 5",
    "cluster: {evaluators: 1}",
    f"{STREAM}cluster: {{data_workers: 2, evaluators: 1}}",
    "strategy: MultiWorkerMirrored\ncluster: {hosts: [{host: a, roles: [worker]}, {host: b, roles: [evaluator]}]}\n"
    "checkpoint: {path: /shared}",
    f"{CSV}, features: [a, b], weight: w, header: true, validation_split: 0.2}}}}",
    "dataset: {name: csv, path: '*.csv', args: {label: 0, header: false, weight: 2}}",
    f"{RECORDS}, w: {{dtype: float32}}}}, weight: w, compression: none, classes: 10}}}}",
    "dataset: {name: image_folder, path: x, shard: files, args: {image_size: [32, 32], channels: 1}}\nstrategy: Mirrored",
    "dataset: {name: 'tfds:glue/sst2:2.0.0', args: {split: train, download: true}}",
    "model: {name: transformer, heads: 2, width: 6, vocabulary: 100}",
    "training: {class_weight: {1: 0.5}, scale_learning_rate: 64, warmup_steps: 10}",
    "training: {loss: {a: mse, b: {name: Huber, delta: 2}}, metrics: {a: [mae, mse], b: 'my.metrics:Mine'}}",
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_a_job_may_say_and_is_written_down(text: str) -> None:
    job = parse_job(text, "job.yaml")
    assert parse_job(to_yaml(job), "job.yaml") == job


def test_losses_and_metrics_by_output() -> None:
    training = parse_job(RIGHT[-1], "job.yaml").training
    assert training.loss == {"a": Named("mse"), "b": Named("Huber", {"delta": 2})}
    assert training.metrics == {"a": (Named("mae"), Named("mse")), "b": (Named("my.metrics:Mine"),)}
    plain = parse_job(RIGHT[-1], "job.yaml").to_json()["training"]
    assert plain["metrics"]["b"] == [{"name": "my.metrics:Mine", "args": {}}]
    assert parse_job("training: {loss: {from_logits: true}}", "job.yaml").training.loss == Named(
        "sparse_categorical_crossentropy", {"from_logits": True}
    )


def test_only_functions_make_code_travel() -> None:
    def folder(text: str) -> str | None:
        return parse_job(text, "job.yaml").code_folder

    assert folder("dataset: 'tfds:mnist'") is None
    assert folder("dataset: 'my.data:load'") == "."
    assert folder(RIGHT[-1]) == "."


def test_replicas_are_what_shares_the_batch() -> None:
    def replicas(text: str) -> int:
        job: JobSpec = parse_job(text, "job.yaml")
        return job.replicas

    assert [replicas(text) for text in RIGHT[2:6]] == [1, 1, 2, 2]
    assert parse_job(RIGHT[4], "job.yaml").strategy.mesh == MeshSpec(2, 2)
    assert parse_job(RIGHT[3], "job.yaml").strategy.layout == {"dense.*/kernel": (None, "model"), "b": ("model",)}
