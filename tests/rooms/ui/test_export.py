"""Exports say what the plan decided, in the words of the target, and refuse what the target cannot express."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from called import datahall
from ruamel.yaml import YAML

from datahall.base.errors import Incompatible, Refused
from datahall.base.label import Label
from datahall.base.metric import Metric, percentile_90
from datahall.base.units import human
from datahall.case import from_model_and_site
from datahall.case.model import ModelShape
from datahall.case.named_model import shape_of
from datahall.case.named_site import site_from_text
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.decisions.proposal import Proposal
from datahall.search.engines import runnable
from datahall.search.rank import search
from datahall.search.why import explain
from datahall.storage.plan import StoragePlan
from datahall.ui.export import exported
from datahall.ui.export_engines import megatron_arguments
from datahall.ui.export_request import request_of
from datahall.ui.export_schedulers import slurm_time

Make = Callable[..., Proposal]
HALVES = ComputePlan(data=2, pipeline=4, virtual_stages=2, accumulation=8, schedule="zero-bubble")
PLAN = ComputePlan(data=4, tensor=4, zero_stage=3, micro_batch=2, accumulation=8, recompute="full")


def test_the_90th_percentile_lies_between_the_forecast_and_the_end_of_its_interval() -> None:
    metric = Metric("total_time", "seconds", 100.0, 80.0, 150.0, Label.CATALOGUE)
    assert 100.0 < percentile_90(metric) < 150.0
    assert percentile_90(Metric("x", "seconds", 100.0, 100.0, 100.0, Label.CATALOGUE)) == 100.0


def test_a_request_covers_nine_runs_in_ten(make_proposal: Make) -> None:
    request = request_of(make_proposal(PLAN, total_s=50_000.0))
    assert (request.nodes, request.devices_per_node, request.devices) == (2, 8, 16)
    assert 50_000 < request.time_s < 65_000
    assert request.time_s % 60 == 0


@pytest.mark.parametrize(
    ("plan", "nodes", "per_node"),
    [
        (ComputePlan(data=12), 2, 6),
        (ComputePlan(data=3, tensor=4), 3, 4),
        (ComputePlan(tensor=16), 2, 8),
        (ComputePlan(data=6), 1, 6),
        (ComputePlan(data=24), 3, 8),
    ],
)
def test_as_many_processes_are_started_as_the_plan_has(
    make_proposal: Make, plan: ComputePlan, nodes: int, per_node: int
) -> None:
    """Twelve devices of nodes with eight were started as two full nodes: sixteen processes for a split of twelve."""
    made = make_proposal(plan)
    made = replace(made, case=replace(made.case, site=replace(made.case.site, nodes=3, devices_per_node=8)))
    request = request_of(made)
    assert (request.nodes, request.devices_per_node, request.devices) == (nodes, per_node, plan.devices)
    script = exported(made, "slurm")["job.sbatch"]
    assert f"--nnodes={nodes} --nproc-per-node={per_node} " in script
    assert ("of each node's 8 devices are the plan's" in script) == (nodes > 1 and per_node < 8)


def test_host_memory_is_asked_for_at_the_90th_percentile_of_its_forecast() -> None:
    """One checkpoint at a time, however many the run writes."""
    case = from_model_and_site("llama-3.1-8b", "8xdgx-h100")
    ranking = search(case)
    proposal = Proposal(case, ranking.plan(), explain(ranking))
    assert proposal.plan.storage.asynchronous
    assert proposal.forecast.counts["checkpoints"] > 100
    host = proposal.forecast.metrics["host_memory"]
    asked = percentile_90(host)
    assert request_of(proposal).host_memory_bytes == math.ceil(asked)
    assert asked < 128 * 2**30
    mib = math.ceil(asked / 2**20)
    assert f"#SBATCH --mem={mib}M\n" in exported(proposal, "slurm")["job.sbatch"]
    manifest = YAML(typ="safe").load(exported(proposal, "kubernetes")["jobset.yaml"])
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == f"{mib}Mi"
    for target, file in (("torchrun", "run.sh"), ("slurm", "job.sbatch"), ("kubernetes", "jobset.yaml")):
        said = f"# Host memory of a node: {human(host.value, 'bytes')} (assumed); asked for: its p90, "
        assert said in exported(proposal, target)[file]


def test_a_plan_without_a_forecast_of_host_memory_is_refused(make_proposal: Make) -> None:
    made = make_proposal(PLAN)
    older = {name: metric for name, metric in made.forecast.metrics.items() if name != "host_memory"}
    with pytest.raises(Refused, match="no host_memory"):
        request_of(replace(made, forecast=replace(made.forecast, metrics=older)))


def test_more_than_the_site_s_hosts_have_is_said(make_proposal: Make) -> None:
    made = make_proposal(PLAN)
    small = replace(made.case, site=replace(made.case.site, host_memory_bytes=100e9))
    assert "# It may not fit its hosts" in exported(replace(made, case=small), "slurm")["job.sbatch"]
    assert "may not fit its hosts" not in exported(made, "slurm")["job.sbatch"]


def test_hosts_that_may_not_hold_copies_are_asked_for_less_and_not_for_background_saves() -> None:
    free = from_model_and_site("llama-2-70b", "2x8xH100-SXM", tokens=1e9)
    small = replace(free, site=replace(free.site, host_memory_bytes=256e9))
    scripts: list[str] = []
    for case in (free, small):
        ranking = search(case, engine="megatron")
        proposal = Proposal(case, ranking.plan(), explain(ranking))
        scripts.append(exported(proposal, "slurm", "megatron")["job.sbatch"])
    asked_mib = [int(re.findall(r"--mem=(\d+)M", script)[0]) for script in scripts]
    assert asked_mib[1] * 2**20 <= 0.9 * 256e9 < asked_mib[0] * 2**20
    assert ["--async-save" in script for script in scripts] == [True, False]
    assert ["# Checkpoints hold the loop" in script for script in scripts] == [False, True]


@pytest.mark.parametrize(
    ("model", "flags", "said"),
    [
        ("llama-3.1-8b", {"rotary-base": "500000", "rope-scaling-factor": "8"}, ""),
        ("llama-3.2-1b", {"rotary-base": "500000", "rope-scaling-factor": "32"}, ""),
        ("llama-3-8b", {"rotary-base": "500000"}, ""),
        ("llama-2-7b", {"rotary-base": "10000"}, ""),
        ("qwen3-30b-a3b", {"rotary-base": "1000000"}, ""),
        ("deepseek-v2-lite", {"rotary-base": "10000"}, "stretched positions (yarn 40)"),
        ("gemma-3-1b", {}, "Megatron-LM's default, 10,000"),
        ("nemotron-4-15b", {"rotary-base": "10000", "rotary-percent": "0.5"}, ""),
        ("nemotron-4-340b", {"rotary-base": "10000", "rotary-percent": "0.5"}, ""),
        ("phi-2", {"rotary-base": "10000", "rotary-percent": "0.4"}, ""),
        ("pythia-6.9b", {"rotary-base": "10000", "rotary-percent": "0.25"}, ""),
        ("gpt-neox-20b", {"rotary-base": "10000", "rotary-percent": "0.25"}, ""),
        ("glm-4.5", {"rotary-base": "1000000", "rotary-percent": "0.5"}, ""),
        ("gpt2", {}, ""),
    ],
)
def test_megatron_is_told_the_rotary_base_where_it_is_known(
    make_proposal: Make, model: str, flags: dict[str, str], said: str
) -> None:
    proposal = make_proposal(ComputePlan(data=16))
    proposal = replace(proposal, case=replace(proposal.case, model=shape_of(model)))
    script = exported(proposal, "megatron")["megatron.sh"]
    assert dict(re.findall(r"--(rotary-base|rotary-percent|rope-scaling-factor) (\S+)", script)) == flags
    assert ("--use-rope-scaling" in script) == ("rope-scaling-factor" in flags)
    remarks = [line for line in script.splitlines() if "rotary" in line and line.startswith("#")]
    assert [said in line for line in remarks] == ([True] if said else [])


def test_a_share_of_rotary_positions_that_is_not_one_number_is_said(make_proposal: Make) -> None:
    made = make_proposal(ComputePlan(data=16))
    unknown = replace(made.case.model, rotary_share=0.0)
    script = exported(as_model(made, unknown), "megatron")["megatron.sh"]
    assert "--rotary-percent" not in re.sub("#.*", "", script)
    assert "how much of each head is rotary is not known, or not one number" in script
    half = exported(as_model(made, replace(unknown, rotary_base=0.0, rotary_share=0.5)), "megatron")["megatron.sh"]
    assert "--rotary-percent 0.5" in half
    assert "Megatron-LM's default, 10,000" in half


def as_model(made: Proposal, shape: ModelShape, sequence: int = 4096) -> Proposal:
    """The same plan of another model."""
    application = replace(made.case.application, sequence=sequence)
    return replace(made, case=replace(made.case, model=shape, application=application))


@pytest.mark.parametrize(
    ("model", "flags", "said"),
    [
        (
            "gemma-3-12b",
            "--swiglu --normalization RMSNorm",
            ["gated by GELU (here by SiLU)", "4 norms a layer (here 2)"],
        ),
        ("falcon-40b", "--position-embedding-type rope", ["attention and MLP side by side"]),
        ("bloom-176b", "--position-embedding-type none", ["ALiBi", "norm behind the embedding"]),
        ("nemotron-4-15b", "--squared-relu --apply-layernorm-1p", []),
        (
            "llama-4-scout",
            "--swiglu --normalization RMSNorm",
            ["in chunks of 8,192 tokens", "--no-rope-freq", "--qk-l2-norm", "router"],
        ),
        ("gpt-oss-20b", "--window-size 128,0", ["--softmax-type learnable --quick-geglu"]),
        ("olmo-2-7b", "--normalization RMSNorm", ["norms behind attention", "all heads' queries"]),
        ("olmo-7b", "--swiglu", ["norms without parameters"]),
        ("palm-540b", "--swiglu", ["side by side"]),
        ("gopher-280b", "--position-embedding-type none --normalization RMSNorm", ["relative positions"]),
        ("llama-2-7b", "--position-embedding-type rope --swiglu --normalization RMSNorm", []),
    ],
)
def test_what_megatron_is_not_told_of_a_model_is_said(
    make_proposal: Make, model: str, flags: str, said: list[str]
) -> None:
    proposal = as_model(make_proposal(ComputePlan(data=16)), shape_of(model), sequence=16384)
    script = exported(proposal, "megatron")["megatron.sh"]
    assert flags in script
    remarks = [line for line in script.splitlines() if line.startswith("#") and "flags do not say" in line]
    assert len(remarks) == (1 if said else 0)
    assert all(words in remarks[0] for words in said)


def test_megatron_has_the_norms_that_the_model_has(make_proposal: Make) -> None:
    made = make_proposal(ComputePlan(data=16))
    for model in ("olmo-7b", "palm-540b", "dbrx", "nemotron-4-15b", "falcon-7b"):  # LayerNorm
        assert "RMSNorm" not in exported(as_model(made, shape_of(model)), "megatron")["megatron.sh"]
    scout = exported(as_model(made, shape_of("llama-4-scout"), sequence=8192), "megatron")["megatron.sh"]
    assert "chunks" not in scout  # no chunk ends within so short a sequence


def test_torchtitan_is_given_no_model_of_other_sizes(make_proposal: Make) -> None:
    made = make_proposal(ComputePlan(data=16, zero_stage=3))
    assert "llama3_8b" in exported(made, "torchtitan")["torchtitan.sh"]
    for other in ({"kv_heads": 32}, {"ffn": 11008}, {"experts": 8, "experts_per_token": 2}):
        with pytest.raises(Incompatible, match="under a name that datahall knows"):
            exported(as_model(made, replace(made.case.model, **other)), "torchtitan")


def test_no_more_nodes_are_asked_for_than_the_site_has(make_proposal: Make) -> None:
    made = make_proposal(ComputePlan(data=3, tensor=4))
    request = request_of(
        replace(made, case=replace(made.case, site=replace(made.case.site, nodes=2, devices_per_node=6)))
    )
    assert (request.nodes, request.devices_per_node) == (2, 6)


@pytest.mark.parametrize(("plan", "whole"), [(PLAN, True), (ComputePlan(data=12), False), (ComputePlan(data=4), False)])
def test_a_job_of_whole_nodes_is_told_how_to_have_all_of_their_memory(
    make_proposal: Make, plan: ComputePlan, whole: bool
) -> None:
    made = make_proposal(plan)
    made = replace(made, case=replace(made.case, site=replace(made.case.site, nodes=2, devices_per_node=8)))
    remark = "--mem=0 asks for all of it."
    assert (remark in exported(made, "slurm")["job.sbatch"]) == whole
    assert remark not in exported(made, "kubernetes")["jobset.yaml"]


def test_slurm_writes_days() -> None:
    assert slurm_time(0) == "0-00:00:00"
    assert slurm_time(90061) == "1-01:01:01"


def test_an_sbatch_script_asks_for_what_the_forecast_needs(make_proposal: Make) -> None:
    proposal = make_proposal(PLAN)
    text = exported(proposal, "slurm", "torchtitan")["job.sbatch"]
    assert "#SBATCH --nodes=2" in text
    assert "#SBATCH --gpus-per-node=8" in text
    assert f"#SBATCH --time={slurm_time(request_of(proposal).time_s)}" in text
    assert "--parallelism.tensor_parallel_degree 4" in text
    assert '--rdzv-endpoint="$HEAD":29500' in text
    cores = request_of(proposal).cores_per_node  # srun does not take them over from sbatch
    assert f"#SBATCH --cpus-per-task={cores}" in text
    assert f"srun --cpus-per-task={cores} " in text
    assert "export HEAD=" not in text  # that would hide a failure of scontrol


@pytest.mark.parametrize("target", ["torchrun", "slurm", "torchtitan", "megatron", "deepspeed"])
def test_every_script_is_one_that_the_shell_can_read(make_proposal: Make, target: str, tmp_path: Path) -> None:
    plan = ComputePlan(data=8, zero_stage=3, micro_batch=1, accumulation=4)
    for name, text in exported(make_proposal(plan), target).items():
        if name.endswith((".sh", ".sbatch")):
            (tmp_path / name).write_text(text)
            subprocess.run(["bash", "-n", str(tmp_path / name)], check=True)


def test_what_torchrun_is_given_is_options_up_to_the_program(make_proposal: Make) -> None:
    words = shlex.split(exported(make_proposal(PLAN), "torchrun")["run.sh"].splitlines()[-1])
    options = words[2 : words.index("train.py")]
    assert words[:2] == ["exec", "torchrun"]
    assert all(word.startswith("--") for word in options), options


def test_ones_own_program_is_told_chunks_and_groups(make_proposal: Make) -> None:
    """A pipeline of one chunk a stage, or one copy over all ranks, is another plan with another forecast."""
    chunks = ComputePlan(data=2, pipeline=4, virtual_stages=2, accumulation=8)
    assert "--virtual-stages=2" in exported(make_proposal(chunks), "torchrun")["run.sh"]
    grouped = exported(make_proposal(ComputePlan(data=8, zero_stage=3, shard_group=4)), "torchrun")["run.sh"]
    assert "--shard-group=4" in grouped
    plain = exported(make_proposal(PLAN), "torchrun")["run.sh"]
    assert "--virtual-stages" not in plain
    assert "--shard-group" not in plain


def test_a_jobset_is_a_gang_behind_a_queue(make_proposal: Make) -> None:
    manifest = YAML(typ="safe").load(exported(make_proposal(PLAN), "kubernetes", "megatron")["jobset.yaml"])
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 2
    container = job["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert "--tensor-model-parallel-size" in container["command"]


def test_megatron_flags_encode_experts_latent_attention_and_stages(make_proposal: Make) -> None:
    from .conftest import DEEPSEEK_V3

    plan = ComputePlan(
        data=16, pipeline=8, expert=16, zero_stage=1, accumulation=32, recompute="selective", precision="fp8"
    )
    text = exported(make_proposal(plan, model=DEEPSEEK_V3), "megatron")["megatron.sh"]
    for flag in (
        "--expert-model-parallel-size 16",
        "--pipeline-model-parallel-size 8",
        "--multi-latent-attention",
        "--qk-layernorm",  # without it megatron-core 0.16 builds the latents of queries and values without their norms
        "--moe-layer-freq '([0]*3+[1]*58)'",
        "--recompute-granularity selective",
        "--decoder-first-pipeline-num-layers 7",
        "--decoder-last-pipeline-num-layers 6",
        "--fp8-format hybrid",
        "--use-distributed-optimizer",
    ):
        assert flag in text


@pytest.mark.parametrize(
    ("precision", "flags"),
    [("fp8", "--bf16 --fp8-format hybrid"), ("fp4", "--bf16 --fp4-format e2m1 --fp4-recipe nvfp4"), ("bf16", "--bf16")],
)
def test_megatron_is_told_narrow_products_beside_weights_in_16_bits(
    make_proposal: Make, precision: str, flags: str
) -> None:
    made = on_site(make_proposal(ComputePlan(data=8, precision=precision)), "8xB200")
    words = " ".join(megatron_arguments(made))
    assert flags in words
    assert ("fp8-format" in words, "fp4-format" in words) == (precision == "fp8", precision == "fp4")
    numbers = PlanNumbers.of(made.plan.compute)
    assert np.all(runnable("megatron", made.case, numbers, precision))
    if precision == "fp4":
        elsewhere = on_site(made, "8xMI355X")
        with pytest.raises(Incompatible, match=r"fp4 on MI355X \(its recipe is NVFP4\)"):
            megatron_arguments(elsewhere)
        assert not np.any(runnable("megatron", elsewhere.case, numbers, precision))


def test_megatron_is_told_how_fp8_is_scaled_where_the_stack_says_so(make_proposal: Make) -> None:
    made = on_site(make_proposal(ComputePlan(data=8, precision="fp8")), "8xB200")
    site = replace(made.case.site, stack="Megatron-LM 0.15, MXFP8")
    words = " ".join(megatron_arguments(replace(made, case=replace(made.case, site=site))))
    assert "--fp8-format e4m3 --fp8-recipe mxfp8" in words
    assert "fp8-recipe" not in " ".join(megatron_arguments(made))


def test_megatron_counts_embedding_and_loss_where_that_makes_interleaved_stages_even(make_proposal: Make) -> None:
    """61 layers over 21 stages: 19 of three, and two at the ends."""
    from .conftest import DEEPSEEK_V3

    plan = ComputePlan(data=2, pipeline=7, virtual_stages=3, zero_stage=1, accumulation=7)
    ends = ("--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split")
    words = megatron_arguments(make_proposal(plan, model=DEEPSEEK_V3))
    assert words[words.index("--num-layers-per-virtual-pipeline-stage") + 1] == "3"
    assert set(ends) < set(words)
    assert not any(word.startswith("--decoder-") for word in words)
    even = megatron_arguments(make_proposal(ComputePlan(data=2, pipeline=4, virtual_stages=2, accumulation=4)))
    assert even[even.index("--num-layers-per-virtual-pipeline-stage") + 1] == "4"
    assert not set(ends) & set(even)
    odd = replace(plan, pipeline=8, virtual_stages=2, accumulation=8)
    with pytest.raises(Incompatible, match="61 layers over 16 virtual stages"):
        megatron_arguments(make_proposal(odd, model=DEEPSEEK_V3))


def test_copies_are_shared_among_context_ranks_too(make_proposal: Make) -> None:
    """A group of 8 of the 4 x 8 ranks that hold the same parameters: four copies, each over one row of 8 ranks."""
    plan = ComputePlan(data=4, context=8, zero_stage=1, shard_group=8, accumulation=4)
    assert "--num-distributed-optimizer-instances 4" in exported(make_proposal(plan), "megatron")["megatron.sh"]
    everyone = exported(make_proposal(replace(plan, shard_group=0)), "megatron")["megatron.sh"]
    assert "--num-distributed-optimizer-instances" not in everyone
    gathered = exported(make_proposal(replace(plan, zero_stage=3, shard_group=16)), "torchtitan")["torchtitan.sh"]
    assert "--parallelism.data_parallel_shard_degree 2" in gathered
    assert "--parallelism.data_parallel_replicate_degree 2" in gathered


def test_megatron_finds_the_environment_that_it_checks_for(make_proposal: Make) -> None:
    """Its validation ends a run with tensor or context ranks without it, and one of its FSDP with it."""
    shared, alone = ComputePlan(data=4, tensor=4, zero_stage=1), ComputePlan(data=16, zero_stage=1)
    wanted = "CUDA_DEVICE_MAX_CONNECTIONS"
    for target, file in (("slurm", "job.sbatch"), ("torchrun", "run.sh")):
        assert f"export {wanted}=1\n" in exported(make_proposal(shared), target, "megatron")[file]
        assert wanted not in exported(make_proposal(shared), target, "own")[file]
    manifest = YAML(typ="safe").load(exported(make_proposal(shared), "kubernetes", "megatron")["jobset.yaml"])
    container = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": wanted, "value": "1"} in container["env"]
    for plan in (alone, ComputePlan(data=4, tensor=4, zero_stage=3)):
        assert wanted not in exported(make_proposal(plan), "megatron")["megatron.sh"]
    made = make_proposal(shared)
    card = replace(made.case.site.accelerator, architecture="blackwell-ultra")
    newer = replace(made, case=replace(made.case, site=replace(made.case.site, accelerator=card)))
    assert wanted not in exported(newer, "megatron")["megatron.sh"]


def test_megatron_is_not_asked_for_what_its_checks_end(make_proposal: Make) -> None:
    from .conftest import DEEPSEEK_V3

    background = StoragePlan(interval_steps=100, asynchronous=True)
    sharded = exported(make_proposal(ComputePlan(data=8, zero_stage=3), storage=background), "megatron")
    assert "--async-save" not in sharded["megatron.sh"]  # not in the format of its FSDP
    mixture = make_proposal(ComputePlan(data=8, precision="fp16"), model=DEEPSEEK_V3)
    assert "--moe-grouped-gemm" not in exported(mixture, "megatron")["megatron.sh"]
    with pytest.raises(Incompatible, match="fp16"):
        exported(make_proposal(ComputePlan(data=8, expert=8, precision="fp16"), model=DEEPSEEK_V3), "megatron")


def test_deepspeed_batches_agree(make_proposal: Make) -> None:
    plan = ComputePlan(data=8, zero_stage=3, micro_batch=2, accumulation=4)
    config = json.loads(exported(make_proposal(plan), "deepspeed")["deepspeed.json"])
    assert (
        config["train_batch_size"]
        == 64
        == config["train_micro_batch_size_per_gpu"] * 8 * config["gradient_accumulation_steps"]
    )
    ranked = ComputePlan(data=4, tensor=2, micro_batch=2, accumulation=4, sequence_parallel=False)
    config = json.loads(exported(make_proposal(ranked), "deepspeed")["deepspeed.json"])
    assert "train_batch_size" not in config  # its check would take tensor ranks for data ranks
    assert config["tensor_parallel"] == {"autotp_size": 2}
    pieces = replace(ranked, tensor=1, context=2)
    config = json.loads(exported(make_proposal(pieces), "deepspeed")["deepspeed.json"])
    assert (config["data_parallel_size"], config["sequence_parallel_size"]) == (4, 2)


def test_what_deepspeed_leaves_to_the_program_is_said(make_proposal: Make) -> None:
    made = make_proposal(ComputePlan(data=4, context=2, accumulation=4, recompute="full"))
    tuned = replace(made.case, application=replace(made.case.application, method="lora", lora_rank=16))
    for target, file in (("deepspeed", "deepspeed.sh"), ("slurm", "job.sbatch"), ("kubernetes", "jobset.yaml")):
        text = exported(replace(made, case=tuned), target, "deepspeed")[file]
        for said in ("# train.py has to repeat activations", "Ulysses", "adapters of rank 16"):
            assert said in text
        assert ("deepspeed.json has to lie in the image" in text) == (target == "kubernetes")
    assert "train.py has to" not in exported(make_proposal(ComputePlan(data=8)), "deepspeed")["deepspeed.sh"]


def test_where_an_engine_does_other_than_the_forecast_is_said(make_proposal: Make) -> None:
    titan = exported(make_proposal(ComputePlan(data=8, recompute="selective")), "slurm", "torchtitan")["job.sbatch"]
    assert "# torchtitan repeats chosen operations" in titan
    megatron = exported(make_proposal(ComputePlan(data=4, tensor=2)), "megatron")["megatron.sh"]
    assert "--tp-comm-overlap" in next(line for line in megatron.splitlines() if line.startswith("# The forecast"))
    for engine in ("torchtitan", "megatron"):
        assert "forecast" not in exported(make_proposal(ComputePlan(data=8)), engine)[f"{engine}.sh"].split("set -e")[1]


def test_torchtitan_gets_as_many_stages_as_were_planned(make_proposal: Make) -> None:
    """Its own count takes the embedding and the head for a layer each, and then ends the run."""
    plan = ComputePlan(data=2, pipeline=4, virtual_stages=2, zero_stage=2, accumulation=8)
    text = exported(make_proposal(plan), "torchtitan")["torchtitan.sh"]
    for flag in ("layers_per_stage 4", "first_stage_less_layers 0", "last_stage_less_layers 0"):
        assert f"--parallelism.pipeline_parallel_{flag}" in text


def test_schedules_and_whole_sequences_are_told_to_who_can_have_them(make_proposal: Make) -> None:
    titan = exported(make_proposal(HALVES), "torchtitan")["torchtitan.sh"]
    assert "--parallelism.pipeline_parallel_schedule InterleavedZeroBubble" in titan
    assert "leave it off" in titan  # torch.compile
    whole = replace(HALVES, data=1, tensor=2, sequence_parallel=False)
    own = exported(make_proposal(whole), "torchrun")["run.sh"]
    assert "--schedule=zero-bubble" in own
    assert "--sequence-parallel=false" in own
    from .conftest import DEEPSEEK_V3

    mixture = make_proposal(ComputePlan(data=4, tensor=2, sequence_parallel=False), model=DEEPSEEK_V3)
    with pytest.raises(Incompatible, match="tensor ranks of a mixture"):
        exported(mixture, "megatron")


def test_megatron_trains_the_model_that_was_forecast(make_proposal: Make) -> None:
    """Its defaults are those of GPT-3: dropout, full attention, biases everywhere or nowhere; and gradients at last."""
    made = make_proposal(ComputePlan(data=8))
    shape = replace(made.case.model, attention_bias=True, window=4096, window_share=5 / 6)
    text = exported(replace(made, case=replace(made.case, model=shape)), "megatron")["megatron.sh"]
    for flag in ("attention-dropout 0", "hidden-dropout 0", "add-qkv-bias", "overlap-grad-reduce"):
        assert f"--{flag}" in text
    assert "--window-size 4096,0 --window-attn-skip-freq 6" in text
    assert "--window" not in exported(made, "megatron")["megatron.sh"]
    odd = replace(made, case=replace(made.case, model=replace(shape, window_share=0.3)))
    with pytest.raises(Incompatible, match="window"):
        exported(odd, "megatron")


def on_site(made: Proposal, site: str) -> Proposal:
    """The same plan on devices of the catalogue's `site`."""
    elsewhere, _ = site_from_text(site)
    card = elsewhere.accelerator
    return replace(made, case=replace(made.case, site=replace(made.case.site, accelerator=card)))


@pytest.mark.parametrize(
    ("site", "asked", "resource"),
    [
        ("8xA40", "--gpus-per-node=8", "nvidia.com/gpu"),
        ("8xMI300X", "--gpus-per-node=8", "amd.com/gpu"),
        ("8xGaudi3", "--gpus-per-node=8", "habana.ai/gaudi"),
        ("8xTPU-v6e", "--gres=tpu:8", "google.com/tpu"),
        ("16xTrainium2", "--exclusive", "aws.amazon.com/neuron"),
        ("8xAscend-910B", "--gres=npu:8", "huawei.com/Ascend910"),
        ("Xeon-8480-2S", "", ""),
    ],
)
def test_each_maker_s_devices_are_asked_for_by_their_name(
    make_proposal: Make, site: str, asked: str, resource: str
) -> None:
    made = on_site(make_proposal(ComputePlan(data=8)), site)
    script = exported(made, "slurm")["job.sbatch"]
    directives = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert [line for line in directives if re.match("--g(pus|res)|--exclusive", line)] == [asked] * bool(asked)
    pod = YAML(typ="safe").load(exported(made, "kubernetes")["jobset.yaml"])["spec"]["replicatedJobs"][0]
    limits = pod["template"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert {name: count for name, count in limits.items() if name not in ("cpu", "memory")} == (
        {resource: "8"} if resource else {}
    )


def test_devices_that_slurm_has_no_name_for_are_left_to_the_user(make_proposal: Make) -> None:
    made = make_proposal(ComputePlan(data=8))
    card = replace(made.case.site.accelerator, name="own chip", kind="other", vendor="")
    script = exported(replace(made, case=replace(made.case, site=replace(made.case.site, accelerator=card))), "slurm")
    assert "#SBATCH --gres=DEVICE:8" in script["job.sbatch"]
    assert "# DEVICE is what your Slurm calls" in script["job.sbatch"]


def test_on_tpus_one_process_a_host_has_all_its_devices(make_proposal: Make) -> None:
    made = on_site(make_proposal(ComputePlan(data=8)), "8xTPU-v6e")
    script = exported(made, "slurm")["job.sbatch"]
    assert "torchrun" not in script
    assert re.search(r"^srun .* python train\.py --data=8", script, re.MULTILINE)
    manifest = exported(made, "kubernetes")["jobset.yaml"]
    pod = YAML(typ="safe").load(manifest)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"][:2] == ["python", "train.py"]
    assert set(pod["nodeSelector"]) == {
        "cloud.google.com/gke-tpu-accelerator",
        "cloud.google.com/gke-tpu-topology",
    }
    assert "# TPU and TOPOLOGY are" in manifest
    with pytest.raises(Incompatible, match="one process a host"):
        exported(made, "torchrun")


def test_a_chip_of_several_cores_is_said(make_proposal: Make) -> None:
    made = on_site(make_proposal(ComputePlan(data=8)), "16xTrainium2")
    for target, file in (("torchrun", "run.sh"), ("slurm", "job.sbatch"), ("kubernetes", "jobset.yaml")):
        assert "one process a NeuronCore" in exported(made, target)[file]
    assert "NeuronCore" not in exported(make_proposal(PLAN), "slurm")["job.sbatch"]


@pytest.mark.parametrize("engine", ["torchtitan", "megatron", "deepspeed"])
def test_engines_for_gpus_are_not_told_to_run_on_tpus(make_proposal: Make, engine: str) -> None:
    elsewhere = on_site(make_proposal(ComputePlan(data=8)), "8xTPU-v5p")
    with pytest.raises(Incompatible, match="TPU"):
        exported(elsewhere, engine)
    assert "google.com/tpu" in exported(elsewhere, "kubernetes")["jobset.yaml"]


@pytest.mark.parametrize(
    ("target", "plan", "said"),
    [
        ("torchtitan", ComputePlan(data=8, zero_stage=1), "ZeRO-1"),
        ("torchtitan", ComputePlan(data=8, precision="fp8"), "precision fp8"),
        ("torchtitan", ComputePlan(data=8, precision="fp4"), "precision fp4"),
        ("deepspeed", ComputePlan(data=8, precision="fp8"), "precision fp8"),
        ("deepspeed", ComputePlan(data=8, precision="fp4"), "precision fp4"),
        ("torchtitan", ComputePlan(data=4, context=2), "context ranks"),
        ("deepspeed", ComputePlan(data=2, pipeline=4), "pipeline"),
        ("torchtitan", ComputePlan(data=8, expert=8), "expert ranks"),
        ("torchtitan", ComputePlan(data=1, pipeline=20, accumulation=20), "32 layers over 20 stages"),
        ("deepspeed", ComputePlan(data=8, expert=2), "expert"),
        ("deepspeed", ComputePlan(data=8, zero_stage=3, shard_group=4), "sharding within groups"),
        ("deepspeed", ComputePlan(data=2, tensor=2, context=2), "at once"),
        ("deepspeed", ComputePlan(context=64), "32 heads over 64"),
        ("deepspeed", ComputePlan(data=4, tensor=2), "share the sequence"),
        ("torchtitan", replace(HALVES, virtual_stages=1), "one stage a rank"),
        ("torchtitan", replace(HALVES, zero_stage=3), "zero-bubble schedule with shards"),
        ("megatron", HALVES, "zero-bubble"),
        ("megatron", ComputePlan(data=1, precision="int8"), "int8"),
        ("megatron", ComputePlan(pipeline=20), "32 layers over 20 stages"),
        ("megatron", ComputePlan(data=2, pipeline=2, zero_stage=3), "FSDP with a pipeline"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(make_proposal: Make, target: str, plan: ComputePlan, said: str) -> None:
    with pytest.raises(Incompatible, match=said):
        exported(make_proposal(plan), target)


def test_the_command_writes_files_and_prints(make_proposal: Make, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    storage = StoragePlan(interval_steps=100, asynchronous=True)
    make_proposal(replace(PLAN, zero_stage=1), storage=storage).save(plan)
    printed = datahall("export", plan, "--to", "slurm")
    assert printed.code == 0
    assert printed.stdout.startswith("#!/bin/bash\n#SBATCH")
    assert datahall("export", plan, "--to", "megatron", "--out", tmp_path / "out").code == 0
    script = tmp_path / "out" / "megatron.sh"
    assert os.stat(script).st_mode & stat.S_IXUSR
    assert "--async-save" in script.read_text()
    wrong = datahall("export", plan, "--to", "megatron", "--out", "/proc/no")
    assert wrong.code == 1
    assert "cannot write" in wrong.stderr
    assert datahall("export", "no.json", "--to", "slurm", cwd=tmp_path).code == 2


@pytest.mark.parametrize("engine", ["torchtitan", "megatron"])
def test_adapters_are_not_exported_as_a_training_of_everything(make_proposal: Make, engine: str) -> None:
    made = make_proposal(ComputePlan(data=8))
    tuned = replace(made.case, application=replace(made.case.application, method="lora", lora_rank=16))
    with pytest.raises(Incompatible, match="LoRA"):
        exported(replace(made, case=tuned), engine)
    script = exported(replace(made, case=tuned), "torchrun")["run.sh"]
    assert "--lora-rank=16" in script
    assert "--lora-rank" not in exported(made, "torchrun")["run.sh"]


def test_a_manifest_has_a_name_that_a_service_may_have(make_proposal: Make) -> None:
    made = make_proposal(PLAN)
    for name, wanted in (("70B für Müller", "datahall-70b-f-r-m-ller"), ("---", "datahall"), ("A, b", "a-b")):
        text = exported(replace(made, case=replace(made.case, name=name)), "kubernetes")["jobset.yaml"]
        assert YAML(typ="safe").load(text)["metadata"]["name"] == wanted
