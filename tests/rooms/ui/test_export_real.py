"""Exports read by the programs that they are for: Kubernetes schemas, torchtitan, Megatron, DeepSpeed, a live Slurm."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from datahall.case.named_model import shape_of
from datahall.case.named_site import site_from_text
from datahall.compute.plan import ComputePlan
from datahall.decisions.proposal import Proposal
from datahall.ui.export import exported

from .conftest import DEEPSEEK_V3

Make = Callable[..., Proposal]
Run = Callable[..., str]
PLAN = ComputePlan(data=4, tensor=4, zero_stage=3, micro_batch=2, accumulation=8, recompute="full")
PIPELINED = ComputePlan(data=2, pipeline=4, tensor=2, virtual_stages=2, zero_stage=1, micro_batch=1, accumulation=8)


def test_a_jobset_fits_the_published_models_and_its_pods_the_kubernetes_schema(make_proposal: Make) -> None:
    kubernetes_validate = importlib.import_module("kubernetes_validate")
    jobset = importlib.import_module("kubeflow_trainer_api.models.jobset_v1alpha2_job_set")
    manifest = YAML(typ="safe").load(exported(make_proposal(PLAN), "kubernetes", "torchtitan")["jobset.yaml"])
    read = jobset.JobsetV1alpha2JobSet.from_dict(manifest)
    _nothing_was_dropped(manifest, read.to_dict())
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "workers"}}
    job["spec"] = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    job["spec"]["paralelism"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.system
@pytest.mark.parametrize(
    "plan", [PLAN, ComputePlan(data=2, pipeline=4, virtual_stages=2, zero_stage=2, accumulation=8)]
)
def test_torchtitan_reads_its_arguments(make_proposal: Make, with_engine: Run, plan: ComputePlan) -> None:
    command = exported(make_proposal(plan), "torchtitan")["torchtitan.sh"].splitlines()[-1]
    arguments = shlex.split(command.split("torchtitan.train ")[1])
    degrees = json.loads(with_engine(_TORCHTITAN, *arguments))
    assert degrees["tensor_parallel_degree"] == plan.tensor
    assert degrees["pipeline_parallel_degree"] == plan.pipeline
    assert degrees["data_parallel_shard_degree"] == plan.data
    assert degrees["global_batch_size"] == plan.global_batch
    assert degrees["recompute"] == {"none": "NoneType", "full": "FullAC.Config"}[plan.recompute]
    assert degrees["stages"] == (plan.pipeline * plan.virtual_stages if plan.pipeline > 1 else 0)


# torchtitan's own parser and its own classes; the registry is a small one, since its own imports data loaders.
_TORCHTITAN = """
import ast, dataclasses, json, pathlib, sys, types
import torchtitan
from torchtitan.config.manager import ConfigManager
from torchtitan.config.configs import ParallelismConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import ActivationCheckpointingConfig, SelectiveAC

@dataclasses.dataclass(kw_only=True)
class Config:
    hf_assets_path: str = "."
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    parallelism: ParallelismConfig = dataclasses.field(default_factory=ParallelismConfig)
    activation_checkpoint: ActivationCheckpointingConfig = dataclasses.field(default_factory=SelectiveAC.Config)

arguments = sys.argv[1:]
named = dict(zip(arguments, arguments[1:]))
registry = pathlib.Path(torchtitan.__file__).parent / "models" / named["--module"] / "config_registry.py"
known = {node.name for node in ast.parse(registry.read_text()).body if isinstance(node, ast.FunctionDef)}
assert named["--config"] in known, (named["--config"], known)
sys.modules["registry"] = types.ModuleType("registry")
setattr(sys.modules["registry"], named["--config"], Config)
arguments[arguments.index("--module") + 1] = "registry"
read = ConfigManager().parse_args(arguments)
degrees = {**dataclasses.asdict(read.parallelism), **dataclasses.asdict(read.training)}
stages = 0
if read.parallelism.pipeline_parallel_degree > 1:  # as it will count them when it starts
    from torchtitan.distributed.pipeline_parallel import _get_pipeline_metadata
    ranks = types.SimpleNamespace(pp=read.parallelism.pipeline_parallel_degree)
    stages = _get_pipeline_metadata(ranks, read.parallelism, types.SimpleNamespace(layers=[None] * 32))[0]
print(json.dumps({**degrees, "recompute": type(read.activation_checkpoint).__qualname__, "stages": stages}))
"""


@pytest.mark.system
@pytest.mark.parametrize("model", ["dense", "squared", "mixture", "uneven", "ends", "fp8", "mxfp8", "fp4"])
def test_megatron_takes_its_flags(make_proposal: Make, with_engine: Run, model: str) -> None:
    if model == "dense":
        proposal = make_proposal(PIPELINED)
    elif model == "squared":
        proposal = make_proposal(PIPELINED, model=shape_of("nemotron-4-15b"))
    elif model in ("fp8", "mxfp8", "fp4"):
        made = make_proposal(ComputePlan(data=8, precision=model.removeprefix("mx")))
        card = site_from_text("8xB200")[0].accelerator
        site = replace(made.case.site, accelerator=card, stack=f"Megatron-LM 0.15, {model}")
        proposal = replace(made, case=replace(made.case, site=site))
    elif model == "ends":
        plan = ComputePlan(data=2, pipeline=7, virtual_stages=3, zero_stage=1, accumulation=7)
        proposal = make_proposal(plan, model=DEEPSEEK_V3)
    elif model == "uneven":
        proposal = make_proposal(ComputePlan(data=2, pipeline=8, zero_stage=1, accumulation=8), model=DEEPSEEK_V3)
    else:
        plan = ComputePlan(data=8, expert=8, tensor=2, zero_stage=3, recompute="selective")
        proposal = make_proposal(plan, model=DEEPSEEK_V3)
    command = exported(proposal, "megatron")["megatron.sh"].splitlines()[-1]
    read = json.loads(with_engine(_MEGATRON, *shlex.split(command.split("pretrain_gpt.py ")[1])))
    compute = proposal.plan.compute
    assert read["unknown"] == []
    assert read["tensor_model_parallel_size"] == compute.tensor
    assert read["expert_model_parallel_size"] == compute.expert


# Megatron's argument parser is in no package; its configuration classes are, and they check themselves.
_MEGATRON = """
import dataclasses, inspect, json, sys
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.distributed.distributed_data_parallel_config import DistributedDataParallelConfig as Sharding
from megatron.core.optimizer.optimizer_config import OptimizerConfig
from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig

renamed = {"untie_embeddings_and_output_weights": None, "swiglu": "gated_linear_unit", "disable_bias_linear": None,
    "group_query_attention": None, "fp8_format": "fp8", "fp4_format": "fp4",
    "num_experts": "num_moe_experts", "use_rope_scaling": "rope_scaling",
    "squared_relu": None, "apply_layernorm_1p": "layernorm_zero_centered_gamma",
    "decoder_first_pipeline_num_layers": "num_layers_in_first_pipeline_stage",
    "decoder_last_pipeline_num_layers": "num_layers_in_last_pipeline_stage"}
trainer = {"seq_length", "max_position_embeddings", "position_embedding_type", "micro_batch_size", "global_batch_size",
    "train_iters", "save_interval", "async_save", "use_megatron_fsdp", "ckpt_format", "multi_latent_attention"}
words, flags = sys.argv[1:], {}
for index, word in enumerate(words):
    if word.startswith("--"):
        follows = words[index + 1] if index + 1 < len(words) and not words[index + 1].startswith("--") else True
        flags[word[2:].replace("-", "_")] = follows
model = MLATransformerConfig if "multi_latent_attention" in flags else TransformerConfig
fields = {field.name: field for field in dataclasses.fields(model)}
elsewhere = {field.name for kind in (Sharding, OptimizerConfig) for field in dataclasses.fields(kind)}
elsewhere |= set(inspect.signature(GPTModel.__init__).parameters)
unknown, given = [], {}
for name, value in flags.items():
    name = renamed.get(name, name)
    if name == "num_layers_per_virtual_pipeline_stage":
        name = "virtual_pipeline_model_parallel_size"
        ends = sum(f"account_for_{end}_in_pipeline_split" in flags for end in ("embedding", "loss"))
        value = (int(flags["num_layers"]) + ends) // int(value) // int(flags["pipeline_model_parallel_size"])
    if name is None or name in trainer:
        continue
    if name in fields:
        given[name] = int(value) if isinstance(value, str) and value.isdigit() else value
    elif name not in elsewhere:
        unknown.append(name)
given.pop("overlap_grad_reduce", None)
if "pipeline_model_parallel_size" in given and given["pipeline_model_parallel_size"] > 1:
    import torch
    given["pipeline_dtype"] = torch.bfloat16
if "moe_layer_freq" in given:
    given["moe_layer_freq"] = eval(given["moe_layer_freq"])
given["add_bias_linear"] = False
read = model(**given)
print(json.dumps({"unknown": unknown, "tensor_model_parallel_size": read.tensor_model_parallel_size,
    "expert_model_parallel_size": read.expert_model_parallel_size}))
"""


@pytest.mark.system
@pytest.mark.parametrize("cut", [{}, {"tensor": 2, "sequence_parallel": False}, {"context": 2}])
def test_deepspeed_reads_its_configuration(
    make_proposal: Make, with_engine: Run, tmp_path: Path, cut: dict[str, int]
) -> None:
    plan = ComputePlan(data=8, zero_stage=3, micro_batch=2, accumulation=4, recompute="full", **cut)
    (tmp_path / "deepspeed.json").write_text(exported(make_proposal(plan), "deepspeed")["deepspeed.json"])
    read = json.loads(with_engine(_DEEPSPEED, str(tmp_path / "deepspeed.json"), str(plan.devices)).splitlines()[-1])
    nominal = 64 * plan.tensor  # it counts tensor ranks as if each read data of its own
    assert read == {"batch": nominal, "micro": 2, "accumulation": 4, "stage": 3, "bf16": True}


_DEEPSPEED = """
import json, sys
from deepspeed import comm
from deepspeed.runtime.config import DeepSpeedConfig

config, devices = json.load(open(sys.argv[1])), int(sys.argv[2])
grid = (config.get("data_parallel_size"), config.get("sequence_parallel_size"))
comm.get_rank = lambda group=None: 0
comm.get_world_size = lambda group=None: group or devices  # as many processes as the plan has devices
mesh = type("Mesh", (), {"get_group": lambda self, mesh_dim: grid[0]})() if all(grid) else None  # as it makes one
read = DeepSpeedConfig(config, mesh_device=mesh)
print(json.dumps({"batch": read.train_batch_size, "micro": read.train_micro_batch_size_per_gpu,
    "accumulation": read.gradient_accumulation_steps, "stage": read.zero_optimization_stage,
    "bf16": bool(read.bfloat16_config.enabled if hasattr(read, "bfloat16_config") else read.bfloat16_enabled)}))
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A live slurmctld with two nodes of eight pretended GPUs; the environment that finds it."""
    for program in ("munged", "slurmctld", "sbatch"):
        assert shutil.which(program), f"{program} is not installed: apt-get install slurm-wlm munge"
    pipe = tmp_path / "munge.socket"
    running = [_munged(tmp_path, pipe)]
    environment = {**os.environ, "SLURM_CONF": str(_slurm_conf(tmp_path, pipe))}
    try:
        _until(pipe.exists, "munged")
        log = tmp_path / "slurmctld.log"
        with log.open("w") as output:
            running.append(subprocess.Popen(["slurmctld", "-D", "-i"], env=environment, stdout=output, stderr=output))

        def answers() -> bool:
            return (
                subprocess.run(["scontrol", "ping"], env=environment, capture_output=True, text=True).stdout.count("UP")
                > 0
            )

        _until(answers, f"slurmctld ({log})")
        for node in ("n1", "n2"):
            (tmp_path / node).mkdir()
            with (tmp_path / f"{node}.log").open("w") as output:
                running.append(
                    subprocess.Popen(["slurmd", "-D", "-N", node], env=environment, stdout=output, stderr=output)
                )

        def idle() -> bool:
            states = subprocess.run(["sinfo", "-h", "-o", "%T %D"], env=environment, capture_output=True, text=True)
            return states.stdout.split() == ["idle", "2"]

        _until(idle, "two slurmd")
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=20)


def _munged(room: Path, pipe: Path) -> subprocess.Popen[bytes]:
    key = room / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    files = [
        f"--key-file={key}",
        f"--socket={pipe}",
        f"--pid-file={room}/munged.pid",
        f"--log-file={room}/munged.log",
        f"--seed-file={room}/seed",
    ]
    return subprocess.Popen(["munged", "--foreground", "--force", *files])


def _slurm_conf(room: Path, pipe: Path) -> Path:
    """The configuration of two nodes, beside the files that stand for their GPUs."""
    host = socket.gethostname().split(".")[0]
    for number in range(8):
        (room / f"gpu{number}").touch()
    (room / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={room}/gpu[0-7]\n")
    (room / "slurm.conf").write_text(_SLURM.format(host=host, room=room, socket=pipe, **_ports()))
    return room / "slurm.conf"


_SLURM = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthInfo=socket={socket}
StateSaveLocation={room}
SlurmctldPidFile={room}/slurmctld.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
EnforcePartLimits=ALL
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
SlurmdSpoolDir={room}/%n
SlurmdPidFile={room}/%n.pid
NodeName=n1 NodeAddr=127.0.0.1 Port={first} CPUs=64 RealMemory=512000 Gres=gpu:8
NodeName=n2 NodeAddr=127.0.0.1 Port={second} CPUs=64 RealMemory=512000 Gres=gpu:8
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=7-00:00:00 State=UP
"""


@pytest.mark.system
def test_a_live_slurm_takes_the_script(make_proposal: Make, slurm: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "job.sbatch"
    script.write_text(exported(make_proposal(PLAN), "slurm", "torchtitan")["job.sbatch"])
    accepted = subprocess.run(["sbatch", "--test-only", str(script)], env=slurm, capture_output=True, text=True)
    assert accepted.returncode == 0, accepted.stderr
    script.write_text(exported(make_proposal(PLAN, total_s=3e6), "slurm")["job.sbatch"])
    too_long = subprocess.run(["sbatch", "--test-only", str(script)], env=slurm, capture_output=True, text=True)
    assert too_long.returncode != 0
    assert "partition" in too_long.stderr.lower() or "time limit" in too_long.stderr.lower()


def _nothing_was_dropped(written: Any, read: Any, path: str = "") -> None:
    """Everything that was written is known to the model that read it."""
    if isinstance(written, dict):
        for key, value in written.items():
            assert key in read, f"{path}.{key}"
            _nothing_was_dropped(value, read[key], f"{path}.{key}")
    elif isinstance(written, list):
        for index, value in enumerate(written):
            _nothing_was_dropped(value, read[index], f"{path}[{index}]")


def _ports() -> dict[str, int]:
    """Three ports that were free a moment ago."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for each in (one, two, three):
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in (("port", one), ("first", two), ("second", three))}


def _until(ready: Callable[[], bool], what: str) -> None:
    for _ in range(600):
        if ready():
            return
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come up")
