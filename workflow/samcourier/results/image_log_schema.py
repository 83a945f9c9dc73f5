"""The JSON schema of the image log, generated from its Structs.

``python -m samcourier.results.image_log_schema`` prints it; ``make schemas`` writes the file.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from .image_log import IMAGE_LOG_SCHEMA, Attempt, ImageLog

#: A log with status done has a mask; a log with status failed has a failure.
_STATUS_RULE = {
    "if": {"properties": {"status": {"const": "done"}}},
    "then": {
        "properties": {
            "failure": {"type": "null"},
            "key": {"type": "string"},
            "mask": {"type": "string"},
            "object_count": {"type": "integer"},
        }
    },
    "else": {"properties": {"failure": {"type": "object"}, "mask": {"type": "null"}}},
}
#: A failed call has an error.
_OUTCOME_RULE = {
    "if": {"properties": {"outcome": {"const": "ok"}}},
    "then": {"properties": {"error": {"type": "null"}}},
    "else": {"properties": {"error": {"type": "object"}}},
}


def image_log_schema() -> dict[str, Any]:
    """Return the schema of ``logs/<image>.json``: every key required, no other accepted."""
    _, records = msgspec.json.schema_components([ImageLog])
    described = {name: _on_disk(record) for name, record in records.items()}
    described[Attempt.__name__] |= _OUTCOME_RULE
    log = described.pop(ImageLog.__name__)
    version = {"const": IMAGE_LOG_SCHEMA, "description": "Name and version of this format."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **log,
        "title": "Image log of samcourier",
        "required": ["schema", *log["required"]],
        "properties": {"schema": version, **log["properties"]},
        **_STATUS_RULE,
        "$defs": described,
    }


def _on_disk(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record's schema with its description on one line and every property required."""
    properties = {
        name: {key: each for key, each in described.items() if key != "default"}
        for name, described in record["properties"].items()
    }
    return record | {
        "description": " ".join(record["description"].replace("``", "").split()),
        "properties": properties,
        "required": list(properties),
    }


def image_log_schema_text() -> str:
    """Return the text of ``workflow/schemas/image-log.schema.json``."""
    return json.dumps(image_log_schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(image_log_schema_text(), end="")
