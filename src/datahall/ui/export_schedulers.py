"""Scripts for torchrun and Slurm and a manifest for Kubernetes that start a plan's processes where it wants them.

Each starts the same command line, `launched`.  Images, queues and partitions are names that only the user knows.
"""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from datahall.base.units import human, human_time
from datahall.decisions.proposal import Proposal
from datahall.ui.export_devices import kubernetes_devices, node_selector, slurm_devices
from datahall.ui.export_request import Request

_PORT = 29500


@dataclass(frozen=True, slots=True)
class Started:
    """What each process runs: the words after torchrun's options, the environment that it insists on, what it lacks."""

    command: list[str]
    environment: Mapping[str, str]
    remarks: Sequence[str] = ()


def torchrun_script(proposal: Proposal, request: Request, started: Started) -> str:
    """A shell script to start on every node, with HEAD naming the first of them."""
    lines = [
        "#!/bin/sh",
        *_about(proposal, request, started),
        f"# Start it on each of the {request.nodes} node(s), HEAD being the name of the first.",
        "set -eu",
        *_exports(proposal, started),
        "exec " + _launched(proposal, request, started.command, '"${HEAD:-localhost}"', _name(proposal)),
    ]
    return "\n".join(lines) + "\n"


def slurm_script(proposal: Proposal, request: Request, started: Started) -> str:
    """An sbatch script: one task a node, which starts one process a device (on TPUs it has them all)."""
    directives = [
        f"--job-name={_name(proposal)}",
        f"--nodes={request.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={request.cores_per_node}",
        *slurm_devices(proposal.case.site.accelerator, request.devices_per_node),
        f"--mem={-(-request.host_memory_bytes // 2**20)}M",
        f"--time={slurm_time(request.time_s)}",
        "--requeue",
        "--output=%x-%j.log",
    ]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {directive}" for directive in directives),
        *_about(proposal, request, started),
        "set -euo pipefail",
        'HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export HEAD",
        *_exports(proposal, started),
        # since Slurm 22.05 srun takes one core a task unless it is told again
        f"srun --cpus-per-task={request.cores_per_node} --kill-on-bad-exit=1 "
        + _launched(proposal, request, started.command, '"$HEAD"', '"$SLURM_JOB_ID"'),
    ]
    return "\n".join(lines) + "\n"


def jobset_manifest(proposal: Proposal, request: Request, started: Started) -> str:
    """A JobSet (jobset.x-k8s.io/v1alpha2) that Kueue admits as a gang, as YAML text."""
    name = _name(proposal)
    words = shlex.split(_launched(proposal, request, started.command, f"{name}-workers-0-0.{name}", name))
    selector = node_selector(proposal.case.site.accelerator)
    pod = {
        "restartPolicy": "Never",
        **({"nodeSelector": dict(selector)} if selector else {}),
        "containers": [_container(proposal, request, words, _environment(proposal, started))],
        "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
    }
    job = {
        "parallelism": request.nodes,
        "completions": request.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "activeDeadlineSeconds": request.time_s,
        "template": {"spec": pod},
    }
    manifest = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": "QUEUE"}},
        "spec": {
            "suspend": True,
            "network": {"enableDNSHostnames": True, "subdomain": name},
            "failurePolicy": {"maxRestarts": 3},
            "replicatedJobs": [{"name": "workers", "replicas": 1, "template": {"spec": job}}],
        },
    }
    return "\n".join(_about(proposal, request, started)) + "\n" + _yaml(manifest)


def slurm_time(seconds: int) -> str:
    """Seconds as Slurm writes a limit: days-hours:minutes:seconds."""
    days, rest = divmod(seconds, 86400)
    return f"{days}-{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"


def _about(proposal: Proposal, request: Request, started: Started) -> list[str]:
    label, host = proposal.forecast.metrics["total_time"].label, proposal.forecast.metrics["host_memory"]
    asked = human(request.host_memory_bytes, "bytes")
    peak = human(request.device_memory_bytes, "bytes")
    memory = human(proposal.case.site.accelerator.memory_bytes, "bytes")
    return [
        f"# {proposal.case.name}: written by datahall from a plan whose case hashes to {proposal.plan.case_hash[:12]}.",
        f"# Forecast {human_time(request.median_s)} ({label}); asked for: its p90, {human_time(request.time_s)}.",
        f"# Host memory of a node: {human(host.value, 'bytes')} ({host.label}); asked for: its p90, {asked}.",
        f"# Peak on one device, 90th percentile, which no scheduler is asked for: {peak} of {memory}.",
        *(f"# {remark}" for remark in started.remarks),
    ]


def _environment(proposal: Proposal, started: Started) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(max(1, proposal.plan.compute.threads)), **started.environment}


def _exports(proposal: Proposal, started: Started) -> list[str]:
    return [f"export {name}={value}" for name, value in _environment(proposal, started).items()]


def _container(
    proposal: Proposal, request: Request, words: list[str], environment: Mapping[str, str]
) -> dict[str, object]:
    resources = {"cpu": str(request.cores_per_node), "memory": f"{-(-request.host_memory_bytes // 2**20)}Mi"}
    resources |= kubernetes_devices(proposal.case.site.accelerator, request.devices_per_node)
    return {
        "name": "train",
        "image": "IMAGE",
        "command": words,
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": [{"containerPort": _PORT}],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],  # noqa: S108 - a path inside the container
    }


def _launched(proposal: Proposal, request: Request, command: list[str], head: str, run: str) -> str:
    if proposal.case.site.accelerator.one_process_a_host:
        return " ".join(["python", *command])
    start = [
        "torchrun",
        f"--nnodes={request.nodes}",
        f"--nproc-per-node={request.devices_per_node}",
        "--max-restarts=3",
    ]
    if request.nodes > 1:
        meeting = f"--rdzv-backend=c10d --rdzv-endpoint={head}:{_PORT} --rdzv-id={run}"
        return " ".join([*start, meeting, *command])
    return " ".join([*start, "--standalone", *command])


def _name(proposal: Proposal) -> str:
    """A name that Slurm takes and that Kubernetes takes for a service: letters, digits and dashes, a letter first."""
    kept = "-".join(re.findall(r"[a-z0-9]+", proposal.case.name.lower()))[:40].strip("-")
    return kept if kept[:1].isalpha() else f"datahall-{kept}".rstrip("-")


def _yaml(document: dict[str, Any]) -> str:
    writer, text = YAML(), io.StringIO()
    writer.default_flow_style = False
    writer.width = 100
    writer.dump(document, text)  # pyright: ignore[reportUnknownMemberType]
    return text.getvalue()
