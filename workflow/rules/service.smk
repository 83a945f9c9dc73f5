# These rules run only if they are requested by name. A run deploys and verifies its service when it
# starts, see `onstart` in the Snakefile.
localrules:
    deploy,
    verify,
    doctor,
    undeploy,


rule deploy:
    """Start the service if it is missing or has other settings, and wait until it answers."""
    input:
        RUN.endpoint_inputs,
    output:
        RUN.endpoint,
    log:
        RUN.dataset_dir / "logs/deploy.log",
    retries: 0
    params:
        settings=RUN.settings_file,
    shell:
        "samcourier deploy --settings {params.settings:q} --out {output} 2>&1 | tee {log}"


# The verdict is declared as a log: Snakemake deletes the outputs of a failed job, and this job fails
# if no transport works.
rule verify:
    """Start the service if needed and test each transport; the result is in service.json."""
    input:
        RUN.endpoint,
    log:
        verdict=RUN.verdict,
        messages=RUN.dataset_dir / "logs/verify.log",
    retries: 0
    params:
        settings=RUN.settings_file,
    shell:
        "samcourier verify --settings {params.settings:q} --out {log.verdict}"
        " 2>&1 | tee {log.messages}"


rule doctor:
    """Check that the run can start and succeed; exit with status 1 if it would fail."""
    input:
        RUN.plan.demo_files,
    log:
        RUN.dataset_dir / "logs/doctor.log",
    retries: 0
    params:
        settings=RUN.settings_file,
        to_segment=lambda wildcards, output: str(RUN.to_segment),
    message:
        "checks before the run"
    shell:
        "samcourier doctor --settings {params.settings:q}"
        " --to-segment {params.to_segment:q} 2>&1 | tee {log}"


rule undeploy:
    """Stop the service on its BioEngine worker or SLURM job, even while it is in use."""
    log:
        RUN.dataset_dir / "logs/undeploy.log",
    retries: 0
    params:
        settings=RUN.settings_file,
    shell:
        "samcourier undeploy --settings {params.settings:q} 2>&1 | tee {log}"
