"""Names of the files in a Zarr folder that hold no pixels, v2 and v3. Standard library only."""

from __future__ import annotations

#: The file with OME-Zarr's metadata of a group: in v2, in v3.
ATTRIBUTES_FILES = (".zattrs", "zarr.json")
METADATA_FILES = (".zgroup", ".zarray", *ATTRIBUTES_FILES)
