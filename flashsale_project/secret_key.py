"""The secret key of an installation that was given none: made once, kept in the data directory."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path


def kept_secret_key(data_dir: Path) -> str:
    """Read ``secret_key`` in the data directory, made (mode 0600) by whoever comes first.

    Raises `OSError` where the directory cannot be written.
    """
    path = data_dir / "secret_key"
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix="secret_key.", dir=data_dir)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(50))
            # A link, not a rename: it fails where another was first, and so all read the same key.
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            os.unlink(draft)
    return path.read_text()
