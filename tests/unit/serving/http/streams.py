"""Streams of requests, right and wrong, for Hypothesis."""

from hypothesis import strategies as st

from flashsale_project.serving.limits import (
    MAX_EMPTY_LINES,
)

TARGETS = st.sampled_from(
    [
        *(
            "/",
            "/checkout?user_id=1",
            "/a?b=c&d=%20",
            "//a",
            "/a//b?",
            "/?",
            "*",
            "a",
            "/a#b",
            "/\xe9",
            "/a b",
        ),
        *("http://h/", "http://h", "https://h:1/x?y", "HTTP://h?x", "http://u@h/", "http:///x", "ftp://h/"),
        *("h:80", "/a\tb", "/" + "x" * 50, "/\x7f", "http://[::1]/", "http://[x]/"),
    ]
)
METHODS = st.sampled_from(
    ["GET"] * 4 + ["POST"] * 4 + ["M-SEARCH", "get", "CONNECT", "OPTIONS", "G\x00T", "", "GET ", "A" * 33]
)
VERSIONS = st.sampled_from(
    ["HTTP/1.1"] * 12
    + ["HTTP/1.0"] * 4
    + ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9", "RTSP/1.0", "ICE/1.0", "http/1.1", "HTTP/1.1 ", ""]
    + ["HTTP/11", "HTTP/1.10", "HTTP/1", "1.1", "HTTP/1.1\t"]
)
HOSTS = st.sampled_from(
    ["Host: h"] * 10
    + ["host:h", "HOST: a.b:80", "Host:", "Host: a b", "Host: a,b", "Host: a/b", "Host: u@h", "Host: h:x"]
    + ["Host: [::1]:80", "Host: [::1", "Host: [1:2]", "Host: %41", "Host: %4", "Host: h:", "Host: \xe9"]
    + ["X: y", "Host : h", "Host: h\r\nHost: h", "Host: h\r\n\tx", "Ho\x00st: h", "Host: [v1.a:b]"]
)
HEADERS = st.lists(
    st.sampled_from(
        [
            *("A: b", "a:b", "A:", "A: \t b \t", "A:b c\td", "A_B: c", "!#$%&'*+.^_`|~0: 1", "A: \xe9\xff"),
            *("Connection: Upgrade\r\nUpgrade: foo", "Connection: close", "Connection: keep-alive, Close"),
            *("Connection: keep-alive", "Upgrade: websocket", "Expect: 100-continue", "TE: trailers"),
            *("A : b", "A", ": b", "A: b\x00", "A: b\x01", "A: b\x7f", "A: b\rc", "A: b\nC: d", "A: b\r\n c"),
            *("A\xe9: b", "A(: b", " A: b", "\tA: b", "Content-Type: text/plain", "Trailer: A"),
            *("Content-Length: 0", "Content-Length: 00"),
        ]
    ),
    max_size=4,
)
LENGTHS = st.sampled_from(
    ["{}"] * 14
    + ["+{}", "-{}", "{}_0", "{},{}", "{}, {}", " ", "0x{}", "{}.0", "\xb2", "9" * 13, "9" * 21, "{}\x0b"]
    + ["{}\r\nContent-Length: {}", "{}\r\nContent-Length: 9", "{}\r\ncontent-length:{}"]
    + ["{}\r\nTransfer-Encoding: chunked", "{}\r\nTransfer-Encoding: identity", "000{}", "{} {}"]
)
ENCODINGS = st.sampled_from(
    ["chunked"] * 12
    + ["Chunked", "gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked;q=1", "", "gzip"]
    + [
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: gzip",
        "chunked\x0b",
        ",chunked",
    ]
)
EXTENSIONS = st.sampled_from(
    [""] * 8
    + [";a", ";a=b", ';a="b c;\\""', ";", ";a=", " ;a", ";a b", ";a\x01", " ", "\t", ';a="', ";\xe9", ",a"]
)
SIZES = st.sampled_from(
    ["{:x}"] * 12
    + ["{:X}", "0{:x}", "{:016x}", "{:017x}", "-{:x}", "+{:x}", "0x{:x}", "{:x}g", "", "1{:015x}", "f" * 17]
    + ["{:x}_0", "ffffffff", "fffffffffffffffffff"]
)
CHUNK_ENDS = st.sampled_from(["\r\n"] * 12 + ["\n", "\r", "", "x\r\n", "\r\r\n"])
TRAILERS = st.sampled_from(
    [""] * 6
    + [
        "A: b\r\n",
        "Idempotency-Key: x\r\nB: c\r\n",
        "A : b\r\n",
        "A\r\n",
        " A: b\r\n",
        "A: b\n",
        "A: \x00\r\n",
    ]
    + ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Host: evil\r\n", "\r\n"]
)
BODIES = st.sampled_from(
    ["", "", "a", "hello", "\r\n", "0\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "x" * 40]
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message, right or wrong."""
    head = [f"{draw(METHODS)} {draw(TARGETS)} {draw(VERSIONS)}", draw(HOSTS), *draw(HEADERS)]
    kind = draw(st.sampled_from(["none", "length", "chunks"]))
    body = ""
    if kind == "length":
        body = draw(BODIES)
        head.append(f"Content-Length: {draw(LENGTHS)}".replace("{}", str(len(body))))
    elif kind == "chunks":
        head.append(f"Transfer-Encoding: {draw(ENCODINGS)}")
        for piece in draw(st.lists(BODIES.filter(bool), max_size=3)):
            body += draw(SIZES).format(len(piece)) + draw(EXTENSIONS) + "\r\n" + piece + draw(CHUNK_ENDS)
        body += draw(st.sampled_from(["0", "0", "0", "000", "00" * 10])) + draw(EXTENSIONS) + "\r\n"
        body += draw(TRAILERS) + "\r\n"
    before = draw(st.sampled_from([""] * 9 + ["\r\n", "\r\n" * (MAX_EMPTY_LINES + 1), "\n"]))
    return (before + "\r\n".join([*head, "", ""]) + body).encode("latin-1")


@st.composite
def proper(draw: st.DrawFn) -> bytes:
    """A message that is right: so that what comes behind is looked at."""
    body = draw(BODIES).encode()
    if draw(st.booleans()):
        return b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    chunk = b"%x;a=b\r\n" % len(body) + body + b"\r\n" if body else b""
    return b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\nA: b\r\n\r\n"


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    """A message with some bytes changed, lost or added."""
    data = bytearray(draw(st.one_of(messages(), proper())))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data) - 1))
        byte = draw(st.one_of(st.integers(0, 255), st.sampled_from(list(b"\r\n :;,\t\0"))))
        match draw(st.sampled_from(["change", "lose", "add"])):
            case "change":
                data[place] = byte
            case "lose":
                del data[place]
            case "add":
                data.insert(place, byte)
    return bytes(data)


STREAMS = st.lists(st.one_of(messages(), messages(), proper(), mutilated()), min_size=1, max_size=4).map(
    b"".join
)
