"""HTTP as a worker speaks it: a socket, strict messages, the express lane, and the way to Django."""
