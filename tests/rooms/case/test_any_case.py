"""Whatever is put into a case, the answer is a case or one error with exit code 2: never a stack trace."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.base.errors import EXIT_USAGE, DatahallError
from datahall.case import loads
from datahall.case.hf import from_config
from datahall.case.question import Case

ACCELERATOR = {"name": "Mine", "memory": "32 GiB", "memory_bandwidth": "1 TB/s", "peak": {"bf16": "100 TFLOP/s"}}
WHOLE: dict[str, Any] = {
    "model": {
        "layers": 2,
        "hidden": 64,
        "heads": 4,
        "kv_heads": 2,
        "ffn": 128,
        "vocab": 1000,
        "experts": 4,
        "experts_per_token": 2,
    },
    "application": {
        "kind": "fine-tuning",
        "method": "lora",
        "lora_rank": 8,
        "tokens": "1e6",
        "sequence": 128,
        "global_batch": "8 sequences",
        "precision": "bf16",
    },
    "site": {
        "accelerator": ACCELERATOR,
        "nodes": 2,
        "devices_per_node": 4,
        "link": {"rate": "25 Gb/s", "latency": "5 us"},
        "device_link": "30 GB/s",
        "disk": {"write": "1 GB/s", "read": "2 GB/s"},
        "pue": 1.2,
        "mtbf_per_device": "5000 h",
    },
    "goal": {"minimise": "cost", "deadline": "3 days", "budget": "100 USD"},
}
CONFIG: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "sliding_window": 16,
    "layer_types": ["full_attention"] * 4,
    "max_position_embeddings": 512,
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**12),
    st.floats(allow_nan=True),
    st.text(max_size=12),
    st.sampled_from(
        ["8xA40", "local", "1e400", "-3", "0", "400 GB/s", "3 days", "fp8", "nvlink4", "A100", ".inf", "9" * 400]
    ),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def paths(tree: Any, here: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = (
        [path for key, value in tree.items() for path in paths(value, (*here, key))] if isinstance(tree, dict) else []
    )
    return [here, *inner] if here else inner


def changed(tree: dict[str, Any], path: tuple[str, ...], value: Any, drop: bool) -> dict[str, Any]:
    result = copy.deepcopy(tree)
    inner = result
    for part in path[:-1]:
        inner = inner[part]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return result


def test_the_whole_case_loads() -> None:
    case = loads(json.dumps(WHOLE))
    assert case.site.devices == 8
    assert case.site.failures_per_device_s > 0
    assert from_config(CONFIG).shape.experts == 8


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(paths(WHOLE)), VALUES, st.booleans())
def test_any_change_is_a_case_or_a_usage_error(path: tuple[str, ...], value: Any, drop: bool) -> None:
    text = json.dumps(changed(WHOLE, path, value, drop))
    try:
        case = loads(text, file="x.yaml")
    except DatahallError as error:
        known = error
    else:
        assert isinstance(case, Case)
        assert case.application.steps >= 1
        assert len(case.hash()) == 64
        return
    assert known.exit_code == EXIT_USAGE
    assert "x.yaml" in str(known) or "--set" in str(known) or "DATAHALL" in str(known)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(CONFIG)), VALUES, st.booleans())
def test_any_config_is_a_shape_or_a_usage_error(key: str, value: Any, drop: bool) -> None:
    try:
        found = from_config(changed(CONFIG, (key,), value, drop))
    except DatahallError as error:
        known = error
    else:
        assert found.shape.parameters() > 0
        return
    assert known.exit_code == EXIT_USAGE
