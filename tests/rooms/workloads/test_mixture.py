"""Mixtures of experts: parameters and FLOPs as counted, each row weighted by its own scores, nothing dropped."""

from dataclasses import replace

import pytest
import torch
from small_cases import LATENT, SHAPE, small_case
from torch.nn import functional

from datahall.base.errors import Refused
from datahall.compute.execute import recompute_parts
from datahall.compute.inventory import element_count, language_model_inventory
from datahall.compute.plan import ComputePlan
from datahall.compute.step import step_table
from datahall.real.observe import count_flops
from datahall.workloads.language_model import AttentionCore, LanguageModel, build, next_token_loss
from datahall.workloads.mixture import Mixture

MIXED = replace(SHAPE, layers=3, ffn=48, experts=4, experts_per_token=2, dense_layers=1, dense_ffn=128)
DEEPSEEK = replace(MIXED, latent=LATENT, shared_experts=1, shared_ffn=48)
NARROW_VALUES = replace(SHAPE, latent=replace(LATENT, value_dim=8))
SHARED = replace(MIXED, shared_experts=2, shared_ffn=32, router_balance=True)


@pytest.mark.parametrize("shape", [MIXED, SHARED, DEEPSEEK, replace(DEEPSEEK, latent=replace(LATENT, query_rank=0))])
def test_parameters_are_those_counted(shape):
    model = LanguageModel(shape)
    inventory = language_model_inventory(shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters() == inventory.parameters
    shapes = [tuple(parameter.shape) for parameter in model.blocks[-1].parameters()]
    assert sorted(shapes) == sorted(inventory.blocks[-1])
    assert sum(element_count(one) for one in inventory.blocks[0]) == sum(
        p.numel() for p in model.blocks[0].parameters()
    )


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("shape", [MIXED, SHARED, DEEPSEEK, NARROW_VALUES])
def test_flops_are_those_counted_whatever_is_chosen(shape, recompute):
    workload = build(small_case(shape))
    recompute_parts(workload.model, workload, recompute)
    plan = ComputePlan(micro_batch=4, precision="fp32", recompute=recompute)
    flops = count_flops(lambda: next_token_loss(workload.model, workload.data.batch(range(4))).backward())
    assert flops.matmul + flops.attention == step_table(shape, 64, plan).total_flops()


def test_each_token_gets_its_chosen_experts_by_their_scores():
    torch.manual_seed(1)
    mixture = Mixture(SHARED)
    hidden = torch.randn(2, 5, SHARED.hidden)
    found = mixture(hidden)
    for sample in range(2):
        for at in range(5):
            token = hidden[sample, at]
            scores, chosen = mixture.router(token).topk(2)
            weights = functional.softmax(scores, -1)
            parts = [
                weight * mixture.experts[str(int(one))](token) for weight, one in zip(weights, chosen, strict=True)
            ]
            expected = sum(parts) + sum(expert(token) for expert in mixture.shared)
            assert torch.allclose(found[sample, at], expected, atol=1e-5)
    assert sum(mixture.received) == 2 * 5 * 2


def test_an_expert_that_nobody_chose_has_a_gradient_of_zero():
    mixture = Mixture(replace(MIXED, experts_per_token=1))
    with torch.no_grad():
        mixture.router.weight.zero_()
        mixture.router.weight[2] = 1.0
    mixture(torch.rand(1, 3, MIXED.hidden)).sum().backward()
    assert mixture.received == [0, 0, 3, 0]
    assert all(float(p.grad.abs().sum()) == 0.0 for p in mixture.experts["0"].parameters())


def test_a_balance_evens_out_what_experts_are_given():
    torch.manual_seed(2)
    mixture = Mixture(replace(MIXED, router_balance=True))
    hidden = torch.randn(4, 16, MIXED.hidden) + torch.randn(MIXED.hidden)  # what all have in common favours some
    optimiser = torch.optim.AdamW([mixture.balance], lr=1e-3)
    fullest = []
    for _ in range(60):
        mixture.received = [0] * MIXED.experts
        mixture(hidden).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        fullest.append(max(mixture.received) / (sum(mixture.received) / MIXED.experts))
    assert fullest[0] > 1.5
    assert sum(fullest[-10:]) / 10 < 1.25


def test_latent_heads_see_where_the_past_stands():
    torch.manual_seed(0)
    model = LanguageModel(replace(SHAPE, latent=LATENT))
    tokens = torch.randint(256, (1, 32))
    repeated = model(torch.full((1, 8), 7))
    assert not torch.allclose(model(tokens.flip(1))[0, -1], model(tokens)[0, -1])
    assert torch.allclose(repeated[0, 0], repeated[0, 7], atol=1e-4)  # alike whatever it attends to: one token only


def test_values_narrower_than_queries_are_mixed_as_they_are_and_wider_ones_refused():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 8, 16), torch.randn(2, 3, 8, 16), torch.randn(2, 3, 8, 5)
    scores = (query @ key.transpose(-1, -2) / 4.0).masked_fill(~torch.ones(8, 8, dtype=torch.bool).tril(), -torch.inf)
    assert torch.allclose(AttentionCore()(query, key, value), scores.softmax(-1) @ value, atol=1e-5)
    with pytest.raises(Refused, match="no fused attention"):
        LanguageModel(replace(SHAPE, latent=replace(LATENT, value_dim=24)))


def test_a_router_that_chooses_one_expert_still_learns():
    mixture = Mixture(replace(MIXED, experts_per_token=1))
    mixture(torch.rand(1, 3, MIXED.hidden)).sum().backward()
    assert float(mixture.router.weight.grad.abs().sum()) > 0
