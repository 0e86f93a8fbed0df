"""A model that datahall does not know: a gated recurrent network over bytes, for cases/own-model.yaml."""

import torch
from torch import nn

from datahall.base.workload import Workload
from datahall.workloads.text import held_out_text, training_text


class ByteGru(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.recurrent = nn.GRU(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens):
        return self.head(self.recurrent(self.embedding(tokens))[0])


def loss(model, batch):
    """Mean cross-entropy of the next byte, in nats."""
    return nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def build(case):
    """What `application.entry` names: model, samples and loss, the same on every worker."""
    torch.manual_seed(case.application.seed)
    sequence = case.application.sequence
    held_out = held_out_text(sequence)

    @torch.no_grad()
    def validation_loss(model):
        return loss(model, held_out.batch(range(32))).item()

    return Workload(
        name="byte-gru",
        model=ByteGru(case.model.hidden),
        data=training_text(sequence),
        loss=loss,
        tokens_per_sample=sequence,
        metrics={"validation_loss": validation_loss},
        optimiser=lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.9),
    )
