"""Work on threads: results in order, one thread of algebra each, and nothing left at work where one fails."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import torch

from cadmus.runtime.threads import on_threads


def test_results_come_in_order_and_progress_is_reported() -> None:
    reports: list[tuple[str, float, str]] = []

    def work(k: int) -> int:
        time.sleep(0.01 * (4 - k))
        return 2 * k

    results = on_threads(work, [(k,) for k in range(4)], "double", lambda *report: reports.append(report))
    assert results == [0, 2, 4, 6]
    assert reports == [("double", fraction, "") for fraction in (0.25, 0.5, 0.75, 1.0)]
    assert on_threads(pow, []) == []


def test_each_has_one_thread_for_its_algebra_and_torch_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    assert on_threads(torch.get_num_threads, [()] * 3) == [1, 1, 1]
    assert torch.get_num_threads() == before


def test_where_one_fails_nothing_is_left_at_work() -> None:
    at_work, started, lock = 0, [], threading.Lock()

    def work(k: int) -> None:
        nonlocal at_work
        with lock:
            at_work += 1
            started.append(k)
        time.sleep(0.2 if k else 0.05)
        with lock:
            at_work -= 1
        if k == 0:
            raise ValueError("one failed")

    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="one failed"):
        on_threads(work, [(k,) for k in range(200)])
    assert at_work == 0
    assert len(started) < 200, "the others are left out"
    assert torch.get_num_threads() == before


def test_threads_of_small_products_wait_little_for_one_that_interprets() -> None:
    before = sys.getswitchinterval()
    assert max(on_threads(sys.getswitchinterval, [()] * 2)) < 1e-3
    assert sys.getswitchinterval() == before
    with pytest.raises(ZeroDivisionError):
        on_threads(divmod, [(1, 0)])
    assert sys.getswitchinterval() == before
