"""A Ray cluster that is not there is named at once, before anything is joined; Ray need not be installed for that."""

import socket

import pytest

from datahall.base.errors import WorldFailed
from datahall.real.ray_executor import on_ray


@pytest.mark.parametrize("port", ["closed", "no-number", "99999"])
def test_an_address_where_nobody_answers_is_named(port):
    with socket.socket() as one:  # bound and not listening: nobody else takes it, nobody answers
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1] if port == 'closed' else port}"
        with pytest.raises(WorldFailed, match=f"no Ray cluster answers at {address}") as raised, on_ray(address):
            pass
    assert "head node" in str(raised.value)
