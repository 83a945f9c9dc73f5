"""The settings of a run: every key of ``config.yaml`` with its type, limits and default.

No default is written elsewhere. The JSON Schema of the config and the options of the command line
are made from these types; a test compares the table in ``config/README.md`` with them. The message
for a refused value quotes the description of its key, so a description says what is expected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from samservice.contract.engine_description import DEFAULT_ENGINE, ENGINES

from ..masks.integrity import MaskContainer, OmeZarrVersion

Target = Literal["local", "bioengine", "slurm", "existing"]

_Text = Annotated[str, Meta(min_length=1)]
_Count = Annotated[int, Meta(ge=1)]
_Above0 = Annotated[float, Meta(gt=0)]


class IceServerSettings(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A STUN or TURN server; user name and password come from variables of the environment."""

    urls: Annotated[
        str | list[str], Meta(description="e.g. turn:turn.example.org:3478, or a list of such")
    ]
    username_variable: Annotated[
        str | None,
        Meta(description="the environment variable that holds the user name of a TURN server"),
    ] = None
    credential_variable: Annotated[
        str | None,
        Meta(description="the environment variable that holds the password of a TURN server"),
    ] = None


class SlurmJobSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The resources that the SLURM job of the service requests."""

    partition: Annotated[
        _Text | None,
        Meta(description="partition of the job; null for the cluster's default"),
    ] = None
    account: Annotated[
        _Text | None, Meta(description="account of the job; null for the user's default")
    ] = None
    gres: Annotated[
        _Text | None,
        Meta(description="generic resources of the job, e.g. gpu:1; null for none"),
    ] = None
    time_min: Annotated[
        _Count | None,
        Meta(
            description="whole minutes (1 or more) of the job's time limit; null for the"
            " partition's"
        ),
    ] = None
    extra: Annotated[
        tuple[
            Annotated[_Text, Meta(description="an argument of sbatch, e.g. --constraint=a100")], ...
        ],
        Meta(description='a list of further arguments of sbatch, e.g. ["--constraint=a100"]'),
    ] = ()


class ServiceSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The service that segments the images, and how to start it if the run does so."""

    target: Annotated[
        Target,
        Meta(
            description="local (the run starts a service on this machine), bioengine (the run"
            " deploys an app on the BioEngine worker at server_url), slurm (the run submits a SLURM"
            " job that runs the service and connects it through the Hypha server at server_url) or"
            " existing (a service that runs elsewhere, named by server_url and service_id)"
        ),
    ] = "local"
    engine: Annotated[
        _Text,
        Meta(
            description=f"{', '.join(ENGINES.built_in)} or an engine of another package;"
            f" {DEFAULT_ENGINE} downloads nothing"
        ),
    ] = DEFAULT_ENGINE
    engine_options: Annotated[
        dict[str, Any],
        Meta(
            description="options of the engine as a mapping; an unknown option is refused with the"
            " known ones"
        ),
    ] = field(default_factory=dict)
    server_url: Annotated[
        Annotated[str, Meta(pattern="^https?://")] | None,
        Meta(description="URL of the Hypha server, http:// or https://; not for target local"),
    ] = None
    workspace: Annotated[
        str | None,
        Meta(description="Hypha workspace to join; null for the one the token belongs to"),
    ] = None
    service_id: Annotated[
        str | None,
        Meta(
            description="Hypha id of the service, a name or workspace/client:name, for target"
            " existing"
        ),
    ] = None
    token_file: Annotated[
        str | None,
        Meta(
            description="path of a file (mode 0600) that holds the Hypha token; null for the"
            " variable HYPHA_TOKEN"
        ),
    ] = None
    worker_id: Annotated[
        _Text | None,
        Meta(
            description="Hypha id of the BioEngine worker, workspace/client:bioengine-worker; null"
            " for the only one of the workspace"
        ),
    ] = None
    application_id: Annotated[
        Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] | None,
        Meta(
            description="name of the app on the worker, at most 63 letters, digits, '.', '_' and"
            " '-'; null for one made from its content and settings"
        ),
    ] = None
    cpus: Annotated[
        float,
        Meta(
            gt=0,
            description="CPUs above 0 that a replica on the BioEngine worker, or the SLURM job,"
            " reserves",
        ),
    ] = 1
    memory_mb: Annotated[
        _Count | None,
        Meta(
            description="whole MB of memory (1 or more) that a replica or the SLURM job reserves;"
            " null for no reservation by a replica and for the cluster's default in SLURM"
        ),
    ] = None
    gpu_memory_mb: Annotated[
        Annotated[int, Meta(ge=-1)] | None,
        Meta(
            description="whole MB of GPU memory that a replica reserves, -1 for a whole GPU; null"
            " for no GPU"
        ),
    ] = None
    replicas: Annotated[
        int,
        Meta(
            ge=1,
            description="a whole number of replicas (1 or more) that share the work on the"
            " BioEngine worker",
        ),
    ] = 1
    authorized_users: Annotated[
        tuple[
            Annotated[
                _Text, Meta(description="an e-mail address or Hypha id, or '*' for everyone")
            ],
            ...,
        ],
        Meta(
            description="a list of e-mail addresses and Hypha ids that may call the app, '*' for"
            " everyone; the deploying user always may"
        ),
    ] = ()
    deploy_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            description="longest wait in seconds (above 0) until the app runs or the service of the"
            " SLURM job answers; the time in the queue counts",
        ),
    ] = 1800
    slurm: Annotated[
        SlurmJobSettings,
        Meta(description="the service's SLURM job, a mapping of keys, for target slurm"),
    ] = SlurmJobSettings()


class NetworkSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The network of the site: STUN and TURN servers, certificates, number of connections."""

    ice_servers: Annotated[
        tuple[
            Annotated[
                IceServerSettings,
                Meta(
                    description="a STUN or TURN server, a mapping of urls, username_variable and"
                    " credential_variable"
                ),
            ],
            ...,
        ],
        Meta(
            description="a list of STUN and TURN servers, each a mapping of urls,"
            " username_variable and credential_variable (names of environment variables)"
        ),
    ] = ()
    ca_bundle: Annotated[
        str | None,
        Meta(
            description="path of a PEM file of certificates to trust; null for those of the system"
        ),
    ] = None
    connections: Annotated[
        int,
        Meta(
            ge=1,
            description="a whole number (1 or more) of batches that may be connected at once, each"
            " by one connection; a Hypha server allows 200 connections of one user by default",
        ),
    ] = 150


class TimeoutSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The time limits of calls and images."""

    attempt_s: Annotated[
        float,
        Meta(
            gt=0,
            description="time limit of one call in seconds (above 0); it starts again each time"
            " that the service finishes an image which was queued before this one; in a service"
            " that the run starts, a stage of an image hangs after 0.8 of it",
        ),
    ] = 600
    image_s: Annotated[
        float,
        Meta(
            gt=0,
            description="time limit for one image with all its attempts in seconds (above 0); it"
            " starts again each time that the service finishes another image",
        ),
    ] = 1800

    @property
    def max_stage_s(self) -> float:
        """The seconds after which a stage of an image hangs, in a service of this run's own.

        Below the time limit of a call, so that the caller learns the reason.
        """
        return 0.8 * self.attempt_s


class TileSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The tiles of large planes: a core of ``edge_px`` with a halo around it."""

    edge_px: Annotated[
        int,
        Meta(
            ge=256,
            description="side in pixels (256 or more) of a tile without its halo",
        ),
    ] = 2048
    halo_px: Annotated[
        int,
        Meta(
            ge=16,
            description="pixels (16 or more) added on each side of a tile; must exceed the diameter"
            " of the largest object",
        ),
    ] = 128
    above_px: Annotated[
        int,
        Meta(
            ge=1, description="a whole number of pixels; planes with more pixels are cut into tiles"
        ),
    ] = 4096 * 4096


class ObjectSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Further columns of the tables of objects."""

    solidity: Annotated[
        bool,
        Meta(
            description="true to add the area of the convex hull and the solidity, which take"
            " several times as long as all other columns, otherwise false"
        ),
    ] = False
    expand_um: Annotated[
        _Above0 | None,
        Meta(
            description="micrometres above 0: add the intensities in a ring of this width around"
            " each object, e.g. for the cytoplasm around a nucleus; null for no ring",
        ),
    ] = None


class RunSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a run: images, service, parameters, transport, masks and outputs.

    The attributes are the keys of ``config.yaml``. ``sheet`` is None if the user named several
    files, folders or patterns on the command line.
    """

    dataset: Annotated[
        str,
        Meta(
            description="a name of letters, digits, '_', '-' and '.'; everything is written to"
            " results/<dataset>",
        ),
    ]
    sheet: Annotated[
        _Text | None,
        Meta(
            description="path of the sample sheet, tab separated, one row per image; or a folder, a"
            " pattern such as data/*.tif, an OME-Zarr plate, or the URL of an OME-Zarr"
        ),
    ] = None
    batch_size: Annotated[
        int,
        Meta(
            ge=1,
            description="a whole number of images (1 or more) that one job segments over one"
            " connection",
        ),
    ] = 6
    images: Annotated[
        Annotated[tuple[str, ...], Meta(min_length=1)] | None,
        Meta(
            description="image ids of the sheet, as a list or separated by commas; null for every"
            " image"
        ),
    ] = None
    properties: Annotated[
        Annotated[tuple[str, ...], Meta(min_length=1)] | None,
        Meta(
            description="the names of further columns of the sheet, which are properties of the"
            " images, e.g. [condition, replicate]; null for every further column whose name is no"
            " typo of a column of the sheet"
        ),
    ] = None
    retry_failed: Annotated[
        bool,
        Meta(
            description="true to try again also images that failed by their own fault, otherwise"
            " false"
        ),
    ] = False
    replace: Annotated[
        bool,
        Meta(
            description="true to make finished masks of an older version of the engine again, and"
            " in a run of a subset those with other parameters, otherwise false"
        ),
    ] = False
    service: Annotated[
        ServiceSettings, Meta(description="the service to use, a mapping of keys")
    ] = ServiceSettings()
    parameters: Annotated[
        dict[str, Any],
        Meta(
            description="parameters of the engine as a mapping; the service refuses unknown"
            " parameters and names them"
        ),
    ] = field(default_factory=dict)
    embeddings: Annotated[
        Literal["none", "keep"],
        Meta(
            description="none, or keep (a later run with other parameters skips the encoder; only"
            " for engines that return embeddings)"
        ),
    ] = "none"
    embeddings_max_gb: Annotated[
        float,
        Meta(
            gt=0,
            description="GB above 0 that kept embeddings may take; above this limit, new ones are"
            " not kept",
        ),
    ] = 20
    embeddings_folder: Annotated[
        _Text | None,
        Meta(description="folder to keep embeddings in; null for results/<dataset>/embeddings"),
    ] = None
    transport: Annotated[
        _Text,
        Meta(
            description="auto (the fastest as measured), websocket, http, webrtc or a transport of"
            " another package"
        ),
    ] = "auto"
    network: Annotated[
        NetworkSettings, Meta(description="settings of the site's network, a mapping of keys")
    ] = NetworkSettings()
    timeouts: Annotated[
        TimeoutSettings, Meta(description="limits in seconds, a mapping of keys")
    ] = TimeoutSettings()
    tiles: Annotated[
        TileSettings,
        Meta(description="how large images are cut for the service, a mapping of keys"),
    ] = TileSettings()
    ome_zarr: Annotated[
        OmeZarrVersion,
        Meta(description="0.4 (zarr 2; QuPath, Fiji, napari) or 0.5 (zarr 3; Python, napari)"),
    ] = "0.4"
    mask_container: Annotated[
        MaskContainer,
        Meta(description="folder (one file per chunk) or zip (one file per mask, .ome.zarr.zip)"),
    ] = "folder"
    outputs: Annotated[
        tuple[str, ...],
        Meta(
            description="files to make from each mask, a list or separated by commas of"
            " tiff, objects_csv, objects_parquet, polygons, preview, input_labels"
        ),
    ] = ()
    objects: Annotated[
        ObjectSettings, Meta(description="further columns of the tables of objects, a mapping")
    ] = ObjectSettings()

    @property
    def subset(self) -> frozenset[str] | None:
        """Ids of the images that the run is limited to, None for every image."""
        return frozenset(self.images) if self.images else None

    def embeddings_dir(self, dataset_dir: Path) -> Path | None:
        """Return the folder of the kept embeddings, None where none are kept."""
        if self.embeddings == "none":
            return None
        if self.embeddings_folder is not None:
            return Path(self.embeddings_folder)
        return dataset_dir / "embeddings"
