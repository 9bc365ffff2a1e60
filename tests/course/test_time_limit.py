"""An answer that runs too long ends, in any thread; nothing reaches the code after it."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from minilora.course import time_limit
from minilora.course.time_limit import TimeLimit, TooLong


def forever():
    while True:
        pass


def forever_eating_exceptions():
    while True:
        with contextlib.suppress(Exception):
            forever()


def limited(function, seconds=0.05):
    with TimeLimit(seconds):
        return function()


@pytest.mark.parametrize("function", [forever, forever_eating_exceptions])
def test_a_loop_ends(function):
    with pytest.raises(TooLong):
        limited(function)


def test_a_loop_that_catches_everything_ends_at_the_second_time(monkeypatch):
    monkeypatch.setattr(time_limit, "AGAIN", 0.05)
    caught = []

    def stubborn():
        try:
            forever()
        except BaseException as error:
            caught.append(type(error))
        forever()

    with pytest.raises(TooLong):
        limited(stubborn)
    assert caught == [TooLong]


def test_a_loop_ends_in_another_thread_and_not_in_this_one():
    ended = []

    def run():
        try:
            limited(forever)
        except TooLong:
            ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=60)
    assert ended == [True]


def test_what_ends_in_time_is_left_alone():
    assert limited(lambda: 3, seconds=60) == 3
    with pytest.raises(KeyError):
        limited(lambda: {}["missing"], seconds=60)


def test_the_clock_stops_with_the_body():
    for _ in range(50):
        with contextlib.suppress(TooLong):  # which ends first is open
            limited(lambda: time.sleep(0.001), seconds=0.001)
    began = time.perf_counter()
    while time.perf_counter() - began < 0.1:  # a TooLong that comes late would end the test here
        pass


def test_no_clock_goes_on_without_its_function(monkeypatch):
    """TooLong may come within __exit__, before it has stopped the clock."""
    monkeypatch.setattr(time_limit, "AGAIN", 0.02)
    monkeypatch.setattr(TimeLimit, "__exit__", lambda *_: None)
    with pytest.raises(TooLong):
        limited(forever, seconds=0.02)
    began = time.perf_counter()
    while time.perf_counter() - began < 0.1:
        pass
