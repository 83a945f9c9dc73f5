localrules:
    report,
    report_page,


# The report is declared as a log: Snakemake deletes the outputs of a failed job, and this job fails
# if a mask is missing.
rule report:
    input:
        RUN.report_inputs,
    output:
        RUN.plan.complete_json,
    log:
        html=RUN.plan.report_html,
        tsv=RUN.plan.report_tsv,
    retries: 0
    params:
        settings=RUN.settings_file,
    message:
        f"report of {len(RUN.plan.subset or RUN.plan.rows)} images: {RUN.plan.report_html}"
    shell:
        "samcourier report --settings {params.settings:q}"
        " --html {log.html} --tsv {log.tsv} --complete {output}"


# `snakemake --report` shows declared outputs only. `all` does not request this copy of the report.
rule report_page:
    input:
        RUN.plan.complete_json,
    output:
        report(
            RUN.dataset_dir / "report_page.html",
            caption="../captions/report.rst",
            category="Segmentation",
            labels={"dataset": RUN.plan.settings.dataset},
        ),
    log:
        RUN.dataset_dir / "logs/report_page.log",
    params:
        html=lambda wildcards, output: str(RUN.plan.report_html),
    shell:
        "cp {params.html:q} {output:q} 2> {log:q}"
