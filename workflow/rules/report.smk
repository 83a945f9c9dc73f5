localrules:
    report,
    report_page,


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
        images=tracked(sorted(ONLY or [])),
        only=tracked(subset_options()),
    message:
        f"report of {len(ONLY or ROWS)} images: {REPORT_HTML}"
    shell:
        "samcourier report {params.sheet:q} --batch-size {params.batch_size}"
        " --dataset-dir {params.dataset_dir} {params.only:q}"
        " --html {log.html} --tsv {log.tsv} --complete {output}"


# For `snakemake --report`, which shows declared outputs alone. No part of `all`: a second copy.
rule report_page:
    input:
        COMPLETE,
    output:
        report(
            DATASET_DIR / "report_page.html",
            caption="../captions/report.rst",
            category="Segmentation",
            labels={"dataset": config["dataset"]},
        ),
    log:
        DATASET_DIR / "logs/report_page.log",
    conda:
        "../../environment.yml"
    params:
        html=untracked(str(REPORT_HTML)),
    shell:
        "cp {params.html:q} {output:q} 2> {log:q}"
