import sys
from pathlib import Path

# Looking changes nothing, so the parse leaves no __pycache__ of the package either.
writes_no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
from samcourier.pipeline.snakemake_run import is_frozen_job, open_run

sys.dont_write_bytecode = writes_no_bytecode

# A job of a run has its settings: the config may be another one by now, or broken.
if not is_frozen_job(workflow):

    configfile: "config/config.yaml"


RUN = open_run(
    workflow, config, Path(str(workflow.current_basedir)).parent / "Snakefile"
)
