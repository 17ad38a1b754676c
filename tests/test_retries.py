"""Files that could not be read yet are tried at growing intervals, and dropped from the list once they are read."""

from indexer.watch import retries
from indexer.watch.retries import Retries


def test_each_failure_doubles_the_wait_up_to_the_last():
    waits, now_s = Retries(2.0, 10.0), 100.0
    waited = []
    for _ in range(5):
        waits.failed([b"/a"], now_s)
        waited.append(waits.next_s - now_s)
        assert waits.due(waits.next_s - 0.001) == []
        now_s = waits.next_s
        assert waits.due(now_s) == [b"/a"]
        assert waits.due(now_s) == []  # once
    assert waited == [2.0, 4.0, 8.0, 10.0, 10.0]


def test_what_was_read_meanwhile_begins_anew():
    waits = Retries(2.0, 10.0)
    waits.failed([b"/a", b"/b"], 0.0)
    assert waits.due(2.0) == [b"/a", b"/b"]
    waits.failed([b"/b"], 2.0)  # a was read
    assert waits.next_s == 6.0
    waits.failed([b"/a"], 3.0)
    assert waits.next_s == 5.0
    assert waits.due(5.0) == [b"/a"]
    waits.failed([], 5.0)
    assert waits.due(6.0) == [b"/b"]
    waits.failed([], 6.0)
    assert waits.next_s == float("inf")


def test_so_many_and_no_more(monkeypatch):
    monkeypatch.setattr(retries, "MOST", 3)
    waits = Retries(1.0, 1.0)
    waits.failed([b"/%d" % n for n in range(10)], 0.0)
    assert waits.due(1.0) == [b"/0", b"/1", b"/2"]
