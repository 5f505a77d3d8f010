"""What is used of uvicorn's inside is what `uvicorn_parts` lists; it is there, and means what it meant."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flashsale_project
from flashsale_project.serving import uvicorn_parts
from flashsale_project.serving.uvicorn_parts import (
    CALLED,
    REPLACED,
    STATUS_LINE,
    USED,
    Config,
    FlowControl,
    RequestResponseCycle,
    Server,
    ServerState,
)

ROOMS = "access", "management", "postgres", "serving"
"""The benchmark measures a uvicorn of its own, from outside."""

OWNERS: dict[str, type[Any]] = {
    "_config": Config,
    "config": Config,
    "cycle": RequestResponseCycle,
    "flow": FlowControl,
    "server": Server,
    "server_state": ServerState,
}
"""What things of uvicorn's are called here, whatever they are attributes of."""

PROJECT = Path(flashsale_project.__file__).parent


def trees() -> Iterator[tuple[Path, ast.AST]]:
    for path in [*PROJECT.glob("*.py"), *(path for room in ROOMS for path in (PROJECT / room).rglob("*.py"))]:
        yield path, ast.parse(path.read_text())


def names_of(kind: type[Any]) -> set[str]:
    """The attributes and methods of a class of uvicorn's."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(kind))))
    attributes = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    methods = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return attributes | methods


def subclasses() -> Iterator[tuple[ast.ClassDef, type[Any]]]:
    """The classes here that are subclasses of uvicorn's."""
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for kind in USED:
                    if kind.__name__ in {getattr(base, "id", "") for base in node.bases}:
                        yield node, kind


def attributes() -> Iterator[tuple[type[Any], str]]:
    """All that is asked of a thing of uvicorn's, or of a subclass by itself."""
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name in OWNERS:
                    yield OWNERS[name], node.attr
    for subclass, kind in subclasses():
        for node in ast.walk(subclass):
            if isinstance(node, ast.Attribute):
                called = node.value.func if isinstance(node.value, ast.Call) else node.value
                if getattr(called, "id", "") in ("self", "super"):
                    yield kind, node.attr


def test_it_is_imported_in_one_place() -> None:
    importing = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "uvicorn" for name in names):
                importing.add(path)
    assert importing == {Path(uvicorn_parts.__file__)}


def test_what_is_used_is_listed() -> None:
    names = {kind: names_of(kind) for kind in USED}
    found: dict[type[Any], set[str]] = {kind: set() for kind in USED}
    for kind, name in attributes():
        if name in names[kind] and name != "__init__":
            found[kind].add(name)
    assert found == USED


def test_what_is_replaced_is_listed() -> None:
    found = {
        kind: {node.name for node in subclass.body if hasattr(node, "name")} & names_of(kind) - {"__init__"}
        for subclass, kind in subclasses()
    }
    assert {kind: names for kind, names in found.items() if names} == REPLACED


@pytest.mark.parametrize("kind", USED, ids=lambda kind: kind.__name__)
def test_it_is_there(kind: type[Any]) -> None:
    assert USED[kind] <= names_of(kind)


def test_a_cycle_is_used_as_it_is_meant() -> None:
    assert list(inspect.signature(RequestResponseCycle.__init__).parameters)[1:] == [
        *("scope", "transport", "flow", "logger", "access_logger", "access_log", "default_headers"),
        *("message_event", "expect_100_continue", "keep_alive", "on_response"),
    ]
    source = inspect.getsource(RequestResponseCycle)
    assert source.count("self.on_response()") == 1
    assert "self.flow.resume_reading()" in source
    assert "await self.flow.drain()" in source
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"


def test_a_server_asks_of_a_connection_what_ours_can() -> None:
    source = inspect.getsource(Server)
    assert "connection.shutdown()" in source
    assert "for t in self.server_state.tasks" in source
    assert sorted(CALLED) == ["on_response", "shutdown"]


def test_the_default_headers_are_replaced_and_not_changed() -> None:
    for kind in Server, RequestResponseCycle:
        for line in inspect.getsource(kind).splitlines():
            if "default_headers" in line and "list[" not in line:
                assert line.strip() in (
                    "self.server_state.default_headers = date_header + self.config.encoded_headers",
                    "self.default_headers = default_headers",
                    'headers = self.default_headers + list(message.get("headers", []))',
                )


def test_the_state_of_the_lifespan_is_one_dictionary() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        """Serve nothing."""

    config = Config(application, lifespan="on", log_config=None)
    config.load()
    assert isinstance(config.lifespan_class(config).state, dict)
