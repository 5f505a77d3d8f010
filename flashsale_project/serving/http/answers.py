"""The answers of the express lane as bytes, prepared for as long as the default headers stay the same."""

from uuid import UUID

from django.http import HttpResponse

from flashsale_project.serving.uvicorn_parts import STATUS_LINE
from sales.problems import internal_error, refused
from sales.refusals import REASONS, Reason

DefaultHeaders = list[tuple[bytes, bytes]]
"""Headers of every answer; uvicorn makes a new list of them every second, for the date."""


class Answers:
    """The answers with these default headers."""

    __slots__ = ("_granted", "_headers", "_refusals", "are_last", "default_headers", "purchased")

    def __init__(self, default_headers: DefaultHeaders) -> None:
        self.default_headers = default_headers
        self.are_last = any(name == b"connection" for name, _ in default_headers)
        """Whether every answer says that it closes its connection."""
        self._headers = b"".join(name + b": " + value + b"\r\n" for name, value in default_headers)
        self._refusals: dict[Reason, bytes] = {}
        self.purchased = self._bytes(HttpResponse("purchased", content_type="text/plain"))
        """The answer to a purchase."""
        any_code = str(UUID(int=0))
        whole = self._bytes(HttpResponse(any_code, content_type="text/plain"))
        self._granted = whole.removesuffix(any_code.encode())

    def granted(self, code: UUID) -> bytes:
        """The answer to a checkout."""
        return self._granted + str(code).encode()

    def refusal(self, reason: Reason) -> bytes:
        """A refusal; one that always says the same is prepared."""
        if (answer := self._refusals.get(reason)) is None:
            answer = self._bytes(refused(reason))
            if reason in REASONS:
                self._refusals[reason] = answer
        return answer

    def failure(self) -> bytes:
        """What a client is told of a fault of ours."""
        return self._bytes(internal_error())

    def _bytes(self, response: HttpResponse) -> bytes:
        """A response as uvicorn would send it."""
        response["Content-Length"] = str(len(response.content))
        headers = b"".join(
            name.lower().encode() + b": " + value.encode("latin-1") + b"\r\n"
            for name, value in response.items()
        )
        return STATUS_LINE[response.status_code] + self._headers + headers + b"\r\n" + response.content


def closing(answer: bytes) -> bytes:
    """The same answer, which says that it closes its connection."""
    head, body = answer.split(b"\r\n\r\n", 1)
    return head + b"\r\nconnection: close\r\n\r\n" + body


class Prepared:
    """Keeps the answers that all connections of a worker share."""

    def __init__(self) -> None:
        self._answers = Answers([])

    def answers(self, default_headers: DefaultHeaders) -> Answers:
        """Those with these default headers, made anew where it is another list."""
        if self._answers.default_headers is not default_headers:
            self._answers = Answers(default_headers)
        return self._answers
