"""A perceptron with running statistics, whose optimiser decays matrices only (`normed_perceptron:build`)."""

from dataclasses import replace

import torch
from torch import nn

from datahall.workloads import mlp


def build(case):
    workload = mlp.build(case)
    for block in workload.model.blocks:
        block.up = nn.Sequential(nn.BatchNorm1d(case.model.hidden), block.up)

    def validation_loss(model):
        with torch.no_grad():
            return workload.loss(model.eval(), workload.data.batch(range(64))).item()

    return replace(workload, optimiser=decaying, tensor_cuts={}, metrics={"validation_loss": validation_loss})


def decaying(parameters):
    matrices = [one for one in parameters if one.ndim > 1]
    others = [one for one in parameters if one.ndim < 2]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 1.0}]
    return torch.optim.AdamW(groups, lr=1e-2)
