"""The secret key of an installation that was given none: made once, kept in the data directory."""

import os
import secrets
from pathlib import Path


def kept_secret_key(data_dir: Path) -> str:
    """Read ``secret_key`` in the data directory, made (mode 0600) by whoever comes first.

    Raises `OSError` where the directory cannot be written.
    """
    path = data_dir / "secret_key"
    if not path.exists():
        data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = path.with_name(f"secret_key.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(50))
        try:
            os.link(draft, path)  # fails where another process was first: all read the same key
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text()
