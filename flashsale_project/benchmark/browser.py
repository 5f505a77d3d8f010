"""Requests as browsers send them through a proxy: no two have the same head."""

import itertools
import random

PROGRAMS = (
    b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    b" Chrome/142.0.0.0 Safari/537.36",
    b"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    b" Version/18.6 Mobile/15E148 Safari/604.1",
    b"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
)
LANGUAGES = (b"en-GB,en;q=0.9", b"de-DE,de;q=0.8,en;q=0.5", b"ja")

_marks = itertools.count(random.getrandbits(127))


class Browser:
    """One browser with a cookie of its own, behind a proxy that marks each of its requests.

    Some proxies hand on names as HTTP/2 has them, in lower case.
    """

    __slots__ = ("_form",)

    def __init__(self) -> None:
        fields = {
            b"Host": b"localhost",
            b"Content-Length": b"0",
            b"User-Agent": random.choice(PROGRAMS),
            b"Accept": b"*/*",
            b"Accept-Language": random.choice(LANGUAGES),
            b"Accept-Encoding": b"gzip, deflate, br",
            b"Origin": b"https://localhost",
            b"Referer": b"https://localhost/",
            b"Cookie": b"session=%032x; consent=yes" % random.getrandbits(128),
            b"X-Forwarded-Proto": b"https",
            b"X-Request-ID": b"%032x",
            b"X-Forwarded-For": b"10.0.%d.%d",
        }
        if random.random() < 0.5:
            fields = {name.lower(): value for name, value in fields.items()}
        lines = b"".join(b"%b: %b\r\n" % field for field in fields.items())
        self._form = b"%b HTTP/1.1\r\n" + lines + b"\r\n"

    def request(self, call: bytes) -> bytes:
        """A request for this call: a method, a space and a target."""
        mark = next(_marks)
        return self._form % (call, mark, mark >> 8 & 255, mark & 255)
