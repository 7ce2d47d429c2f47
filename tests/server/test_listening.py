from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import wraps

import pytest
import trio
import trio.testing

from gdbserver.server.listening import Prompt

LONG = bytes(range(256)) * 0x8000


def connected() -> tuple[Prompt, socket.socket]:
    ours, theirs = socket.socketpair()
    return Prompt(ours), theirs


def in_trio(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        trio.run(test)

    return run


def drained(end: socket.socket) -> bytes:
    data = b""
    while piece := end.recv(0x100000):
        data += piece
    return data


@in_trio
async def test_what_is_more_than_the_kernel_takes_arrives_whole_and_in_order() -> None:
    stream, client = connected()
    heard = b""
    with client:
        async with trio.open_nursery() as nursery:

            async def hear() -> None:
                nonlocal heard
                heard = await trio.to_thread.run_sync(drained, client)

            nursery.start_soon(hear)
            await stream.send_all(LONG)
            await stream.aclose()
    assert heard == LONG


@in_trio
async def test_sending_to_a_client_that_does_not_read_waits_and_can_be_cancelled() -> None:
    stream, client = connected()
    with client:
        async with stream:
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.send_all(LONG)
    assert scope.cancelled_caught


@in_trio
async def test_a_client_that_closed_is_the_end_of_what_is_heard() -> None:
    stream, client = connected()
    client.sendall(b"last words")
    client.close()
    async with stream:
        assert [await stream.receive_some(4), await stream.receive_some()] == [b"last", b" words"]
        assert await stream.receive_some() == b""


@in_trio
async def test_sending_to_a_client_that_is_gone_is_told_in_trios_terms() -> None:
    stream, client = connected()
    client.close()
    async with stream:
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"hello?")


@in_trio
async def test_who_waits_for_words_is_woken_when_the_stream_is_closed() -> None:
    stream, client = connected()
    woken = False

    async def listen() -> None:
        nonlocal woken
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        woken = True

    with client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
    assert woken
