"""Reads HTTP/1.1 answers, one at a time, with as little work as possible."""


class AnswerReader:
    """Puts an answer together from the pieces in which it arrives."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces = b""

    def feed(self, data: bytes) -> tuple[int, bytes] | None:
        """Take the next piece: status and body once the answer is whole, else ``None``.

        Raises `ValueError` for what is not an answer with a length, or is more than one.
        """
        if self._pieces:
            data = self._pieces + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._pieces = data
            return None
        head = data[:end].lower()
        start = head.find(b"\r\ncontent-length: ")
        if start < 0 or not head.startswith(b"http/1.1 "):
            raise ValueError(f"This is not an answer with a length: {data[:100]!r}.")
        length = int(head[start + 18 :].split(b"\r", 1)[0])
        missing = end + 4 + length - len(data)
        if missing > 0:
            self._pieces = data
            return None
        if missing < 0:
            raise ValueError(f"More than one answer to one request: {data[:100]!r}.")
        self._pieces = b""
        return int(head[9:12]), data[end + 4 :]
