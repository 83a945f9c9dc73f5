# Masks and logs are no outputs: Snakemake would delete a batch's good masks with a bad one.
rule segment:
    input:
        batch_images,
    output:
        DATASET_DIR / "batches/{batch}.json",
    log:
        DATASET_DIR / "logs/batches/{batch}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        submission=lambda wildcards, attempt: attempt,
        connections=1,
    params:
        rows=lambda wildcards: dataset.rows_digest(BATCHES[wildcards.batch].rows),
        service=tracked(service_options()),
        parameters=tracked(json.dumps(config["parameters"], sort_keys=True)),
        ome_zarr=tracked(config["ome_zarr"]),
        tiles=tracked(tile_options()),
        container=tracked(config["mask_container"]),
        outputs=untracked(OUTPUT_OPTIONS),
        sheet=untracked(str(SHEET)),
        batch_size=untracked(config["batch_size"]),
        dataset_dir=untracked(str(DATASET_DIR)),
        app=untracked(app_options() + slurm_options()),
        token=untracked(token_options()),
        network=untracked(network_options()),
        transport=untracked(config["transport"]),
        attempt_s=untracked(config["timeouts"]["attempt_s"]),
        image_s=untracked(config["timeouts"]["image_s"]),
        embeddings=untracked(embedding_options()),
        only=lambda wildcards, output: only_options(BATCHES[wildcards.batch].rows),
        retry=untracked(["--retry-failed"] if config["retry_failed"] else []),
        made_for=lambda wildcards, output: made_for(BATCHES[wildcards.batch]),
        said=batch_in_words,
    message:
        "{params.said}"
    shell:
        "samcourier batch {params.sheet:q} --batch {wildcards.batch}"
        " --rows-digest {params.rows} --made-for {params.made_for}"
        " --batch-size {params.batch_size} --dataset-dir {params.dataset_dir}"
        " {params.service:q} {params.app:q} {params.token:q} {params.network:q}"
        " --transport {params.transport}"
        " --attempt-timeout-s {params.attempt_s} --image-timeout-s {params.image_s}"
        " --parameters {params.parameters:q} --ome-zarr {params.ome_zarr}"
        " {params.tiles} --submission {resources.submission} {params.embeddings:q}"
        " --mask-container {params.container} {params.outputs}"
        " {params.only:q} {params.retry} --out {output} 2> {log}"
        " || {{ tail -n 3 {log} >&2; exit 1; }}"
