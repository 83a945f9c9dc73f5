import sys

# A dry run must not change a file, so parsing must not write the package's __pycache__ either.
writes_no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
from samcourier.pipeline.snakemake_run import is_frozen_job, open_run

sys.dont_write_bytecode = writes_no_bytecode

# A job reads the settings that its run has stored: the config may have changed since, or be broken.
if not is_frozen_job(workflow):

    configfile: "config/config.yaml"


RUN = open_run(workflow, config, workflow.current_basedir.join("../Snakefile"))
