"""The engine TensorFlow: MultiWorkerMirroredStrategy with Keras 2 (tf_keras), one process alone without a strategy.

Keras 3 cannot train under this strategy (keras issue 20585), so the program asks for Keras 2 before TensorFlow loads.
"""

from __future__ import annotations

import importlib
import json
import os
from typing import Any

import numpy as np

from datahall.real.engines.engine import ADAM, Layers, Team

_WAITING_THREADS = 4  # a collective blocks the thread that waits for it; with one thread a worker can block itself


class TensorFlow:
    """One worker on TensorFlow; see engine.Engine."""

    def __init__(self, team: Team, layers: Layers) -> None:
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        if team.workers > 1:
            task = {"type": "worker", "index": team.rank}
            os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": list(team.addresses)}, "task": task})
        self.tf: Any = importlib.import_module("tensorflow")  # without types of its own that a checker could follow
        self.keras: Any = importlib.import_module("tf_keras")
        self.tf.config.threading.set_intra_op_parallelism_threads(team.threads)
        self.tf.config.threading.set_inter_op_parallelism_threads(_WAITING_THREADS)
        distribute = self.tf.distribute
        self.strategy = distribute.MultiWorkerMirroredStrategy() if team.workers > 1 else distribute.get_strategy()
        self.workers = team.workers
        with self.strategy.scope():
            self.model = self._network(layers)
            rate, first, second, epsilon = ADAM
            self.optimiser = self.keras.optimizers.Adam(rate, first, second, epsilon)
            self.optimiser.build(self.model.trainable_variables)
        self.numbers = self.tf.zeros([sum(weights.size + biases.size for weights, biases in layers)])
        self.together = self.tf.function(self._together)
        self.summed = self.tf.function(self._summed)

    def step(self, images: np.ndarray, classes: np.ndarray) -> Any:
        return self.together(self.tf.constant(images), self.tf.constant(classes))

    def finish(self) -> None:
        """Eager calls of a function return when its result is there."""
        self.optimiser.iterations.numpy()

    def exchange(self) -> None:
        if self.workers > 1:
            self.summed().numpy()

    def scores(self, images: np.ndarray) -> np.ndarray:
        return self.model(self.tf.constant(images)).numpy()

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(one.kernel.numpy(), one.bias.numpy()) for one in self.model.layers if one.weights]

    def close(self) -> None:
        """Nothing: the strategy's servers end with the process."""

    def _network(self, layers: Layers) -> Any:
        network = self.keras.Sequential()
        network.add(self.keras.layers.Input([layers[0][0].shape[0]]))
        for number, (weights, _) in enumerate(layers, 1):
            activation = "relu" if number < len(layers) else None
            network.add(self.keras.layers.Dense(weights.shape[1], activation))
        network.set_weights([array for layer in layers for array in layer])
        return network

    def _together(self, images: Any, classes: Any) -> Any:
        return self.strategy.run(self._alone, args=(images, classes))

    def _alone(self, images: Any, classes: Any) -> Any:
        """The step of this worker; the optimiser sums gradients over workers, so each loss is a worker's part."""
        tf = self.tf
        with tf.GradientTape() as tape:
            scores = self.model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, scores))
            part = loss / self.workers
        gradients = tape.gradient(part, self.model.trainable_variables)
        self.optimiser.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        return loss

    def _summed(self) -> Any:
        def alone() -> Any:
            context = self.tf.distribute.get_replica_context()
            return context.all_reduce(self.tf.distribute.ReduceOp.SUM, self.numbers)

        return self.tf.reduce_sum(self.strategy.run(alone))
