"""A PyTorch model whose parameters live on parameter servers: it pulls what a step touches and pushes the gradients.

Rows of the named tables are pulled as a batch needs them; every other parameter is pulled whole in every step.  The
servers apply plain SGD.  Starting servers and workers is not this file's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from datahall.network.execute_parameter_server import Client
from datahall.network.parameter_server import ServerPlan


def served_plan(
    model: nn.Module, tables: Sequence[str], workers: int, servers: int = 1, staleness: int = 0
) -> ServerPlan:
    """The table that holds all of `model`: rows of `tables` (parameters of one width), then the rest in such rows."""
    held = dict(model.named_parameters())
    width = held[tables[0]].shape[1]
    rows = sum(held[name].shape[0] for name in tables) + _rest_rows(held, tables, width)
    return ServerPlan(rows, width, workers, servers, staleness)


class Served:
    """One worker's copy of the model and its side of the servers."""

    def __init__(self, model: nn.Module, tables: Sequence[str], client: Client) -> None:
        self.client, self.clock = client, 0
        self.held = dict(model.named_parameters())
        self.rest = [parameter for name, parameter in self.held.items() if name not in tables]
        self.first_row: dict[str, int] = {}
        row = 0
        for name in tables:
            self.first_row[name] = row
            row += self.held[name].shape[0]
        self.rest_rows = np.arange(row, client.plan.rows)
        self.touched: dict[str, Any] = {}

    def fill(self, rate: float) -> None:
        """The first push of every worker: worker 0's parameters become the servers'; `rate` is the servers' own."""
        everything = {name: torch.arange(self.held[name].shape[0]) for name in self.first_row}
        self.touched = everything if self.client.worker == 0 else {}
        copies = 1 if self.client.plan.staleness else self.client.plan.workers
        values = self._rows(lambda parameter: parameter.detach() * (-copies / rate))
        self._push(values if self.client.worker == 0 else values[:0])

    def pull(self, touched: Mapping[str, torch.Tensor]) -> None:
        """Bring the rows of the tables that a batch touches, and everything else, to where the servers are."""
        self.touched = {name: ids.unique() for name, ids in touched.items()}
        values = torch.from_numpy(self.client.pull(self.clock, self.row_numbers()))
        with torch.no_grad():
            for name, ids in self.touched.items():
                self.held[name][ids], values = values[: len(ids)], values[len(ids) :]
            flat = values.reshape(-1)
            for parameter in self.rest:
                parameter.copy_(flat[: parameter.numel()].view_as(parameter))
                flat = flat[parameter.numel() :]

    def push(self) -> None:
        """Send the gradients of what was pulled, and clear them."""
        self._push(self._rows(lambda parameter: parameter.grad))
        for parameter in self.held.values():
            parameter.grad = None

    def row_numbers(self) -> Any:
        """The rows of the servers' table that were pulled last."""
        tables = [self.first_row[name] + ids.numpy() for name, ids in self.touched.items()]
        return np.concatenate([*tables, self.rest_rows]).astype(np.int64)

    def _push(self, values: Any) -> None:
        self.clock += 1
        self.client.push(self.clock, values, self.row_numbers()[: len(values)])

    def _rows(self, of: Any) -> Any:
        """What `of` gives of each parameter, in the order of `row_numbers`."""
        tables = [of(self.held[name])[ids] for name, ids in self.touched.items()]
        flat = torch.cat([of(parameter).reshape(-1) for parameter in self.rest])
        width = self.client.plan.width
        rest = nn.functional.pad(flat, (0, len(self.rest_rows) * width - flat.numel())).view(-1, width)
        return torch.cat([*tables, rest]).numpy()


def _rest_rows(held: Mapping[str, nn.Parameter], tables: Sequence[str], width: int) -> int:
    rest = sum(parameter.numel() for name, parameter in held.items() if name not in tables)
    return -(-rest // width)
