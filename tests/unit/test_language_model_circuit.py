"""When a language model is asked and when questions go on without it, on a clock of our own."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from audiobot.answering import language_model
from audiobot.answering.language_model import FAILURES_TO_OPEN, OPEN_SECONDS, OpenAICompatibleModel
from audiobot.errors import LanguageModelError
from audiobot.ports import Passage

PASSAGES = [Passage("Цены", "Уборка стоит 3 200 ₽ в месяц.")]
GOOD = "Уборка стоит 3 200 ₽ в месяц."


class Server:
    """Stands where the OpenAI client stands: its models list and its completions."""

    def __init__(self) -> None:
        self.here = True
        self.says: str | None = GOOD
        self.slow = asyncio.Event()
        self.slow.set()
        self.asked = 0
        self.models = self
        self.chat = SimpleNamespace(completions=self)

    async def list(self) -> None:
        if not self.here:
            raise OSError

    async def create(self, **_: object) -> SimpleNamespace:
        self.asked += 1
        await self.slow.wait()
        message = SimpleNamespace(message=SimpleNamespace(content=self.says))
        return SimpleNamespace(choices=[message], usage=None, model="m")

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(time=1_000.0)
    monkeypatch.setattr(language_model, "time", SimpleNamespace(monotonic=lambda: now.time))
    return now


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def model(server: Server) -> OpenAICompatibleModel:
    made = OpenAICompatibleModel("http://127.0.0.1:1/v1", "m", None, deadline=0.05)
    await made.close()
    made._client = server
    return made


async def ask(model: OpenAICompatibleModel) -> str | None:
    """What the model said; None when the question went on without it."""
    try:
        completion = await model.complete("Сколько стоит?", PASSAGES, "ru")
    except LanguageModelError:
        return None
    return completion.text if completion else None


@pytest.mark.parametrize("how", ["slow", "garbage", "empty"])
async def test_a_server_that_is_there_does_not_make_up_for_completions_that_fail(
    model: OpenAICompatibleModel, server: Server, clock: SimpleNamespace, how: str
) -> None:
    if how == "slow":
        server.slow.clear()
    server.says = {"slow": GOOD, "garbage": "Скидка 99 процентов", "empty": None}[how]
    for _ in range(20):
        assert await model.check()
        assert await ask(model) is None
    assert server.asked == FAILURES_TO_OPEN
    assert not model.usable


async def test_after_a_while_one_question_tries_it_while_the_others_go_without(
    model: OpenAICompatibleModel, server: Server, clock: SimpleNamespace
) -> None:
    server.slow.clear()
    await model.check()
    for _ in range(FAILURES_TO_OPEN):
        await ask(model)
    clock.time += OPEN_SECONDS
    trying = asyncio.create_task(ask(model))
    await asyncio.sleep(0)
    assert [await ask(model) for _ in range(5)] == [None] * 5
    assert not model.usable
    assert await trying is None
    assert server.asked == FAILURES_TO_OPEN + 1
    # It failed: everybody goes without for as long again.
    await ask(model)
    assert server.asked == FAILURES_TO_OPEN + 1
    assert not model.usable
    # One good completion, and it is everybody's again.
    clock.time += OPEN_SECONDS
    server.slow.set()
    assert await ask(model) == GOOD
    assert model.usable
    assert await asyncio.gather(ask(model), ask(model)) == [GOOD, GOOD]


async def test_a_caller_that_leaves_while_it_tries_lets_the_next_one_try(
    model: OpenAICompatibleModel, server: Server, clock: SimpleNamespace
) -> None:
    server.slow.clear()
    for _ in range(FAILURES_TO_OPEN):
        await ask(model)
    clock.time += OPEN_SECONDS
    trying = asyncio.create_task(ask(model))
    await asyncio.sleep(0)
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    server.slow.set()
    assert await ask(model) == GOOD


async def test_failures_that_a_good_completion_parts_open_nothing(
    model: OpenAICompatibleModel, server: Server, clock: SimpleNamespace
) -> None:
    for _ in range(5):
        server.says = None
        for _ in range(FAILURES_TO_OPEN - 1):
            await ask(model)
        server.says = GOOD
        assert await ask(model) == GOOD


async def test_a_server_that_is_away_costs_nobody_a_deadline_and_is_used_once_it_is_back(
    model: OpenAICompatibleModel, server: Server, clock: SimpleNamespace
) -> None:
    assert not model.usable
    server.here = False
    assert not await model.check()
    assert await ask(model) is None
    assert (server.asked, model.usable) == (0, False)
    server.here = True
    assert await model.check()
    assert model.usable
    assert await ask(model) == GOOD
