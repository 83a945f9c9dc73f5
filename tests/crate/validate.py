"""Validate the crate in a folder against Workflow Run RO-Crate 0.5; runs in build/crate-venv.

The script prints one JSON list of [level, check, message] and uses no network: the context of
RO-Crate 1.1 comes from the package rocrate.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from rocrate_validator import models, services
from urllib3 import HTTPResponse

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
PROFILE = "workflow-run-crate-0.5"


class ContextAdapter(HTTPAdapter):
    """Answers every request with the context of RO-Crate 1.1 from the package rocrate."""

    def send(self, request: Any, **_: Any) -> Any:
        context = (files("rocrate") / "data" / "ro-crate.jsonld").read_bytes()
        headers = {"Content-Type": "application/ld+json"}
        body = HTTPResponse(io.BytesIO(context), headers, 200, preload_content=False)
        return self.build_response(request, body)


def main(crate: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(folder, "cache"))
        with CachedSession(cache, expire_after=-1) as session:
            session.mount("https://", ContextAdapter())
            session.get(CONTEXT)
        result = services.validate(
            services.ValidationSettings(
                rocrate_uri=crate,
                profile_identifier=PROFILE,
                requirement_severity=models.Severity.RECOMMENDED,
                offline=True,
                cache_path=cache,
            )
        )
    print(
        json.dumps(
            [
                [issue.severity.name, issue.check.identifier, issue.message]
                for issue in result.get_issues()
            ]
        )
    )


main(sys.argv[1])
