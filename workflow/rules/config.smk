import difflib
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import validate

# Looking changes nothing, so the parse leaves no __pycache__ of the package either.
writes_no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
from samcourier.results import layout as store
from samcourier.results import pending as work_left
from samcourier.pipeline.names import check_engine_of_target
from samcourier.samples import discovery as finding
from samcourier.samples import format as sheets
from samcourier.samples import sheet as dataset
from samcourier.transports.description import check_transport_name
from samcourier.errors import InputError
from samcourier.formatting import plain_lines

sys.dont_write_bytecode = writes_no_bytecode


def refuse(problem):
    """End Snakemake with these words alone, without a traceback through the includes."""
    for line in plain_lines(str(problem)).splitlines():
        logger.error(f"samcourier: {line}")
    sys.exit(1)


def close_to(word, known):
    """Return a hint at the known word that ``word`` may be a slip of, or nothing."""
    close = difflib.get_close_matches(str(word), known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def describe_config_error(error):
    """Return a jsonschema error as one line: where, what came, what was expected."""
    where = ".".join(["config", *map(str, error.absolute_path)])
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = min(str(key) for key in error.instance if key not in known)
        hint = close_to(unknown, known)
        return f"{where}: unknown key {unknown!r}, {hint}expected {', '.join(known)}"
    if error.validator == "required":
        return f"{where}: {error.message}"
    expected = error.schema.get(
        "description", f"{error.validator} {error.validator_value}"
    )
    return f"{where}: {error.instance!r}, expected: {expected}"


def check_config():
    """Fill in the schema's defaults and refuse what the schema does not know."""
    try:
        validate(config, "../schemas/config.schema.yaml")
    except WorkflowError as error:
        if error.__context__ is None:
            raise
        refuse(describe_config_error(error.__context__))
    if workflow.is_main_process:
        check_names()
    # On the command line 0.5 is a number and true a word.
    config["ome_zarr"] = str(config["ome_zarr"])
    config["retry_failed"] = config["retry_failed"] in (True, "true")
    config["outputs"] = read_outputs()


def check_names():
    """Refuse an engine and a transport that no installed package offers."""
    service = config["service"]
    try:
        check_engine_of_target(service["target"], service["engine"])
        check_transport_name(config["transport"])
    except InputError as error:
        refuse(f"config: {error}")


def listed(asked):
    """Return the words of a list, which the command line may give as one with commas."""
    words = asked if isinstance(asked, list) else str(asked).split(",")
    return [str(word).strip() for word in words]


def read_outputs():
    """Return what to make of each mask beside it, by the names of samcourier.results.layout."""
    names = [name for name in listed(config["outputs"]) if name]
    for name in names:
        if name not in store.OUTPUTS:
            hint = close_to(name, store.OUTPUTS)
            refuse(
                f"config.outputs: {name!r}, {hint}expected {', '.join(store.OUTPUTS)}"
            )
    return names


def read_rows():
    """Return the rows of the sheet, or of what is found; each problem is a line of its own."""
    try:
        # A job sees what its run found, whatever was added since.
        if finding.is_sheet(config["sheet"]) or not workflow.is_main_process:
            rows = dataset.read_sheet(SHEET)
        else:
            known = sheets.known_rows(SHEET)
            rows = finding.find_images([config["sheet"]], known).rows
    except InputError as error:
        refuse(error)
    paths = [path for row in rows for path in (row.path, row.foreground) if path]
    for path in paths:
        if set("{}") & set(str(path)):
            refuse(
                f"{config['sheet']}: path {str(path)!r}, expected no braces, which"
                " Snakemake takes for wildcards"
            )
    return rows


def read_subset():
    """Return the image ids that ``images`` limits the run to, None for every image."""
    if config["images"] is None:
        return None
    only = listed(config["images"])
    ids = {row.image for row in ROWS}
    for image in only:
        if image not in ids:
            hint = close_to(image, ids)
            refuse(f"config.images: {image!r}, {hint}expected ids of {config['sheet']}")
    return frozenset(only) or None


check_config()
DATASET_DIR = Path("results", config["dataset"])
SHEET = (
    Path(config["sheet"])
    if finding.is_sheet(config["sheet"])
    else sheets.found_sheet_path(DATASET_DIR)
)
ROWS = read_rows()
ONLY = read_subset()
