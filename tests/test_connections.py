"""Connections are counted, in all and by address, and ended when their time is over."""

import socket
from contextlib import ExitStack

import pytest

from MaskGIL.page.connections import Connections


@pytest.fixture
def pair():
    with ExitStack() as stack:

        def pair():
            ours, theirs = socket.socketpair()
            theirs.settimeout(5)
            ours.settimeout(5)
            return stack.enter_context(ours), stack.enter_context(theirs)

        yield pair


def test_there_is_room_for_some_and_less_for_one_alone(pair):
    connections = Connections(3, 2, 60)
    first, *others = (pair()[0] for _ in range(4))
    assert connections.add(first, "a")
    assert connections.add(others[0], "a")
    assert not connections.add(others[1], "a")
    assert connections.add(others[1], "b")
    assert not connections.add(others[2], "c")
    connections.remove(first)
    assert len(connections) == 2
    assert connections.add(others[2], "a")


def test_those_whose_time_is_over_are_read_no_more_but_answered(pair):
    connections = Connections(9, 9, 0)
    (late, its_visitor), (stays, _) = pair(), pair()
    connections.add(late, "a")
    connections.add(stays, "a")
    connections.let_stay(stays)
    connections.end_late()
    assert late.recv(1) == b""
    late.sendall(b"why")
    assert its_visitor.recv(3) == b"why"
    stays.setblocking(False)
    with pytest.raises(BlockingIOError):
        stays.recv(1)


def test_all_are_sent_away_and_a_closed_one_does_no_harm(pair):
    connections = Connections(9, 9, 60)
    (open_, visitor), (closed, _) = pair(), pair()
    connections.add(closed, "a")
    connections.add(open_, "a")
    connections.let_stay(open_)
    closed.close()
    connections.end_late()
    connections.end_all()
    assert open_.recv(1) == b""
    assert visitor.recv(1) == b""
    with pytest.raises(OSError, match="roken pipe"):
        open_.sendall(b"x")
