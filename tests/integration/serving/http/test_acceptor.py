"""Connections are taken as they come, all that wait at a time, and nobody is cut off by the end."""

import asyncio
import socket
import sys
from collections.abc import Iterator

import pytest

from flashsale_project.serving.http import acceptor
from flashsale_project.serving.http.acceptor import Acceptor, drop_all
from tests.support.waiting import DEADLINE, eventually


class Greeter(asyncio.Protocol):
    """Says hello and closes."""

    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        Greeter.made += 1
        transport.write(b"hello")
        transport.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket."""
    Greeter.made = 0
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield listening


async def greeting(client: socket.socket) -> bytes:
    """What a client is told."""
    async with asyncio.timeout(DEADLINE):
        return await asyncio.get_running_loop().sock_recv(client, 100)


def clients(listener: socket.socket, count: int) -> list[socket.socket]:
    """So many clients that the kernel has let in."""
    made = [socket.create_connection(listener.getsockname()) for _ in range(count)]
    for client in made:
        client.setblocking(False)
    return made


async def test_everybody_who_waits_is_taken_at_once(listener: socket.socket) -> None:
    waiting = clients(listener, 100)
    server = Acceptor(listener, Greeter)
    assert [await greeting(client) for client in waiting] == [b"hello"] * 100
    late = clients(listener, 1)
    assert await greeting(late[0]) == b"hello"
    server.close(let_in=False)
    for client in waiting + late:
        client.close()


@pytest.mark.parametrize("let_in", [True, False])
async def test_who_waits_at_the_end_is_let_in_where_that_is_wanted(
    listener: socket.socket, let_in: bool
) -> None:
    server = Acceptor(listener, Greeter)
    waiting = clients(listener, 20)
    server.close(let_in=let_in)
    if let_in:
        assert [await greeting(client) for client in waiting] == [b"hello"] * 20
    else:
        for client in waiting:
            with pytest.raises(ConnectionResetError):
                await greeting(client)
    assert listener.fileno() == -1
    for client in waiting:
        client.close()


async def test_without_room_for_a_connection_it_tries_again_later(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "ACCEPT_PAUSE", 0.01)

    class Full:
        """A listening socket while there are too many open files."""

        full = True

        def __getattr__(self, name: str) -> object:
            return getattr(listener, name)

        def accept(self) -> tuple[socket.socket, object]:
            if self.full:
                raise OSError(24, "Too many open files")
            return listener.accept()

    full = Full()
    server = Acceptor(full, Greeter)  # type: ignore[arg-type]
    (client,) = clients(listener, 1)
    await eventually(lambda: "Too many open files" in caplog.text)
    full.full = False
    assert await greeting(client) == b"hello"
    server.close(let_in=False)
    client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do that")
def test_nobody_is_connected_to_a_socket_that_drops_all_and_who_was_is_served() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket() as early,
        socket.socket() as late,
    ):
        listener.setblocking(False)
        for client in (early, late):
            client.setblocking(False)
        early.connect_ex(listener.getsockname())  # on the loopback, whoever can be connected is so at once
        drop_all(listener)
        late.connect_ex(listener.getsockname())
        accepted, address = listener.accept()
        with accepted:
            assert address == early.getsockname()
            early.send(b"still there")
            assert accepted.recv(100) == b"still there"
        with pytest.raises(BlockingIOError):
            listener.accept()
        with pytest.raises(OSError, match="not connected"):
            late.getpeername()
