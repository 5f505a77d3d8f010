"""What the built-in clients send: ordinary requests, no two of which have the same head."""

from flashsale_project.benchmark.browser import Browser
from flashsale_project.serving.http.hot import HOT
from tests.unit.serving.http.h11_reader import Message, by_h11, ours, value

CALL = b"POST /checkout?user_id=1&item_id=2"


def read(data: bytes) -> Message:
    """The one request that this is."""
    [message] = ours([data]).messages
    assert by_h11(data).messages == [message]
    return message


def test_each_request_has_a_mark_and_an_address_of_its_own() -> None:
    browser = Browser()
    heads = [read(browser.request(CALL)) for _ in range(20)]
    for name in b"x-request-id", b"x-forwarded-for":
        assert len({value(head, name) for head in heads}) == 20
    assert len({value(head, b"cookie") for head in heads}) == 1


def test_each_browser_has_a_cookie_of_its_own() -> None:
    assert len({value(read(Browser().request(CALL)), b"cookie") for _ in range(20)}) == 20


def test_names_come_in_both_spellings() -> None:
    requests = [Browser().request(CALL) for _ in range(50)]
    assert {b"\r\nHost: " in request for request in requests} == {True, False}
    assert {b"\r\nhost: " in request for request in requests} == {True, False}


def test_the_express_lane_takes_what_browsers_send() -> None:
    for _ in range(50):
        assert HOT.fullmatch(Browser().request(CALL)) is not None
