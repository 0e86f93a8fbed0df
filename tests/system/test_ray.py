"""On a Ray cluster of three nodes: the same plan, and a killed node replaced with nothing lost or repeated."""

import os
import threading
from importlib.util import find_spec

import pytest
from small_cases import small_case, small_plan

from datahall.base.errors import Refused, WorldFailed
from datahall.real import parity, training
from datahall.real.injection import Injection

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        find_spec("ray") is None, reason="needs ray, which must not be imported yet to stay on loopback"
    ),
]
STEPS = 300  # some seconds: a node is killed while they go on, however fast the machine is


@pytest.fixture(scope="module")
def cluster():
    """Three raylets of one core each, on loopback, ended by their own handles."""
    from datahall.real.ray_executor import import_ray

    os.environ.update({"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"})
    ray = import_ray(loopback=True)
    from ray.cluster_utils import Cluster

    made = Cluster()
    host = {"include_dashboard": False, "node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20}
    made.add_node(num_cpus=1, **host)
    nodes = [made.add_node(num_cpus=1, **host) for _ in range(2)]
    made.wait_for_nodes()
    ray.init(made.address, log_to_driver=False, logging_level="ERROR")
    yield made, nodes
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def case():
    return small_case()


@pytest.fixture(scope="module")
def undisturbed(case, tmp_path_factory):
    plan = small_plan(case, workers=2, micro_batch=2, interval_steps=4)
    return training.run(case, plan, tmp_path_factory.mktemp("local"), steps=STEPS, keep_weights=True)


def test_a_gang_too_large_is_refused_and_leaves_nothing(cluster, case, tmp_path):
    from datahall.real.ray_executor import RayPlacement, on_ray

    plan = small_plan(case, workers=4, micro_batch=2)
    with (
        on_ray(placement=RayPlacement(timeout_s=2)) as start,
        pytest.raises(WorldFailed, match="no room for 4 workers"),
    ):
        training.run(case, plan, tmp_path, steps=2, start=start)


def test_a_worker_on_ray_cannot_be_stopped(cluster, case, tmp_path):
    from datahall.real.ray_executor import on_ray

    plan = small_plan(case, workers=1)
    hang = Injection("hang-worker", rank=0, step=1)
    with on_ray() as start, pytest.raises(Refused, match="not stopped"):
        training.run(case, plan, tmp_path, steps=50, start=start, injection=hang)


def test_a_killed_node_is_replaced_and_training_goes_on_exactly(cluster, case, undisturbed, tmp_path):
    from datahall.real.ray_executor import RayPlacement, on_ray

    made, nodes = cluster
    killed = threading.Event()

    def kill_a_node(event):
        if event.kind == "step" and event.data["step"] == 6 and not killed.is_set():
            killed.set()
            busy = [node for node in nodes if _workers_under(node)]
            made.remove_node(busy[0], allow_graceful=False)

    plan = small_plan(case, workers=2, micro_batch=2, interval_steps=4)
    with on_ray(placement=RayPlacement("STRICT_SPREAD")) as start:
        run = training.run(
            case, plan, tmp_path, steps=STEPS, start=start, keep_weights=True, on_event=kill_a_node
        )  # fmt: skip
    assert killed.is_set()
    assert run.lost
    assert run.samples == undisturbed.samples
    assert run.losses == undisturbed.losses
    assert parity.between(run, undisturbed).weights_max == 0.0
    assert run.result.counts["collective_bytes"] == undisturbed.result.counts["collective_bytes"]
    assert sorted(path.name for path in (tmp_path / "workers").glob("?.jsonl")) == ["0.jsonl", "1.jsonl"]


def _workers_under(node):
    """Whether a training worker runs under this node's raylet."""
    import psutil

    raylets = [info.process.pid for infos in node.all_processes.values() for info in infos]
    under = [child for pid in raylets if psutil.pid_exists(pid) for child in psutil.Process(pid).children(True)]
    return any("datahall.real.worker" in " ".join(child.cmdline()) for child in under)
