"""One thread, one job at a time, a bounded queue."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fusery.runtime.errors import Overloaded
from fusery.source.server.model_thread import ModelThread


def test_jobs_run_one_at_a_time_in_order_in_one_thread() -> None:
    seen: list[tuple[int, str]] = []

    def job(number: int) -> int:
        seen.append((number, threading.current_thread().name))
        return number

    async def all_of_them() -> list[int]:
        thread = ModelThread(20)
        results = await asyncio.gather(*(thread.run(lambda i=i: job(i)) for i in range(10)))  # type: ignore[misc]
        thread.close(10)
        return list(results)

    assert asyncio.run(all_of_them()) == list(range(10))
    assert seen == [(i, "model") for i in range(10)]


def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    async def flood() -> None:
        thread, hold, begun = ModelThread(2), threading.Event(), threading.Event()

        def wait() -> bool:
            begun.set()
            return hold.wait(60)

        running = asyncio.ensure_future(thread.run(wait))
        await asyncio.to_thread(begun.wait, 60)
        waiting = [asyncio.ensure_future(thread.run(lambda: True)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 requests are waiting"):
            await thread.run(lambda: True)
        hold.set()
        assert all(await asyncio.gather(running, *waiting))
        assert await thread.run(lambda: True)
        thread.close(10)

    asyncio.run(flood())


def test_a_job_whose_caller_gave_up_is_never_run() -> None:
    async def give_up() -> list[str]:
        thread, hold, ran = ModelThread(5), threading.Event(), []
        first = asyncio.ensure_future(thread.run(lambda: hold.wait(60)))
        second = asyncio.ensure_future(thread.run(lambda: ran.append("second")))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        hold.set()
        await first
        await thread.run(lambda: ran.append("third"))
        thread.close(10)
        return ran

    assert asyncio.run(give_up()) == ["third"]


def test_an_error_reaches_the_caller_and_the_thread_goes_on() -> None:
    async def fail() -> int:
        thread = ModelThread(5)
        with pytest.raises(ZeroDivisionError):
            await thread.run(lambda: 1 // 0)
        answer = await thread.run(lambda: 7)
        thread.close(10)
        return answer

    assert asyncio.run(fail()) == 7


def test_closing_does_not_wait_longer_than_asked_for_a_busy_thread() -> None:
    hold = threading.Event()

    async def close() -> None:
        thread, begun = ModelThread(1), threading.Event()

        def busy() -> bool:
            begun.set()
            return hold.wait(60)

        future = asyncio.ensure_future(thread.run(busy))
        await asyncio.to_thread(begun.wait, 60)
        thread.close(0.05)
        assert not future.done()
        hold.set()
        await future

    asyncio.run(close())
