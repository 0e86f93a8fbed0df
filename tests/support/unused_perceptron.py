"""A perceptron with a matrix that its loss does not use (`unused_perceptron:build`)."""

from torch import nn

from datahall.workloads import mlp


def build(case):
    workload = mlp.build(case)
    workload.model.blocks[1].unused = nn.Linear(case.model.hidden, 3, bias=False)
    return workload
