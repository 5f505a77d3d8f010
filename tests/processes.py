"""What Linux tells of the processes of a service."""

from pathlib import Path


def descendants(pid: int) -> dict[int, bytes]:
    """The command lines of the processes below this one, by pid; their words end with a zero byte."""
    parents: dict[int, int] = {}
    commands: dict[int, bytes] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                commands[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[1])
    found: dict[int, bytes] = {}
    generation = {pid}
    while generation := {child for child, parent in parents.items() if parent in generation}:
        found |= {child: commands[child] for child in generation}
    return found


def workers(pid: int) -> list[int]:
    """The pids of the worker processes of this supervisor, those that have ended left out."""
    return sorted(
        child for child, command in descendants(pid).items() if b"flashsale_project.serving.worker" in command
    )
