"""The descriptions of the built-in readers. This module imports none of the readers."""

from __future__ import annotations

from ...files.zarr_names import METADATA_FILES
from .ome_set import COMPANION_SUFFIX
from .reader import Reader

#: Slides that are TIFF files: Aperio, Hamamatsu, Leica, Akoya, Ventana.
SLIDE_SUFFIXES = (".svs", ".ndpi", ".scn", ".qptiff", ".bif")

OME_ZARR = Reader(
    name="ome-zarr",
    kind="OME-Zarr",
    open="samcourier.images.readers.ome_zarr:opened_ome_zarr",
    folder_files=METADATA_FILES,
)
TIFF = Reader(
    name="tiff",
    kind="TIFF",
    open="samcourier.images.readers.tiff:open_tiff",
    magic=(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    suffixes=(
        ".tif",
        ".tiff",
        ".btf",
        ".tf2",
        ".tf8",
        ".lsm",
        ".stk",
        *SLIDE_SUFFIXES,
        COMPANION_SUFFIX,
    ),
    text_suffixes=(COMPANION_SUFFIX,),
)
PNG = Reader(
    name="png",
    kind="PNG",
    open="samcourier.images.readers.raster:open_png",
    magic=(b"\x89PNG\r\n\x1a\n",),
    suffixes=(".png",),
)
JPEG = Reader(
    name="jpeg",
    kind="JPEG",
    open="samcourier.images.readers.raster:open_jpeg",
    magic=(b"\xff\xd8\xff",),
    suffixes=(".jpg", ".jpeg"),
)
CZI = Reader(
    name="czi",
    kind="CZI",
    open="samcourier.images.readers.czi:open_czi",
    magic=(b"ZISRAWFI",),
    suffixes=(".czi",),
)
LIF = Reader(
    name="lif",
    kind="LIF",
    open="samcourier.images.readers.vendor:open_lif",
    magic=(b"\x70\0\0\0",),
    suffixes=(".lif",),
)
ND2 = Reader(
    name="nd2",
    kind="ND2",
    open="samcourier.images.readers.vendor:open_nd2",
    magic=(b"\xda\xce\xbe\x0a",),
    suffixes=(".nd2",),
)

#: In the order in which they are tried, before the readers of other distributions.
BUILT_IN = (OME_ZARR, TIFF, PNG, JPEG, CZI, LIF, ND2)
