from __future__ import annotations

import pytest

from shared.clickhouse.hosts import Hosts
from shared.clickhouse.url import Host

A, B, C = (Host(name, 9000, 8123) for name in "abc")


def test_a_host_that_answered_stays_the_first() -> None:
    hosts = Hosts((A, B, C), lambda: 0.0)
    assert hosts.in_order() == (A, B, C)
    hosts.answered(B)
    assert hosts.in_order() == (B, C, A)


def test_a_host_that_failed_is_left_alone_longer_each_time_but_not_for_ever() -> None:
    now_s = [0.0]
    hosts = Hosts((A, B), lambda: now_s[0])
    pauses_s = []
    for _ in range(8):
        hosts.failed(A)
        pauses_s.append(hosts.pause_s(A))
    assert pauses_s == sorted(pauses_s)
    assert (pauses_s[0], pauses_s[-1]) == (0.05, 1.0)
    assert hosts.in_order() == (B, A)
    now_s[0] = 2.0
    assert hosts.in_order() == (A, B)
    assert hosts.pause_s(A) == 0.0
    hosts.answered(A)
    hosts.failed(A)
    assert hosts.pause_s(A) == pytest.approx(0.05)
