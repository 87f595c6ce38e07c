"""What is wrong with PostgreSQL is told, however little this process has left to find out with."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time

import pytest

from audiobot.storage import driver
from audiobot.storage.driver import of, why_refused
from audiobot.storage.trouble import DatabaseTrouble, DataRefused

STARVED = """
import asyncio, os, resource
from audiobot.storage.driver import why_refused

async def whole():
    left = len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (left, left))
    print((await why_refused({"host": "127.0.0.1", "port": "1"}, 1.0)).reason)

asyncio.run(whole())
"""


def test_g16_without_a_descriptor_to_ask_with_the_trouble_has_a_name_all_the_same() -> None:
    asked = [sys.executable, "-c", STARVED]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "lost", done.stderr


async def test_a_resolver_that_takes_its_time_does_not_stop_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    libpq, asked = driver.pq.PGconn, []

    class Slow:
        @staticmethod
        def connect_start(conninfo: bytes) -> object:
            asked.append(conninfo)
            time.sleep(0.5)  # where libpq waits for the resolver
            return libpq.connect_start(conninfo)

    monkeypatch.setattr(driver.pq, "PGconn", Slow)
    task = asyncio.create_task(why_refused({"host": "localhost", "port": "1"}, 5.0))
    turns = 0
    while not task.done():
        await asyncio.sleep(0.005)
        turns += bool(asked)
    assert (await task).reason == "refused"
    assert turns > 10


def test_g16_a_name_that_no_resolver_takes_is_a_name() -> None:
    with pytest.raises(UnicodeError) as raised:
        socket.getaddrinfo(f"{'x' * 64}.example", 5432)
    found = of(raised.value)
    assert isinstance(found, DatabaseTrouble)
    assert found.reason == "dns"


def test_g16_a_text_that_cannot_be_encoded_is_the_texts_trouble() -> None:
    with pytest.raises(UnicodeEncodeError) as raised:
        "\ud800".encode()
    assert isinstance(of(raised.value), DataRefused)
