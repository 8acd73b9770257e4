# ruff: noqa: E501  (a sentence stays on one line)
"""Every mistake in a job file has its sentence, at its place, all of them at once."""

from __future__ import annotations

import pytest

from distrain.errors import JobError
from distrain.job.load import parse_job


def complaints(text: str | bytes, *sets: str, name: str | None = None) -> list[str]:
    with pytest.raises(JobError) as caught:
        parse_job(text, "job.yaml", sets, name)
    assert caught.value.exit_code == 2
    return str(caught.value).split("\n")


YAML = [
    ("", "job.yaml: the file is empty, or holds comments only; a job begins with, for example, model: cnn"),
    (
        "# nothing\n",
        "job.yaml: the file is empty, or holds comments only; a job begins with, for example, model: cnn",
    ),
    ("---\n", "job.yaml:2:1: a job is a mapping, and this is empty; write keys and values, such as model: cnn"),
    ("- a\n", "job.yaml:1:1: a job is a mapping, and this is a list; write keys and values, such as model: cnn"),
    ("cnn", 'job.yaml:1:1: a job is a mapping, and this is "cnn"; write keys and values, such as model: cnn'),
    ("model: cnn\n---\nmodel: mlp\n", "job.yaml:2:1: a second document begins here; keep one job to a file"),
    (
        "model: cnn\nwarm: true\nmodel: mlp\n",
        'job.yaml:3:1: the key "model" is given twice (first on line 1); keep one of the two',
    ),
    (
        "training:\n\tepochs: 1\n",
        "job.yaml:2:1: a tab stands where only spaces may; indent and separate with spaces",
    ),
    (b"model: cnn\nname: caf\xe9\n", "job.yaml:2:10: byte 0xe9 at offset 20 is not UTF-8; save the file as UTF-8"),
    ("model: cnn".encode("utf-16"), "job.yaml: the file is UTF-16; save it as UTF-8"),
    ("model: c\0nn", "job.yaml:1:9: character U+0000 cannot be in a text file; remove it"),
    (
        "model: cnn: 2",
        "job.yaml:1:11: this colon begins no value; quote text that holds a colon and a space, or mend the indentation",
    ),
    ("name: 'x\n", "job.yaml:2:1: the quote opened on line 1 is never closed; close it"),
    ("training: {epochs: 1\n", "job.yaml:2:1: the bracket opened on line 1 is not closed here; put in , or close it"),
    (
        "training:\n    epochs: 1\n  seed: 2\n",
        "job.yaml:3:3: this is indented unlike what it follows, which began on line 1; line it up with the keys beside it",
    ),
    ("model: cnn\nwarm\n", "job.yaml:3:1: the key on line 2 has no colon; write it as key: value"),
    ("name: @home", "job.yaml:1:7: no value can begin with this character; quote the text"),
    (
        "model: !!python/object/apply:os.system [id]",
        "job.yaml:1:8: the tag !!python/object/apply:os.system is not used in a job file; remove it; values need no tags",
    ),
    (
        "env: &e {A: *e}",
        "job.yaml:1:13: *e stands inside the value that it repeats; repeat a value that is complete",
    ),
    ("env: *e", "job.yaml:1:6: *e repeats nothing, since no &e comes before it; quote it if it is text"),
    ("? [a, b]\n: 1\n", "job.yaml:1:3: a key is a list or a mapping; write the key as text"),
    ("<<: 1", "job.yaml:1:1: << merges something that is no mapping; give it mappings, such as *name"),
    (
        "model: " + "[" * 100,
        "job.yaml:1:39: values are nested more than 32 deep; a job needs no more than a few levels",
    ),
]

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

VALUES = [
    ("modle: cnn", '1:1: a job has no key "modle"; did you mean "model"?'),
    (
        "zzz: 1",
        '1:1: a job has no key "zzz"; its keys are name, program, model, dataset, training, strategy, cluster, checkpoint, restart, elastic, watchdog, env, warm, code',
    ),
    ("epochs: 3", '1:1: a job has no key "epochs"; it belongs under training'),
    ("training: {warm: false}", '1:12: training has no key "warm"; it belongs to the top level of the file'),
    ("training: {epochs: 0}", "1:20: training.epochs is 0; give 1 or more"),
    ("training: {epochs: -3}", "1:20: training.epochs is -3; give 1 or more"),
    ("training: {epochs: 1.5}", "1:20: training.epochs is 1.5, which is no whole number; give 1 or more"),
    ("training: {epochs: three}", '1:20: training.epochs is "three", which is no whole number; give 1 or more'),
    ('training: {epochs: "3"}', '1:20: training.epochs is "3", which is no whole number; give 1 or more'),
    ("training: {epochs: yes}", "1:20: training.epochs is yes, which is no whole number; give 1 or more"),
    ("training: {epochs: }", "1:19: training.epochs is empty, which is no whole number; give 1 or more"),
    ("training: {epochs: [1]}", "1:20: training.epochs is a list, which is no whole number; give 1 or more"),
    ("training: {epochs: 1e99}", "1:20: training.epochs is 1e99; give 2147483647 or less"),
    ("training: {epochs: .inf}", "1:20: training.epochs is .inf; give 2147483647 or less"),
    ("training: {seed: -1}", "1:18: training.seed is -1; give 0 or more"),
    ("training: 3", "1:11: training is 3; give a mapping"),
    ("training: {shuffle: 1}", "1:21: training.shuffle is 1; give true or false, without quotes"),
    ("training: {cache: 'yes'}", '1:19: training.cache is "yes"; give true or false, without quotes'),
    (
        "training: {validation: -1}",
        "1:24: training.validation is -1; give true, false, or a whole number: validate every so many epochs",
    ),
    (
        "training: {precision: float16}",
        '1:23: training.precision is "float16", which is none of its values; did you mean "mixed_float16"?',
    ),
    ("strategy: Mirorred", '1:11: strategy.name is "Mirorred", which is none of its values; did you mean "Mirrored"?'),
    (
        "strategy: MirroredStrategy",
        '1:11: strategy.name is "MirroredStrategy", which is none of its values; did you mean "Mirrored"?',
    ),
    (
        "strategy: multi_worker_mirrored",
        '1:11: strategy.name is "multi_worker_mirrored", which is none of its values; did you mean "MultiWorkerMirrored"?',
    ),
    (
        "strategy: horovod",
        '1:11: strategy.name is "horovod", which is none of its values; '
        "choose one of OneDevice, Mirrored, MultiWorkerMirrored, ParameterServer, ParameterAveraging, ModelParallel, "
        "Hybrid, TPU",
    ),
    (
        "strategy: DataParallel",
        '1:11: strategy.name is "DataParallel", which is none of its values; keras.distribution trains unsharded on the '
        "TensorFlow backend, without a word; for data parallelism choose Mirrored or MultiWorkerMirrored",
    ),
    ("model: cmn", '1:8: model is "cmn", which distrain does not know; did you mean "cnn"?'),
    (
        "model: keras.applications.resnet50",
        '1:8: model is "keras.applications.resnet50", which distrain does not know; '
        'did you mean "keras.applications.ResNet50"?',
    ),
    (
        "model: my.nets.tiny",
        '1:8: model is "my.nets.tiny", which distrain does not know; '
        'if it is a function of your own, write "my.nets:tiny"',
    ),
    (
        "model: nets.py:tiny net",
        '1:8: model is "nets.py:tiny net", which distrain does not know; '
        "a function of your own is named package.module:function",
    ),
    ("model: {name: cnn, filter: 8}", '1:20: cnn has no argument "filter"; did you mean "filters"?'),
    ("model: {name: cnn, filters: -1}", "1:29: model.filters is -1; give 1 or more"),
    ("model: {name: cnn, dense: 1.5}", "1:27: model.dense is 1.5, which is no whole number; give 1 or more"),
    ("model: {args: {classes: 0}}", "1:25: model.classes is 0; give 1 or more"),
    ("model: {name: cnn, dropout: 1}", "1:29: model.dropout is 1; give a number from 0 to below 1"),
    ("model: {name: mlp, dropout: -0.1}", "1:29: model.dropout is -0.1; give a number from 0 to below 1"),
    ("model: {name: mlp, dropout: .nan}", "1:29: model.dropout is .nan; give a number from 0 to below 1"),
    ("model: {name: mlp, dropout: yes}", "1:29: model.dropout is yes; give a number from 0 to below 1"),
    (
        "model: {name: mlp, hidden: abc}",
        '1:28: model.hidden is "abc"; give a list of layer sizes, such as [128, 64]',
    ),
    ("model: {name: mlp, hidden: []}", "1:28: model.hidden is empty; give a list of layer sizes, such as [128, 64]"),
    ("model: {name: mlp, hidden: [64, 0]}", "1:33: model.hidden.1 is 0; give 1 or more"),
    (
        "model: {name: keras.applications.MobileNetV2, alhpa: 1}",
        '1:47: keras.applications.MobileNetV2 has no argument "alhpa"; did you mean "alpha"?',
    ),
    (
        "model: {name: keras.applications.VGG16, minimalistic: true}",
        '1:41: keras.applications.VGG16 has no argument "minimalistic"; its arguments are include_top, weights, '
        "input_tensor, input_shape, pooling, classes, classifier_activation, name",
    ),
    ("model: {nmae: cnn}", '1:9: cnn has no argument "nmae"; did you mean "name"?'),
    ("model: [cnn]", "1:8: model is a list; give a name, or {name: ..., arguments}"),
    ("dataset: mnits", '1:10: dataset.name is "mnits", which distrain does not know; did you mean "mnist"?'),
    ("dataset: {batchsize: 1}", '1:11: dataset has no key "batchsize"; did you mean "batch_size"?'),
    ("dataset: {batch_size: 0}", "1:23: dataset.batch_size is 0; give 1 or more"),
    ("training: {optimizer: adm}", '1:23: Keras has no optimizer "adm"; did you mean "adam"?'),
    (
        "training: {optimizer: {name: adam, lr: 0.1}}",
        '1:36: Adam has no argument "lr"; did you mean "learning_rate"?',
    ),
    (
        "training: {optimizer: {learning_rate: 0}}",
        "1:39: training.optimizer.learning_rate is 0; "
        "give a number above 0, or a schedule such as {name: CosineDecay, ...}",
    ),
    (
        "training: {optimizer: {learning_rate: {name: cosine_decay}}}",
        '1:46: Keras has no learning-rate schedule "cosine_decay"; did you mean "CosineDecay"?',
    ),
    (
        "training: {optimizer: {learning_rate: {name: CosineDecay}}}",
        "1:39: CosineDecay needs initial_learning_rate, decay_steps; "
        "write {name: CosineDecay, initial_learning_rate: ..., decay_steps: ...}",
    ),
    (
        "training: {optimizer: {name: sgd, momentum: 0.9, args: {momentum: 0.8}}}",
        '1:35: training.optimizer has the argument "momentum" twice, beside its name and under args; keep one of the two',
    ),
    (
        "training: {optimizer: {name: sgd, momentum: .nan}}",
        "1:45: training.optimizer.momentum is .nan, which is no number that a computer holds exactly; "
        "give a finite number of at most 18 digits, or quote it as text",
    ),
    (
        "training: {loss: sparse_categorical_crossentopy}",
        '1:18: Keras has no loss "sparse_categorical_crossentopy"; did you mean "sparse_categorical_crossentropy"?',
    ),
    ("training: {metrics: [accuracy, acuracy]}", '1:32: Keras has no metric "acuracy"; did you mean "accuracy"?'),
    ("training: {metrics: [{thresholds: 1}]}", "1:22: training.metrics.0 has no name; write {name: ..., arguments}"),
    ("training: {metrics: MeanIoU}", "1:21: MeanIoU needs num_classes; write {name: MeanIoU, num_classes: ...}"),
    (
        "training: {callbacks: [EarlyStoping]}",
        '1:24: Keras has no callback "EarlyStoping"; did you mean "EarlyStopping"?',
    ),
    (
        "training: {callbacks: LambdaCallback}",
        "1:23: training.callbacks.0 cannot be LambdaCallback in a job file; it is made of Python functions; "
        "write a function that returns it and name that as package.module:function",
    ),
    (
        "training: {callbacks: BackupAndRestore}",
        "1:23: training.callbacks.0 cannot be BackupAndRestore in a job file; it overwrites its only copy, on every "
        "worker; write checkpoint: {every_epochs: 1} instead",
    ),
    (
        "cluster: {ports: [80, 70000]}",
        "1:23: cluster.ports holds 70000, which is no port; "
        "give a port from 1 to 65535, or a range such as 20000-20099",
    ),
    (
        "cluster: {ports: [2-1]}",
        '1:19: cluster.ports holds "2-1", which is no port; '
        "give a port from 1 to 65535, or a range such as 20000-20099",
    ),
    ("cluster: {workers: 100000}", "1:20: cluster.workers is 100000; give 1024 or less"),
    ("checkpoint: {keep: 0}", "1:20: checkpoint.keep is 0; give 1 or more"),
    ("checkpoint: {keep_best: -1}", "1:25: checkpoint.keep_best is -1; give 0 or more"),
    ("checkpoint: {every_s: 0}", "1:23: checkpoint.every_s is 0; give a number of seconds, 1 or more"),
    ("checkpoint: {every_second: 1}", '1:14: checkpoint has no key "every_second"; did you mean "every_s"?'),
    ("checkpoint: {path: []}", "1:20: checkpoint.path is a list, and it must be text; write the text"),
    ("restart:", "1:9: restart is empty; give {max: 3} or the like, or false for never"),
    ("restart: often", '1:10: restart.max is "often", which is no whole number; give 1 or more'),
    ("restart: -1", "1:10: restart.max is -1; give 1 or more"),
    ("restart: [crash]", "1:10: restart is a list; give {max: 3} or the like, or false for never"),
    ("restart: {max: 0}", "1:16: restart.max is 0; give 1 or more"),
    ("restart: {backoff_s: -1}", "1:22: restart.backoff_s is -1; give a number of seconds, 0 or more"),
    ("restart: {window: 60}", '1:11: restart has no key "window"; did you mean "window_s"?'),
    (
        "restart: {on: [crash, hostlost]}",
        '1:23: restart.on.1 is "hostlost", which is none of its values; did you mean "host_lost"?',
    ),
    (
        "restart: {on: nan}",
        '1:15: restart.on.0 is "nan", which is none of its values; choose one of crash, hang, host_lost, preempted',
    ),
    ("elastic: {min_worker: 1}", '1:11: elastic has no key "min_worker"; did you mean "min_workers"?'),
    ("elastic: 1.5", "1:10: elastic.min_workers is 1.5, which is no whole number; give 1 or more"),
    ("watchdog: false", "1:11: watchdog is false; give a mapping"),
    (
        "watchdog: {nan: rolback}",
        '1:17: watchdog.nan is "rolback", which is none of its values; did you mean "rollback"?',
    ),
    (
        "watchdog: {step_timeout_s: automatic}",
        '1:28: watchdog.step_timeout_s is "automatic"; '
        "give auto, a number of seconds, 1 or more, or false to wait for ever",
    ),
    (
        "watchdog: {step_timeout_s: 0.5}",
        "1:28: watchdog.step_timeout_s is 0.5; give auto, a number of seconds, 1 or more, or false to wait for ever",
    ),
    (
        "checkpoint:",
        "1:12: checkpoint is empty; give {every_epochs: 1, keep: 3} or the like, or false for no checkpoints",
    ),
    (
        "env: {TF_CONFIG: '{}'}",
        "1:7: TF_CONFIG cannot be set by a job: distrain writes it for each task from cluster and strategy; remove it",
    ),
    (
        "env: {DISTRAIN_ROLE: ps}",
        "1:7: DISTRAIN_ROLE cannot be set by a job: names that begin with DISTRAIN_ are distrain's own; remove it",
    ),
    ("env: {2X: a}", '1:7: "2X" is no name of an environment variable; use letters, digits and _, no digit first'),
    ("env: {A: yes}", '1:10: env.A is yes, which is not text; write "yes" or whatever the program expects'),
    (
        'env: {A: "a\\0b"}',
        "1:10: env.A holds the character U+0000, which no environment variable can hold; remove it",
    ),
    (
        'env: {A: "\\udcff"}',
        "1:10: env.A holds the character U+DCFF, which no environment variable can hold; remove it",
    ),
    (
        'dataset: {name: npz, path: "a\\0b"}',
        "1:28: dataset.path holds the character U+0000; remove it",
    ),
    ("env: {A: [1]}", "1:10: env.A is a list, and an environment variable holds text; give text"),
    ("env: [A]", "1:6: env is a list; give a mapping such as {NAME: value}"),
    (
        "name: ../x",
        '1:7: name is "../x"; it names a directory: use letters, digits, . _ and -, at most 64, '
        "beginning with a letter or digit",
    ),
]

COMBINATIONS = [
    (
        "strategy: Mirrored\ncluster: {ps: 2}",
        "2:15: cluster.ps is 2, and strategy Mirrored has no parameter servers; "
        "choose strategy ParameterServer, or remove cluster.ps",
    ),
    (
        "strategy: ParameterServer\ncluster: {ps: 0}",
        "2:15: cluster.ps is 0, and strategy ParameterServer keeps its variables on parameter servers; "
        "give cluster.ps 1 or more",
    ),
    (
        "cluster: 3",
        "1:10: cluster.workers is 3, and strategy OneDevice trains in one process; "
        "choose strategy MultiWorkerMirrored or ParameterServer for several workers, or set cluster.workers to 1",
    ),
    (
        "cluster: {devices_per_worker: 2}",
        "1:31: cluster.devices_per_worker is 2, and strategy OneDevice uses one device per worker; "
        "choose strategy Mirrored, or remove cluster.devices_per_worker",
    ),
    (
        "strategy: ParameterServer\ncluster: {workers: 2, devices_per_worker: 2}",
        "2:43: cluster.devices_per_worker is 2, and strategy ParameterServer uses one device per worker; "
        "give more cluster.workers, and remove cluster.devices_per_worker",
    ),
    (
        "strategy: MultiWorkerMirrored\ncluster: 3\ndataset: {batch_size: 100}",
        "3:23: dataset.batch_size is 100, which does not divide among 3 replicas (3 workers); "
        "the nearest that does: 99 or 102",
    ),
    (
        "strategy: MultiWorkerMirrored\ncluster: {workers: 3, devices_per_worker: 2}",
        "2:20: dataset.batch_size is 128, which does not divide among 6 replicas (3 workers of 2 devices); "
        "the nearest that does: 126 or 132",
    ),
    (
        "strategy: Mirrored\ncluster: {devices_per_worker: 4}\ndataset: {batch_size: 3}",
        "3:23: dataset.batch_size is 3, which does not divide among 4 replicas (4 devices); the nearest that does: 4",
    ),
    ("dataset: npz", "1:10: dataset npz has no path; give dataset.path, the .npz file to read"),
    (
        "dataset: {path: x.npz}",
        "1:17: dataset digits comes with distrain and reads no path; "
        "remove dataset.path, or choose dataset mnist, fashion_mnist or npz to read it",
    ),
    (
        "dataset: {name: mnist, args: {a: 1}}",
        "1:30: dataset mnist takes no args; remove dataset.args; they are for a function of your own",
    ),
    (
        "strategy: Mirrored\nelastic: true",
        "2:10: elastic is given, and strategy Mirrored has one worker, which nothing can do without; "
        "remove elastic, or choose strategy MultiWorkerMirrored or ParameterServer",
    ),
    (
        "strategy: ParameterServer\ncluster: 2\nelastic: {min_workers: 3}",
        "3:24: elastic.min_workers is 3, and the job begins with 2 workers; give 2 or less, or more cluster.workers",
    ),
    (
        "program: [x]\nelastic: 2",
        "2:10: elastic.min_workers is 2, and the job begins with 1 worker; give 1 or less, or more cluster.workers",
    ),
    (
        "strategy: MultiWorkerMirrored\ncluster: 8\nelastic: 5",
        "3:10: elastic.min_workers is 5, and dataset.batch_size 128 does not divide among any number from 5 to 7 of the "
        "8 workers; give elastic.min_workers 4, or a batch size that does",
    ),
    (
        "strategy: MultiWorkerMirrored\ncluster: {workers: 2, devices_per_worker: 2}\ndataset: {batch_size: 4}\n"
        "elastic: {min_workers: 3}",
        "4:24: elastic.min_workers is 3, and the job begins with 2 workers; give 2 or less, or more cluster.workers",
    ),
    (
        "watchdog: {nan: rollback}\ncheckpoint: false",
        "1:17: watchdog.nan is rollback, and checkpoint is false, so that there is nothing to go back to; "
        "have checkpoints written, or choose stop or ignore",
    ),
    (
        "watchdog: {nan: rollback}\nrestart: 0",
        "1:17: watchdog.nan is rollback, which is a restart, and restart is false; "
        "allow restarts, or choose stop or ignore",
    ),
    (
        "strategy: MultiWorkerMirrored\ncluster: {workers: 4, ports: [20000-20001, 20001]}",
        "2:30: cluster.ports lists 2 ports, and 4 tasks need one each; list more, or remove cluster.ports",
    ),
    (
        "training: {validation: false, callbacks: [EarlyStopping]}",
        "1:43: callback EarlyStopping watches val_loss, and training.validation is false; "
        "set its monitor to a training metric such as loss, or set training.validation to true",
    ),
    (
        "training: {callbacks: [TerminateOnNaN, {name: EarlyStopping, monitor: val_los}]}",
        '1:71: callback EarlyStopping watches "val_los", which no log of this job holds; did you mean "val_loss"?',
    ),
    (
        "training: {callbacks: {name: ReduceLROnPlateau, args: {monitor: val_acc}}}",
        '1:65: callback ReduceLROnPlateau watches "val_acc", which no log of this job holds; '
        'did you mean "val_accuracy"?',
    ),
    (
        "training: {metrics: [mse], callbacks: {name: EarlyStopping, monitor: accuracy}}",
        '1:70: callback EarlyStopping watches "accuracy", which no log of this job holds; '
        "choose one of loss, mean_squared_error, val_loss, val_mean_squared_error, learning_rate",
    ),
    (
        "training: {callbacks: {name: ModelCheckpoint, filepath: best.keras, save_best_only: true, monitor: val_los}}",
        '1:100: callback ModelCheckpoint watches "val_los", which no log of this job holds; did you mean "val_loss"?',
    ),
    (
        "dataset: mnist\ntraining: {loss: categorical_crossentropy}",
        "2:18: training.loss is categorical_crossentropy, and dataset mnist has no one-hot labels; "
        "its labels are whole numbers: use sparse_categorical_crossentropy",
    ),
    (
        "training: {loss: {name: CategoricalCrossentropy, label_smoothing: 0.1}}",
        "1:18: training.loss is CategoricalCrossentropy, and dataset digits has no one-hot labels; "
        "its labels are whole numbers: use sparse_categorical_crossentropy",
    ),
    (
        "strategy: ParameterServer\ntraining: {deterministic: true}",
        "2:27: training.deterministic is true, and ParameterServer's workers update the weights in no fixed order; "
        "choose MultiWorkerMirrored, or remove training.deterministic",
    ),
    (
        "strategy: ParameterServer\ntraining: {optimizer: {name: sgd, gradient_accumulation_steps: 4}}",
        "2:64: gradient_accumulation_steps adds up the gradients of steps that follow each other, and ParameterServer's "
        "workers take steps side by side; raise dataset.batch_size, or choose "
        "MultiWorkerMirrored and strategy.accumulate in its place",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), YAML)
def test_what_is_no_proper_yaml(text: str | bytes, sentence: str) -> None:
    assert complaints(text) == [sentence]


@pytest.mark.parametrize(("text", "sentence"), VALUES + COMBINATIONS)
def test_what_no_job_may_say(text: str, sentence: str) -> None:
    assert complaints(text) == [f"job.yaml:{sentence}"]


def test_a_bomb_is_refused_before_it_is_expanded() -> None:
    assert complaints(BOMB) == [
        "job.yaml:4:4: the file stands for more than 20000 values, aliases written out; "
        "a job is shorter; remove the aliases"
    ]


def test_all_complaints_come_at_once_in_the_order_of_the_file() -> None:
    text = """\
model: cmn
training: {epochs: 0, epoch: 1, metrics: [acuracy]}
strategy: Mirrored
cluster: {workers: 2, ps: 1, workers: 3}
env: {TF_CONFIG: x}
"""
    places = [sentence.split(": ")[0] for sentence in complaints(text)]
    assert places == [f"job.yaml:{place}" for place in ("1:8", "2:20", "2:23", "2:43", "4:20", "4:27", "4:30", "5:7")]


def test_a_combination_is_not_judged_by_a_value_that_is_wrong_itself() -> None:
    assert complaints("strategy: Mirored\ncluster: {workers: 2, ps: 1}") == [
        'job.yaml:1:11: strategy.name is "Mirored", which is none of its values; did you mean "Mirrored"?'
    ]


def test_no_sentence_carries_control_characters_or_pages_of_text() -> None:
    (sentence,) = complaints('model: "\\e[2J' + "x" * 5000 + '"')
    assert "\x1b" not in sentence
    assert len(sentence) < 300


OPTIONS = [
    ("epochs", "--set epochs: an option has the form key=value; write for example --set training.epochs=1"),
    (".=1", "--set .: an option has the form key=value; write for example --set training.epochs=1"),
    ("training.epoch=1", '--set training.epoch: training has no key "epoch"; did you mean "epochs"?'),
    ("traning.epochs=1", '--set traning.epochs: a job has no key "traning"; did you mean "training"?'),
    ("training.epochs=0", "--set training.epochs: training.epochs is 0; give 1 or more"),
    (
        "training.seed.x=1",
        "--set training.seed.x: training.seed holds a single value, so there is no training.seed.x to set; "
        "set training.seed itself",
    ),
    (
        "training.metrics.3=mse",
        "--set training.metrics.3: training.metrics has 1 entry, so training.metrics.3 is beyond its end; "
        "count from 0, or set the whole list: training.metrics=[...]",
    ),
    (
        f"training.metrics.{'9' * 30}=mse",
        f"--set training.metrics.{'9' * 30}: training.metrics has 1 entry, so training.metrics.{'9' * 30} is beyond its "
        "end; count from 0, or set the whole list: training.metrics=[...]",
    ),
    (
        "training.metrics.last=mse",
        '--set training.metrics.last: training.metrics is a list, and "last" is no position in it; '
        "count from 0, or set the whole list: training.metrics=[...]",
    ),
    (
        "training.callbacks.0=TerminateOnNaN",
        "--set training.callbacks.0: training.callbacks has no entries, so training.callbacks.0 is beyond its end; "
        "count from 0, or set the whole list: training.callbacks=[...]",
    ),
    (
        "cluster.ports.0=20000",
        "--set cluster.ports.0: cluster.ports has no entries, so cluster.ports.0 is beyond its end; "
        "count from 0, or set the whole list: cluster.ports=[...]",
    ),
    ("model={a", "--set model: the bracket opened on line 1 is not closed here; put in , or close it"),
    ("env={a: 1, a: 2}", '--set env: the key "a" is given twice; keep one of the two'),
    (
        "cluster.workers=2",
        "--set cluster.workers: cluster.workers is 2, and strategy OneDevice trains in one process; "
        "choose strategy MultiWorkerMirrored or ParameterServer for several workers, or set cluster.workers to 1",
    ),
    ("model=\udcff", "--set model: byte 0xed at offset 0 is not UTF-8; save the file as UTF-8"),
]


@pytest.mark.parametrize(("option", "sentence"), OPTIONS)
def test_what_no_option_may_say(option: str, sentence: str) -> None:
    assert complaints("training: {seed: 7, metrics: accuracy}", option)[0] == sentence


def test_a_name_that_is_given_on_the_command_line_is_checked_too() -> None:
    (sentence,) = complaints("model: cnn", name="a/b")
    assert sentence.startswith('--name: name is "a/b"; it names a directory')


def test_no_sentence_tells_a_secret() -> None:
    (sentence,) = complaints("env: {API_TOKEN: hunter2}", "env.API_TOKEN.x=1")
    assert "hunter2" not in sentence


def test_ports_beyond_number_are_refused_without_counting_them() -> None:
    (sentence,) = complaints(f"cluster: {{ports: [{', '.join(['1-65535'] * 10_000)}]}}")
    assert sentence == "job.yaml:1:18: cluster.ports lists ports more than once; list each once"
