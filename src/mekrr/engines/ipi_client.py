"""A client of i-PI's socket protocol, as its manual describes it, with the batched requests of version 3.3.

All messages begin with a header of twelve letters. i-PI asks (STATUS), announces (INIT), sends structures (POSDATA) and
fetches what was found for them (GETFORCE); numbers travel as they lie in memory, lengths as 32-bit integers.
"""

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mekrr.engines.ipi import Answer, Provider
from mekrr.typing import ndarray

HEADER = 12  # bytes
PATIENCE = 4.0
"""Seconds that a message, once begun, may stand still; between messages i-PI may take as long as it likes."""

UNIX_PREFIX = "/tmp/ipi_"  # as in i-PI
RETRY = 0.2  # seconds
LEAVE_TAKING = 1.0  # seconds
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Of a network connection: seconds of silence, seconds between questions, questions without an answer."""
CHUNK = 1 << 18  # bytes
MOST_BEADS = 100_000  # a larger batch is no batch but a misread message


@dataclass(frozen=True)
class Address:
    """Where i-PI listens: a socket in the file system, or a host and port.

    Attributes:
        unix: name, to which i-PI's prefix is added, or a path; None for an internet socket.
        host: name or number.
        port: number.

    Raises:
        ValueError: for a port that is none.
    """

    unix: str | None = None
    host: str = "localhost"
    port: int = 0

    def __post_init__(self) -> None:
        if self.unix == "":
            raise ValueError("the name of the socket is empty: give the <address> of i-PI's <ffsocket mode='unix'>")
        if self.unix is None and not 0 < self.port < 65536:
            raise ValueError(f"a port is a number from 1 to 65535; received {self.port}")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.unix is None else str(self.path)

    @property
    def path(self) -> Path:
        """Of the socket in the file system."""
        assert self.unix is not None
        return Path(self.unix if "/" in self.unix else UNIX_PREFIX + self.unix)

    def connect(self, wait: float = 0.0) -> socket.socket:
        """A connection to i-PI.

        Args:
            wait: seconds to go on trying while nobody listens.

        Raises:
            ConnectionError: when nobody listens, or the host is not to be found.
        """
        until = time.monotonic() + wait
        while True:
            try:
                return self._try()
            except OSError as error:
                if _is_final(error) or time.monotonic() + RETRY > until:
                    raise ConnectionError(self._why(error)) from error
                time.sleep(RETRY)

    def _try(self) -> socket.socket:
        if self.unix is None:
            connection = socket.create_connection((self.host, self.port), timeout=PATIENCE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _notice_a_dead_machine(connection)
            return connection
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.path))
        except BaseException:
            connection.close()
            raise
        return connection

    def _why(self, error: OSError) -> str:
        if isinstance(error, socket.gaierror):
            return f"there is no host {self.host!r}: check --host"
        if _is_final(error):
            return f"{self}: {error}; give a shorter one"
        if self.unix is not None and isinstance(error, ConnectionRefusedError):
            return (
                f"{self}: the socket is there but nobody listens, as after a killed i-PI: remove the file, start i-PI, "
                "and try again"
            )
        return (
            f"no i-PI listens at {self} ({error.strerror or error}): start i-PI first, or let mekrr wait for it with "
            "--wait SECONDS; the address is that of <ffsocket> in i-PI's input"
        )


def _notice_a_dead_machine(connection: socket.socket) -> None:
    """Have the system ask whether the other machine is there, so that one that went without a word is missed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _is_final(error: OSError) -> bool:
    """Whether waiting changes nothing: an unknown host, or a path that is too long, which has no number."""
    return isinstance(error, socket.gaierror) or (error.errno is None and not isinstance(error, TimeoutError))


class Wire:
    """Messages over a connection to i-PI; `with` closes it.

    As much as has come is taken off the connection at a time, and what is left when it is closed: a connection that
    ends with something unread is reset, by which the thread of i-PI 3.3 that reads it dies, and i-PI hangs.

    Args:
        connection: from `Address.connect`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unread = bytearray()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        """Say that nothing more will come, and read what does until i-PI closes its end, or too long."""
        until = time.monotonic() + LEAVE_TAKING
        with self._connection, suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            while (left := until - time.monotonic()) > 0:
                self._connection.settimeout(left)
                if not self._connection.recv(CHUNK):
                    break

    def header(self) -> str:
        """The next message's header; waits for it as long as it takes.

        Raises:
            ConnectionError: when i-PI is gone.
        """
        if not self._unread:
            self._take(None)
        return self._bytes(HEADER).rstrip().decode("ascii", "replace")

    def read(self, dtype: type, *shape: int) -> ndarray:
        """The next numbers.

        Raises:
            ConnectionError: when i-PI is gone or has stopped within a message.
        """
        count = int(np.prod(shape, dtype=int))
        return np.frombuffer(self._bytes(count * np.dtype(dtype).itemsize), dtype).reshape(shape)

    def integer(self) -> int:
        """The next integer; see `read`."""
        return int(self.read(np.int32)[()])

    def write(self, header: str, *parts: bytes) -> None:
        """Send a message.

        Raises:
            ConnectionError: when i-PI is gone or does not take it.
        """
        self._connection.settimeout(PATIENCE)
        try:
            self._connection.sendall(b"".join([header.ljust(HEADER).encode(), *parts]))
        except OSError as error:
            raise _gone(error) from error

    def _bytes(self, count: int) -> bytes:
        while len(self._unread) < count:
            self._take(PATIENCE)
        found = bytes(self._unread[:count])
        del self._unread[:count]
        return found

    def _take(self, patience: float | None) -> None:
        self._connection.settimeout(patience)
        try:
            part = self._connection.recv(CHUNK)
        except OSError as error:
            raise _gone(error) from error
        if not part:
            raise _gone(None)
        self._unread += part


def _gone(error: OSError | None) -> ConnectionError:
    """The sentence for a connection that is lost; None for one that ended without a word."""
    if isinstance(error, TimeoutError) and error.errno is None:  # with a number it is the network that is silent
        return ConnectionError(
            f"i-PI stopped within a message for {PATIENCE:g} seconds: it hangs, or its <ffsocket> has mode='shm', "
            "which mekrr does not speak (use 'unix')"
        )
    why = f" ({error.strerror})" if error is not None and error.strerror else ""
    return ConnectionError(f"i-PI closed the connection without saying goodbye{why}: it was killed, or has failed")


class Client:
    """Answers i-PI, message by message.

    Args:
        wire: to i-PI.
        provider: of answers.

    Attributes:
        batch_size: structures in a request, as i-PI announced it.
    """

    def __init__(self, wire: Wire, provider: Provider) -> None:
        self._wire = wire
        self._provider = provider
        self._announced = False
        self._answers: list[Answer] = []
        self.batch_size = 1

    def run(self) -> bool:
        """Answer until i-PI says goodbye, True, or the watch asks for an end, False.

        Raises:
            ConnectionError: when i-PI is gone, or speaks another protocol.
            DataError, ValueError, UnstableError, OSError: see Provider.
        """
        replies = {
            "STATUS": self._status,
            "INIT": self._init,
            "POSDATA": self._evaluate,
            "GETFORCE": self._send,
        }
        while not self._provider.watch.stopped:
            header = self._wire.header()
            if header == "EXIT":
                return True
            if header not in replies:
                raise ConnectionError(f"received {header!r}, which is no message of i-PI: does i-PI listen there?")
            replies[header]()
        return False

    def _status(self) -> None:
        ready = "READY" if self._announced else "NEEDINIT"
        self._wire.write("HAVEDATA" if self._answers else ready)

    def _init(self) -> None:
        self._wire.integer()  # which bead comes next
        text = bytes(self._wire.read(np.uint8, self._count("letters"))).decode("utf-8", "replace")
        for word in text.split(","):
            name, _, value = word.partition(":")
            if name.strip() == "batch_size" and value.strip().isdigit():
                self.batch_size = min(int(value), MOST_BEADS)
        self._announced = True

    def _count(self, what: str) -> int:
        count = self._wire.integer()
        if count < 0:
            raise ConnectionError(f"received {count} as a number of {what}: does i-PI listen there?")
        return count

    def _evaluate(self) -> None:
        """One structure: cell, its inverse, count, positions. A batch: count, all cells, all positions."""
        wire, n = self._wire, self.batch_size
        if n == 1:
            cells = wire.read(np.float64, 1, 2, 3, 3)
        n_atoms = wire.integer()
        self._provider.boxes.require_count(n_atoms)
        if n > 1:
            cells = wire.read(np.float64, n, 2, 3, 3)
        positions = wire.read(np.float64, n, n_atoms, 3)
        self._answers = self._provider(list(cells[:, 0]), list(positions))

    def _send(self) -> None:
        answers = self._answers
        if not answers:
            raise ConnectionError("i-PI asked for forces before it sent a structure")
        extras = [answer.extras.encode() for answer in answers]
        self._wire.write(
            "FORCEREADY",
            np.array([answer.energy for answer in answers]).tobytes(),
            np.int32(len(answers[0].forces)).tobytes(),
            np.array([answer.forces for answer in answers], np.float64).tobytes(),
            np.array([answer.virial.T for answer in answers], np.float64).tobytes(),
            *(np.int32(len(extra)).tobytes() + extra for extra in extras),
        )
        self._answers = []
