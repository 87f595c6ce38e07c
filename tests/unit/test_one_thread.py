"""One thread: its order, what it tells, what it lets go of, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Callable
from unittest import mock

import pytest

from audiobot.one_thread import OneThread, in_daemon_thread


async def test_work_is_done_in_its_order_in_one_thread_beside_the_loop() -> None:
    one, done = OneThread("one"), list[tuple[int, str]]()
    await asyncio.gather(
        *(
            one.run(lambda n=number: done.append((n, threading.current_thread().name)))
            for number in range(50)
        )
    )
    assert done == [(number, "one") for number in range(50)]
    assert await one.run(lambda: 7) == 7
    one.close()


async def test_an_error_is_its_callers_and_the_thread_goes_on() -> None:
    one = OneThread("one")

    def fail() -> None:
        raise RuntimeError("of the work")

    with pytest.raises(RuntimeError, match="of the work"):
        await one.run(fail)
    assert await one.run(lambda: 7) == 7
    one.close()


async def test_an_error_that_no_future_takes_is_told_all_the_same() -> None:
    one = OneThread("one")
    with pytest.raises(RuntimeError, match="StopIteration"):
        await one.run(lambda: next(iter(())))
    one.close()


@pytest.mark.parametrize("work", [lambda: 7, lambda: 7 / 0])
async def test_what_comes_after_work_is_not_waited_for_and_comes_before_the_next(
    work: Callable[[], float],
) -> None:
    one, go_on, done = OneThread("one"), threading.Event(), list[str]()

    def then() -> None:
        assert go_on.wait(30)
        done.append("then")

    with contextlib.suppress(ZeroDivisionError):
        await one.run(work, then)
    assert not done
    following = one.run(lambda: done.append("next"))
    go_on.set()
    await following
    assert done == ["then", "next"]
    one.close()


async def test_a_thread_that_could_not_begin_is_begun_by_the_next_call() -> None:
    one = OneThread("one")
    with (
        mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start")),
        pytest.raises(RuntimeError, match="can't start"),
    ):
        one.run(lambda: 7)
    assert await one.run(lambda: 7) == 7
    one.close()


async def test_what_is_given_up_before_its_turn_is_not_begun_and_after_it_harms_nobody() -> None:
    one, begun, go_on = OneThread("one"), threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        begun.set()
        go_on.wait(30)
        done.append("first")

    running, waiting = one.run(first), one.run(lambda: done.append("second"))
    begun.wait(30)
    running.cancel()
    waiting.cancel()
    go_on.set()
    assert await one.run(lambda: 7) == 7
    assert done == ["first"]
    one.close()


async def test_closing_lets_what_runs_end_and_cancels_what_waits() -> None:
    one, begun, go_on = OneThread("one"), threading.Event(), threading.Event()
    ended: list[bool] = []
    running = one.run(lambda: (begun.set(), go_on.wait(30), ended.append(True)))
    waiting = one.run(lambda: 7)
    begun.wait(30)
    threading.Timer(0.05, go_on.set).start()
    one.close()
    assert ended == [True]
    one.close()
    assert await running == (None, True, None)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        one.run(lambda: 7)
    assert "one" not in {thread.name for thread in threading.enumerate()}


async def test_one_that_was_never_used_is_closed_too() -> None:
    OneThread("one").close()


@pytest.mark.parametrize("work", [lambda held: held, lambda held: held / 0])
async def test_it_holds_nothing_of_work_that_is_done(work: Callable[[object], object]) -> None:
    class Heavy:
        pass

    one, heavy = OneThread("one"), Heavy()
    gone = weakref.ref(heavy)
    gc.disable()  # what goes by itself needs no collector
    try:
        with contextlib.suppress(TypeError):
            await one.run(lambda held=heavy: work(held))
        del heavy
        await asyncio.sleep(0.01)
        assert gone() is None
    finally:
        gc.enable()
    one.close()


def test_a_loop_that_is_closed_meanwhile_ends_no_thread() -> None:
    one, go_on = OneThread("one"), threading.Event()

    async def give() -> None:
        one.run(lambda: go_on.wait(30))

    asyncio.run(give())
    go_on.set()

    async def ask() -> int:
        return await one.run(lambda: 7)

    assert asyncio.run(ask()) == 7
    one.close()


async def test_work_in_a_daemon_thread_gives_what_it_returns_or_raises() -> None:
    assert await in_daemon_thread("reader", lambda: threading.current_thread().name) == "reader"
    assert await in_daemon_thread("reader", lambda: threading.current_thread().daemon)
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread("reader", lambda: 1 // 0)


async def test_who_no_longer_waits_for_a_daemon_thread_is_not_told() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(10)
        ended.set()

    waiting = asyncio.create_task(in_daemon_thread("reader", work))
    await asyncio.to_thread(begun.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    assert await asyncio.to_thread(ended.wait, 10)
    await asyncio.sleep(0)
