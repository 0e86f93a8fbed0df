"""The few ways in which training stacks differ where a plan does not say: what they hide, repeat and store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StackHabits:
    """How a training stack behaves where plans do not say: shares between 0 and 1, bytes per parameter.

    An `*_exposed` share of a transfer is never hidden; the rest hides as far as there is arithmetic to cover it, and
    slows that by `transfer_units`.  `selective_*` is what "selective" recomputation runs again.
    """

    tensor_exposed: Any = 0.8
    context_exposed: Any = 0.3
    expert_exposed: Any = 0.8
    expert_hidden: Any = 0.0  # 1 where expert transfers hide only as far as a micro-step's arithmetic covers them
    expert_wait: Any = 0.0  # of its experts' seconds, that a worker waits for the one whose experts have the most rows
    shard_exposed: Any = 0.15
    shard_from_stage: Any = 3.0  # the ZeRO stage from which gradients are summed in every micro-step, not once a step
    gather_passes: Any = 1.0  # what the library takes to gather shards, in times of a ring's formula
    scatter_passes: Any = 1.0  # the same of summing and scattering
    shards_kept: Any = 0.0  # 1 where a pipeline scatters once a step and keeps gathered what it can
    shard_calls: Any = 1.0  # messages that a stage's parameters are gathered or scattered by
    owner_broadcasts: Any = (
        0.0  # 1 where each rank broadcasts the tensors that it updated (ZeRO-1), one rank after another
    )
    gradient_exposed: Any = 0.3
    gradient_cover: Any = 0.7  # of the last micro-step's backward that gradient exchange can run beside
    parameters_ahead: Any = 0.0  # 1 where new parameters (ZeRO-1, 2) are gathered beside the next forward pass
    transfer_units: Any = 0.0  # of a device's arithmetic, that transfers hidden behind it take from it meanwhile
    transfer_cores: Any = 0.0  # that a worker's hidden transfers take, in times of what its arithmetic takes
    pipeline_exposed: Any = 0.5
    sends_wait: Any = (
        0.0  # 1 where a stage cannot tell a send from waiting for its neighbour, and both count as waiting
    )
    layer_meetings: Any = 0.0  # times a step that the ranks of a stage wait for each other at each layer
    tied_exposed: Any = 0.0  # of the sum of a tied table over the first and the last stage (fits: without it)
    selective_linear: Any = 0.0
    selective_core: Any = 1.0
    last_repeated: Any = 1.0  # 0 where the compiler (XLA) leaves a layer's last product out of full recomputation
    gradient_bytes: Any = 2.0
    update_bytes: Any = 34.0
    update_s: Any = 0.0  # of an update besides its bytes: what each of its tensors costs
    own_latents: Any = 0.0  # 1: each tensor rank goes down to latents itself, and values are filled up to keys
    own_routers: Any = 0.0  # 1: each tensor rank routes all tokens, unless expert ranks take their own to a mixture
    expert_latency: Any = 1.0  # 0 where experts that a model does not have wait for no message (fits: with it)
    expert_updates: Any = 0.0  # 1 where experts are updated by the ranks that hold the same ones alone (fits: by all)
    expert_kernels: Any = 4.0  # launches of each local expert of a layer, forward
    straggler_share: Any = 0.0  # of a step's work that is lost at each doubling of the devices
    jitter_share: Any = 0.0  # of a step's arithmetic that data-parallel workers wait for one another
    jitter_seen_s: Any = float("inf")  # arithmetic of the step at which that share was seen; longer ones even it out
    input_s_per_token: Any = 0.0  # that the loop waits for data, by the tokens of one worker
    startup_s: Any = 60.0  # from launch to the first step
