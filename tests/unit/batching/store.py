"""What the tests of the processor load and save, and what they do to it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any


class Store:
    """Resources are lists of what was done; loads and saves are recorded and can be held up."""

    def __init__(self) -> None:
        self.saved: list[tuple[str, list[Any]]] = []
        self.loads = 0
        self.saving = 0
        self.most_saving = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.load_error: BaseException | None = None
        self.save_error: BaseException | None = None
        self.failures: dict[Any, BaseException] = {}

    async def load(self, key: str) -> list[Any]:
        """Load an empty resource, or fail."""
        self.loads += 1
        if self.load_error:
            raise self.load_error
        return []

    async def save(self, key: str, resource: list[Any]) -> Mapping[Any, BaseException] | None:
        """Save once the gate is open, or fail."""
        self.saving += 1
        self.most_saving = max(self.saving, self.most_saving)
        try:
            await self.gate.wait()
            if self.save_error:
                raise self.save_error
            self.saved.append((key, list(resource)))
            return self.failures
        finally:
            self.saving -= 1


def put(value: Any) -> Callable[[list[Any]], Any]:
    """Put a value in a list, and return it."""

    def operation(resource: list[Any]) -> Any:
        resource.append(value)
        return value

    return operation


def refuse(resource: list[Any]) -> None:
    """Refuse."""
    raise PermissionError("no")
