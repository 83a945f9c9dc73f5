# Masks and logs are not declared as outputs: Snakemake deletes all outputs of a job that fails or
# runs again, so an unfinished batch would lose its finished masks.
rule segment:
    input:
        RUN.batch_inputs,
    output:
        RUN.dataset_dir / "batches/{batch}.json",
    log:
        RUN.dataset_dir / "logs/batches/{batch}.log",
    threads: 1
    resources:
        submission=lambda wildcards, attempt: attempt,
        connections=1,
    params:
        settings=RUN.settings_file,
        message=RUN.batch_message,
    message:
        "{params.message}"
    shell:
        "samcourier batch --settings {params.settings:q} --batch {wildcards.batch}"
        " --submission {resources.submission} --out {output} 2> {log}"
        " || {{ tail -n 3 {log} >&2; exit 1; }}"
