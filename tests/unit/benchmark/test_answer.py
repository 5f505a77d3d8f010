"""The reader of answers."""

import pytest

from flashsale_project.benchmark.answer import AnswerReader

CODE = b"00000040-0072-80d2-8b06-7bc5baa26c1e"
ANSWERS = [
    (b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: 36\r\n\r\n" + CODE, (200, CODE)),
    (b'HTTP/1.1 409 Conflict\r\nContent-Length: 9\r\nX: "\r\n\r\nsold\r\n\r\n!', (409, b"sold\r\n\r\n!")),
    (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n", (503, b"")),
]


@pytest.mark.parametrize(("data", "expected"), ANSWERS)
def test_an_answer_is_read_wherever_it_is_split(data: bytes, expected: tuple[int, bytes]) -> None:
    reader = AnswerReader()
    for split in range(1, len(data)):
        assert reader.feed(data[:split]) is None
        assert reader.feed(data[split:]) == expected


def test_answers_are_read_byte_by_byte_one_after_another() -> None:
    reader = AnswerReader()
    for data, expected in ANSWERS * 2:
        found = [reader.feed(data[place : place + 1]) for place in range(len(data))]
        assert found == [None] * (len(data) - 1) + [expected]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"nonsense\r\ncontent-length: 0\r\n\r\n",
        ANSWERS[0][0] + ANSWERS[1][0],
        ANSWERS[0][0] + b"x",
    ],
)
def test_what_is_not_one_answer_with_a_length_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - one of int() is as good as one of ours
        AnswerReader().feed(data)
