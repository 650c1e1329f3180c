"""Listening and an orderly end."""

import asyncio
import contextlib
import signal
import socket
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from limner.errors import BadInput, LimnerError
from limner.server import serve
from limner.settings import Settings
from limner.store import Store
from tests.server.make import FakeEngine


async def served(settings: Settings, tmp_path: Path, said: list[str]) -> tuple["asyncio.Task[None]", FakeEngine]:
    engine = FakeEngine()
    ready = asyncio.Event()

    def say(line: str) -> None:
        said.append(line)
        if "http" in line:
            ready.set()

    store = Store.open(settings, owned=False)
    task = asyncio.create_task(serve(settings, engine, store, say=say))  # type: ignore[arg-type]
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([task, waiting], timeout=10, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return task, engine


async def test_it_says_where_it_is_answers_there_and_ends_on_a_signal(tmp_path: Path) -> None:
    said: list[str] = []
    settings = replace(Settings(), base_directory=str(tmp_path), port=0)
    task, engine = await served(settings, tmp_path, said)
    assert said[0].startswith("Starting server")
    address = said[1].removeprefix("To see the GUI go to: ")

    async with aiohttp.ClientSession() as session, session.ws_connect(address + "/ws") as open_socket:
        async with session.get(address + "/queue") as response:
            assert response.status == 200
        assert engine.state == "started"
        signal.raise_signal(signal.SIGTERM)
        await open_socket.receive()
        assert (await open_socket.receive()).type is aiohttp.WSMsgType.CLOSE
    await asyncio.wait_for(task, 10)
    assert engine.state == "closed"


async def test_a_taken_port_is_said_so(tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = replace(Settings(), base_directory=str(tmp_path), port=taken.getsockname()[1])
        task, engine = await served(settings, tmp_path, [])
        with pytest.raises(LimnerError, match="is taken"):
            await task
    assert engine.state == "closed"


async def test_half_of_tls_is_refused(tmp_path: Path) -> None:
    settings = replace(Settings(), base_directory=str(tmp_path), tls_keyfile="key.pem")
    task, _ = await served(settings, tmp_path, [])
    with pytest.raises(BadInput, match="two files"):
        await task


async def test_a_name_that_is_no_address_is_refused(tmp_path: Path) -> None:
    settings = replace(Settings(), base_directory=str(tmp_path), listen="no such host", port=0)
    task, _ = await served(settings, tmp_path, [])
    with pytest.raises(LimnerError, match="Cannot listen"):
        await task


async def test_it_listens_on_every_address(tmp_path: Path) -> None:
    said: list[str] = []
    settings = replace(Settings(), base_directory=str(tmp_path), listen="127.0.0.1,127.0.0.2", port=0)
    task, _ = await served(settings, tmp_path, said)
    first, second = (line.rpartition("/")[2] for line in said[1:])
    assert (first.split(":")[0], second.split(":")[0]) == ("127.0.0.1", "127.0.0.2")
    assert first.split(":")[1] == second.split(":")[1]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_trial_start_ends_at_once(tmp_path: Path) -> None:
    settings = replace(Settings(), base_directory=str(tmp_path), port=0, quick_test_for_ci=True)
    task, engine = await served(settings, tmp_path, [])
    await asyncio.wait_for(task, 10)
    assert engine.state == "closed"
