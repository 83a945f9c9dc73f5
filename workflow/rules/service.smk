# For whoever asks for them by name; a run that makes a batch does both without them.
localrules:
    deploy,
    verify,
    doctor,
    undeploy,


rule deploy:
    """Bring the service up where it is missing or differs, and wait until it answers."""
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


# The verdict is a log: as an output it would be deleted when no transport works.
rule verify:
    """Bring the service up and prove each transport; the verdict is in service.json."""
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
    """Look at all that the run needs before it begins; ends with 1 where it would fail."""
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
