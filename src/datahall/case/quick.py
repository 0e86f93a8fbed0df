"""A case from two words, a model and a site, for `datahall plan --model ./config.json --site 8xA40`.

Everything else is computed, and `Case.defaults` says how, so that nobody has to guess what was assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from datahall.base import units
from datahall.base.errors import Incompatible, UnknownName, UsageError
from datahall.base.label import Label
from datahall.case import hf
from datahall.case.model import ModelShape
from datahall.case.named_model import sequence_of, shape_of
from datahall.case.named_site import is_file, site_from_text
from datahall.case.question import Case, Goal, Training
from datahall.case.site import Site
from datahall.catalog import compatibility, stacks

TOKENS_PER_PARAMETER = 20
LONGEST_DEFAULT_SEQUENCE = 8192
LARGEST_DEFAULT_BATCH_TOKENS = 16 * 2**20
USUAL_LORA_RANK = 16


def from_model_and_site(
    model_text: str,
    site_text: str,
    *,
    tokens: str | float | None = None,
    global_batch: int | None = None,
    sequence: int | None = None,
    precision: str = "",
    method: str = "full",
    goal: Goal | None = None,
) -> Case:
    """The training case of a model (a config.json's path or a catalogue name) on a site.

    `site_text` is a catalogue name, a count like "8xA40", "local", or the path of a site.yaml, probed or handwritten.
    `tokens` may be text ("15e9", "2 T"), `global_batch` is in sequences.  Raises UsageError, CaseError or UnknownName.
    """
    shape, longest, model_why = model_from_text(model_text)
    site, site_why = _site_from_text(site_text)
    wanted = None if tokens is None else units.parse(tokens, "tokens")
    training, why = training_defaults(
        shape,
        site,
        longest,
        tokens=wanted,
        global_batch=global_batch,
        sequence=sequence,
        precision=precision,
        method=method,
    )
    check_precision(precision, site)
    return Case(
        name=f"{shape.name} on {site.name}",
        model=shape,
        application=training,
        site=site,
        goal=goal or Goal(),
        provenance=labels(site, why),
        defaults=MappingProxyType({**model_why, **why, **site_why}),
    )


def model_from_text(text: str) -> tuple[ModelShape, int, dict[str, str]]:
    """The shape, the longest sequence (0: not stated) and notes of a config.json's path or a catalogue name."""
    path = Path(text).expanduser()
    if path.exists() or text.endswith(".json") or "/" in text:
        found = hf.read_config(path)
        return found.shape, found.sequence, {"model": found.note} if found.note else {}
    try:
        return shape_of(text), sequence_of(text), {}
    except UnknownName as error:
        hint = f"{error.hint} Or pass the path of a Hugging Face config.json."
        raise UnknownName(f'"{text}" is neither a file nor a model that the catalogue has.', hint=hint) from error


def training_defaults(
    shape: ModelShape,
    site: Site,
    longest: int,
    *,
    tokens: float | None = None,
    global_batch: int | None = None,
    sequence: int | None = None,
    precision: str = "",
    method: str = "full",
) -> tuple[Training, dict[str, str]]:
    """A training whose unstated values are computed, and why each was chosen, by field path.

    `longest` is the model's longest sequence in tokens (0: not stated).  Raises UsageError for values below one.
    """
    why: dict[str, str] = {}
    if sequence is None:
        sequence, why["application.sequence"] = _usual_sequence(longest)
    if tokens is None:
        tokens = float(TOKENS_PER_PARAMETER * shape.active_parameters())
        rule = f"{TOKENS_PER_PARAMETER} for each active parameter (Chinchilla, arXiv 2203.15556)"
        why["application.tokens"] = f"{units.human_count(tokens)}: {rule}"
    if min(sequence, tokens) < 1 or (global_batch is not None and global_batch < 1):
        raise UsageError(
            "sequence, tokens and global_batch must each be at least one.", hint='Write them like "sequence: 4096".'
        )
    if global_batch is None:
        global_batch = _usual_batch(shape, site, sequence, tokens)
        grown = (
            "half a million tokens x (parameters / 125 million)^(1/4), as in table 2.1 of GPT-3; at least one a"
            " device, up to the 16 Mi tokens of Llama 3"
        )
        why["application.global_batch"] = f"{global_batch:,} sequences ({global_batch * sequence:,} tokens): {grown}"
    rank = USUAL_LORA_RANK if method == "lora" else 0
    if rank:
        why["application.lora_rank"] = f"{rank}, usual for LoRA"
    training = Training(tokens, global_batch, sequence, precision, method=method, lora_rank=rank)
    return training, why


def check_precision(precision: str, site: Site, where: str = "") -> None:
    """Raise Incompatible, at `where`, if the site's stack does not train in `precision` on the site's accelerator.

    An empty one is the first of those that training takes unasked.
    """
    card = site.accelerator
    wanted = precision or stacks.unasked(card.peak_flops_per_s, site.stack, card.kind)
    framework = compatibility.framework_of(site.stack, card.kind)
    try:
        stacks.check_trained(wanted, site.stack, card.kind)
        stacks.check_block_scaled(wanted, site.stack, card.name, card.architecture)
        if card.architecture and wanted:
            compatibility.check(card.name, wanted, framework)
    except UsageError as error:
        raise Incompatible(error.what, where=where, hint=error.hint) from error
    if precision and precision not in card.peak_flops_per_s:
        has = ", ".join(card.peak_flops_per_s)
        raise Incompatible(f"{card.name} has no rate for {precision}.", where=where, hint=f"It has {has}.")


def labels(site: Site, why: Mapping[str, str]) -> Mapping[str, Label]:
    """The label of each input by path: the site's own, and `assumed` for every computed default."""
    own = {f"site.{path}": label for path, label in site.provenance.items()}
    return MappingProxyType({**own, **dict.fromkeys(why, Label.ASSUMED)})


def _site_from_text(text: str) -> tuple[Site, Mapping[str, str]]:
    if text != "local" and not is_file(text):
        return site_from_text(text)
    from datahall.case import local, stated_site  # only here: they need a YAML reader, which takes time to import

    return local.local_site() if text == "local" else stated_site.site_in_file(Path(text).expanduser())


def _usual_sequence(longest: int) -> tuple[int, str]:
    sequence = min(longest or 2048, LONGEST_DEFAULT_SEQUENCE)
    limit = f"the model's longest, at most {LONGEST_DEFAULT_SEQUENCE:,}" if longest else "usual where none is stated"
    return sequence, f"{sequence:,} tokens: {limit}"


def _usual_batch(shape: ModelShape, site: Site, sequence: int, tokens: float) -> int:
    usual_tokens = 0.5e6 * (shape.active_parameters() / 125e6) ** 0.25
    odd = site.devices // (site.devices & -site.devices)  # so that all devices can share the batch
    sequences = odd
    while 2 * sequences * sequence <= min(usual_tokens + sequence / 2, tokens):
        sequences *= 2
    while sequences < min(site.devices, LARGEST_DEFAULT_BATCH_TOKENS // sequence):
        sequences *= 2
    return sequences
