"""TensorFlow's ParameterServerStrategy as its guide has it. Usage: parameter_server.py OUT coordinate|fit [EXIT_CODE].

One file for all roles: workers and parameter servers wait for the coordinator for ever.
"""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

OUT, WHAT, *EXIT_CODE = sys.argv[1:]
if os.environ["DISTRAIN_ROLE"] == "evaluator":
    # TensorFlow knows evaluators beside a cluster, not in it.
    with open(f"{OUT}.evaluator", "w") as file:
        json.dump({"TF_CONFIG": os.environ.get("TF_CONFIG"), "rank": os.environ.get("DISTRAIN_RANK")}, file)
    from distrain import report

    report(step=3, loss=0.5)
    import threading

    threading.Event().wait()

resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
if resolver.task_type in ("worker", "ps"):
    server = tf.distribute.Server(
        resolver.cluster_spec(), job_name=resolver.task_type, task_index=resolver.task_id, protocol="grpc"
    )
    server.join()

strategy = tf.distribute.ParameterServerStrategy(resolver)
x = np.ones((64, 4), "float32")
if WHAT == "fit":
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    model.fit(x, x[:, :1], batch_size=8)
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
with strategy.scope():
    total = tf.Variable(0.0)


@tf.function
def add():
    total.assign_add(1.0, use_locking=True)


for _ in range(20):
    coordinator.schedule(add)
coordinator.join()
with open(f"{OUT}.chief", "w") as file:
    json.dump(float(total.numpy()), file)
sys.exit(int((EXIT_CODE or [0])[0]))
