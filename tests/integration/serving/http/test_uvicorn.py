"""What is used of uvicorn's inside: all of it is listed here.

If this fails after an upgrade, read what has changed in uvicorn, and with it `flashsale_project.serving`:
`http.protocol`, `http.express` and `worker`, before adapting the lists.
"""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from flashsale_project.serving import worker
from flashsale_project.serving.http import express, protocol

MODULES = protocol, express, worker

IMPORTED = {
    "uvicorn": set(),
    "uvicorn.protocols.http.flow_control": {"FlowControl"},
    "uvicorn.protocols.http.httptools_impl": {"RequestResponseCycle", "STATUS_LINE"},
    "uvicorn.protocols.utils": {"get_local_addr", "get_remote_addr", "is_ssl"},
    "uvicorn.server": {"ServerState"},
}

USED: dict[str, set[str]] = {
    "cycle": {
        *(
            "body",
            "disconnected",
            "keep_alive",
            "message_event",
            "more_body",
            "response_complete",
            "run_asgi",
        ),
    },
    "flow": {"pause_reading", "pause_writing", "read_on", "resume_writing", "write_paused"},
    "server_state": {"connections", "default_headers", "tasks", "total_requests"},
    "state": {"connections", "default_headers"},
    "config": {"http_protocol_class"},
    "_config": {"asgi_version", "loaded_app", "timeout_keep_alive"},
    "lifespan": {"state"},
    "uvicorn": {"Config", "Server"},
}
"""By the name of what they are attributes of."""

OURS = {"read_on"}
"""Of `Flow`, which is a subclass."""


def trees() -> list[ast.AST]:
    return [ast.parse(Path(inspect.getfile(module)).read_text()) for module in MODULES]


def test_nothing_else_is_imported() -> None:
    found: dict[str, set[str]] = {}
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {name.name: set() for name in node.names if name.name.startswith("uvicorn")}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uvicorn"):
                found.setdefault(node.module or "", set()).update(name.name for name in node.names)
    assert found == IMPORTED


def test_nothing_else_is_used() -> None:
    found: dict[str, set[str]] = {}
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", None)
                if name in USED:
                    found.setdefault(name, set()).add(node.attr)
    assert found == USED


@pytest.mark.parametrize(
    ("names", "where"),
    [
        (USED["cycle"], RequestResponseCycle),
        (USED["flow"] - OURS | {"resume_reading"}, FlowControl),
        (USED["server_state"], ServerState),
        (USED["config"] | USED["_config"], uvicorn.Config),
    ],
    ids=["cycle", "flow", "state", "config"],
)
def test_it_is_there(names: set[str], where: type[Any]) -> None:
    source = inspect.getsource(where)
    for name in names:
        assert f"self.{name}" in source or f"def {name}(" in source, name


def test_a_cycle_is_used_as_it_is_meant() -> None:
    assert list(inspect.signature(RequestResponseCycle.__init__).parameters)[1:] == [
        *("scope", "transport", "flow", "logger", "access_logger", "access_log", "default_headers"),
        *("message_event", "expect_100_continue", "keep_alive", "on_response"),
    ]
    source = inspect.getsource(RequestResponseCycle)
    assert source.count("self.on_response()") == 1
    assert "self.flow.resume_reading()" in source
    assert "await self.flow.drain()" in source
    assert httptools_impl.STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"


def test_a_server_asks_of_a_connection_what_ours_can() -> None:
    source = inspect.getsource(uvicorn.Server)
    assert "connection.shutdown()" in source
    assert "for t in self.server_state.tasks" in source
