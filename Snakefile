include: "workflow/Snakefile"


rule dataset:
    input:
        rules.all.input,
