"""The door for case files: YAML in, a resolved `Case` out, or one error that names the line.

Nothing is kept or written when a case is wrong.  Names are looked up in the catalogue, missing values computed and
explained in `Case.defaults`, and combinations that no hardware has are refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datahall.base import units
from datahall.base.errors import CaseError, UnknownName, UsageError
from datahall.case import hf, lines
from datahall.case.data import UNDECIDED, CacheWish, Data, described
from datahall.case.form_errors import check, shown
from datahall.case.generation import MADE, Generation, PrefixWish
from datahall.case.lines import Document
from datahall.case.model import LatentAttention, ModelShape
from datahall.case.named_model import sequence_of, shape_of
from datahall.case.question import Case, Goal, Training
from datahall.case.quick import check_precision, labels, training_defaults
from datahall.case.schema import (
    CaseForm,
    DataForm,
    FileModelForm,
    GenerationForm,
    GoalForm,
    NamedForm,
    ShapeForm,
    TrainingForm,
)
from datahall.case.site import Site
from datahall.case.stated_site import site_of

NOT_YET = ("serving", "cluster", "stages")
_KEPT = (
    "optimiser", "engine", "entry", "dataset", "seed", "lora_targets", "weights", "lossy_checkpoint",
)  # fmt: skip


def load(path: str | Path, sets: Sequence[str] = ()) -> Case:
    """The case in the file at `path`, with each `path=value` of `sets` laid over it.

    Raises CaseError (with `file:line`), UnknownName or Incompatible; all of them end with exit code 2.
    """
    file = Path(path)
    document = lines.read(file)
    lines.lay_over(document, sets)
    return resolve(document, file.parent, file.stem)


def loads(text: str, sets: Sequence[str] = (), *, file: str = "case", folder: Path = Path()) -> Case:
    """The case that `text` holds, as `load` reads it; `folder` is where relative paths start."""
    document = lines.parse(text, file)
    lines.lay_over(document, sets)
    return resolve(document, folder, Path(file).stem)


def resolve(document: Document, folder: Path, name: str) -> Case:
    """The case that a read document states; names become numbers here."""
    _refuse_other_kinds(document)
    form = check(CaseForm, document.data, document)
    application = check(TrainingForm, document.data["application"], document, ("application",))
    model, longest, model_note = _model(form.model, document, folder)
    site, site_why = site_of(form.site, document, folder)
    training, why = _training(application, model, site, longest, document)
    data = _data(application.data, model, document, folder)
    generation = _generation(application.generation, document, folder)
    training = dataclasses.replace(training, data=data, generation=generation)
    check_precision(training.precision, site, document.where(("application", "precision")))
    notes = {"model": model_note} if model_note else {}
    return Case(
        name=form.name or name,
        model=model,
        application=training,
        site=site,
        goal=_goal(form.goal),
        provenance=labels(site, why),
        defaults=MappingProxyType({**notes, **why, **site_why}),
    )


def _refuse_other_kinds(document: Document) -> None:
    application = document.data.get("application")
    kind = application.get("kind") if isinstance(application, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if kind in NOT_YET:
        raise CaseError(
            f'application.kind "{kind}" is not done yet.',
            where=document.where(("application", "kind")),
            hint='Kinds that work: "training" and "fine-tuning".',
        )


def _model(data: Any, document: Document, folder: Path) -> tuple[ModelShape, int, str]:
    """The shape, the longest sequence and a note."""
    path = ("model",)
    if isinstance(data, str):
        data = {"from": "hf", "path": data} if data.endswith(".json") or "/" in data else {"catalog": data}
    if not isinstance(data, dict):
        hint = 'Write "model: {catalog: llama-3.1-8b}" or "model: {from: hf, path: config.json}".'
        raise CaseError(f"model is {shown(data)}.", where=document.where(path), hint=hint)
    if "catalog" in data or "catalogue" in data:
        name = check(NamedForm, data, document, path).catalog
        try:
            return shape_of(name), sequence_of(name), ""
        except UnknownName as error:
            raise UnknownName(error.what, where=document.where((*path, "catalog")), hint=error.hint) from error
    if "from" in data or "path" in data:
        renamed = {("source" if key == "from" else key): value for key, value in data.items()}  # pyright: ignore[reportUnknownVariableType]
        return _file_model(check(FileModelForm, renamed, document, path).path, document, folder)
    inline = data.get("inline")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if "inline" in data and len(data) == 1:  # pyright: ignore[reportUnknownArgumentType]
        return _inline_model(inline, document, (*path, "inline")), 0, ""
    return _inline_model(data, document, path), 0, ""


def _file_model(text: str, document: Document, folder: Path) -> tuple[ModelShape, int, str]:
    file = folder / Path(text).expanduser()
    try:
        found = hf.read_config(file)
    except CaseError as error:
        where = f"{document.where(('model', 'path'))}: {error.where}"
        raise CaseError(error.what, where=where, hint=error.hint) from error
    return found.shape, found.sequence, found.note


def _inline_model(data: Any, document: Document, path: lines.Path_) -> ModelShape:
    form = check(ShapeForm, data, document, path)
    fields = form.model_dump(exclude={"latent"})
    fields["kv_heads"] = form.kv_heads or form.heads
    fields["head_dim"] = form.head_dim or form.hidden // form.heads
    if not form.head_dim and form.latent is None and form.hidden % form.heads:
        raise CaseError(
            f"{form.heads} heads do not divide a width of {form.hidden} evenly.",
            where=document.where((*path, "heads")),
            hint="Choose heads that divide hidden, or state head_dim.",
        )
    if form.latent is None and form.heads % fields["kv_heads"]:
        raise CaseError(
            f"{form.heads} heads cannot share {form.kv_heads} key-value heads evenly.",
            where=document.where((*path, "kv_heads")),
            hint="heads must be a multiple of kv_heads.",
        )
    if form.experts and not 0 < form.experts_per_token <= form.experts:
        raise CaseError(
            f"a token cannot pass through {form.experts_per_token} of {form.experts} experts.",
            where=document.where((*path, "experts_per_token")),
            hint="experts_per_token must be from 1 to experts.",
        )
    latent = LatentAttention(**form.latent.model_dump()) if form.latent else None
    return ModelShape(**fields, latent=latent)


def _training(
    form: TrainingForm, model: ModelShape, site: Site, longest: int, document: Document
) -> tuple[Training, dict[str, str]]:
    _check_method(form, model, document)
    _check_optimiser(form, document)
    sequence = form.sequence or training_defaults(model, site, longest, tokens=1e12, global_batch=1)[0].sequence
    batch = None if form.global_batch is None else _batch(form.global_batch, sequence, document)
    try:
        training, why = training_defaults(
            model,
            site,
            longest,
            tokens=form.tokens,
            global_batch=batch,
            sequence=form.sequence,
            precision=form.precision,
            method=form.method,
        )
    except UsageError as error:
        raise CaseError(error.what, where=document.where(("application",)), hint=error.hint) from error
    if form.lora_rank:
        why.pop("application.lora_rank", None)
    kept = {name: getattr(form, name) for name in _KEPT}
    rank, alpha = form.lora_rank or training.lora_rank, form.lora_alpha or 0
    return dataclasses.replace(training, lora_rank=rank, lora_alpha=alpha, **kept), why


def _data(form: DataForm | None, model: ModelShape, document: Document, folder: Path) -> Data | None:
    if form is None:
        return None
    where = document.where(("application", "data"))
    path = form.path if "://" in form.path else str((folder / Path(form.path).expanduser()).resolve())
    found = described(path, where)
    if found["vocab"] > model.vocab:
        raise CaseError(
            f"the data have {found['vocab']:,} different tokens, the model {model.vocab:,}.",
            where=where,
            hint=f"Set model.vocab to {found['vocab']} or more.",
        )
    cache = form.cache
    wish = CacheWish(cache.limit, cache.policy, cache.use) if cache is not None else CacheWish()
    rate, latency = (form.tier.read, form.tier.latency) if form.tier is not None else (0.0, 0.0)
    ahead = UNDECIDED if form.ahead is None else form.ahead
    return Data(**found, ahead=ahead, cache=wish, read_bytes_per_s=rate, latency_s=latency)


def _generation(form: GenerationForm | None, document: Document, folder: Path) -> Generation | None:
    if form is None:
        return None
    shared = form.prompt * 3 // 4 if form.shared is None else form.shared
    if shared >= form.prompt:
        raise CaseError(
            f"a prompt of {form.prompt} tokens cannot share {shared}: the last has to be its own.",
            where=document.where(("application", "generation", "shared")),
            hint="Let shared be less than prompt.",
        )
    prompts = form.prompts if form.prompts in MADE else str((folder / Path(form.prompts).expanduser()).resolve())
    asked, wish = form.cache, PrefixWish()
    if asked is not None:
        policy = "" if asked.policy == "auto" else asked.policy
        wish = PrefixWish(asked.memory, policy, asked.block or 0, asked.use, asked.tier, asked.tier_limit)
        if bool(asked.tier) != bool(asked.tier_limit):
            raise CaseError(
                "a slower tier needs a place and a limit.",
                where=document.where(("application", "generation", "cache")),
                hint='Write both, like "tier: /var/tmp/blocks" and "tier_limit: 1 GiB".',
            )
    return Generation(prompts, form.requests, form.prompt, shared, form.begins, form.answer, form.batch, wish)


def _check_method(form: TrainingForm, model: ModelShape, document: Document) -> None:
    where = document.where(("application", "method"))
    if form.kind == "training" and form.method == "lora":
        raise CaseError("application.method lora is fine-tuning.", where=where, hint='Write "kind: fine-tuning".')
    for key in ("lora_rank", "lora_alpha"):
        if getattr(form, key) and form.method != "lora":
            raise CaseError(f"application.{key} needs LoRA.", where=where, hint='Write "method: lora".')
        if getattr(form, key) == 0:  # PEFT refuses a rank of 0 too; left out, each has a usual value
            raise CaseError(
                f"application.{key} is 0: such adapters add nothing to the model.",
                where=document.where(("application", key)),
                hint='Write "method: full" to train everything, a number from 1, or leave it out for the usual one.',
            )
    if form.lora_targets == "all" and model.experts:
        raise CaseError(
            "adapters beside every matrix are not counted for mixtures of experts.",
            where=document.where(("application", "lora_targets")),
            hint='Write "lora_targets: attention".',
        )
    if form.kind == "fine-tuning" and form.tokens is None:
        raise CaseError(
            "application.tokens is missing: how much a fine-tuning takes depends on its data.",
            where=document.where(("application",)),
            hint='Write it like "tokens: 100e6".',
        )


def _check_optimiser(form: TrainingForm, document: Document) -> None:
    if form.optimiser in ("sgd", "adafactor") and not form.entry:
        raise CaseError(
            f"application.optimiser {form.optimiser} is not counted yet: forecasts and runs hold Adam's two moments.",
            where=document.where(("application", "optimiser")),
            hint='Write "adamw"; a model of your own (application.entry) brings its own optimiser.',
        )


def _batch(data: Any, sequence: int, document: Document) -> int:
    """Sequences of a global batch: a bare number or "512 sequences", or tokens if the text says so."""
    where = document.where(("application", "global_batch"))
    hint = 'Write it like "512 sequences" or "4 Mi tokens".'
    counted = re.fullmatch(r"\s*(.+?)\s*(?:sequences|sequence|seqs)\s*", data) if isinstance(data, str) else None
    in_tokens = isinstance(data, str) and "token" in data
    try:
        number = units.parse(counted[1] if counted else data, "tokens")
    except (UsageError, TypeError) as error:
        raise CaseError(f"application.global_batch is {shown(data)}.", where=where, hint=hint) from error
    sequences = number / sequence if in_tokens else number
    if not 1 <= sequences < 2**53 or abs(sequences - round(sequences)) > (0.5 if in_tokens else 0):
        what = f"application.global_batch is {shown(data)}: not a whole number of sequences of {sequence:,} tokens."
        raise CaseError(what, where=where, hint=hint)
    return max(1, round(sequences))


def _goal(form: GoalForm) -> Goal:
    bounds = (float("inf") if bound is None else bound for bound in (form.deadline, form.budget, form.energy))
    return Goal(form.minimise, *bounds)
