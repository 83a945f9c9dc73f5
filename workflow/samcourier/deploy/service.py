"""Where the service is, by target: started here when needed, or somebody else's."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import Denied, InputError
from ..network import Network
from ..transports.base import Endpoint
from .local import ensure_local_service

TOKEN_VARIABLE = "HYPHA_TOKEN"

Target = Literal["local", "existing"]
TARGETS: tuple[Target, ...] = ("local", "existing")


@dataclass(frozen=True)
class ServiceOptions:
    """Which service to use, as the command line and the config say it."""

    target: Target = "local"
    engine: str = "watershed"
    engine_options: dict[str, Any] = field(default_factory=dict)
    server_url: str | None = None
    workspace: str | None = None
    service_id: str | None = None
    token_file: Path | None = None
    network: Network = field(default_factory=Network)


def find_service(options: ServiceOptions, dataset_dir: Path) -> Endpoint:
    """Return the endpoint of the service, starting the local one when it does not run.

    Raises InputError for missing settings, Denied for an unreadable token, ServiceFailed when
    the local service does not come up.
    """
    if options.target == "local":
        return ensure_local_service(dataset_dir / "service", options.engine, options.engine_options)
    missing = [name for name in ("server_url", "service_id") if not getattr(options, name)]
    if missing:
        raise InputError(
            f"service.target existing needs {', '.join(f'service.{name}' for name in missing)}"
        )
    service_id = str(options.service_id)
    return Endpoint(
        server_url=str(options.server_url),
        workspace=options.workspace,
        service_id=service_id,
        rtc_service_id=f"{service_id}-rtc",
        token=read_token(options.token_file),
        network=options.network,
    )


def read_token(token_file: Path | None) -> str | None:
    """Return the token from the file, else from HYPHA_TOKEN, else None (anonymous).

    Raises Denied for a file that is missing, empty, no text, or open to others.
    """
    if token_file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        others_may_read = token_file.stat().st_mode & 0o077
        token = token_file.read_text().strip()
    except OSError as error:
        raise Denied(f"token file {token_file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise Denied(f"token file {token_file} holds no text") from None
    if others_may_read:
        raise Denied(f"token file {token_file} is open to others, expected mode 0600")
    if not token:
        raise Denied(f"token file {token_file} is empty")
    return token
