"""TPU: a replica on each core of a TPU, driven by one task. It has not run on hardware.

Owns what is looked at before a TPU is touched, since TensorFlow without TPU kernels fails late and in other words, and
for how long it is waited for. The steps are `synchronous`'s.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import tensorflow as tf

from distrain.worker.assignment import Assignment
from distrain.worker.input.feed import Share
from distrain.worker.refusal import Refusal
from distrain.worker.strategies.synchronous import Synchronous
from distrain.worker.telemetry import Events

LOOKUP_TIMEOUT_S = 20.0
"""Google Cloud's metadata server, which knows TPUs by name, answers at once where there is one. TensorFlow asks it
without a limit, and elsewhere its address may lead nowhere.
"""
START_TIMEOUT_S = 120.0

_LAST_VERSION = "2.19.1"
"""The last TensorFlow with support for TPUs, by Keras's word. Wheels named tensorflow have no kernels for them."""
_WHEELS = "https://storage.googleapis.com/libtpu-tf-releases/index.html"
_INSTALL = f"pip install tensorflow-tpu=={_LAST_VERSION} -f {_WHEELS}"
_DISTRIBUTIONS = ("tensorflow-tpu", "tensorflow", "tensorflow-cpu")
_LIBRARIES = ("/lib/libtpu.so", "/usr/lib/libtpu.so")


def open_strategy(assignment: Assignment, events: Events) -> Synchronous:
    """Connect to the TPU that the job names, or to that of the host.

    Raises:
        Refusal: something is missing here, or there is no such TPU.
    """
    name = assignment.job["strategy"]["tpu"]
    missing = what_is_missing(installed(), attached=name is None, has_library=has_library())
    if missing is not None:
        raise Refusal(missing)
    strategy = connect(resolve(name), name)
    count = strategy.num_replicas_in_sync
    if assignment.batch_size % count:
        raise Refusal(
            f"dataset.batch_size is {assignment.batch_size}, which the {count} cores of the TPU cannot share equally: "
            f"make it a multiple of {count}"
        )
    return Synchronous(strategy, Share(first=0, count=count, replicas=count), spec=assignment.job["strategy"])


def installed() -> Mapping[str, str]:
    """The wheels of TensorFlow that are installed, with their versions."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def has_library() -> bool:
    """Whether libtpu is here, by which TensorFlow speaks with a TPU of this host."""
    named = os.environ.get("TPU_LIBRARY_PATH")
    paths = [named] if named else _LIBRARIES
    return any(Path(path).exists() for path in paths) or importlib.util.find_spec("libtpu") is not None


def what_is_missing(wheels: Mapping[str, str], *, attached: bool, has_library: bool) -> str | None:
    """What a TPU needs and is not here, as a sentence that says what to install. Pure.

    `wheels`: those of TensorFlow, with their versions. `attached`: the TPU is this host's own.
    """
    others = {name: version for name, version in wheels.items() if name != "tensorflow-tpu"}
    there = ", ".join(f"{name} {version}" for name, version in others.items())
    if "tensorflow-tpu" not in wheels:
        return (
            f"strategy TPU needs TensorFlow's wheel for TPUs, but {there or 'another build'} is installed, which has "
            f"no kernels for them: in an environment of its own, {_INSTALL}"
        )
    if others:
        return (
            f"tensorflow-tpu and {there} are installed in the same place, and overwrite each other's files: "
            f"pip uninstall {' '.join(wheels)}, then {_INSTALL}"
        )
    if attached and not has_library:
        return (
            "strategy TPU needs libtpu, by which TensorFlow speaks with the TPU of its host, but there is none: "
            f"pip install libtpu -f {_WHEELS}, or let TPU_LIBRARY_PATH name the file"
        )
    return None


def resolve(name: str | None) -> tf.distribute.cluster_resolver.TPUClusterResolver:
    """Where the TPU of that name, or of that address, is; None: in this host.

    Raises:
        Refusal: it is not known, or nobody who knows it answers.
    """

    def look_up() -> tf.distribute.cluster_resolver.TPUClusterResolver:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name or "local")
        resolver.cluster_spec()  # asks Google Cloud for the addresses of a name
        return resolver

    instead = "give strategy.tpu its address, as in grpc://10.0.0.2:8470, or leave it out on a host that has the TPU"
    try:
        return within(LOOKUP_TIMEOUT_S, look_up)
    except TimeoutError as error:
        raise Refusal(
            f"the TPU {name!r} cannot be looked up: Google Cloud's metadata server does not answer within "
            f"{LOOKUP_TIMEOUT_S:g} seconds, as it does on its own machines alone; {instead}"
        ) from error
    except OSError as error:
        raise Refusal(
            f"the TPU {name!r} cannot be looked up: Google Cloud's metadata server cannot be reached ({error}), which "
            f"its own machines alone can; {instead}"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise Refusal(f"the TPU {name!r} cannot be looked up: {_first_line(error)}; {instead}") from error


def connect(resolver: tf.distribute.cluster_resolver.TPUClusterResolver, name: str | None) -> tf.distribute.TPUStrategy:
    """The strategy on that TPU, which is started anew.

    Raises:
        Refusal: there is none, or it does not answer.
    """

    def start() -> None:
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)

    where = "this host" if name is None else f"the TPU {name!r}"
    try:
        within(START_TIMEOUT_S, start)
        return tf.distribute.TPUStrategy(resolver)
    except TimeoutError as error:
        raise Refusal(
            f"{where} does not answer within {START_TIMEOUT_S:g} seconds: see that the TPU runs, can be reached from "
            "here, and is used by no other process"
        ) from error
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise Refusal(
            f"no TPU can be used in {where}: {_first_line(error)}; see that there is one and that no other process "
            "uses it, or choose another strategy"
        ) from error


def within(limit_s: float, function: Callable[[], Any]) -> Any:
    """What `function` gives or raises, in a thread of its own, which is left behind when its time is over.

    Raises:
        TimeoutError: it is still at it after `limit_s`.
    """
    came: list[Callable[[], Any]] = []

    def run() -> None:
        try:
            value = function()
        except Exception as error:  # noqa: BLE001 - raised in the thread that waits
            came.append(_raising(error))
        else:
            came.append(lambda: value)

    thread = threading.Thread(target=run, name="tpu", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not came:
        raise TimeoutError(f"no answer within {limit_s:g} seconds")
    return came[0]()


def _raising(error: Exception) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
