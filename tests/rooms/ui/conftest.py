"""Proposals to export and to compare with: two published models on small sites, made by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datahall.base.label import Label
from datahall.base.metric import Metric
from datahall.base.result import Result
from datahall.case.model import LatentAttention, ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.case.site import Accelerator, Disk, Link, Site
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.decisions.proposal import Proposal
from datahall.network.plan import NetworkPlan
from datahall.storage.plan import StoragePlan

LLAMA_8B = ModelShape(
    "llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, rotary_base=500000.0, rotary_scaling="llama3 8"
)
DEEPSEEK_V3 = ModelShape(
    "deepseek-v3",
    61,
    7168,
    128,
    128,
    128,
    2048,
    129280,
    experts=256,
    experts_per_token=8,
    shared_experts=1,
    shared_ffn=2048,
    dense_layers=3,
    dense_ffn=18432,
    latent=LatentAttention(1536, 512, 64, 128, 128),
)
# What the checks of exports need, without the packages that would replace torch.
ENGINE_PACKAGES = [
    "torchtitan==0.3.0",
    "tyro==1.0.17",
    "typeguard",
    "docstring_parser",
    "spmd_types==0.2.3",
    "einops",
    "megatron-core==0.16.1",
    "deepspeed==0.19.8",
    "hjson",
    "msgpack",
    "py-cpuinfo",
    "tqdm",
]


@pytest.fixture
def make_proposal() -> Callable[..., Proposal]:
    """A function that makes a proposal: model, compute plan, devices and total time can be chosen."""

    def make(
        compute: ComputePlan,
        model: ModelShape = LLAMA_8B,
        total_s: float = 50_000.0,
        step_s: float = 4.0,
        storage: StoragePlan | None = None,
    ) -> Proposal:
        gpu = Accelerator("A40", "gpu", "nvidia", 48e9, 696e9, {"bf16": 150e12, "fp8": 0.0}, power_w=300)
        nodes = max(1, compute.devices // 8)
        site = Site(
            "lab", gpu, nodes, min(8, compute.devices), 8, Link(3e10, 5e-6), Link(3e9, 2e-5), Disk(1e9, 2e9, 1e-3)
        )
        application = Training(1e9, compute.global_batch, 4096)
        case = Case("A case, of the lab", model, application, site, Goal())
        label = Label.TRANSFERRED
        metrics = [
            Metric("total_time", "seconds", total_s, total_s / 1.3, total_s * 1.3, label),
            Metric("step_time", "seconds", step_s, step_s / 1.2, step_s * 1.2, label),
            Metric("compute", "seconds", 0.7 * step_s, 0.6 * step_s, 0.8 * step_s, label),
            Metric("transfer", "seconds", 0.2 * step_s, 0.15 * step_s, 0.3 * step_s, label),
            Metric("optimiser", "seconds", 0.08 * step_s, 0.07 * step_s, 0.1 * step_s, label),
            Metric("input", "seconds", 0.02 * step_s, 0.0, 0.05 * step_s, label),
            Metric("peak_memory", "bytes", 40e9, 38e9, 43e9, label),
            Metric("host_memory", "bytes", 100e9, 80e9, 125e9, Label.ASSUMED),
            Metric("tokens_per_s", "tokens_per_s", compute.global_batch * 4096 / step_s, 1.0, 1e9, label),
        ]
        forecast = Result("virtual", {metric.name: metric for metric in metrics})
        plan = Plan(replace(compute), storage or StoragePlan(), NetworkPlan(), case.hash())
        return Proposal(case, plan, forecast)

    return make


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the engines' own packages, beside the torch that is installed; only for system tests."""
    if given := os.environ.get("DATAHALL_ENGINES"):
        return Path(given)
    target = tmp_path_factory.mktemp("engines")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
    ]
    environment = {**os.environ, "DS_BUILD_OPS": "0"}
    subprocess.run([*pip, *ENGINE_PACKAGES], check=True, env=environment, timeout=600)
    return target


@pytest.fixture
def with_engine(engines: Path) -> Callable[..., str]:
    """A function that runs Python text where the engines can be imported, and gives back what it printed."""

    def run(text: str, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(engines), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-c", text, *arguments], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run
