# Deploying and verifying belong to a run, not to a file: as rules whose outputs every batch
# takes, the repair of one batch would remake all (ancient() does not hold for a missing file).


def service_options():
    """Return the options that say which service to use, on which the labels depend."""
    service = config["service"]
    options = ["--target", service["target"]]
    if service["target"] == "local":
        options += ["--engine", service["engine"]]
        options += [
            "--engine-options",
            json.dumps(service["engine_options"], sort_keys=True),
        ]
        return options
    for key in ("server_url", "workspace", "service_id"):
        if service[key] is not None:
            options += [f"--{key.replace('_', '-')}", service[key]]
    return options


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


def bring_up_service():
    """Deploy and verify the service if this run makes a batch; end the run if that fails."""
    if not batches_to_make() or workflow.touch:
        return
    if config["service"]["target"] == "local" and not workflow.local_exec:
        refuse(
            "config.service.target: 'local' serves this machine alone and a cluster's jobs do not"
            " reach it, expected 'existing' with the server_url and service_id of a service"
        )
    options = ["--dataset-dir", str(DATASET_DIR), *service_options()]
    options += [*token_options(), *network_options()]
    endpoint, verdict = (
        DATASET_DIR / "service/endpoint.json",
        DATASET_DIR / "service.json",
    )
    run_step("deploy", *options, "--out", str(endpoint))
    run_step(
        "verify", *options, "--transport", config["transport"], "--out", str(verdict)
    )


def run_step(step, *arguments):
    """Show the command, run it, and end the run where it fails."""
    logger.info(shlex.join(["samcourier", step, *arguments]))
    if not run_samcourier(step, *arguments):
        refuse(f"no batch was started, since samcourier {step} failed")
