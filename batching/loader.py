"""The data loader: single keys from many callers, loaded many at a time and remembered."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from batching.batch import refuse
from batching.batcher import Batcher

K = TypeVar("K")
V = TypeVar("V")


class DataLoader(Generic[K, V]):
    """Loads values by key, the keys of one turn of the loop together; after graphql/dataloader.

    ``await load_many(keys)`` gives the values in the order of the keys; a value that is an exception is
    raised at those who asked for its key. A key that was asked for is not loaded again until it is
    cleared; without ``cache``, ``load_many`` may get a key more than once.

    ``max_size`` (keys), ``max_wait`` (seconds) and ``max_concurrent`` (batches) are those of
    `batching.batcher.BatcherOptions`. ``cache_errors``: whether an error is remembered like a value.
    ``cache_key(key)`` gives what a key is remembered by, for keys that cannot be hashed.

    Make one for each request where what one may see must not be shown to another.
    """

    def __init__(
        self,
        load_many: Callable[[list[K]], Awaitable[Iterable[V | BaseException]]],
        *,
        max_size: int | None = None,
        max_wait: float = 0,
        max_concurrent: int | None = None,
        cache: bool = True,
        cache_errors: bool = False,
        cache_key: Callable[[K], Hashable] | None = None,
    ) -> None:
        self._batcher: Batcher[K, V] = Batcher(
            load_many, max_size=max_size, max_wait=max_wait, max_concurrent=max_concurrent
        )
        self._cache: dict[Hashable, _Entry[V]] | None = {} if cache else None
        self._cache_errors = cache_errors
        self._cache_key: Callable[[K], Any] = cache_key or _itself

    async def __aenter__(self) -> Self:
        await self._batcher.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def load(self, key: K) -> "asyncio.Future[V]":
        """The future of a key's value. Cancelling it ends the wait of this caller only.

        It fails with the exception that is the key's value, or with `ProcessFailed` where ``load_many``
        raised. Raises `ProcessorStopped`.
        """
        if self._cache is None:
            return self._batcher.submit(key)
        name = self._cache_key(key)
        entry = self._cache.get(name)
        if entry is None:
            loading = self._batcher.submit(key)
            entry = self._cache[name] = _Entry(loading)
            loading.add_done_callback(partial(self._loaded, name, entry))
        return entry.ask()

    @overload
    async def load_many(self, keys: Iterable[K]) -> list[V]: ...

    @overload
    async def load_many(self, keys: Iterable[K], *, return_exceptions: Literal[False]) -> list[V]: ...

    @overload
    async def load_many(
        self, keys: Iterable[K], *, return_exceptions: bool
    ) -> list[V] | list[V | BaseException]: ...

    async def load_many(
        self, keys: Iterable[K], *, return_exceptions: bool = False
    ) -> list[V] | list[V | BaseException]:
        """The values of these keys, in their order.

        Raises the first error, or has errors among the values, as `asyncio.gather` does.
        """
        return await asyncio.gather(*[self.load(key) for key in keys], return_exceptions=return_exceptions)

    def prime(self, key: K, value: V | BaseException) -> None:
        """Remember a value, or an error, for a key that was not asked for yet; others stay as they are."""
        if self._cache is None or (name := self._cache_key(key)) in self._cache:
            return
        primed: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._cache[name] = _Entry(primed)
        if isinstance(value, BaseException):
            primed.set_exception(value)
            primed.exception()  # nobody needs to be told that nobody asked
        else:
            primed.set_result(value)

    def clear(self, key: K) -> None:
        """Forget a key: who asks for it next makes it load again."""
        if self._cache is not None:
            self._cache.pop(self._cache_key(key), None)

    def clear_all(self) -> None:
        """Forget every key."""
        if self._cache is not None:
            self._cache.clear()

    async def stop(self) -> None:
        """Refuse new keys, and return when all that were asked for are loaded; see `Batcher.stop`."""
        await self._batcher.stop()

    def _loaded(self, name: Hashable, entry: "_Entry[V]", loading: "asyncio.Future[V]") -> None:
        failed = loading.cancelled() or loading.exception() is not None
        # Somebody may have cleared it meanwhile, and others have asked again.
        if failed and not self._cache_errors and self._cache is not None and self._cache.get(name) is entry:
            del self._cache[name]
        entry.answer()


class _Entry(Generic[V]):
    """A key that is loaded, or being loaded: each caller has a future of their own to cancel."""

    __slots__ = ("_callers", "_loading")

    def __init__(self, loading: "asyncio.Future[V]") -> None:
        self._loading = loading
        self._callers: list[asyncio.Future[V]] = []

    def ask(self) -> "asyncio.Future[V]":
        """One more caller."""
        caller: asyncio.Future[V] = self._loading.get_loop().create_future()
        self._callers.append(caller)
        if self._loading.done():
            self.answer()
        return caller

    def answer(self) -> None:
        """Tell all who have asked so far."""
        loading, callers, self._callers = self._loading, self._callers, []
        if loading.cancelled():
            for caller in callers:
                caller.cancel()
        elif (error := loading.exception()) is not None:
            for caller in callers:
                refuse(caller, error)
        else:
            value = loading.result()
            for caller in callers:
                if not caller.done():
                    caller.set_result(value)


def _itself(key: Any) -> Any:
    return key
