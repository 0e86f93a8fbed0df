"""The flags and files by which torchtitan, Megatron-LM and DeepSpeed run the split that a plan decided.

Only what encodes the decision: data, tokenizer and learning rate stay the user's.  What an engine cannot do is refused.
"""

from __future__ import annotations

import json
import re
from typing import Any

from datahall.base.errors import Incompatible
from datahall.case.model import ModelShape
from datahall.catalog.stacks import block_scaled
from datahall.compute.plan import ComputePlan
from datahall.decisions.proposal import Proposal
from datahall.search.engines import evened_layers, has_nvfp4, torchtitan_model
from datahall.ui.export_traits import has_rotary, trait_flags, unsaid

_LLAMA3 = re.compile(r"llama3 ([\d.]+)")  # a scaling whose other constants are those that Megatron-Core has written in


def torchtitan_arguments(proposal: Proposal) -> list[str]:
    """Arguments of torchtitan's trainer (0.3): module, configuration, degrees, batch, recomputation."""
    compute, shape, application = proposal.plan.compute, proposal.case.model, proposal.case.application
    _refuse_unless_gpu(proposal, "torchtitan")
    _refuse_unless(application.method == "full", "torchtitan", "LoRA by flags")
    _refuse_unless(
        compute.precision == "bf16", "torchtitan", f"the precision {compute.precision} from the command line"
    )
    _refuse_unless(compute.zero_stage in (0, 2, 3), "torchtitan", "ZeRO-1 (it shards gradients too, or nothing)")
    module, config = torchtitan_model(shape)
    _refuse_unless(bool(module), "torchtitan", f"the model {shape.name} under a name that datahall knows")
    _refuse_unless(
        compute.zero_stage > 0 or compute.context == 1, "torchtitan", "context ranks that each hold everything"
    )
    shard = compute.shards // compute.context if compute.zero_stage else 1  # it shards over context ranks as well
    spread = shard * compute.context * compute.tensor % compute.expert == 0  # its experts lie among these ranks
    _refuse_unless(spread, "torchtitan", f"{compute.expert} expert ranks that share less than one sharded copy")
    local_batch = compute.micro_batch * (compute.accumulation if compute.pipeline > 1 else 1)
    arguments = {
        "module": module,
        "config": config,
        "training.seq_len": application.sequence,
        "training.local_batch_size": local_batch,
        "training.global_batch_size": compute.global_batch,
        "training.steps": application.steps,
        "training.mixed_precision_param": "bfloat16",
        "parallelism.data_parallel_replicate_degree": compute.data // shard,
        "parallelism.data_parallel_shard_degree": shard,
        "parallelism.fsdp_reshard_after_forward": "always" if compute.zero_stage == 3 else "never",
        "parallelism.tensor_parallel_degree": compute.tensor,
        "parallelism.context_parallel_degree": compute.context,
        "parallelism.pipeline_parallel_degree": compute.pipeline,
        "parallelism.expert_parallel_degree": compute.expert,
    }
    if compute.pipeline > 1:
        arguments |= _torchtitan_stages(shape.layers, compute)
    flags = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    flags.append("--parallelism." + ("" if compute.sequence_parallel else "no-") + "enable-sequence-parallel")
    return [*flags, f"activation-checkpoint:{compute.recompute}"]


def _torchtitan_stages(layers: int, compute: ComputePlan) -> dict[str, Any]:
    """Schedule and stages; by itself it counts embedding and head as a layer each, and takes another number of stages.

    Layers are spread as evenly as they go, the first stages with one more, as in the forecast.
    """
    stages = compute.pipeline * compute.virtual_stages
    per_stage = -(-layers // stages)
    _refuse_unless(-(-layers // per_stage) == stages, "torchtitan", f"{layers} layers over {stages} stages")
    halves, several = compute.schedule == "zero-bubble", compute.virtual_stages > 1
    _refuse_unless(several or not halves, "torchtitan", "a zero-bubble schedule of one stage a rank")
    whole = compute.zero_stage == 0  # half a backward pass asks for parameters that were given back
    _refuse_unless(whole or not halves, "torchtitan", "a zero-bubble schedule with shards")
    schedule = "InterleavedZeroBubble" if halves else "Interleaved1F1B" if several else "1F1B"
    return {
        "parallelism.pipeline_parallel_schedule": schedule,
        "parallelism.pipeline_parallel_microbatch_size": compute.micro_batch,
        "parallelism.pipeline_parallel_layers_per_stage": per_stage,
        "parallelism.pipeline_parallel_first_stage_less_layers": 0,
        "parallelism.pipeline_parallel_last_stage_less_layers": 0,
    }


def torchtitan_remarks(proposal: Proposal) -> list[str]:
    """Where torchtitan does other than the forecast takes it to."""
    compute, remarks = proposal.plan.compute, list[str]()
    if compute.recompute == "selective" and "torchtitan" not in proposal.case.site.stack.lower():
        remarks.append("torchtitan repeats chosen operations, not the attention core alone as in the forecast.")
    if compute.expert > 1 and compute.tensor > 1:
        remarks.append("torchtitan's expert ranks borrow tensor ranks: its experts are whole; the forecast cuts them.")
    if compute.schedule == "zero-bubble":
        remarks.append("PyTorch's zero-bubble schedules do not run with torch.compile: leave it off.")
    return remarks


def megatron_arguments(proposal: Proposal) -> list[str]:
    """Arguments of Megatron-LM's pretrain_gpt.py: the model's shape, degrees, batch, recomputation."""
    compute, application = proposal.plan.compute, proposal.case.application
    _refuse_unless_gpu(proposal, "Megatron-LM")
    _refuse_unless(application.method == "full", "Megatron-LM", "LoRA in pretrain_gpt.py")
    _refuse_unless(compute.schedule != "zero-bubble", "Megatron-LM", "a zero-bubble schedule")
    shares = compute.tensor == 1 or compute.sequence_parallel or not proposal.case.model.experts
    _refuse_unless(shares, "Megatron-LM", "tensor ranks of a mixture that do not share the sequence")
    arguments: dict[str, Any] = {
        **_megatron_shape(proposal.case.model, application.sequence),
        **_megatron_experts(proposal.case.model, compute),
        "tensor-model-parallel-size": compute.tensor,
        "pipeline-model-parallel-size": compute.pipeline,
        "context-parallel-size": compute.context,
        "micro-batch-size": compute.micro_batch,
        "global-batch-size": compute.global_batch,
        "train-iters": application.steps,
        **_megatron_precision(proposal),
        **_megatron_sharding(compute),
        **_megatron_recomputation(compute),
    }
    arguments |= _megatron_stages(proposal.case.model.layers, compute)
    if compute.expert > 1:
        arguments["expert-model-parallel-size"] = compute.expert
    if compute.tensor > 1 and compute.sequence_parallel:
        arguments["sequence-parallel"] = True
    if proposal.plan.storage.interval_steps:
        arguments["save-interval"] = proposal.plan.storage.interval_steps
        if proposal.plan.storage.asynchronous and "ckpt-format" not in arguments:  # only its torch_dist can
            arguments["async-save"] = True
    flags: list[str] = []
    for name, value in arguments.items():
        flags += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return flags


def megatron_remarks(proposal: Proposal) -> list[str]:
    """What the forecast counts on and needs libraries of the right build."""
    compute, shape = proposal.plan.compute, proposal.case.model
    remarks: list[str] = []
    if compute.tensor > 1 and compute.sequence_parallel:
        overlap = "add --tp-comm-overlap where Transformer Engine can."
        remarks.append(f"The forecast of Megatron-Core hides tensor transfers: {overlap}")
    if has_rotary(shape) and "rotary-base" not in _megatron_rotary(shape):
        remarks.append(
            "The model's rotary base is not known, or not one number: Megatron-LM's default, 10,000, would be used;"
            " add --rotary-base."
        )
    elif shape.rotary_scaling and not _LLAMA3.fullmatch(shape.rotary_scaling):
        how = f"stretched positions ({shape.rotary_scaling})"
        remarks.append(f"The rotary base is the model's; its {how} are not written: add them for long sequences.")
    if has_rotary(shape) and not shape.rotary_share:
        remarks.append(
            "Of the model, how much of each head is rotary is not known, or not one number: here heads are rotary as a"
            " whole; add --rotary-percent."
        )
    if lacking := unsaid(shape, proposal.case.application.sequence):
        remarks.append(f"The split is the plan's; of the model, flags do not say: {'; '.join(lacking)}.")
    return remarks


def megatron_environment(proposal: Proposal) -> dict[str, str]:
    """What Megatron-LM's own check of its arguments wants to find set before Blackwell, where ranks share a layer.

    Its FSDP wants the opposite, so that nothing is set for it.
    """
    compute, card = proposal.plan.compute, proposal.case.site.accelerator
    shared = compute.tensor > 1 or compute.context > 1
    wanted = shared and compute.zero_stage < 2 and not card.architecture.startswith("blackwell")
    return {"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if wanted else {}


def deepspeed_config(proposal: Proposal) -> str:
    """A DeepSpeed configuration (JSON text) with the plan's batch, ZeRO stage, precision and tensor parallelism."""
    compute = proposal.plan.compute
    _check_deepspeed(proposal)
    zero: dict[str, Any] = {"stage": compute.zero_stage, "overlap_comm": True, "contiguous_gradients": True}
    zero["reduce_bucket_size"] = proposal.plan.network.bucket_bytes // 2
    config: dict[str, Any] = {
        "train_batch_size": compute.global_batch,
        "train_micro_batch_size_per_gpu": compute.micro_batch,
        "gradient_accumulation_steps": compute.accumulation,
        "zero_optimization": zero,
        "wall_clock_breakdown": True,  # so that `datahall compare --log` can tell the components apart
        "steps_per_print": 10,
    }
    if compute.precision != "fp32":
        config[compute.precision] = {"enabled": True}
    if compute.tensor > 1:
        config["tensor_parallel"] = {"autotp_size": compute.tensor}
        del config["train_batch_size"]  # its check counts tensor ranks as if each had a batch of its own
    if compute.context > 1:
        config |= {"sequence_parallel_size": compute.context, "data_parallel_size": compute.data}
    if compute.recompute == "full":
        config["activation_checkpointing"] = {"partition_activations": False}
    return json.dumps(config, indent=2) + "\n"


def deepspeed_remarks(proposal: Proposal) -> list[str]:
    """What the plan decided and DeepSpeed leaves to the user's train.py."""
    compute, application = proposal.plan.compute, proposal.case.application
    remarks: list[str] = []
    if compute.recompute != "none":
        remarks.append(f"train.py has to repeat activations ({compute.recompute}): DeepSpeed does not by itself.")
    if compute.context > 1:
        remarks.append("train.py has to wrap its attention in DeepSpeed's Ulysses; the forecast is of a ring.")
    if application.method == "lora":
        remarks.append(f"train.py has to freeze the model and train adapters of rank {application.lora_rank}.")
    return remarks


def _check_deepspeed(proposal: Proposal) -> None:
    """Refuse what its configuration cannot say."""
    compute = proposal.plan.compute
    _refuse_unless(proposal.case.site.accelerator.kind != "tpu", "DeepSpeed", "a run on TPUs")
    _refuse_unless(compute.pipeline == 1, "DeepSpeed", "pipeline stages in its configuration (they are model code)")
    _refuse_unless(compute.expert == 1, "DeepSpeed", "expert parallelism in its configuration (it is model code)")
    _refuse_unless(compute.precision in ("bf16", "fp16", "fp32"), "DeepSpeed", f"the precision {compute.precision}")
    grouped = bool(compute.zero_stage) and compute.shards != compute.copies
    _refuse_unless(not grouped, "DeepSpeed", "sharding within groups (0.19 has no MiCS any more)")
    _refuse_unless(compute.context == 1 or compute.tensor == 1, "DeepSpeed", "tensor and context ranks at once")
    shares = compute.tensor > 1 and compute.sequence_parallel
    _refuse_unless(not shares, "DeepSpeed", "tensor ranks that share the sequence")
    whole = proposal.case.model.heads % compute.context == 0
    _refuse_unless(whole, "DeepSpeed", f"{proposal.case.model.heads} heads over {compute.context} context ranks")


def _megatron_shape(shape: ModelShape, sequence: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "num-layers": shape.layers,
        "hidden-size": shape.hidden,
        "num-attention-heads": shape.heads,
        "ffn-hidden-size": shape.dense_ffn if shape.experts and shape.dense_layers else shape.ffn,
        "seq-length": sequence,
        "max-position-embeddings": max(sequence, shape.learned_positions),
        **trait_flags(shape),
    }
    arguments |= _megatron_rotary(shape) if has_rotary(shape) else {}
    if not shape.tied_embeddings:
        arguments["untie-embeddings-and-output-weights"] = True
    if not shape.mlp_bias:
        arguments["disable-bias-linear"] = True
        if shape.attention_bias:
            arguments["add-qkv-bias"] = True
    if shape.latent is not None:
        arguments["multi-latent-attention"] = True
        if shape.latent.query_rank:
            arguments["q-lora-rank"] = shape.latent.query_rank
        arguments["kv-lora-rank"] = shape.latent.key_value_rank
        arguments["qk-head-dim"] = shape.latent.nope_dim
        arguments["qk-pos-emb-head-dim"] = shape.latent.rope_dim
        arguments["v-head-dim"] = shape.latent.value_dim
    else:
        arguments["kv-channels"] = shape.head_dim
        if shape.kv_heads != shape.heads:
            arguments["group-query-attention"] = True
            arguments["num-query-groups"] = shape.kv_heads
    if shape.query_key_norm or shape.latent is not None:  # the norms of both latents hang on it too
        arguments["qk-layernorm"] = True
    return {**arguments, **_megatron_window(shape), "attention-dropout": 0, "hidden-dropout": 0}


def _megatron_rotary(shape: ModelShape) -> dict[str, Any]:
    """Share of a head and base of rotary positions, which it takes as a whole number, and Llama 3.1's scaling.

    Nothing of what is not known.  Latent heads have a part of their own for positions, which is rotary as a whole.
    """
    part = 0.0 < shape.rotary_share < 1.0 and shape.latent is None
    rotary: dict[str, Any] = {"rotary-percent": f"{shape.rotary_share:g}"} if part else {}
    if shape.rotary_base <= 0 or shape.rotary_base % 1:
        return rotary
    rotary["rotary-base"] = int(shape.rotary_base)
    if scaled := _LLAMA3.fullmatch(shape.rotary_scaling):
        rotary |= {"use-rope-scaling": True, "rope-scaling-factor": scaled[1]}
    return rotary


def _megatron_window(shape: ModelShape) -> dict[str, Any]:
    """A sliding window, in all layers or in all but every so many."""
    if not shape.window:
        return {}
    window: dict[str, Any] = {"window-size": f"{shape.window},0"}
    if shape.window_share >= 1.0:
        return window
    every = round(1.0 / (1.0 - shape.window_share))
    regular = abs(1.0 - 1.0 / every - shape.window_share) < 0.01
    _refuse_unless(regular, "Megatron-LM", f"a window in {shape.window_share:.0%} of the layers")
    return {**window, "window-attn-skip-freq": every}


def _megatron_stages(layers: int, compute: ComputePlan) -> dict[str, Any]:
    """Layers of interleaved stages, and of those that the number of stages does not divide."""
    stages = compute.pipeline * compute.virtual_stages
    if compute.virtual_stages == 1:
        return _megatron_uneven(layers, stages) if layers % stages else {}
    counted = int(evened_layers(layers, stages))
    _refuse_unless(counted % stages == 0, "Megatron-LM", f"{layers} layers over {stages} virtual stages")
    ends = ("account-for-embedding-in-pipeline-split", "account-for-loss-in-pipeline-split") if counted > layers else ()
    return {"num-layers-per-virtual-pipeline-stage": counted // stages, **dict.fromkeys(ends, True)}


def _megatron_uneven(layers: int, stages: int) -> dict[str, Any]:
    """The middle stages hold their share, rounded up; the first and the last hold what is left."""
    left = layers + -(-layers // stages) * (2 - stages)
    _refuse_unless(left >= 2, "Megatron-LM", f"{layers} layers over {stages} stages")
    first = {"decoder-first-pipeline-num-layers": -(-left // 2)}
    return first if stages == 2 else {**first, "decoder-last-pipeline-num-layers": left // 2}


def _megatron_experts(shape: ModelShape, compute: ComputePlan) -> dict[str, Any]:
    if not shape.experts:
        return {}
    _refuse_unless(compute.expert == 1 or compute.precision != "fp16", "Megatron-LM", "expert parallelism in fp16")
    arguments: dict[str, Any] = {
        "num-experts": shape.experts,
        "moe-router-topk": shape.experts_per_token,
        "moe-ffn-hidden-size": shape.ffn,
        "moe-token-dispatcher-type": "alltoall",
    }
    if compute.precision in ("bf16", "fp8", "fp4"):
        arguments["moe-grouped-gemm"] = True  # it has no other
    if shape.shared_experts:
        arguments["moe-shared-expert-intermediate-size"] = shape.shared_experts * shape.shared_ffn
    if shape.dense_layers:
        arguments["moe-layer-freq"] = f"([0]*{shape.dense_layers}+[1]*{shape.moe_layers})"
    return arguments


def _megatron_precision(proposal: Proposal) -> dict[str, Any]:
    """Narrow products beside weights in bf16, by the recipes of its low-precision training guide (fp4 from 0.15 on)."""
    known: dict[str, dict[str, Any]] = {
        "bf16": {"bf16": True},
        "fp16": {"fp16": True},
        "fp8": {"bf16": True, "fp8-format": "hybrid"},
        "fp4": {"bf16": True, "fp4-format": "e2m1", "fp4-recipe": "nvfp4"},
        "fp32": {},
    }
    precision, card = proposal.plan.compute.precision, proposal.case.site.accelerator
    _refuse_unless(precision in known, "Megatron-LM", f"the precision {precision}")
    _refuse_unless(precision != "fp4" or has_nvfp4(card), "Megatron-LM", f"fp4 on {card.name} (its recipe is NVFP4)")
    if precision == "fp8" and block_scaled(proposal.case.site.stack):
        return {"bf16": True, "fp8-format": "e4m3", "fp8-recipe": "mxfp8"}
    return known[precision]


def _megatron_sharding(compute: ComputePlan) -> dict[str, Any]:
    if compute.zero_stage == 0:
        return {"overlap-grad-reduce": True} if compute.copies > 1 else {}
    _refuse_unless(compute.zero_stage < 2 or compute.pipeline == 1, "Megatron-LM", "its FSDP with a pipeline")
    sharding: dict[str, Any] = {
        "use-distributed-optimizer": True,
        "overlap-grad-reduce": True,
        "overlap-param-gather": True,
    }
    if compute.zero_stage > 1:
        strategy = {2: "optim_grads", 3: "optim_grads_params"}[compute.zero_stage]
        sharding |= {
            "use-megatron-fsdp": True,
            "data-parallel-sharding-strategy": strategy,
            "ckpt-format": "fsdp_dtensor",
        }
    if compute.shards != compute.copies:
        sharding["num-distributed-optimizer-instances"] = compute.copies // compute.shards
    return sharding


def _megatron_recomputation(compute: ComputePlan) -> dict[str, Any]:
    if compute.recompute == "none":
        return {}
    if compute.recompute == "selective":
        return {"recompute-granularity": "selective"}
    return {"recompute-granularity": "full", "recompute-method": "uniform", "recompute-num-layers": 1}


def _refuse_unless_gpu(proposal: Proposal, engine: str) -> None:
    card = proposal.case.site.accelerator
    _refuse_unless(card.kind == "gpu", engine, f"a run on {card.name} (it is for GPUs)")


def _refuse_unless(possible: bool, engine: str, lacking: str) -> None:
    if not possible:
        raise Incompatible(
            f"{engine} cannot express {lacking}.",
            hint="Plan again with --for and this engine's name, or export to another.",
        )
