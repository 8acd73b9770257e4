"""Arrays divided over a DTensor mesh: how the mesh comes about, and how values get there from the host and back.

The variables of Keras stay on the host, where callbacks, checkpoints and `model.save` find them; `Shards` holds the
same values on the mesh, where steps change them.
"""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from distrain.worker.assignment import Assignment
from distrain.worker.runtime import local_devices
from distrain.worker.strategies.layout import BATCH, MODEL, Grid, Layout


def connect(assignment: Assignment, grid: Grid) -> Mesh:
    """The mesh of all tasks' devices, once they are all there. Runs the first op of this process."""
    names = local_devices(grid.devices)
    kind = names[0].partition(":")[0]
    if grid.workers > 1:
        addresses = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"]
        os.environ["DTENSOR_JOBS"] = ",".join(addresses)
        os.environ["DTENSOR_CLIENT_ID"] = str(assignment.index)
        os.environ["DTENSOR_JOB_NAME"] = "worker"
    dtensor.initialize_accelerator_system(kind)
    # TensorFlow may have caught SIGTERM by now, for a notice of preemption that nobody reads.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    dimensions = [(BATCH, grid.batch), (MODEL, grid.model)]
    return Mesh(dtensor.create_distributed_mesh(dimensions, device_type=kind), grid)


class Mesh:
    """A DTensor mesh, `on`, whose devices are those of `grid`."""

    def __init__(self, on: dtensor.Mesh, grid: Grid) -> None:
        self.on = on
        self.grid = grid

    def layout(self, layout: Layout) -> dtensor.Layout:
        """As DTensor has it. A dimension of one device divides nothing."""
        whole = dtensor.UNSHARDED
        specs = [axis if axis is not None and self.grid.size(axis) > 1 else whole for axis in layout]
        return dtensor.Layout(specs, self.on)

    def divided(self, array: np.ndarray, layout: Layout) -> tf.Tensor:
        """`array`, which all tasks have alike, on the mesh."""
        parts: dict[tuple[int, ...], tf.Tensor] = {}
        of_devices = []
        for place in self.grid.places:
            cut = self.grid.cut(array.shape, layout, place)
            key = tuple(axis.start for axis in cut)
            if key not in parts:
                parts[key] = tf.constant(array[cut])
            of_devices.append(parts[key])
        return dtensor.pack(of_devices, self.layout(layout))

    def batch(self, of_rows: Sequence[Any]) -> Any:
        """A batch on the mesh, divided over its rows: of each of this worker's `grid.rows` there is its part."""
        first = self.grid.rows[0]
        layout = (BATCH,)

        def packed(*leaves: tf.Tensor) -> tf.Tensor:
            axes = (*layout, *(None,) * (len(leaves[0].shape) - 1))
            return dtensor.pack([leaves[row - first] for row, _ in self.grid.places], self.layout(axes))

        return tf.nest.map_structure(packed, *of_rows)

    def alike(self, batch: Any) -> Any:
        """A batch that all devices have whole."""

        def packed(leaf: tf.Tensor) -> tf.Tensor:
            return dtensor.pack([leaf] * self.grid.devices, self.layout((None,) * len(leaf.shape)))

        return tf.nest.map_structure(packed, batch)

    def summed(self, values: Sequence[float]) -> np.ndarray:
        """float64: each of `values` summed over all tasks, which all call this."""
        if self.grid.workers == 1:
            return np.float64(values)
        share = tf.constant([[values]], tf.float64) / self.grid.devices
        votes = dtensor.pack([share] * self.grid.devices, self.layout((BATCH, MODEL, None)))
        return local(self._sum(votes))

    @functools.cached_property
    def _sum(self) -> Any:
        return tf.function(lambda votes: tf.reduce_sum(votes, [0, 1]), autograph=False)


def local(tensor: tf.Tensor) -> np.ndarray:
    """What this task's first device holds of a tensor on the mesh."""
    return dtensor.unpack(tensor)[0].numpy()


class Shards:
    """The values of `variables` on the mesh, each divided by its layout."""

    def __init__(self, mesh: Mesh, variables: Sequence[keras.Variable], layouts: Sequence[Layout]) -> None:
        self._mesh = mesh
        self._layouts = {id(variable): layout for variable, layout in zip(variables, layouts, strict=True)}
        self._variables = variables
        self._parts = {
            id(variable): dtensor.DVariable(mesh.divided(variable.numpy(), layout))
            for variable, layout in zip(variables, layouts, strict=True)
        }

    def push(self, variables: Sequence[keras.Variable]) -> None:
        """Take the values that `variables` have on the host, alike on all tasks."""
        for variable in variables:
            self._parts[id(variable)].assign(self._mesh.divided(variable.numpy(), self._layouts[id(variable)]))

    def pull(self, variables: Sequence[keras.Variable]) -> None:
        """Have `variables` on the host hold what is here. Called by all tasks."""
        divided = [variable for variable in variables if any(self._layouts[id(variable)])]
        whole = self._whole([self._parts[id(variable)].read_value() for variable in divided]) if divided else ()
        for variable, value in zip(divided, whole, strict=True):
            variable.assign(local(value))
        rest = [variable for variable in variables if not any(self._layouts[id(variable)])]
        for variable, array in zip(rest, self.here(rest), strict=True):
            variable.assign(array)

    def here(self, variables: Sequence[keras.Variable]) -> list[np.ndarray]:
        """What is here of `variables`, none of which is divided."""
        return [local(self._parts[id(variable)].read_value()) for variable in variables]

    def values(self) -> list[tuple[keras.Variable, tf.Tensor]]:
        """In the graph: each variable and what is here of it."""
        return [(variable, self._parts[id(variable)].read_value()) for variable in self._variables]

    def assign(self, before: Sequence[tuple[keras.Variable, tf.Tensor]], scope: keras.StatelessScope) -> None:
        """In the graph: keep what became, in `scope`, of the values from `before`."""
        for variable, value in before:
            new = scope.get_current_value(variable)
            if new is not value:
                part = self._parts[id(variable)]
                part.assign(dtensor.relayout(tf.cast(new, part.dtype), part.layout))

    @functools.cached_property
    def _whole(self) -> Any:
        def whole(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            return [dtensor.relayout(value, self._mesh.layout((None,) * len(value.shape))) for value in values]

        return tf.function(whole, autograph=False)
