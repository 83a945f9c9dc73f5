localrules:
    demo_data,


rule demo_data:
    output:
        RUN.plan.demo_files,
    log:
        "data/demo/demo-data.log",
    message:
        "write the demo images to data/demo"
    shell:
        "samcourier demo-data data/demo 2> {log}"
