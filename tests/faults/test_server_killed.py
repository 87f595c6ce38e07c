"""The whole server killed under load, over HTTP: what was answered with 200 is there, once.

``AUDIOBOT_TEST_KILLS=20`` makes it as long as the release check wants it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import httpx

from audiobot.storage.operations import AddConversation
from tests.conformance.test_local_store import journaled
from tests.servers import Server, client_of, serving, start

KILLS = int(os.environ.get("AUDIOBOT_TEST_KILLS", "3"))


class Callers:
    """Eight people who ask and rate until their server is gone."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.told: dict[str, str] = {}
        self.rated: dict[str, list[int]] = {}
        self.threads = [threading.Thread(target=self._call, args=(n,)) for n in range(8)]
        for thread in self.threads:
            thread.start()

    def _call(self, number: int) -> None:
        chance = random.Random(number)
        with client_of(self.server.address) as client:
            for i in range(100_000):
                try:
                    asked = f"Спасибо! {number} {i} {time.monotonic_ns()}"
                    reply = client.post("/api/voice/process", json={"message": asked})
                    assert reply.status_code == 200, reply.text
                    log_id = reply.json()["log_id"]
                    self.told[log_id] = asked
                    rating = chance.randint(1, 5)
                    self.rated.setdefault(log_id, []).append(-rating)  # attempted
                    body = {"log_id": log_id, "rating": rating}
                    assert client.post("/api/voice/feedback", json=body).status_code == 200
                    self.rated[log_id][-1] = rating
                except httpx.TransportError:
                    return

    def wait(self) -> None:
        for thread in self.threads:
            thread.join(60)


def test_g01_a_server_killed_under_load_loses_and_doubles_nothing_it_answered(
    tmp_path: Path,
) -> None:
    chance = random.Random(1)
    told: dict[str, str] = {}
    rated: dict[str, list[int]] = {}
    for _ in range(KILLS):
        server = start(tmp_path / "data")
        callers = Callers(server)
        deadline = time.monotonic() + 30
        while len(callers.told) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        server.kill()
        callers.wait()
        server.client.close()
        told |= callers.told
        rated |= callers.rated
    assert len(told) >= 20 * KILLS
    with serving(tmp_path / "data") as server:
        stats = server.stats()
        # At most the one question that each caller had under way when the server died.
        assert len(told) <= stats["total_interactions"] <= len(told) + 8 * KILLS
        assert server.health()["storage"]["missing_records"] == 0
    kept: dict[str, str] = {}
    current: dict[str, tuple[int, int]] = {}
    for operation in journaled(tmp_path):
        if isinstance(operation, AddConversation):
            log_id = str(operation.conversation.log_id)
            assert log_id not in kept
            kept[log_id] = operation.conversation.user_message
        else:
            newest = (operation.version, operation.rating)
            current[str(operation.log_id)] = max(newest, current.get(str(operation.log_id), newest))
    assert len(set(kept.values())) == len(kept)
    assert told.items() <= kept.items()
    acknowledged = {log_id: rating for log_id, (rating,) in rated.items() if rating > 0}
    assert acknowledged.items() <= {i: rating for i, (_, rating) in current.items()}.items()
