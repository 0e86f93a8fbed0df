"""The form of a case file: which keys there are, of which kind.  pydantic is used here and nowhere further in.

Text with units becomes numbers in base units.  Names are not looked up and nothing is computed: `door` does that.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from datahall.base import units
from datahall.base.errors import UsageError


def _quantity(dimension: str) -> BeforeValidator:
    def read(value: Any) -> float:
        try:
            number = units.parse(value, dimension)
        except (UsageError, TypeError) as error:
            raise ValueError(str(error)) from error
        if not 0 <= number < float("inf"):
            raise ValueError("it must not be negative or infinite.")
        return number

    return BeforeValidator(read)


def _no_more_than_all(value: float) -> float:
    if value > 1:
        raise ValueError("it must not be above one.")
    return value


def _more_than_none(value: float) -> float:
    if value <= 0:
        raise ValueError("it must be above zero.")
    return value


def _whole(value: Any) -> int:
    try:
        number = units.parse(value, "count")
    except (UsageError, TypeError) as error:
        raise ValueError('it must be a whole number. Write it like "16".') from error
    if not 0 <= number < 2**53 or number != int(number):
        raise ValueError('it must be a whole number from 0 to 2^53. Write it like "16".')
    return int(number)


def _above_zero(value: Any) -> int:
    number = _whole(value)
    if number < 1:
        raise ValueError("it must be at least 1.")
    return number


def _at_least_one(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 1000:
        raise ValueError('it must be a number from 1. Write it like "1.2".')
    return float(value)


Bytes = Annotated[float, _quantity("bytes")]
Rate = Annotated[float, _quantity("bytes_per_s")]
FlopRate = Annotated[float, _quantity("flops_per_s")]
Seconds = Annotated[float, _quantity("seconds")]
Tokens = Annotated[float, _quantity("tokens")]
Dollars = Annotated[float, _quantity("usd")]
Joules = Annotated[float, _quantity("joules")]
SomeBytes = Annotated[Bytes, AfterValidator(_more_than_none)]
SomeRate = Annotated[Rate, AfterValidator(_more_than_none)]
SomeFlopRate = Annotated[FlopRate, AfterValidator(_more_than_none)]
Watts = Annotated[float, _quantity("watts")]
Share = Annotated[float, _quantity("share")]
Part = Annotated[Share, AfterValidator(_no_more_than_all)]
Ratio = Annotated[float, BeforeValidator(_at_least_one)]
Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[int, BeforeValidator(_above_zero)]
Precision = Literal["", "fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8"]


class Form(BaseModel):
    """A mapping whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LatentForm(Form):
    """Multi-head latent attention, widths in elements."""

    query_rank: Whole = 0
    key_value_rank: Count
    rope_dim: Whole
    nope_dim: Count
    value_dim: Count


class ShapeForm(Form):
    """A model by its dimensions."""

    name: str = "model"
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Whole = 0
    head_dim: Whole = 0
    ffn: Count
    vocab: Count
    mlp_matrices: Literal[2, 3] = 3
    tied_embeddings: bool = False
    experts: Whole = 0
    experts_per_token: Whole = 0
    shared_experts: Whole = 0
    shared_ffn: Whole = 0
    router_balance: bool = False
    dense_layers: Whole = 0
    dense_ffn: Whole = 0
    latent: LatentForm | None = None
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    norms_per_layer: Whole = 2
    query_key_norm: bool = False
    learned_positions: Whole = 0
    window: Whole = 0
    window_share: Share = 0.0
    chunked: bool = False
    rotary_base: Ratio | Literal[0] = 0
    rotary_share: Part = 1.0


class FileModelForm(Form):
    """`from: hf` and the path of a config.json."""

    source: Literal["hf"] = "hf"
    path: str


class NamedForm(Form):
    """A name of the catalogue."""

    catalog: str


class CacheForm(Form):
    """A cache of prepared shards that may stand before the data."""

    limit: Bytes
    policy: Literal["lru", "lfu", "fifo", "s3-fifo"] = "lru"
    use: Literal["auto", "always", "never"] = "auto"


class TierForm(Form):
    """Where data lie, by the rate and latency of reading a file."""

    read: Rate
    latency: Seconds = 1e-3


class DataForm(Form):
    """Data in shards, as `datahall data shard` wrote them."""

    path: str
    ahead: Whole | None = None
    cache: CacheForm | None = None
    tier: TierForm | None = None


class PrefixCacheForm(Form):
    """A cache of prompts that begin alike."""

    memory: SomeBytes
    policy: Literal["auto", "lru", "lfu", "fifo", "s3-fifo"] = "auto"
    block: Count | None = None
    use: Literal["auto", "always", "never"] = "auto"
    tier: str = ""
    tier_limit: Bytes = 0.0


class GenerationForm(Form):
    """What `datahall generate` makes tokens for."""

    prompts: str = "shared"
    requests: Count = 32
    prompt: Count = 256
    shared: Whole | None = None
    begins: Count = 2
    answer: Count = 16
    batch: Count = 4
    cache: PrefixCacheForm | None = None


class TrainingForm(Form):
    """What to train: `kind` training or fine-tuning.  `global_batch` is text or a number; `door` reads its unit."""

    kind: Literal["training", "fine-tuning"]
    tokens: Tokens | None = None
    global_batch: Any = None
    sequence: Count | None = None
    precision: Precision = ""
    optimiser: Literal["adamw", "adam", "sgd", "adafactor"] = "adamw"
    method: Literal["full", "lora"] = "full"
    lora_rank: Whole | None = None
    lora_alpha: Whole | None = None
    lora_targets: Literal["attention", "all"] = "attention"
    weights: str = ""
    lossy_checkpoint: Literal["", "bf16", "int8"] = ""
    engine: Literal["", "pytorch", "tensorflow", "jax"] = ""
    entry: str = ""
    dataset: str = ""
    data: DataForm | None = None
    generation: GenerationForm | None = None
    seed: Whole = 0


class LinkForm(Form):
    """A link by its rate in one direction and its latency."""

    rate: Rate
    latency: Seconds = 10e-6


class DiskForm(Form):
    """A disk by its rates."""

    write: Rate
    read: Rate
    latency: Seconds = 1e-3
    capacity: Bytes | None = None
    shared: bool = False


class AcceleratorForm(Form):
    """A device that the catalogue does not have, as its user describes it."""

    name: str
    kind: Literal["gpu", "tpu", "cpu", "other"] = "gpu"
    vendor: str = ""
    memory: SomeBytes
    memory_bandwidth: SomeRate
    peak: dict[Literal["fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8"], SomeFlopRate]
    measured: dict[Literal["fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8"], SomeFlopRate] = {}
    power: Watts = 0.0
    price_per_hour: Dollars = 0.0


class SiteForm(Form):
    """Where to train.  One of `catalog`, `file` and `accelerator` says which devices; the other keys override.

    `accelerator`, `link`, `device_link` and `disk` are a catalogue name or a mapping, the links also a rate; `link` is
    one port between nodes, of which each node has `links_per_node` (None: as many as the named site, or as are usual);
    `device_link` joins `device_link_reach` devices.
    """

    name: str = ""
    catalog: str = ""
    file: str = ""
    accelerator: Any = None
    nodes: Count | None = None
    devices_per_node: Count | None = None
    link: Any = None
    links_per_node: Count | None = None
    device_link: Any = None
    device_link_reach: Count | None = None
    disk: Any = None
    topology: Literal["", "switch", "rail", "fat-tree", "torus"] = ""
    oversubscription: Ratio | None = None
    pod_devices: Count | None = None
    host_cores: Whole | None = None
    host_memory: SomeBytes | None = None
    pue: Ratio | None = None
    mtbf_per_device: Seconds | None = None
    price_per_device_hour: Dollars | None = None
    stack: str = ""


class GoalForm(Form):
    """What is wanted."""

    minimise: Literal["time", "cost", "energy"] = "time"
    deadline: Seconds | None = None
    budget: Dollars | None = None
    energy: Joules | None = None


class CaseForm(Form):
    """A whole case; `model` and `site` may also be one word."""

    name: str = ""
    model: Any
    application: TrainingForm
    site: Any
    goal: GoalForm = GoalForm()
