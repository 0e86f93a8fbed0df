"""Fine-tuning, full and with adapters: both worlds count alike, the loss falls, a killed run goes on exactly."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_cases import small_case, small_plan
from small_checkpoint import write_checkpoint

from datahall.compute import execute
from datahall.compute.adapters import Adapters, adapters_of
from datahall.compute.counts import ShapeCounts
from datahall.compute.memory import memory
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.compute.step import step_table
from datahall.real import parity, training
from datahall.real.injection import Injection
from datahall.real.observe import count_flops
from datahall.virtual.checkpoints import checkpoint_bytes
from datahall.virtual.training import forecast
from datahall.workloads import entry

STEPS = 4
PLACE = {"bucket_bytes": 2**20, "device": torch.device("cpu")}
COUNTED = ("samples", "tokens", "steps", "matmul_flops", "attention_flops", "collective_bytes")


@pytest.fixture
def tuned(tmp_path):
    shape = write_checkpoint(tmp_path / "weights")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number} times {number} is {number * number}.\n" for number in range(4000)))

    def make(method="lora", targets="attention", steps=STEPS):
        plain = small_case(shape)
        application = replace(
            plain.application,
            tokens=float(steps * plain.application.global_batch * plain.application.sequence),
            weights=str(tmp_path / "weights"),
            dataset=str(text),
            method=method,
            lora_rank=4 if method == "lora" else 0,
            lora_targets=targets,
        )
        return replace(plain, application=application)

    return make


def test_forecast_and_run_count_alike(tuned, tmp_path):
    case = tuned()
    plan = small_plan(case, workers=2)
    planned = forecast(case, plan).counts
    run = training.run(case, plan, tmp_path / "run", keep_weights=True)
    measured = run.result.counts
    assert {name: planned[name] for name in COUNTED} == {name: measured[name] for name in COUNTED}
    assert run.losses[-1] < run.losses[0]
    kept = load_file(run.folder / "weights.safetensors")
    assert sum(tensor.numel() for tensor in kept.values()) == Adapters(4).parameters(case.model)


@pytest.mark.parametrize(
    ("method", "targets", "recompute"),
    [
        ("full", "attention", "none"),
        ("full", "attention", "selective"),
        ("lora", "attention", "full"),
        ("lora", "all", "none"),
        ("lora", "all", "full"),
    ],
)
def test_flops_of_a_step_are_those_of_its_table(tuned, method, targets, recompute):
    case = tuned(method, targets)
    compute = ComputePlan(micro_batch=2, accumulation=2, precision="fp32", recompute=recompute)
    workload = entry.build(case)
    executor = execute.prepare(workload, compute, **PLACE)
    seen = count_flops(lambda: executor.rehearse([workload.data.batch([0, 1]), workload.data.batch([2, 3])]))
    adapters = adapters_of(case.application)
    table = step_table(case.model, case.application.sequence, compute, adapters=adapters)
    assert seen.matmul + seen.attention == table.total_flops()


@pytest.mark.soak
def test_adapters_alone_are_trained_kept_and_resumed(tuned, tmp_path):
    case = tuned(steps=6)
    plan = small_plan(case, workers=2, interval_steps=2)
    plain = training.run(case, plan, tmp_path / "plain", keep_weights=True, count_flops=False)
    killed = training.run(
        case, plan, tmp_path / "killed", keep_weights=True, count_flops=False,
        injection=Injection("kill-worker", rank=1, step=3),
    )  # fmt: skip
    ours, theirs = (load_file(run.folder / "weights.safetensors") for run in (plain, killed))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    assert killed.lost
    assert plain.samples == killed.samples
    assert plain.result.counts["checkpoint_bytes"] < 3 * 1.2 * checkpoint_bytes(case) + 3 * 20_000


def test_adapters_need_less_memory():
    case = small_case()
    full, lora = (memory_of(case, adapters) for adapters in (None, Adapters(8)))
    assert lora.gradients + lora.optimiser < 0.5 * (full.gradients + full.optimiser)
    assert lora.activations < full.activations


def memory_of(case, adapters):
    share = adapters.parameters(case.model) / case.model.parameters() if adapters else 1.0
    numbers = adapters.numbers(case.model) if adapters else None
    plan = PlanNumbers.of(ComputePlan(precision="fp32"))
    return memory(ShapeCounts.of(case.model), 64, plan, trainable_share=share, adapters=numbers)


@pytest.mark.soak
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_is_frozen_is_spread_too(tuned, tmp_path, stage):
    case = tuned(targets="all")
    plan = small_plan(case, workers=2, micro_batch=2)
    sharded = replace(plan, compute=replace(plan.compute, zero_stage=stage))
    alone = parity.alone(plan)
    run, one = (
        training.run(case, which, tmp_path / name, keep_weights=True)
        for name, which in (("run", sharded), ("one", alone))
    )
    assert parity.between(run, one).holds
    planned = forecast(case, sharded).counts
    assert {name: planned[name] for name in COUNTED} == {name: run.result.counts[name] for name in COUNTED}
