"""The engine JAX: jax.distributed with gloo collectives, gradients averaged inside of one compiled step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from datahall.real.engines.engine import ADAM, Layers, Team


class Jax:
    """One worker on JAX; see engine.Engine."""

    def __init__(self, team: Team, layers: Layers) -> None:
        jax.config.update("jax_platforms", "cpu")
        self.workers = team.workers
        if self.workers > 1:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            jax.distributed.initialize(
                team.addresses[0],
                num_processes=team.workers,
                process_id=team.rank,
                coordinator_bind_address=team.addresses[0],
            )
        mesh = Mesh(np.array(jax.devices()), ("worker",))
        self.shared, self.whole = NamedSharding(mesh, Spec("worker")), NamedSharding(mesh, Spec())
        parameters = [(np.asarray(weights), np.asarray(biases)) for weights, biases in layers]
        zeros = jax.tree.map(np.zeros_like, parameters)
        state = (parameters, zeros, zeros, np.zeros((), np.int32))
        self.state = jax.tree.map(lambda one: jax.make_array_from_process_local_data(self.whole, one), state)
        self.numbers = self._share(np.zeros((1, sum(one.size for layer in layers for one in layer)), np.float32))
        self.train = jax.jit(_train, donate_argnums=0)
        self.sum = jax.jit(lambda numbers: numbers.sum(0), out_shardings=self.whole)

    def step(self, images: np.ndarray, classes: np.ndarray) -> Any:
        self.state, loss = self.train(self.state, self._share(images), self._share(classes.astype(np.int32)))
        return loss

    def finish(self) -> None:
        jax.block_until_ready(self.state)

    def exchange(self) -> None:
        if self.workers > 1:
            jax.block_until_ready(self.sum(self.numbers))

    def scores(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(_scores(self.layers(), jnp.asarray(images)))

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(_here(weights), _here(biases)) for weights, biases in self.state[0]]

    def close(self) -> None:
        if self.workers > 1:
            jax.distributed.shutdown()

    def _share(self, mine: np.ndarray) -> Any:
        """This worker's part of an array that is cut over workers."""
        return jax.make_array_from_process_local_data(self.shared, mine) if self.workers > 1 else mine


def _here(array: jax.Array) -> np.ndarray:
    return np.asarray(array.addressable_data(0))


def _scores(parameters: Any, images: Any) -> Any:
    for number, (weights, biases) in enumerate(parameters, 1):
        images = images @ weights + biases
        images = jax.nn.relu(images) if number < len(parameters) else images
    return images


def _loss(parameters: Any, images: Any, classes: Any) -> Any:
    chances = jax.nn.log_softmax(_scores(parameters, images))
    return -jnp.take_along_axis(chances, classes[:, None], axis=1).mean()


def _train(state: Any, images: Any, classes: Any) -> Any:
    """A step of Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1) on the whole batch; each worker has a part of it."""
    parameters, firsts, seconds, count = state
    rate, first, second, epsilon = ADAM
    loss, gradients = jax.value_and_grad(_loss)(parameters, images, classes)
    count = count + 1
    firsts = jax.tree.map(lambda mean, one: first * mean + (1 - first) * one, firsts, gradients)
    seconds = jax.tree.map(lambda mean, one: second * mean + (1 - second) * one * one, seconds, gradients)
    even, odd = 1 - first**count, 1 - second**count
    parameters = jax.tree.map(
        lambda one, mean, square: one - rate * (mean / even) / (jnp.sqrt(square / odd) + epsilon),
        parameters,
        firsts,
        seconds,
    )
    return (parameters, firsts, seconds, count), loss
