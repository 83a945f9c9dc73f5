"""Names of the files in a Zarr folder that hold no pixels, v2 and v3. Standard library only."""

from __future__ import annotations

#: Where OME-Zarr's metadata of a group stand: v2, v3.
ATTRIBUTES_FILES = (".zattrs", "zarr.json")
METADATA_FILES = (".zgroup", ".zarray", *ATTRIBUTES_FILES)
