localrules:
    report,
    report_page,


# The report is a log: as an output it would be deleted when a missing mask ends this with 1.
rule report:
    input:
        RUN.report_inputs,
    output:
        RUN.plan.complete,
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


# For `snakemake --report`, which shows declared outputs alone. No part of `all`: a second copy.
rule report_page:
    input:
        RUN.plan.complete,
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
