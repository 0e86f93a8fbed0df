"""A perceptron whose first blocks are frozen: its first stage has nothing to train (`frozen_perceptron:build`)."""

from datahall.workloads import mlp


def build(case):
    workload = mlp.build(case)
    for block in workload.model.blocks[:2]:
        block.requires_grad_(False)
    return workload
