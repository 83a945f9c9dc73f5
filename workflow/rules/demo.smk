localrules:
    demo_data,


rule demo_data:
    output:
        DEMO_FILES,
    log:
        "data/demo/demo-data.log",
    conda:
        "../../environment.yml"
    message:
        "images of the demo: data/demo"
    shell:
        "samcourier demo-data data/demo 2> {log}"
