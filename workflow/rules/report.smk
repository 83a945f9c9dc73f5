localrules:
    report,


# The report is a log: as an output it would be deleted when a missing mask ends this with 1.
rule report:
    input:
        report_manifests,
    output:
        COMPLETE,
    log:
        html=REPORT_HTML,
        tsv=REPORT_TSV,
    retries: 0
    conda:
        "../../environment.yml"
    params:
        sheet=tracked(str(SHEET)),
        batch_size=tracked(config["batch_size"]),
        dataset_dir=untracked(str(DATASET_DIR)),
        only=tracked(ONLY_OPTIONS),
    message:
        f"report of {len(ONLY or ROWS)} images: {REPORT_HTML}"
    shell:
        "samcourier report {params.sheet:q} --batch-size {params.batch_size}"
        " --dataset-dir {params.dataset_dir} {params.only:q}"
        " --html {log.html} --tsv {log.tsv} --complete {output}"
