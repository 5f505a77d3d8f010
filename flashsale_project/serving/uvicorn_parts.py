"""What is used of uvicorn's inside: all of it comes from here, and each name that is relied on is listed.

`tests/integration/serving/http/test_uvicorn.py` compares the list with the code of `serving` and with the
uvicorn that is installed. Where it fails after an upgrade, read what has changed there before adapting this.
"""

from uvicorn import Config, Server
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

__all__ = [
    "STATUS_LINE",
    "Config",
    "FlowControl",
    "RequestResponseCycle",
    "Server",
    "ServerState",
    "get_local_addr",
    "get_remote_addr",
    "is_ssl",
]

USED: dict[type, set[str]] = {
    Config: {"asgi_version", "http_protocol_class", "loaded_app"},
    Server: {"config", "lifespan", "run", "server_state", "should_exit", "shutdown", "startup"},
    ServerState: {"connections", "default_headers", "tasks", "total_requests"},
    FlowControl: {
        *("pause_reading", "pause_writing", "read_paused"),
        *("resume_reading", "resume_writing", "write_paused"),
    },
    RequestResponseCycle: {
        *("body", "disconnected", "keep_alive", "message_event", "more_body", "run_asgi"),
    },
}
"""The attributes that are read, set or called. `Server.lifespan` has a ``state``, which is a dictionary."""

REPLACED: dict[type, set[str]] = {
    Server: {"handle_exit", "shutdown", "startup"},
    FlowControl: {"resume_reading"},
}
"""The methods that a subclass of ours overrides: uvicorn calls them."""

CALLED = {"on_response", "shutdown"}
"""What uvicorn calls of a connection: the callback of each cycle, and the method of a protocol.

It also replaces `ServerState.default_headers` by another list, once a second, and never changes one: what
`http.answers` has prepared counts for as long as the list is the same.
"""
