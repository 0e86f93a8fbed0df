"""`datahall export`: a plan as what people already run.

It writes files or prints them; it submits nothing.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from datahall.base.whole_file import write_text
from datahall.decisions.proposal import Proposal, load_proposal
from datahall.ui.export_devices import check_torchrun, device_remarks
from datahall.ui.export_engines import (
    deepspeed_config,
    deepspeed_remarks,
    megatron_arguments,
    megatron_environment,
    megatron_remarks,
    torchtitan_arguments,
    torchtitan_remarks,
)
from datahall.ui.export_request import Request, request_of
from datahall.ui.export_schedulers import Started, jobset_manifest, slurm_script, torchrun_script
from datahall.virtual.host_memory import host_notes

ENGINES = ("torchtitan", "megatron", "deepspeed")
SCHEDULERS = ("torchrun", "slurm", "kubernetes")
_REMARKS = {"torchtitan": torchtitan_remarks, "megatron": megatron_remarks, "deepspeed": deepspeed_remarks}


@click.command("export")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, type=click.Choice([*SCHEDULERS, *ENGINES]), help="What to write.")
@click.option(
    "--engine",
    type=click.Choice(["own", *ENGINES]),
    default="own",
    show_default=True,
    help="What a torchrun, slurm or kubernetes export starts.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Directory to write to (default: print).")
def export(plan: Path, target: str, engine: str, out: Path | None) -> None:
    """Write PLAN (made by `datahall plan --out`) as a job script, a manifest or engine flags.

    Time and memory are asked for at the forecast's 90th percentile.  With --engine own, the script starts
    your train.py with the split as flags (--data=8 --tensor=2 ...).
    """
    files = exported(load_proposal(plan), target, engine)
    if out is None:
        for name, text in files.items():
            if len(files) > 1:
                click.echo(f"# ---- {name}")
            click.echo(text, nl=False)
        return
    for name, text in files.items():
        write_text(out / name, text)
        if name.endswith(".sh"):
            (out / name).chmod(0o755)
        click.echo(f"wrote {out / name}", err=True)


def exported(proposal: Proposal, target: str, engine: str = "own") -> dict[str, str]:
    """The files of an export, name to text; Incompatible when the engine cannot express the plan."""
    request = request_of(proposal)
    started_engine = target if target in ENGINES else engine
    command, files = _engine(proposal, started_engine)
    environment = megatron_environment(proposal) if started_engine == "megatron" else {}
    started = Started(command, environment, _remarks(proposal, request, started_engine, target))
    if target in ENGINES:
        return files | {f"{target}.sh": torchrun_script(proposal, request, started)}
    return files | _scheduled(proposal, request, started, target)


def _remarks(proposal: Proposal, request: Request, engine: str, target: str) -> list[str]:
    found = _REMARKS[engine](proposal) if engine in _REMARKS else []
    if engine == "deepspeed" and target == "kubernetes":
        found.append("deepspeed.json has to lie in the image, where train.py starts.")
    whole = proposal.case.site.devices_per_node
    if request.nodes > 1 and request.devices_per_node < whole:
        part = request.devices_per_node
        found.append(f"{part} of each node's {whole} devices are the plan's; the forecast fills nodes.")
    found += host_notes(proposal.case, proposal.plan, request.host_memory_bytes)
    if target == "slurm" and request.devices_per_node == whole:
        found.append("It has every device of its nodes; if nobody else wants their memory, --mem=0 asks for all of it.")
    return found + device_remarks(proposal.case.site.accelerator, target)


def _scheduled(proposal: Proposal, request: Request, started: Started, target: str) -> dict[str, str]:
    if target == "slurm":
        return {"job.sbatch": slurm_script(proposal, request, started)}
    if target == "kubernetes":
        return {"jobset.yaml": jobset_manifest(proposal, request, started)}
    check_torchrun(proposal.case.site.accelerator)
    return {"run.sh": torchrun_script(proposal, request, started)}


def _engine(proposal: Proposal, engine: str) -> tuple[list[str], dict[str, str]]:
    if engine == "torchtitan":
        return ["-m", "torchtitan.train", *_quoted(torchtitan_arguments(proposal))], {}
    if engine == "megatron":
        return ["pretrain_gpt.py", *_quoted(megatron_arguments(proposal))], {}
    if engine == "deepspeed":
        return ["train.py", "--deepspeed", "deepspeed.json"], {"deepspeed.json": deepspeed_config(proposal)}
    return ["train.py", *(f"--{name}={value}" for name, value in _split(proposal).items())], {}


def _split(proposal: Proposal) -> dict[str, str | int]:
    """The plan's split by the names of its fields; what few plans have only where this one has it."""
    compute = proposal.plan.compute
    split: dict[str, str | int] = {
        "data": compute.data,
        "tensor": compute.tensor,
        "pipeline": compute.pipeline,
        "context": compute.context,
        "expert": compute.expert,
        "zero-stage": compute.zero_stage,
        "micro-batch": compute.micro_batch,
        "accumulation": compute.accumulation,
        "precision": compute.precision,
        "recompute": compute.recompute,
    }
    if compute.virtual_stages > 1:
        split["virtual-stages"] = compute.virtual_stages
    if compute.schedule == "zero-bubble":
        split["schedule"] = compute.schedule
    if compute.tensor > 1 and not compute.sequence_parallel:
        split["sequence-parallel"] = "false"
    if compute.zero_stage and compute.shards != compute.copies:
        split["shard-group"] = compute.shards
    if proposal.case.application.method == "lora":
        split["lora-rank"] = proposal.case.application.lora_rank
    return split


def _quoted(arguments: list[str]) -> list[str]:
    return [shlex.quote(argument) for argument in arguments]
