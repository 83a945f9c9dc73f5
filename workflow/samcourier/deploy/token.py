"""Read the Hypha token from a file of mode 0600 or from the environment."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import Denied

TOKEN_VARIABLE = "HYPHA_TOKEN"


def read_token(token_file: str | Path | None) -> str | None:
    """Return the token from the file, else from HYPHA_TOKEN, else None (anonymous).

    Raises Denied for a file that is missing, empty, not text, or accessible to other users.
    """
    if token_file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    token_file = Path(token_file)
    try:
        is_shared = token_file.stat().st_mode & 0o077
        token = token_file.read_text().strip()
    except OSError as error:
        raise Denied(f"token file {token_file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise Denied(f"token file {token_file} is not a text file") from None
    if is_shared:
        raise Denied(f"token file {token_file} is accessible to other users, expected mode 0600")
    if not token:
        raise Denied(f"token file {token_file} is empty")
    return token
