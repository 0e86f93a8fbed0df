"""Small cases and plans for the tests of the real world."""

from dataclasses import replace

from datahall.case.model import LatentAttention, ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.case.site import Accelerator, Disk, Link, Site
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.storage.plan import StoragePlan

SHAPE = ModelShape("tiny", layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=128, vocab=256)
LATENT = LatentAttention(query_rank=24, key_value_rank=16, rope_dim=8, nope_dim=8, value_dim=16)
NARROW_LATENT = replace(LATENT, value_dim=8)
MIXTURE = replace(
    SHAPE,
    layers=4,
    ffn=48,
    experts=4,
    experts_per_token=2,
    shared_experts=1,
    shared_ffn=32,
    router_balance=True,
    dense_layers=1,
    dense_ffn=128,
)


def small_case(shape=SHAPE, global_batch=8, sequence=64, seed=0, entry=""):
    cpu = Accelerator("cpu", "cpu", "any", 8e9, 1e10, {"fp32": 1e11, "bf16": 1e11})
    link = Link(1e9, 1e-4)
    site = Site("local", cpu, 1, 2, 2, link, link, Disk(1e9, 1e9, 1e-3))
    application = Training(1e6, global_batch, sequence, entry=entry, seed=seed)
    return Case("small", shape, application, site, Goal())


def small_plan(case, workers=1, micro_batch=4, interval_steps=0, bucket_bytes=25 * 2**20, precision="fp32"):
    accumulation = case.application.global_batch // (workers * micro_batch)
    compute = ComputePlan(data=workers, micro_batch=micro_batch, accumulation=accumulation, precision=precision)
    return Plan(
        compute, StoragePlan(interval_steps=interval_steps), NetworkPlan(bucket_bytes=bucket_bytes), case.hash()
    )
