import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.auth.rates import RateLimitedError, Rates, TokenBucket
from shared.auth.tokens import Rate
from shared.clock import ManualClock


def test_a_second_of_requests_goes_out_at_once_and_the_next_one_waits() -> None:
    clock = ManualClock()
    rates = Rates(clock)
    assert [rates.take("a", 3).remaining for _ in range(3)] == [2, 1, 0]
    with pytest.raises(RateLimitedError) as caught:
        rates.take("a", 3)
    assert caught.value.retry_after_s == pytest.approx(1 / 3)
    assert caught.value.rate == Rate(limit=3, remaining=0, reset_s=1)


def test_waiting_as_long_as_told_is_enough() -> None:
    clock = ManualClock()
    rates = Rates(clock)
    for _ in range(1000):
        try:
            rates.take("a", 7)
        except RateLimitedError as error:
            clock.advance(error.retry_after_s)
            rates.take("a", 7)


def test_a_limit_below_one_lets_one_request_pass_and_then_makes_wait() -> None:
    clock = ManualClock()
    rates = Rates(clock)
    assert rates.take("a", 0.1) == Rate(limit=1, remaining=0, reset_s=10)
    clock.advance(9.9)
    with pytest.raises(RateLimitedError):
        rates.take("a", 0.1)
    clock.advance(0.1)
    rates.take("a", 0.1)


def test_tokens_do_not_take_from_each_other_and_a_new_limit_counts_at_once() -> None:
    rates = Rates(ManualClock())
    rates.take("a", 1)
    rates.take("b", 1)
    assert rates.take("a", 5).remaining == 4


def test_no_more_buckets_are_kept_than_allowed_and_the_busy_ones_stay() -> None:
    rates = Rates(ManualClock(), max_buckets=2)
    rates.take("a", 1)
    rates.take("b", 2)
    with pytest.raises(RateLimitedError):
        rates.take("a", 1)
    rates.take("c", 1)
    with pytest.raises(RateLimitedError):
        rates.take("a", 1)
    assert rates.take("b", 2).remaining == 1


@given(
    st.floats(min_value=0.01, max_value=1000),
    st.lists(st.floats(min_value=0, max_value=10), max_size=60),
)
def test_never_more_goes_out_than_the_limit_allows(rps: float, waits_s: list[float]) -> None:
    now_s = 0.0
    bucket = TokenBucket(rps, now_s)
    passed = 0
    for wait_s in waits_s:
        now_s += wait_s
        passed += bucket.take(now_s) == 0.0
        assert passed <= bucket.capacity + now_s * rps + 1e-3
        rate = bucket.rate()
        assert 0 <= rate.remaining <= rate.limit
