"""Puts a run's workers on a Ray cluster: gang-placed by a placement group, each the same process as without Ray.

A thin layer under the launcher's protocol.  Ray chooses the nodes and tells when one is gone; plan, watch, restart,
checkpoints and logs stay datahall's.  The run's folder must be the same file system on every node.  It neither starts
nor stops clusters of others: without an address it starts one on loopback that ends with the context.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datahall.base.errors import Refused, UsageError, WorldFailed
from datahall.real.job import Job
from datahall.real.launch import LOST_NODE, Start, worker_environment

ANSWER_TIMEOUT_S = 5.0
PLACE_TIMEOUT_S = 120.0  # a dead node is noticed within half a minute; another may have to join first
# What Ray reads when it is imported.  A cluster of our own stays on 127.0.0.1: Ray has a switch for that, named after
# the systems that it was made for.  A token of the user's would turn authentication on for a cluster that nobody else
# can reach.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}


@dataclass(frozen=True, slots=True)
class RayPlacement:
    """How workers are placed: by which strategy of Ray's (PACK: on few nodes, STRICT_SPREAD: each on one of its own),
    and how long to wait for room.
    """

    strategy: str = "PACK"
    timeout_s: float = PLACE_TIMEOUT_S


@contextmanager
def on_ray(address: str = "", placement: RayPlacement | None = None) -> Iterator[Start]:
    """A `start` for `real.training.run`, on the cluster at `address` or on one of this machine's own.

    The cluster is joined by the first workers, so that a run's start-up holds what Ray takes; `ray.jsonl` in the run's
    folder says how much.  UsageError where Ray is not installed, WorldFailed where no cluster answers.
    """
    _check_address(address)
    ray = import_ray(loopback=not address)
    ours = not ray.is_initialized()

    def start(job: Job, path: Path) -> AbstractContextManager[Sequence[RayWorker]]:
        began_s = time.monotonic()
        if not ray.is_initialized():
            _connect(ray, address)
        return _workers(ray, job, path, placement or RayPlacement(), time.monotonic() - began_s)

    try:
        yield start
    finally:
        if ours:
            ray.shutdown()


def import_ray(*, loopback: bool) -> Any:
    """Ray, told before it is imported to send no statistics and, for a cluster of our own, to stay on loopback."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if loopback:
        os.environ.update(_LOOPBACK)
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.util.scheduling_strategies  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UsageError(
            "running on Ray needs ray, which is not installed.", where="--on ray", hint="Install datahall[ray]."
        ) from error
    return ray


def _check_address(address: str) -> None:
    """Ray itself tries an address where nobody listens for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # none, or a word such as "auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise WorldFailed(
            f"no Ray cluster answers at {address}: {error}.",
            where="--address",
            hint="Give HOST:PORT of a head node (`ray status` there shows it), or leave it out.",
        ) from error


def _connect(ray: Any, address: str) -> None:
    common = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            ray.init(address, **common)
        else:
            ray.init(address="local", include_dashboard=False, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise WorldFailed(
            f"no Ray cluster: {error}.", where=address or "--on ray", hint="Check --address, or leave it out."
        ) from error


@contextmanager
def _workers(
    ray: Any, job: Job, path: Path, placement: RayPlacement, cluster_s: float
) -> Iterator[Sequence[RayWorker]]:
    """The job's workers, all of them placed or none."""
    (job.folder / "board.bin").unlink(missing_ok=True)
    began_s = time.monotonic()
    group = _placed(ray, job, placement)
    told = {"attempt": job.attempt, "cluster_s": round(cluster_s, 3), "gang_s": round(time.monotonic() - began_s, 3)}
    with (job.folder / "ray.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(told) + "\n")
    workers: list[RayWorker] = []
    try:
        for rank in range(job.workers):
            workers.append(_started(ray, job, path, rank, group))
        _check_folder(ray, workers, path)
        yield workers
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        ray.util.remove_placement_group(group)


def _placed(ray: Any, job: Job, placement: RayPlacement) -> Any:
    need = _needs(job)
    group = ray.util.placement_group([dict(need) for _ in range(job.workers)], strategy=placement.strategy)
    if not group.wait(placement.timeout_s):
        there = {name: ray.cluster_resources().get(name, 0) for name in need}
        ray.util.remove_placement_group(group)
        raise WorldFailed(
            f"the cluster has no room for {job.workers} workers of {need} at once; it has {there} in all.",
            where="Ray placement group",
            hint="Add nodes, wait for others to finish, or use fewer workers or threads.",
        )
    return group


def _needs(job: Job) -> dict[str, float]:
    """What one worker takes: a core for each thread, and a GPU where the site has them."""
    need = {"CPU": float(job.plan.compute.threads)}
    return {**need, "GPU": 1.0} if job.case.site.accelerator.kind == "gpu" else need


def _started(ray: Any, job: Job, path: Path, rank: int, group: Any) -> RayWorker:
    need = _needs(job)
    where = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
    options = {"num_cpus": need["CPU"], "num_gpus": need.get("GPU", 0.0), "scheduling_strategy": where}
    host = ray.remote(_host_class()).options(**options, max_restarts=0).remote()
    everything = worker_environment(job.plan.compute.threads, job.interface)
    ours = {name: value for name, value in everything.items() if os.environ.get(name) != value}
    command = [sys.executable, "-m", "datahall.real.worker", str(path), str(rank)]
    origin_wall_s = time.time() - (time.monotonic() - job.origin_s)
    ended = host.run.remote(command, ours, str(path.parent / f"{rank}.out"), origin_wall_s)
    return RayWorker(ray, host, ended)


class RayWorker:
    """A worker on some node, as the launcher sees it."""

    pid = 0

    def __init__(self, ray: Any, host: Any, ended: Any) -> None:
        self.ray, self.host, self.ended = ray, host, ended
        self.code: int | None = None

    def poll(self) -> int | None:
        """Its exit code; LOST_NODE where the node or the actor on it is gone."""
        if self.code is None:
            done, _ = self.ray.wait([self.ended], timeout=0)
            if done:
                self.code = self._result()
        return self.code

    def send_signal(self, sig: int, /) -> None:
        """Kill it, with its actor; nothing else is possible from here."""
        if sig != signal.SIGKILL:
            raise Refused(
                "a worker on Ray can be killed, not stopped.", where="Ray", hint="Disturb local workers instead."
            )
        self.ray.kill(self.host, no_restart=True)

    def _result(self) -> int:
        try:
            return int(self.ray.get(self.ended))
        except self.ray.exceptions.RayActorError:
            return LOST_NODE
        except self.ray.exceptions.RayTaskError as error:
            raise WorldFailed(
                f"a worker cannot be started on its node: {error.cause}.",
                where="Ray",
                hint="datahall, its Python and the run's folder must be at the same place on every node.",
            ) from error


def _check_folder(ray: Any, workers: Sequence[RayWorker], path: Path) -> None:
    """WorldFailed at once where a node does not see the run's folder (the worker there ends with code 2)."""
    done, _ = ray.wait([worker.ended for worker in workers], num_returns=1, timeout=0.2)
    for worker in workers:
        if worker.ended in done and worker.poll() == 2:
            raise WorldFailed(
                "a node of the cluster does not see the run's folder.",
                where=str(path.parent),
                hint="Give --runs a folder on a file system that all nodes share.",
            )


def _host_class() -> type:
    """The actor's class, made here so that Ray sends it by value: nodes need Ray for it, nothing of ours."""

    class Host:
        """Runs one process on its node and does not outlive it."""

        def run(self, command: list[str], environment: dict[str, str], output: str, origin_wall_s: float) -> int:
            import os
            import subprocess
            import time

            if not os.path.exists(command[3]):
                return 2
            origin_s = time.monotonic() - (time.time() - origin_wall_s)
            elsewhere = [str(os.getpid()), repr(origin_s)]
            with open(output, "ab") as file:
                process = subprocess.Popen(
                    [*command, *elsewhere],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env={**os.environ, **environment},
                    start_new_session=True,
                )
                return process.wait()

    return Host
