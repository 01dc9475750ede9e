"""One at a time, in a fair order, and no more than there is room for."""

import threading
import time

import pytest

from MaskGIL.page.turns import Busy, Turns


def test_one_at_a_time_and_in_order():
    turns, served, inside = Turns(9, 9), [], []
    holds, starts = threading.Event(), [threading.Event() for _ in range(4)]

    def visit(number):
        def waits(before):
            starts[number].set()

        with turns.turn("me", waits, 0.01):
            starts[number].set()
            inside.append(number)
            assert len(inside) == 1
            served.append(number)
            if number == 0:
                assert holds.wait(10)
            inside.remove(number)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(4)]
    for thread, started in zip(threads, starts):
        thread.start()
        assert started.wait(10)
    holds.set()
    for thread in threads:
        thread.join(10)
    assert served == [0, 1, 2, 3]


def test_no_more_than_there_is_room_for():
    turns = Turns(1, 1)
    with turns.turn("me", pytest.fail), pytest.raises(Busy), turns.turn("me", pytest.fail):
        pytest.fail("there was no room")
    with turns.turn("me", pytest.fail):  # there is again
        pass


def test_who_leaves_while_waiting_gives_the_place_up():
    turns, told = Turns(2, 2), []

    def leaves(before):
        told.append(before)
        raise ConnectionAbortedError

    with turns.turn("me", pytest.fail):
        for _ in range(3):
            with pytest.raises(ConnectionAbortedError), turns.turn("me", leaves):
                pytest.fail("it is not their turn")
    assert told == [1, 1, 1]


def test_a_turn_that_fails_is_over():
    turns = Turns(1, 1)
    with pytest.raises(KeyError), turns.turn("me", pytest.fail):
        raise KeyError
    with turns.turn("me", pytest.fail):
        pass


def test_nobody_fills_the_line_alone():
    turns, served = Turns(9, 3), []
    holds, threads = threading.Event(), []

    def visit(name):
        with turns.turn(name[0], lambda before: None, 0.01):
            served.append(name)
            assert holds.wait(10)

    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        threads.append(threading.Thread(target=visit, args=(name,)))
        threads[-1].start()
        ends = time.monotonic() + 10
        while len(turns._line) < len(threads):
            assert time.monotonic() < ends
            time.sleep(0.002)
    with pytest.raises(Busy), turns.turn("a", pytest.fail):  # of one visitor so many wait already
        pytest.fail("there was no room")
    holds.set()
    for thread in threads:
        thread.join(10)
    assert served == ["a1", "b1", "c1", "a2", "b2", "a3"]
