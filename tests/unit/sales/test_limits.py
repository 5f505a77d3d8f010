"""The limits of a worker, added up: what waits for what must wait for long enough."""

from sales import limits


def test_a_batch_that_keeps_all_its_limits_is_never_cut_off() -> None:
    """It is tried, where its connection is lost once more, and then it is asked why some were not done."""
    one_try = limits.CONNECT_TIMEOUT + limits.STATEMENT_TIMEOUT
    assert 2 * one_try + limits.WHY_TIMEOUT < limits.SAVE_TIMEOUT


def test_a_checkout_is_answered_before_a_proxy_gives_it_up() -> None:
    """It waits for its turn, may be decided in a batch that is cut off, and no longer."""
    assert limits.CHECKOUT_PATIENCE + limits.SAVE_TIMEOUT < 60


def test_what_others_did_is_known_within_a_second() -> None:
    assert 2 * limits.TICK <= 1.0
    assert limits.SWEEP_INTERVAL <= 1.0


def test_the_next_sale_is_there_in_time() -> None:
    """Several rounds can still make it once it is due, one after the other."""
    assert 3 * limits.TICK < limits.ROTATION_MARGIN


def test_who_asks_for_counts_gets_a_look_before_the_look_is_given_up() -> None:
    """It waits for the look before, and for the pause between two."""
    assert 2 * limits.LOOK_INTERVAL < limits.LOOK_TIMEOUT < limits.STATEMENT_TIMEOUT


def test_what_may_wait_comes_to_its_turn() -> None:
    assert limits.MAX_BATCH <= limits.MAX_PURCHASES <= limits.MAX_PENDING
