# Masks and logs are no outputs: Snakemake would delete a batch's good masks with a bad one.
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
