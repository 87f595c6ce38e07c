"""The socket of the server: one port, one listener."""

from __future__ import annotations

import contextlib

import pytest

from audiobot.errors import SetupError
from audiobot.main import listen


def test_of_two_servers_that_start_at_once_on_one_port_the_second_is_refused() -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(SetupError) as raised:
            listen("127.0.0.1", port)
    assert raised.value.code == "port_in_use"
    assert raised.value.details["port"] == port


@pytest.mark.parametrize("host", ["nowhere.invalid", "x" * 70, "a..b"])
def test_what_is_no_address_is_a_sentence(host: str) -> None:
    with pytest.raises(SetupError) as raised:
        listen(host, 0)
    assert raised.value.code == "port_in_use"
