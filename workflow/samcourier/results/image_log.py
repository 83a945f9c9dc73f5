"""The log of an image: whether it is done or failed, and how its pixels were transferred.

The Structs define the JSON file: a field's name is its key.
:mod:`samcourier.results.image_log_schema` generates ``schemas/image-log.schema.json`` from them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from ..errors import storage_errors
from ..failure import Failure
from ..files.records import decode, decoder, read_versioned, write_record
from .timestamps import parse_time

IMAGE_LOG_SCHEMA = "samcourier/image-log/8"

Method = Literal["segment_all", "encode_image"]

#: Start of a log's note if a complete mask of the same key was found, so that no call was made.
NOTE_REUSED = "mask reused"

# Only the JSON schema has bounds and patterns: `samcourier check` reads a log with a negative
# duration and reports the duration, instead of reporting a damaged log.
_AT_LEAST_0 = Meta(extra_json_schema={"minimum": 0})
_AT_LEAST_1 = Meta(extra_json_schema={"minimum": 1})
_SHA256 = Meta(extra_json_schema={"pattern": "^[0-9a-f]{64}$"})

Time = Annotated[
    str,
    Meta(
        extra_json_schema={
            "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|\+00:00)$",
        }
    ),
]
Seconds = Annotated[float, _AT_LEAST_0]
MaybeSeconds = Annotated[float | None, _AT_LEAST_0]
Count = Annotated[int, _AT_LEAST_0]
MaybeCount = Annotated[int | None, _AT_LEAST_0]
CountFrom1 = Annotated[int, _AT_LEAST_1]
MaybeCountFrom1 = Annotated[int | None, _AT_LEAST_1]
MaybeSha256 = Annotated[str | None, _SHA256]


class CallSeconds(Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of one call; null for a part the transport cannot tell apart or never reached."""

    total: Annotated[Seconds, Meta(description="The whole call, in seconds.")]
    send: Annotated[MaybeSeconds, Meta(description="Sending the image, in seconds.")] = None
    queue: Annotated[
        MaybeSeconds, Meta(description="Waiting in the service for its engine, in seconds.")
    ] = None
    service: Annotated[
        MaybeSeconds, Meta(description="Work of the service as it measured it, in seconds.")
    ] = None
    receive: Annotated[MaybeSeconds, Meta(description="Receiving the mask, in seconds.")] = None
    prepare: Annotated[
        MaybeSeconds,
        Meta(
            description="Part of service: unpacking the image and converting it for the model, in"
            " seconds."
        ),
    ] = None
    infer: Annotated[
        MaybeSeconds,
        Meta(
            description="Part of service: the model on its device, in seconds; of images that went"
            " together each has its share."
        ),
    ] = None
    finish: Annotated[
        MaybeSeconds,
        Meta(
            description="Part of service: turning the model's result into a packed mask, in"
            " seconds."
        ),
    ] = None


class CallBytes(Struct, frozen=True, forbid_unknown_fields=True):
    """Payload bytes of one call."""

    up: Annotated[Count, Meta(description="Sent to the service, in bytes.")]
    down: Annotated[Count, Meta(description="Received from it, in bytes.")]


class Attempt(Struct, frozen=True, forbid_unknown_fields=True):
    """One call for one image: its transport, the reason for that transport, and the result."""

    transport: Annotated[
        str,
        Meta(
            min_length=1,
            description="The transport of the call: websocket, http, webrtc, or one of another"
            " package.",
        ),
    ]
    reason: Annotated[str, Meta(description="Why this transport was chosen for this call.")]
    started_at: Annotated[Time, Meta(description="When the call began.")]
    outcome: Annotated[Literal["ok", "failed"], Meta(description="Whether a mask came back.")]
    error: Annotated[Failure | None, Meta(description="Why the call failed; null when it did not.")]
    seconds: Annotated[
        CallSeconds,
        Meta(
            description="Seconds of the call; null for a part the transport cannot tell apart or"
            " never reached."
        ),
    ]
    bytes: Annotated[CallBytes, Meta(description="Payload bytes of the call.")]
    replica: Annotated[
        str | None,
        Meta(description="The copy of a service that runs several times; null when it runs once."),
    ] = None
    plane: Annotated[
        MaybeCount,
        Meta(
            description="Zero-based number of the plane in an image of several; null in an image"
            " of one."
        ),
    ] = None
    tile: Annotated[
        MaybeCount,
        Meta(
            description="Zero-based number of the tile, row by row; null for a plane that is sent"
            " whole."
        ),
    ] = None
    method: Annotated[
        Method,
        Meta(description="What was called: for a mask, or for the embedding to make it from."),
    ] = "segment_all"
    predicted_s: Annotated[
        MaybeSeconds,
        Meta(
            description="How long the bytes were expected to travel, both ways together, when the"
            " transport was chosen, in seconds; null while it was not measured."
        ),
    ] = None
    travel_alone_s: Annotated[
        MaybeSeconds,
        Meta(
            description="How long the bytes travelled, both ways together, without the share of"
            " concurrent calls over the same transport, which predictions leave out too, in"
            " seconds; null if the service reports no times."
        ),
    ] = None


class ImageSeconds(Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of the client's stages; null for a stage never reached.

    For an image of several planes, each stage is the sum over its planes, which overlap.
    """

    total: Annotated[
        Seconds,
        Meta(
            description="From the start of reading to the end of writing, calls included, in"
            " seconds."
        ),
    ]
    read: Annotated[MaybeSeconds, Meta(description="Reading the planes, in seconds.")] = None
    pack: Annotated[MaybeSeconds, Meta(description="Packing the pixels, in seconds.")] = None
    unpack: Annotated[MaybeSeconds, Meta(description="Unpacking the mask, in seconds.")] = None
    write: Annotated[
        MaybeSeconds, Meta(description="Writing and comparing the mask, in seconds.")
    ] = None
    outputs: Annotated[
        MaybeSeconds,
        Meta(description="Writing the outputs made from the mask, in seconds."),
    ] = None


class OutputRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """One of a run's ``outputs`` of one image, or why it was refused."""

    made_from: Annotated[
        str,
        Meta(
            description="Digest of everything the output depends on: the mask's key, pixel size,"
            " selection, format."
        ),
    ]
    files: Annotated[MaybeCountFrom1, Meta(description="Number of its files.")] = None
    bytes: Annotated[MaybeCount, Meta(description="Size, in bytes.")] = None
    sha256: Annotated[
        MaybeSha256, Meta(description="Digest of the file, or of a label group's content.")
    ] = None
    path: Annotated[
        str | None, Meta(description="Path of the output, if it is not in the results folder.")
    ] = None
    refused: Annotated[str | None, Meta(description="Why it could not be made.")] = None


class ImageLog(Struct, frozen=True, forbid_unknown_fields=True):
    """The record of one image: whether it is done or failed, and how its pixels were transferred.

    Each image has one file, logs/<image>.json. Times are ISO 8601 in UTC, durations are seconds,
    sizes are bytes.
    """

    image: Annotated[
        str,
        Meta(description="Image id from the sample sheet.", extra_json_schema={"minLength": 1}),
    ]
    path: Annotated[str, Meta(description="Image file as the sample sheet names it.")]
    status: Annotated[
        Literal["done", "failed"],
        Meta(description="done: a whole mask of this key was written. failed: see failure."),
    ]
    finished_at: Annotated[Time, Meta(description="When the image was done or failed.")]
    seconds: Annotated[
        ImageSeconds,
        Meta(description="Seconds of the client's stages; null for a stage never reached."),
    ]
    key: Annotated[
        str | None,
        Meta(
            description="Hash of pixels, parameters, model and segmentation version; also kept in"
            " the mask. null when the image could not be read."
        ),
    ] = None
    pixels_sha256: Annotated[
        MaybeSha256,
        Meta(
            description="SHA-256 of the planes' pixels, hexadecimal; null when the image could not"
            " be read."
        ),
    ] = None
    failure: Annotated[
        Failure | None, Meta(description="Why the image failed; null when it is done.")
    ] = None
    note: Annotated[
        str | None,
        Meta(
            description="Remark on the result; begins with 'mask reused' when no call was needed."
        ),
    ] = None
    object_count: Annotated[
        MaybeCount,
        Meta(
            description="Objects in the mask, background excluded, the sum over its planes; 0 is a"
            " result. null when failed."
        ),
    ] = None
    shape: Annotated[
        tuple[Count, ...] | None,
        Meta(
            description="Shape of the pixels sent, in the order of axes, in pixels; null when the"
            " image could not be read."
        ),
    ] = None
    dtype: Annotated[str | None, Meta(description="NumPy name of the planes' pixel type.")] = None
    axes: Annotated[
        str | None, Meta(description="Axes of the pixels sent, e.g. YX, CYX or TCYX.")
    ] = None
    planes: Annotated[
        CountFrom1,
        Meta(description="Planes or volumes that the image is segmented in, one after the other."),
    ] = 1
    tiles: Annotated[
        CountFrom1,
        Meta(
            description="Calls that each plane takes: the tiles of a large one, 1 for one that is"
            " sent whole."
        ),
    ] = 1
    tiles_kept: Annotated[
        Count,
        Meta(
            description="Tiles of all planes that needed no call, since an interrupted run had kept"
            " them."
        ),
    ] = 0
    mask: Annotated[
        str | None, Meta(description="Path of the mask, an OME-Zarr group; null when failed.")
    ] = None
    outputs: Annotated[
        dict[str, OutputRecord],
        Meta(description="Outputs made from the mask, by their names in the config's outputs."),
    ] = field(default_factory=dict)
    attempts: Annotated[
        tuple[Attempt, ...],
        Meta(
            description="Every call made for this image, in order; none when it failed before or"
            " its mask was reused."
        ),
    ] = ()
    service: Annotated[
        dict[str, Any],
        Meta(
            description="The service's own description: engine, model, model_sha256,"
            " segmentation_version, distribution (of an engine that is not built in), versions,"
            " device."
        ),
    ] = field(default_factory=dict)
    parameters: Annotated[
        dict[str, Any], Meta(description="Parameters the engine was called with.")
    ] = field(default_factory=dict)
    versions: Annotated[dict[str, str], Meta(description="Versions of the client's packages.")] = (
        field(default_factory=dict)
    )

    @property
    def reused(self) -> bool:
        """Whether the mask was found whole, so that no call was needed."""
        return self.note is not None and self.note.startswith(NOTE_REUSED)


#: Keys of the seconds of a call that version 7 did not have.
_NEW_IN_8 = ("prepare", "infer", "finish")


def _decode_version_7(value: Any) -> ImageLog | None:
    """Return a log of version 7, without the seconds of the service's stages."""
    attempts = value.get("attempts") if isinstance(value, dict) else None
    if not isinstance(attempts, list):
        return None
    for each in attempts:
        seconds = each.get("seconds") if isinstance(each, dict) else None
        if not isinstance(seconds, dict) or not seconds.keys().isdisjoint(_NEW_IN_8):
            return None
        seconds |= dict.fromkeys(_NEW_IN_8)
    return decode(ImageLog, value)


#: Decoder of each version of the format that can be read.
_DECODERS = {
    IMAGE_LOG_SCHEMA: decoder(ImageLog),
    "samcourier/image-log/7": _decode_version_7,
}


def write_image_log(path: Path, log: ImageLog) -> None:
    """Write the log atomically. Raises ValueError for NaN or infinity, TypeError for non-JSON."""
    write_record(path, log, IMAGE_LOG_SCHEMA)


def read_image_log(path: Path) -> ImageLog | None:
    """Return the log, or None if it is absent, damaged, or of an unknown schema version."""
    log = read_versioned(path, _DECODERS)
    return log if log is not None and _has_valid_times(log) else None


def _has_valid_times(log: ImageLog) -> bool:
    try:
        for moment in (log.finished_at, *(attempt.started_at for attempt in log.attempts)):
            parse_time(moment)
    except ValueError:
        return False
    return True


def save_log(path: Path, log: ImageLog) -> None:
    """Write an image's log. Raises StorageFailed."""
    with storage_errors(path):
        write_image_log(path, log)


def renew_log_time(path: Path) -> None:
    """Renew the file time of a log that is still valid, so that the monitor counts the image.

    Raises StorageFailed.
    """
    with storage_errors(path):
        os.utime(path)
