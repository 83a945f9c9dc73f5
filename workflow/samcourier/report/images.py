"""Make the data of the table of images for the page's script.

The data is stored by column, and equal texts are stored once, which keeps the page small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..evaluation.outcome import Outcome
from ..formatting import plain
from .pictures import Pictures
from .table import COLUMNS, property_columns

#: Columns of the table; the other :data:`COLUMNS` are shown beside the picture of an opened image.
TABLE_COLUMNS = (
    "image",
    "status",
    "object_count",
    "ap50",
    "ap75",
    "mean_matched_iou",
    "missed",
    "split",
    "merged",
    "transport",
    "attempts",
    "total_s",
    "remark",
)
_ACCURACY_COLUMNS = ("ap50", "ap75", "mean_matched_iou", "missed", "split", "merged")


def table_data(outcomes: Sequence[Outcome], pictures: Pictures) -> dict[str, Any]:
    """Return columns, values and pictures of all images as plain JSON values.

    The values of a text column are indices into ``texts``. ``pictures`` has one entry per image: a
    pair of data URIs (picture, outlines), 1 if only the file of its preview exists, or 0 for an
    image without a picture.
    """
    has_truth = any(outcome.accuracy is not None for outcome in outcomes)
    numbers: dict[str, int] = {}
    columns = []
    properties = property_columns(outcomes)
    shown = {*TABLE_COLUMNS, *(column.name for column in properties)}
    for column in (COLUMNS[0], *properties, *COLUMNS[1:]):
        is_text = column.decimals is None
        values = [column.value(outcome) for outcome in outcomes]
        columns.append(
            {
                "name": column.name,
                "group": column.group,
                "heading": column.heading,
                "decimals": column.decimals,
                "is_shown": column.name in shown
                and (has_truth or column.name not in _ACCURACY_COLUMNS),
                "values": [
                    numbers.setdefault(plain(str(value or "")), len(numbers))
                    if is_text
                    else _rounded(value, column.decimals or 0, column.page_unit)
                    for value in values
                ],
            }
        )
    return {
        "columns": columns,
        "texts": list(numbers),
        "pictures": [_picture(outcome.image, pictures) for outcome in outcomes],
    }


def _rounded(value: Any, decimals: int, unit: float) -> float | int | None:
    if value is None:
        return None
    rounded = round(value / unit, decimals)
    return rounded if decimals else int(rounded)


def _picture(image: str, pictures: Pictures) -> list[str] | int:
    embedded = pictures.embedded.get(image)
    if embedded is not None:
        return [embedded.base, embedded.outlines]
    return 1 if image in pictures.linked else 0
