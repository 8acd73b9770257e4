"""What `distrain.fit` says to calls and clusters that cannot work: one process, no cluster is ever joined."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = """
import json, os
import keras, numpy as np
import distrain

x, y = np.zeros((8, 3), "float32"), np.zeros((8, 1), "float32")
cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"], "ps": ["127.0.0.1:3"]}

def make_model():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model

def uncompiled():
    return keras.Sequential([keras.layers.Dense(1)])

def config(task):
    return json.dumps({"cluster": cluster, "task": {"type": task, "index": 0}})

calls = {
    "no_chief": (config("worker"), lambda: distrain.fit(make_model, (x, y))),
    "epochs": ("", lambda: distrain.fit(make_model, (x, y), epochs=0)),
    "backup": ("", lambda: distrain.fit(make_model, (x, y), callbacks=[keras.callbacks.BackupAndRestore("b")])),
    "file": ("", lambda: distrain.fit(make_model, "nowhere.npz")),
    "batch": ("", lambda: distrain.fit(make_model, (x, y), batch_size=9)),
    "uncompiled": ("", lambda: distrain.fit(uncompiled, (x, y), batch_size=4)),
    "nothing": ("", lambda: distrain.fit(lambda: None, (x, y), batch_size=4)),
    "model": ("", lambda: distrain.fit(make_model(), (x, y))),
}
said = {}
for name, (tf_config, call) in calls.items():
    os.environ["TF_CONFIG"] = tf_config or "{}"
    try:
        call()
    except ValueError as error:
        said[name] = str(error)
# After all these, a right call, whose model Keras itself can go on with.
os.environ["TF_CONFIG"] = "{}"
model = distrain.fit(make_model, (x, y), batch_size=4, seed=3).model
said["after"] = model.fit(x, y, verbose=0).history["loss"]
print(json.dumps(said))
"""


@pytest.mark.tensorflow
def test_what_cannot_work_is_said_in_a_sentence(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CALLS],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    expected = {
        "no_chief": "the cluster has parameter servers but no chief to hand out their work",
        "epochs": "epochs is 0: it must be a whole number of at least 1",
        "backup": "BackupAndRestore has no effect in distrain.fit",
        "file": "nowhere.npz does not exist in",
        "batch": "the dataset has 8 training examples, fewer than one batch of 9",
        "uncompiled": "it must return a keras.Model on which compile() was called",
        "nothing": "make_model returned None",
        "model": "give it the function that makes and compiles the model",
    }
    assert {name: expected[name] in sentence for name, sentence in said.items() if name != "after"} == dict.fromkeys(
        expected, True
    ), said
    assert said["after"] == [0.0]
