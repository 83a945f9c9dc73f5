include: "workflow/Snakefile"


rule dataset:
    input:
        rules.all.input,
    message:
        "all that was asked for is there"
