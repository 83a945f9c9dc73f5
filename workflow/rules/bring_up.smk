# A run that makes a batch deploys and verifies in onstart: were the rules deploy and verify its
# batches' inputs, the repair of one would remake all (docs/decisions/0001-batches-in-snakemake.md).


def service_options():
    """Return the options that say which service to use, on which the labels depend."""
    service = config["service"]
    options = ["--target", service["target"]]
    if service["target"] != "existing":
        options += ["--engine", service["engine"]]
        options += [
            "--engine-options",
            json.dumps(service["engine_options"], sort_keys=True),
        ]
    if service["target"] != "local":
        options += given_options("server_url", "workspace")
    if service["target"] == "existing":
        options += given_options("service_id")
    return options


def given_options(*keys):
    """Return the options of those keys of ``service`` that are not null."""
    service = config["service"]
    return [
        word
        for key in keys
        if service[key] is not None
        for word in (f"--{key.replace('_', '-')}", str(service[key]))
    ]


def app_options():
    """Return where and how the app runs on a BioEngine worker; no mask depends on it."""
    if config["service"]["target"] != "bioengine":
        return []
    options = given_options("worker_id", "application_id", "cpus", "memory_mb")
    options += given_options("gpu_memory_mb", "replicas", "deploy_timeout_s")
    for user in config["service"]["authorized_users"]:
        options += ["--authorized-user", user]
    return options


def slurm_options():
    """Return what the service's SLURM job asks for; no mask depends on it."""
    if config["service"]["target"] != "slurm":
        return []
    job = config["service"]["slurm"]
    options = given_options("cpus", "memory_mb", "deploy_timeout_s")
    for key in ("partition", "account", "gres", "time_min"):
        if job[key] is not None:
            options += [f"--slurm-{key.replace('_', '-')}", str(job[key])]
    return options + [f"--slurm-extra={word}" for word in job["extra"]]


def token_options():
    """Return the option that names the token's file; a token never stands in a command."""
    token_file = config["service"]["token_file"]
    return [] if token_file is None else ["--token-file", token_file]


def network_options():
    """Return the options that say how connections leave this site; no mask depends on them."""
    network = config["network"]
    options = ["--ice-servers", json.dumps(network["ice_servers"])]
    if network["ca_bundle"] is not None:
        options += ["--ca-bundle", network["ca_bundle"]]
    return options


def where_options():
    """Return all that the commands about the service are told of it."""
    options = ["--dataset-dir", str(DATASET_DIR), *service_options()]
    options += [*app_options(), *slurm_options()]
    return [*options, *token_options(), *network_options()]


# Jobs and replicas share it: a batch holds one connection, which carries the signalling too.
workflow.global_resources["connections"] = config["network"]["connections"]


def asked_of_it():
    """Return the options of what is proved: the transports, and that it takes what is asked."""
    parameters = json.dumps(config["parameters"], sort_keys=True)
    asked = ["--transport", config["transport"], "--parameters", parameters]
    return [*asked, *embedding_options()]


def embedding_options():
    """Return what is done with embeddings; labels are the same with them and without."""
    options = ["--embeddings", config["embeddings"]]
    options += ["--embeddings-max-gb", str(config["embeddings_max_gb"])]
    if config["embeddings_folder"] is not None:
        options += ["--embeddings-folder", config["embeddings_folder"]]
    return options


def bring_up_service():
    """Deploy and verify the service if this run makes a batch; end the run if that fails."""
    if not batches_to_make() or workflow.touch:
        return
    if config["service"]["target"] == "local" and not workflow.local_exec:
        refuse(
            "config.service.target: 'local' serves this machine alone and a cluster's jobs do not"
            " reach it, expected 'slurm' with the server_url of a Hypha server, 'bioengine' with"
            " that of a worker, or 'existing' with the server_url and service_id of a service"
        )
    run_step("deploy", *where_options(), "--out", str(ENDPOINT))
    run_step("verify", *where_options(), *asked_of_it(), "--out", str(VERDICT))


def run_step(step, *arguments):
    """Show the command, run it, and end the run where it fails."""
    logger.info(shlex.join(["samcourier", step, *arguments]))
    if not run_samcourier(step, *arguments):
        refuse(f"no batch was started, since samcourier {step} failed")


def asked_anew(wildcards):
    """Return no file: what runs elsewhere is looked at whenever it is asked for."""
    if workflow.is_main_process:
        remake(ENDPOINT)
    return []
