"""What a driver and its workers say, on its way: proofs, frames, TLS. No Ray is started here."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import trustme
from shoal.testing.tools import PATIENCE, eventually
from shoal_ray import door, wire
from shoal_ray.link import Link
from shoal_ray.wire import Channel, Contact, connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = b"s" * 32
LARGE = bytes(range(256)) * 20_000


class Echo:
    """Says everything again, one kind higher, and remembers it."""

    def __init__(self) -> None:
        self.said: list[tuple[int, bytes]] = []
        self.here: list[Any] = []

    def joined(self, peer: Any) -> None:
        """See `Hearer`."""
        self.here.append(peer)

    def heard(self, peer: Any, kind: int, body: bytes) -> None:
        """See `Hearer`."""
        self.said.append((kind, body))
        peer.write(kind + 1, body)

    def gone(self, peer: Any) -> None:
        """See `Hearer`."""
        self.here.remove(peer)

    def failed(self, error: Exception) -> None:
        """See `Hearer`."""
        raise error


def certificates(folder: Path, *hosts: str) -> dict[str, str]:
    """Ray's variables for a new authority and a certificate that it has signed for these hosts."""
    folder.mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert(*(hosts or ("anywhere.invalid",)))
    files = {name: folder / f"{name}.pem" for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(files["ca"])
    certificate.cert_chain_pems[0].write_to_path(files["cert"])
    certificate.private_key_pem.write_to_path(files["key"])
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_CA_CERT": str(files["ca"]),
        "RAY_TLS_SERVER_CERT": str(files["cert"]),
        "RAY_TLS_SERVER_KEY": str(files["key"]),
    }


@pytest.fixture(params=["plain", "tls"])
def way(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether Ray's variables ask for TLS."""
    if request.param == "tls":
        for name, value in certificates(tmp_path / "ours").items():
            monkeypatch.setenv(name, value)
    name: str = request.param
    return name


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def link(way: str, echo: Echo) -> Iterator[Link]:
    link = Link(echo)
    link.start()
    yield link
    link.close(PATIENCE)
    assert not link.thread.is_alive()


@pytest.fixture
def contact(link: Link) -> Contact:
    host, port = link.listen("127.0.0.1", SECRET)
    return Contact("mh1", host, port, SECRET, 0, "relay", "namespace")


def has_strangers(link: Link) -> bool:
    return link.door is not None and link.door.has_strangers


def test_messages_arrive_whole_and_in_order(contact: Contact, echo: Echo) -> None:
    sent = [(kind, LARGE[: kind * 999_983 % len(LARGE)]) for kind in range(1, 40)]
    channel = Channel(connect(contact))
    heard: list[tuple[int, bytes]] = []
    reader = threading.Thread(target=lambda: heard.extend(channel.messages()))
    reader.start()
    for kind, body in sent:
        channel.send(kind, body)
    eventually(lambda: len(heard) == len(sent), "all was said again")
    assert echo.said == sent
    assert heard == [(kind + 1, body) for kind, body in sent]
    channel.close()
    reader.join(PATIENCE)
    eventually(lambda: not echo.here, "the driver notices that it has gone")


def test_one_that_sends_hears_meanwhile(contact: Contact, echo: Echo) -> None:
    """Also if nobody takes what it sends."""
    channel = Channel(connect(contact))
    heard: list[int] = []
    reader = threading.Thread(target=lambda: heard.extend(k for k, _ in channel.messages()))
    reader.start()
    eventually(lambda: bool(echo.here), "the driver knows it")
    (peer,) = echo.here
    peer._link.do(lambda: peer._transport.pause_reading())
    sender = threading.Thread(target=lambda: channel.send(1, bytes(40_000_000)))
    sender.start()
    sender.join(0.5)
    assert sender.is_alive(), "it cannot send any more"
    for kind in (7, 8, 9):
        peer.send(kind)
    eventually(lambda: heard == [7, 8, 9], "what it is told arrives", timeout=5.0)
    peer._link.do(lambda: peer._transport.resume_reading())
    sender.join(PATIENCE)
    eventually(lambda: 2 in heard, "all was said again")
    channel.close()
    reader.join(PATIENCE)


@pytest.mark.parametrize("takes", [True, False])
def test_a_driver_that_leaves_hangs_up(
    way: str, echo: Echo, takes: bool, stack: contextlib.ExitStack
) -> None:
    """At once if workers notice, soon if not; what it is told afterwards is dropped."""
    before = set(psutil.Process().net_connections("tcp"))
    link = Link(echo)
    link.start()
    host, port = link.listen("127.0.0.1", SECRET)
    channel = Channel(connect(Contact("mh1", host, port, SECRET, 0, "relay", "namespace")))
    stack.enter_context(socket.create_connection((host, port)))
    eventually(lambda: has_strangers(link), "somebody is there")
    reader = threading.Thread(target=lambda: list(channel.messages()))
    if takes:
        reader.start()
    eventually(lambda: bool(echo.here), "the driver knows it")
    if not takes:
        link.do(lambda: echo.here[0].write(1, bytes(20_000_000)))
    link.close(PATIENCE)
    assert not link.thread.is_alive()
    ends = {
        one
        for one in set(psutil.Process().net_connections("tcp")) - before
        if one.laddr.port == port
    }
    assert not {one for one in ends if one.status == "ESTABLISHED"}

    class Large:
        """What an action holds."""

    large = Large()
    known = weakref.ref(large)
    link.do(partial(repr, large))
    del large
    assert known() is None
    if not takes:
        reader.start()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    channel.close()


def test_a_worker_with_another_secret_is_refused(contact: Contact, echo: Echo) -> None:
    began = time.monotonic()
    with pytest.raises(OSError, match="does not know this worker's secret"):
        connect(contact._replace(secret=b"t" * 32))
    assert echo.here == []
    assert time.monotonic() - began < wire.KNOCKS_FOR, "it is told, and does not try again"


# ------------------------------------------------------------------------ strangers


class Crowd:
    """Strangers, who come and say nothing, or not enough.

    Args:
        contact: where they go.
    """

    def __init__(self, contact: Contact) -> None:
        self._address = contact.host, contact.port
        self._stack = contextlib.ExitStack()

    def one(self, says: bytes = b"") -> socket.socket:
        """Another one."""
        stranger = self._stack.enter_context(socket.create_connection(self._address, PATIENCE))
        stranger.sendall(says)
        return stranger

    def leave(self) -> None:
        """They all hang up."""
        self._stack.close()


@pytest.fixture
def crowd(contact: Contact) -> Iterator[Crowd]:
    crowd = Crowd(contact)
    yield crowd
    crowd.leave()


def is_cut(stranger: socket.socket, within: float = PATIENCE) -> bool:
    """Whether a connection ends, whatever it is told before."""
    stranger.settimeout(within)
    try:
        while stranger.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        pass
    return True


def hello() -> bytes:
    """What a client of TLS says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


HALF_WAYS = {
    "silent": b"",
    "half a proof": b"p" * 63,
    "half a hello": hello()[:100],
    "a hello": hello()[:-1],
    # Taken for a length it would be 2**63.
    "a long message": b"\x7f" * 63,
}


def test_strangers_are_cut_in_time(
    contact: Contact, echo: Echo, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they stop, and also who sends a byte from time to time; workers stay."""
    channel = Channel(connect(contact))
    monkeypatch.setattr(door, "PROVEN_WITHIN", 0.4)
    strangers = [crowd.one(says) for says in HALF_WAYS.values()]
    strangers.append(crowd.one(hello()))
    slow = crowd.one()
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - began < PATIENCE:
            slow.sendall(b"\x16")
            time.sleep(0.02)
    assert time.monotonic() - began < PATIENCE, "it was cut"
    assert [is_cut(stranger) for stranger in strangers] == [True] * len(strangers)
    channel.send(1, b"still here")
    eventually(lambda: echo.said == [(1, b"still here")], "the worker is")
    channel.close()


def test_strangers_are_few(contact: Contact, echo: Echo, crowd: Crowd) -> None:
    """Some go; a worker that comes after them gets in."""
    before = psutil.Process().num_fds()
    strangers = [crowd.one() for _ in range(300)]
    channel = Channel(connect(contact))
    eventually(lambda: bool(echo.here), "the worker is in")
    eventually(
        lambda: psutil.Process().num_fds() - before <= 300 + door.STRANGERS + 3,
        "their own ends, and few of ours",
    )
    assert sum(not is_cut(stranger, 0.001) for stranger in strangers) <= door.STRANGERS
    channel.send(1, b"still here")
    eventually(lambda: echo.said == [(1, b"still here")], "the worker is")
    channel.close()


@pytest.mark.slow
def test_workers_get_in_while_strangers_come(contact: Contact, echo: Echo) -> None:
    """There are always more than may be: those that are cut among them knock again."""
    over, crowded = threading.Event(), threading.Event()

    def keep_coming() -> None:
        with contextlib.ExitStack() as stack:
            there: deque[socket.socket] = deque()
            while not over.is_set():
                address = contact.host, contact.port
                there.append(stack.enter_context(socket.create_connection(address, PATIENCE)))
                if len(there) > 2 * door.STRANGERS:
                    there.popleft().close()
                    crowded.set()

    stranger = threading.Thread(target=keep_coming)
    stranger.start()
    channels = []
    try:
        assert crowded.wait(PATIENCE)
        channels = [Channel(connect(contact)) for _ in range(5)]
        eventually(lambda: len(echo.here) == 5, "all workers are in")
    finally:
        over.set()
        stranger.join(PATIENCE)
    for channel in channels:
        channel.close()


def test_a_worker_that_was_cut_knocks_again(contact: Contact, echo: Echo) -> None:
    cut = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            """Cuts one, and leads the next to the driver."""
            server.accept()[0].close()
            cut.set()
            first, _ = server.accept()
            with first, socket.create_connection((contact.host, contact.port)) as second:
                ends = [
                    threading.Thread(target=_pass_on, args=pair)
                    for pair in ((first, second), (second, first))
                ]
                for end in ends:
                    end.start()
                for end in ends:
                    end.join(PATIENCE)

        between = threading.Thread(target=serve)
        between.start()
        channel = Channel(connect(contact._replace(port=server.getsockname()[1])))
        assert cut.is_set()
        eventually(lambda: bool(echo.here), "it is in")
        channel.close()
        between.join(PATIENCE)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_a_worker_notices_that_its_driver_is_another(contact: Contact) -> None:
    """One that answers anything, and knows nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answers = threading.Thread(target=_pretend, args=[server])
        answers.start()
        with pytest.raises(OSError):  # noqa: PT011  its words differ, with and without TLS
            connect(contact._replace(port=server.getsockname()[1]))
        answers.join(PATIENCE)


def _pretend(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"x" * 32)
        connection.recv(64)
        connection.sendall(b"x" * 32)


@pytest.mark.parametrize("way", ["tls"], indirect=True)
class TestTLS:
    """Where Ray uses it."""

    def test_what_is_sent_cannot_be_read(self, contact: Contact) -> None:
        with socket.create_connection((contact.host, contact.port)) as plain:
            plain.settimeout(0.3)
            with pytest.raises(TimeoutError):
                plain.recv(1)  # a challenge would be here

    def test_a_driver_of_another_authority_is_refused(
        self, contact: Contact, echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in certificates(tmp_path / "theirs").items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ssl.SSLError, match="certificate verify failed"):
            connect(contact)
        assert echo.here == []

    def test_a_worker_of_another_authority_is_refused(
        self, contact: Contact, echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wire, "KNOCKS_FOR", 0.2)  # it might have been cut among strangers
        for name, value in certificates(tmp_path / "theirs").items():
            if name != "RAY_TLS_CA_CERT":  # it trusts the driver, not the other way about
                monkeypatch.setenv(name, value)
        with pytest.raises(OSError):  # noqa: PT011  an alert, or nothing more
            connect(contact)
        assert echo.here == []

    def test_certificates_that_are_not_there(
        self, contact: Contact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("RAY_TLS_SERVER_KEY")
        monkeypatch.setenv("RAY_TLS_SERVER_CERT", "nowhere.pem")
        with pytest.raises(OSError, match=r"RAY_TLS_SERVER_CERT='nowhere\.pem'"):
            connect(contact)

    def test_a_worker_without_a_certificate_is_refused(self, contact: Contact, echo: Echo) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection((contact.host, contact.port)) as plain,
            context.wrap_socket(plain) as bare,
            contextlib.suppress(ssl.SSLError),  # or it is hung up on
        ):
            assert bare.recv(32) == b"", "no challenge"
        assert echo.here == []
