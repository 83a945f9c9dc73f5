# For whoever asks for them by name; a run that makes a batch does both without them.
localrules:
    deploy,
    verify,
    doctor,
    undeploy,


rule deploy:
    """Bring the service up where it is missing or differs, and wait until it answers."""
    input:
        asked_anew,
    output:
        ENDPOINT,
    log:
        DATASET_DIR / "logs/deploy.log",
    retries: 0
    conda:
        "../../environment.yml"
    params:
        where=untracked(where_options()),
    shell:
        "samcourier deploy {params.where:q} --out {output} 2>&1 | tee {log}"


# The verdict is a log: as an output it would be deleted when no transport works.
rule verify:
    """Bring the service up and prove each transport; the verdict is in service.json."""
    input:
        ENDPOINT,
    log:
        verdict=VERDICT,
        said=DATASET_DIR / "logs/verify.log",
    retries: 0
    conda:
        "../../environment.yml"
    params:
        where=untracked(where_options()),
        asked=untracked(asked_of_it()),
    shell:
        "samcourier verify {params.where:q} {params.asked:q} --out {log.verdict}"
        " 2>&1 | tee {log.said}"


rule doctor:
    """Look at all that the run needs before it begins; ends with 1 where it would fail."""
    input:
        DEMO_FILES,
    log:
        DATASET_DIR / "logs/doctor.log",
    retries: 0
    conda:
        "../../environment.yml"
    params:
        sheet=untracked(str(SHEET)),
        batch_size=untracked(config["batch_size"]),
        where=untracked(where_options()),
        asked=untracked(asked_of_it()),
        form=untracked(form_options()),
        to_segment=untracked(str(TO_SEGMENT)),
        connections=untracked(config["network"]["connections"]),
    message:
        "a look before the run"
    shell:
        "samcourier doctor {params.sheet:q} --batch-size {params.batch_size}"
        " {params.where:q} {params.asked:q} {params.form:q}"
        " --to-segment {params.to_segment:q}"
        " --connections {params.connections} 2>&1 | tee {log}"


rule undeploy:
    """Take the service away from its BioEngine worker or SLURM job, whoever uses it."""
    log:
        DATASET_DIR / "logs/undeploy.log",
    retries: 0
    conda:
        "../../environment.yml"
    params:
        where=untracked(where_options()),
    shell:
        "samcourier undeploy {params.where:q} 2>&1 | tee {log}"
