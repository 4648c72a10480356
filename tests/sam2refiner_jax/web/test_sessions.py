"""What is held between requests: not too much, not too long, and only for the page whose it is."""

import threading

import pytest

from sam2refiner_jax.web.limits import Refused
from sam2refiner_jax.web.sessions import WAITING, WAITING_SECONDS, Sessions, Turns, Uploads


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def sessions(clock, released, most=2):
    return Sessions(list, released.append, most, 60.0, clock)


def test_each_page_has_a_value_of_its_own_until_it_closes(clock):
    released = []
    pages = sessions(clock, released)
    with pytest.raises(Refused, match="Nothing is open here yet"):
        pages.get("a")
    pages.open("a").append(1)
    pages.open("b").append(2)
    assert pages.open("a") is pages.get("a")
    assert (pages.get("a"), pages.get("b"), len(pages)) == ([1], [2], 2)
    pages.close("a")
    pages.close("a")
    assert released == [[1]]
    with pytest.raises(Refused, match="Nothing is open here yet"):
        pages.get("a")


def test_of_too_many_pages_the_one_used_longest_ago_goes_and_is_told_why(clock):
    released = []
    pages = sessions(clock, released)
    for key in "ab":
        pages.open(key).append(key)
    pages.get("a")
    pages.open("c")
    assert released == [["b"]]
    assert pages.get("a") == ["a"]
    with pytest.raises(Refused, match="put away: it was not used for 1 minutes, or more than 2 pages"):
        pages.get("b")


def test_what_nobody_uses_goes(clock):
    released = []
    pages = sessions(clock, released)
    pages.open("a").append("a")
    clock.now = 50.0
    pages.open("b").append("b")
    clock.now = 61.0
    pages.purge()
    assert released == [["a"]]
    clock.now = 200.0
    assert len(pages) == 0
    with pytest.raises(Refused, match="put away"):
        pages.get("b")


def test_an_upload_is_taken_once_by_who_has_its_ticket(clock):
    uploads = Uploads(clock)
    tickets = [uploads.put(data) for data in (b"a", b"b")]
    assert len(set(tickets)) == 2
    assert min(map(len, tickets)) >= 40
    assert [uploads.take(ticket) for ticket in tickets] == [b"a", b"b"]
    for ticket in (tickets[0], "", None, 3, ["x"], {}):
        with pytest.raises(Refused, match="no longer here"):
            uploads.take(ticket)


def test_uploads_that_nobody_takes_go(clock):
    uploads = Uploads(clock)
    tickets = [uploads.put(bytes([i])) for i in range(WAITING + 1)]
    with pytest.raises(Refused):
        uploads.take(tickets[0])
    assert uploads.take(tickets[1]) == b"\x01"
    clock.now = WAITING_SECONDS + 1
    uploads.purge()
    assert not uploads._waiting


def test_turns_are_taken_in_order():
    """Who gives the turn back and wants it at once again is behind who waited."""
    turns, order, waits = Turns(), [], threading.Event()

    def click():
        waits.set()
        with turns:
            order.append("click")

    with turns:
        other = threading.Thread(target=click)
        other.start()
        waits.wait()
        while turns._came < 2:  # until it stands in the queue
            pass
    with turns:
        order.append("next frame")
    other.join()
    assert order == ["click", "next frame"]


def test_an_error_gives_the_turn_back():
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns:
        1 / 0  # noqa: B018
    with turns:
        pass
