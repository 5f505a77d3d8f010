"""The express lane: the two hot calls answered inside the HTTP protocol.

Through ASGI and Django a request costs ten times the CPU of what it asks for. So an ordinary
``POST /checkout`` or ``POST /purchase`` is recognised as a whole, by one expression (`hot`), and answered
with the same services: refusals at once, from `answers` made once, the others when their batch has
committed, without a task each. Whatever is unusual about a request takes the stock way, as if this was not
here.

The way of a hot call: `data_received` or, for what came with others, `_begin_next` finds it, `_ask` starts
the service, and writes a refusal at once; else `_answer` is called with the outcome. An answer that is still
to come stands where that of a request to Django would, so the order of answers, the shutdown and the flow
control are those of `Protocol`.
"""

import logging
from typing import Any
from uuid import UUID

from flashsale_project.serving.http.answers import Answers, Prepared, closing
from flashsale_project.serving.http.hot import HOT, Hot
from flashsale_project.serving.http.protocol import Protocol
from flashsale_project.serving.limits import MAX_HOT
from flashsale_project.serving.uvicorn_parts import Config, ServerState
from sales.calls import start_checkout, start_purchase
from sales.refusals import Refusal
from sales.runtime import Runtime

logger = logging.getLogger(__name__)

prepared = Prepared()


class Pending:
    """An answer that is still to come."""

    __slots__ = ("is_purchase", "keep_alive")
    is_question = False
    size = 0

    def __init__(self, is_purchase: bool) -> None:
        self.is_purchase = is_purchase
        self.keep_alive = True

    def abandon(self) -> None:
        """Do nothing: what was accepted for a batch is saved, and its answer finds nobody."""


class ExpressProtocol(Protocol):
    """A connection with a lane for the two hot calls."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self._runtime: Runtime = app_state["runtime"]

    def data_received(self, data: bytes) -> None:
        """Answer a hot call that came alone, and leave all else to the reader."""
        if (
            len(data) <= MAX_HOT
            and self.cycle is None
            and self._reader.is_fresh
            and not self.flow.write_paused
            and (match := HOT.fullmatch(data)) is not None
            and not (answers := prepared.answers(self.server_state.default_headers)).are_last
        ):
            self._ask(match.groups(), answers)
        else:
            super().data_received(data)

    def _begin_next(self) -> bool:
        answers = prepared.answers(self.server_state.default_headers)
        if not answers.are_last and (hot := self._reader.take(HOT, MAX_HOT)) is not None:
            self._ask(hot, answers)
            return True
        return super()._begin_next()

    def _ask(self, hot: Hot, answers: Answers) -> None:
        """One of the two hot calls is there, and it is its turn."""
        user_id, item_id, code, _, _ = hot
        try:
            if code is not None:
                refused = start_purchase(self._runtime, UUID(code.decode()), self._answer)
            else:
                assert user_id is not None
                item = None if item_id is None else int(item_id)
                refused = start_checkout(self._runtime, int(user_id), item, self._answer)
        except Exception as error:
            answer = _failure(error, answers)
        else:
            if refused is None:
                self.cycle = Pending(code is not None)
                return
            answer = answers.refusal(refused)
        self.transport.write(answer)
        self.server_state.total_requests += 1
        self.life.has_answered = True
        self.life.age = 0

    def _answer(self, result: UUID | BaseException) -> None:
        """What was asked for is committed, or has failed."""
        pending = self.cycle
        if pending is None:  # the connection was lost
            return
        assert isinstance(pending, Pending)
        answers = prepared.answers(self.server_state.default_headers)
        if isinstance(result, Refusal):
            answer = answers.refusal(result.reason)
        elif isinstance(result, BaseException):
            answer = _failure(result, answers)
        else:
            answer = answers.purchased if pending.is_purchase else answers.granted(result)
        if answers.are_last:
            pending.keep_alive = False
        elif not pending.keep_alive:
            answer = closing(answer)
        self.transport.write(answer)
        if not pending.keep_alive:
            self.transport.close()
        self._answered()


def _failure(error: BaseException, answers: Answers) -> bytes:
    logger.error("a request failed", exc_info=error)
    return answers.failure()
