"""Data in shards on a disk: what is opened and found in the cache is what was said, and what the model sees is counted
by the model's own side, over a kill, a resume and other numbers of workers."""

import json
from collections import Counter
from pathlib import Path

import pytest

from datahall.case import loads
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real import training
from datahall.real.injection import Injection
from datahall.storage.input_probe import probe_reads
from datahall.storage.plan import StoragePlan
from datahall.storage.shards import write_shards
from datahall.virtual.training import forecast

STEPS, BATCH = 12, 8
OBSERVER = '''
import json, os, pathlib, time
import torch
from datahall.base.workload import Workload
from datahall.workloads.text import samples_of

SEEN = pathlib.Path(__file__).parent / f"seen-{os.getpid()}.jsonl"

def loss(model, batch):
    """Writes down which numbers the text of this batch spells; slow enough that a kill comes before the end."""
    time.sleep(0.03)
    numbers = [int(bytes(row[:8].tolist())) for row in batch]
    with SEEN.open("a") as file:
        file.write(json.dumps(numbers) + "\\n")
    return model(batch.float() / 256).square().mean()

def build(case):
    torch.manual_seed(0)
    return Workload("observed", torch.nn.Linear(9, 1), samples_of(case.application)[0], loss, tokens_per_sample=8)
'''


@pytest.fixture
def observed(tmp_path):
    """A case whose samples each spell a number of their own, and a plan for two workers that reads ahead and caches."""
    write_shards(str(tmp_path / "shards"), b"".join(b"%08d" % number for number in range(400)), 256)
    (tmp_path / "observer.py").write_text(OBSERVER)
    case = loads(
        "model: {layers: 1, hidden: 8, heads: 1, ffn: 8, vocab: 256}\n"
        f"application: {{kind: training, tokens: {STEPS * BATCH * 8}, global_batch: {BATCH}, sequence: 8,"
        " precision: fp32, entry: observer:build,"
        " data: {path: shards, ahead: 3, cache: {limit: 4 KiB, use: always}}}\n"
        "site: local\n",
        folder=tmp_path,
    )
    compute = ComputePlan(data=2, micro_batch=2, accumulation=2, precision="fp32")
    storage = StoragePlan(interval_steps=4, ahead=3, cache_bytes=4096)
    return case, Plan(compute, storage, NetworkPlan(), case.hash()), tmp_path


def seen_by_process(folder: Path) -> list[list[int]]:
    """The numbers that each process computed on, micro-batch after micro-batch, the oldest process first."""
    files = sorted(folder.glob("seen-*.jsonl"), key=lambda path: path.stat().st_ctime_ns)
    return [[number for line in path.read_text().splitlines() for number in json.loads(line)] for path in files]


def test_killed_resumed_and_on_fewer_workers_every_sample_is_computed_once(observed, tmp_path):
    case, plan, folder = observed
    kill = Injection("kill-worker", rank=1, step=6)
    run = training.run(
        case,
        plan,
        folder / "run",
        injection=kill,
        workers_from={8: 1},
        import_paths=[str(folder)],
        count_flops=False,
    )
    assert [loss.rank for loss in run.lost] == [1], run.lost
    assert [len(step.workers) for step in run.steps] == [2] * 8 + [1] * 4
    processes = seen_by_process(folder)
    assert len(processes) == 5
    behind_the_checkpoint = [process[: 4 * BATCH // 2] for process in processes if len(process) > 4 * BATCH // 2][:2]
    first = {tuple(process) for process in behind_the_checkpoint}
    killed = [process for process in processes if tuple(process[: 4 * BATCH // 2]) in first]
    others = [process for process in processes if process not in killed]
    counted = Counter(number for process in [*behind_the_checkpoint, *others] for number in process)
    assert set(counted.values()) == {1}
    assert counted.total() == STEPS * BATCH == run.result.counts["samples"]


@pytest.mark.soak
def test_two_workers_then_one_then_two_compute_every_sample_once(observed, tmp_path):
    case, plan, folder = observed
    paths = [str(folder)]
    run = training.run(case, plan, folder / "run", workers_from={4: 1, 8: 2}, import_paths=paths, count_flops=False)
    counted = Counter(number for process in seen_by_process(folder) for number in process)
    assert set(counted.values()) == {1}
    assert counted.total() == STEPS * BATCH
    assert [len(step.workers) for step in run.steps] == [2] * 4 + [1] * 4 + [2] * 4


def test_what_is_opened_and_found_in_the_cache_is_the_forecast(observed):
    case, plan, folder = observed
    costs = probe_reads(case.application.data, case.application.sequence, folder / "probe")
    said = forecast(case, plan, costs=costs)
    run = training.run(case, plan, folder / "run", steps=None, import_paths=[str(folder)], count_flops=False)
    for name in ("shards_opened", "cache_hits", "samples"):
        assert run.result.counts[name] == said.counts[name], name
    assert "input_wait" in run.result.metrics
    assert "input_wait" in said.metrics
    assert not (folder / "run" / "input-cache").exists()
