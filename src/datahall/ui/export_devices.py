"""What Slurm and Kubernetes call a device, and how a program takes those of its host.

The names are those of the makers' own guides and device plugins; where clusters differ, a remark says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from datahall.base.errors import Incompatible
from datahall.case.site import Accelerator

_RESOURCE = {  # what the makers' device plugins call one device
    ("nvidia", "gpu"): "nvidia.com/gpu",
    ("amd", "gpu"): "amd.com/gpu",
    ("google", "tpu"): "google.com/tpu",
    ("intel", "gpu"): "gpu.intel.com/xe",
    ("intel", "other"): "habana.ai/gaudi",
    ("aws", "other"): "aws.amazon.com/neuron",
    ("huawei", "other"): "huawei.com/Ascend910",
}
_GPUS = "--gpus-per-node={}"
_DIRECTIVE = {
    ("intel", "other"): _GPUS,  # Intel's guide: GresTypes=gpu (docs.habana.ai, Using Slurm with Intel Gaudi)
    ("google", "tpu"): "--gres=tpu:{}",  # Google's examples of Slurm on GKE; Slurm itself knows no TPUs
    ("huawei", "other"): "--gres=npu:{}",
    ("aws", "other"): "--exclusive",  # ParallelCluster and PCS count no Neuron devices: nodes are taken whole
}
_SLURM_REMARK = {
    ("intel", "other"): "Slurm calls Gaudi cards gpu in Intel's guide; where yours calls them hpu, ask for those.",
    ("google", "tpu"): "Slurm counts TPUs as gres only where yours was told to; else ask for whole nodes: --exclusive.",
    ("huawei", "other"): "Slurm calls Ascend devices npu where it was told of them; ask for what yours calls them.",
    ("aws", "other"): "Slurm counts no Neuron devices, so whole nodes are asked for: name their --partition.",
}
_UNKNOWN_REMARK = "DEVICE is what your Slurm calls this accelerator in its gres."
_CORES_REMARK = (
    "The plan counts chips. PyTorch NeuronX starts one process a NeuronCore, of which a chip has several: start as many"
    " and split each chip's share among them."
)
_HOST_REMARK = "On TPUs one process a host has all its devices; train.py joins the hosts (jax.distributed.initialize)."
_POOL_REMARK = "TPU and TOPOLOGY are the labels of your node pool, like tpu-v5p-slice and 4x4x4."


def check_torchrun(accelerator: Accelerator) -> None:
    """Raise Incompatible where torchrun, with its one process a device, is not what starts a training."""
    if accelerator.one_process_a_host:
        raise Incompatible(
            f"{accelerator.name}: torchrun starts one process a device, and on TPUs one process a host has them all.",
            hint="Export to slurm or kubernetes, which start it so.",
        )


def slurm_devices(accelerator: Accelerator, per_node: int) -> list[str]:
    """The directive that asks for `per_node` devices on each node; none for CPUs."""
    if accelerator.kind == "cpu":
        return []
    usual = _GPUS if accelerator.kind == "gpu" else "--gres=DEVICE:{}"
    return [_DIRECTIVE.get(_key(accelerator), usual).format(per_node)]


def kubernetes_devices(accelerator: Accelerator, per_node: int) -> dict[str, str]:
    """The resource that asks for `per_node` devices in each pod; none for CPUs."""
    if accelerator.kind == "cpu":
        return {}
    vendor, kind = _key(accelerator)
    return {_RESOURCE.get((vendor, kind), f"{vendor or 'vendor'}.com/{kind}"): str(per_node)}


def node_selector(accelerator: Accelerator) -> Mapping[str, str]:
    """Labels of the nodes that a pod needs: GKE places none on TPUs without them."""
    if accelerator.kind != "tpu":
        return {}
    return {"cloud.google.com/gke-tpu-accelerator": "TPU", "cloud.google.com/gke-tpu-topology": "TOPOLOGY"}


def device_remarks(accelerator: Accelerator, target: str) -> list[str]:
    """What a reader of a script for `target` has to know of the devices."""
    key, found = _key(accelerator), list[str]()
    if target == "slurm" and accelerator.kind not in ("gpu", "cpu"):
        found.append(_SLURM_REMARK.get(key, _UNKNOWN_REMARK))
    if target == "kubernetes" and accelerator.kind == "tpu":
        found.append(_POOL_REMARK)
    if accelerator.one_process_a_host:
        found.append(_HOST_REMARK)
    if key == ("aws", "other"):
        found.append(_CORES_REMARK)
    return found


def _key(accelerator: Accelerator) -> tuple[str, str]:
    """Vendor and kind; a TPU is Google's whether or not its site says so."""
    return "google" if accelerator.kind == "tpu" else accelerator.vendor.lower(), accelerator.kind
