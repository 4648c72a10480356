"""What the page holds between requests, in memory: uploads that wait to be opened, and what was opened, by page."""

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

from .limits import Refused

__all__ = ["Sessions", "Turns", "Uploads"]

T = TypeVar("T")

# Uploads that are not opened yet are held so many at once, and so long.
WAITING, WAITING_SECONDS = 4, 60.0
# So many of those who were put away are told so.
REMEMBERED = 1000


class Turns:
    """A lock that goes to those who wait for it in the order in which they came.

    Who gives it back and wants it again at once, as between two frames, is behind them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._came = 0
        self._served = 0

    def __enter__(self) -> None:
        with self._changed:
            mine, self._came = self._came, self._came + 1
            self._changed.wait_for(lambda: self._served == mine)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._served += 1
            self._changed.notify_all()


class Sessions(Generic[T]):
    """One value for each page that is open; of too many, the one used longest ago goes. Threads may share it.

    Args:
      make: makes the value of a page that has none yet.
      release: is called with a value that goes.
      most: how many are held.
      idle_seconds: one that no one used for so long goes too.
      clock: gives seconds.
    """

    def __init__(
        self,
        make: Callable[[], T],
        release: Callable[[T], None],
        most: int,
        idle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._make = make
        self._release = release
        self._most = most
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._values: OrderedDict[str, tuple[float, T]] = OrderedDict()  # the one used last at the end
        self._put_away: deque[str] = deque(maxlen=REMEMBERED)

    def __len__(self) -> int:
        with self._lock:
            self._purge()
            return len(self._values)

    def open(self, key: str) -> T:
        """The page's value, made if it has none."""
        with self._lock:
            self._purge()
            _, value = self._values.pop(key, (0.0, None))
            value = self._make() if value is None else value
            self._values[key] = self._clock(), value
            while len(self._values) > self._most:
                self._put_oldest_away()
            return value

    def get(self, key: str) -> T:
        """The page's value.

        Raises:
          Refused: if it has none, or none any more.
        """
        with self._lock:
            self._purge()
            if key not in self._values:
                raise Refused(self._reason(key))
            _, value = self._values.pop(key)
            self._values[key] = self._clock(), value
            return value

    def close(self, key: str) -> None:
        """Forgets the page's value."""
        with self._lock:
            if key in self._values:
                self._release(self._values.pop(key)[1])

    def purge(self) -> None:
        """Forgets what no one used for too long."""
        with self._lock:
            self._purge()

    def _purge(self) -> None:
        now = self._clock()
        while self._values and now - next(iter(self._values.values()))[0] > self._idle_seconds:
            self._put_oldest_away()

    def _put_oldest_away(self) -> None:
        key, (_, value) = self._values.popitem(last=False)
        self._put_away.append(key)
        self._release(value)

    def _reason(self, key: str) -> str:
        if key not in self._put_away:
            return "Nothing is open here yet; choose a file first."
        return (
            f"What was open here was put away: it was not used for {self._idle_seconds / 60:.0f} minutes, or more than "
            f"{self._most} pages were in use. Choose the file again."
        )


class Uploads:
    """Files' bytes on their way from the browser to the page, each under a ticket that cannot be guessed, taken once.

    Args:
      clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def put(self, data: bytes) -> str:
        """Holds the bytes; returns the ticket."""
        ticket = secrets.token_urlsafe()
        with self._lock:
            self._purge()
            self._waiting[ticket] = self._clock(), data
            while len(self._waiting) > WAITING:
                self._waiting.popitem(last=False)
        return ticket

    def take(self, ticket: object) -> bytes:
        """The bytes of a ticket, which is no longer good then.

        Raises:
          Refused: if it is not good.
        """
        with self._lock:
            self._purge()
            if not isinstance(ticket, str) or ticket not in self._waiting:
                raise Refused("The upload is no longer here; choose the file again.")
            return self._waiting.pop(ticket)[1]

    def purge(self) -> None:
        """Forgets what was not taken for too long."""
        with self._lock:
            self._purge()

    def _purge(self) -> None:
        now = self._clock()
        while self._waiting and now - next(iter(self._waiting.values()))[0] > WAITING_SECONDS:
            self._waiting.popitem(last=False)
