"""What would be uploaded to a BioEngine worker, under which ids, and how its answers are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from samcourier.deploy import targets as service
from samcourier.deploy.bioengine import app as bioengine_app
from samcourier.deploy.bioengine.app import (
    APP_CLASS,
    AppPackage,
    AppPlan,
    differences,
    pack_app,
    plan_app,
)
from samcourier.deploy.bioengine.log_tail import LogTail, overlap
from samcourier.deploy.bioengine.readiness import AppServices
from samcourier.deploy.bioengine.worker import WorkerAddress, reason_of
from samcourier.deploy.targets import (
    BIOENGINE_RECORD,
    deploy_service,
    find_service,
    undeploy_service,
)
from samcourier.errors import InputError
from samcourier.settings.run_settings import RunSettings, ServiceSettings
from samcourier.transports.network import IceServer

MANIFEST = {"id": "samservice", "version": "0.1.0", "entry": f"deployment:{APP_CLASS}"}


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(MANIFEST))
    (tmp_path / "deployment.py").write_text("class SegmentationApp: ...\n")
    return tmp_path


def plan(engine: str = "watershed", **settings: Any) -> AppPlan:
    package = AppPackage("samservice-0", "0.1.0", "0" * 64, ())
    return plan_app(package, ServiceSettings(engine=engine, **settings))


def running(of: AppPlan) -> dict[str, Any]:
    """Return the worker's status of a running application, as it would answer."""
    users = {"*": [*of.parameters["authorized_users"]["*"], "who@deploys.org"]}
    return of.parameters | {
        "status": "RUNNING",
        "artifact_id": f"lab/{of.package.artifact_alias}",
        "authorized_users": users,
    }


# The package.


def test_the_app_of_the_checkout_is_packed_completely() -> None:
    packed = pack_app()
    names = [each["name"] for each in packed.files]
    assert names[:2] == ["manifest.yaml", "deployment.py"]
    assert {
        "samservice/__init__.py",
        "samservice/server/app.py",
        "samservice/server/serve.py",
    } <= set(names)
    assert {each["type"] for each in packed.files} == {"text"}
    manifest = yaml.safe_load(packed.files[0]["content"])
    assert manifest["format_version"] == "0.6.0"
    assert manifest["entry"] == f"deployment:{APP_CLASS}"
    assert manifest["id"] == packed.artifact_alias == f"samservice-{packed.content_sha256[:12]}"
    assert manifest["content_sha256"] == packed.content_sha256


@pytest.mark.parametrize(
    ("file", "content", "is_same"),
    [
        ("deployment.py", "class SegmentationApp: ...\n", True),
        ("deployment.py", "class SegmentationApp: pass\n", False),
        ("manifest.yaml", yaml.safe_dump(MANIFEST | {"version": "0.2.0"}), False),
        ("manifest.yaml", yaml.safe_dump(dict(reversed(MANIFEST.items()))), True),
        ("README.md", "not of the app", True),
    ],
)
def test_the_artifact_is_named_by_its_content(
    app_dir: Path, file: str, content: str, is_same: bool
) -> None:
    before = pack_app(app_dir)
    (app_dir / file).write_text(content)
    after = pack_app(app_dir)
    assert (after == before) is is_same
    assert (after.artifact_alias == before.artifact_alias) is is_same


@pytest.mark.parametrize("manifest", ["[", "- a", "id: samservice", ""])
def test_a_manifest_that_is_none_is_one_line(app_dir: Path, manifest: str) -> None:
    (app_dir / "manifest.yaml").write_text(manifest)
    with pytest.raises(InputError, match=r"manifest.yaml: .*expected") as caught:
        pack_app(app_dir)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [".", "samservice/bioengine", None])
def test_the_app_lies_beside_the_package_or_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None
) -> None:
    package = tmp_path / "samservice" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    monkeypatch.setattr(bioengine_app.samservice, "__file__", str(package))
    if place is None:
        with pytest.raises(InputError, match="expected a complete installation"):
            bioengine_app.app_directory()
        return
    home = tmp_path / place
    home.mkdir(exist_ok=True)
    (home / "manifest.yaml").touch()
    (home / "deployment.py").touch()
    assert bioengine_app.app_directory() == home


# The plan.


def test_a_plan_has_all_arguments_of_deploy_app() -> None:
    package = AppPackage("samservice-0", "0.1.0", "0" * 64, ())
    settings = ServiceSettings(
        engine="microsam",
        engine_options={"model": "vit_b_lm"},
        cpus=2,
        memory_mb=8000,
        gpu_memory_mb=-1,
        replicas=3,
        authorized_users=("b", "a", "b"),
    )
    servers = [IceServer(("stun:s:1",)), IceServer(("turn:t:1",), "me", "secret")]
    made = plan_app(package, settings, servers)
    environment = made.parameters["application_env_vars"][APP_CLASS]
    assert environment.pop("SAMSERVICE_FINGERPRINT") == made.fingerprint
    assert made.parameters == {
        "application_kwargs": {
            APP_CLASS: {
                "engine_options": {"model": "vit_b_lm"},
                "ice_servers": [{"urls": ["stun:s:1"]}],
            }
        },
        "application_env_vars": {
            APP_CLASS: {
                "SAMSERVICE_ENGINE": "microsam",
                "SAMSERVICE_CPUS": "2",
                "SAMSERVICE_MEMORY_MB": "8000",
                "SAMSERVICE_GPU_MEMORY_MB": "-1",
            }
        },
        "disable_gpu": False,
        "authorized_users": {"*": ["a", "b"]},
        "scaling": {APP_CLASS: {"num_replicas": 3}},
    }
    assert "secret" not in repr(made)


def test_a_plan_has_the_requirements_of_an_engine_of_another_package() -> None:
    package = AppPackage("samservice-0", "0.1.0", "0" * 64, ())
    settings = ServiceSettings(engine="cells")
    bare = plan_app(package, settings)
    made = plan_app(package, settings, requirements=("courier-cells==1.0",))
    environment = made.parameters["application_env_vars"][APP_CLASS]
    assert json.loads(environment["SAMSERVICE_REQUIREMENTS"]) == ["courier-cells==1.0"]
    assert made.fingerprint != bare.fingerprint


@pytest.mark.parametrize(
    ("settings", "is_same"),
    [
        ({}, True),
        ({"worker_id": "lab/w:bioengine-worker"}, True),
        ({"deploy_timeout_s": 5.0}, True),
        ({"cpus": 1}, True),
        ({"cpus": 2}, False),
        ({"memory_mb": 1}, False),
        ({"gpu_memory_mb": -1}, False),
        ({"replicas": 2}, False),
        ({"authorized_users": ("*",)}, False),
        ({"engine": "microsam"}, False),
    ],
)
def test_the_application_id_depends_on_the_request(settings: dict[str, Any], is_same: bool) -> None:
    assert (plan(**settings).application_id == plan().application_id) is is_same
    assert plan(**settings, application_id="cells").application_id == "cells"


@pytest.mark.parametrize("name", ["", "a b", "-a", "é", "a/b", "a" * 64])
def test_an_id_that_bioengine_cannot_hold_is_refused(name: str) -> None:
    if not name:
        assert plan(application_id=name).application_id == plan().application_id
        return
    with pytest.raises(InputError, match=r"service.application_id: .*expected at most 63"):
        plan(application_id=name)


@pytest.mark.parametrize(
    ("wanted", "differs"),
    [
        ({}, []),
        ({"replicas": 2}, ["replicas"]),
        ({"engine": "microsam", "gpu_memory_mb": -1}, ["engine", "gpu_memory_mb"]),
        ({"authorized_users": ("a@b",)}, ["authorized_users"]),
    ],
)
def test_the_differences_are_told_in_the_config_s_words(
    wanted: dict[str, Any], differs: list[str]
) -> None:
    assert differences(running(plan()), plan(**wanted)) == differs


def test_other_files_and_narrower_access_are_differences_too() -> None:
    other = replace(plan(), package=replace(plan().package, artifact_alias="samservice-1"))
    assert differences(running(other), replace(plan(), fingerprint="x")) == ["the app's files"]
    # Who may call today cannot be told from who was asked for: the worker adds its own.
    assert differences(running(plan(authorized_users=("a",))), plan()) == ["its parameters"]
    assert "engine" in differences({"status": "RUNNING"}, plan())


# What the worker says.


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("RemoteError:ValueError: no room", "ValueError: no room"),
        ("Traceback:\n  File x\nValueError: no room\n", "no room"),
        ("RemoteError:'x'\nTraceback:\nKeyError: 'x'\n", "'x'"),
        ("T\nRuntimeError: Failed: ValueError: a\n\n  b: c\n", "Failed: ValueError: a b: c"),
        ("T\nValueError: first\nDuring\nray.exceptions.RayTaskError: last", "last"),
        ("T\nPermissionError: \x1b[31mno", "\ufffd[31mno"),
        ("T\nValueError", "no reason given"),
        ("", "no reason given"),
    ],
)
def test_a_remote_exception_becomes_one_line(text: str, reason: str) -> None:
    assert reason_of(text) == reason


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        ([], [], 0),
        ([], ["a"], 0),
        (["a"], ["a"], 1),
        (["a"], ["a", "b"], 1),
        (["a", "b"], ["b", "c"], 1),
        (["a", "b"], ["c", "d"], 0),
        (["a", "a"], ["a", "a", "a"], 2),
        (["a", "b"], [], 0),
    ],
)
def test_a_tail_is_joined_where_it_goes_on(before: list[str], after: list[str], count: int) -> None:
    assert overlap(before, after) == count


def test_each_line_of_a_replica_is_logged_once(log: pytest.LogCaptureFixture) -> None:
    tail = LogTail()

    def status(logs: Any) -> dict[str, Any]:
        return {"deployments": {APP_CLASS: {"logs": logs}}}

    tail.log_new(status({"r1": {"stdout": ["a", ""], "stderr": []}, "r2": {"stdout": ["a"]}}))
    # What a worker tells of a replica beside its lines.
    about = {"creation_timestamp": 1764000000.5, "timezone": "UTC"}
    tail.log_new(status({"r1": about | {"stdout": ["a", "", "b\x07"], "stderr": ["c"]}}))
    tail.log_new(status({"error": "Error retrieving logs: gone"}))
    tail.log_new(status(None))
    tail.log_new({})
    assert log.messages == ["  r1: a", "  r2: a", "  r1: b\ufffd", "  r1: c"]


# The run's own record.


def run_settings(**service: Any) -> RunSettings:
    return RunSettings(dataset="cells", service=ServiceSettings(**service))


ADDRESS = {"target": "bioengine", "server_url": "http://127.0.0.1:9", "workspace": "lab"}
SETTINGS = run_settings(**ADDRESS)
FOUND = AppServices("lab/x-direct", "lab/x-direct-rtc")


def test_a_job_uses_the_record_of_deploy_without_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPHA_TOKEN", "secret")
    address, made = service._bioengine(SETTINGS)
    service._write_app_record(tmp_path, address, made, FOUND)
    endpoint = find_service(SETTINGS, tmp_path)
    assert (endpoint.service_id, endpoint.rtc_service_id) == (
        FOUND.service_id,
        FOUND.rtc_service_id,
    )
    assert (endpoint.workspace, endpoint.token) == ("lab", "secret")
    assert "secret" not in (tmp_path / BIOENGINE_RECORD).read_text() + repr(address)


@pytest.mark.parametrize(
    "other",
    [
        {"server_url": "http://127.0.0.1:8"},
        {"workspace": "another"},
        {"engine": "microsam"},
        {"replicas": 2},
        {"application_id": "cells"},
        {"worker_id": "lab/w:bioengine-worker"},
    ],
)
def test_the_record_of_another_app_is_not_taken(tmp_path: Path, other: dict[str, Any]) -> None:
    service._write_app_record(tmp_path, *service._bioengine(SETTINGS), FOUND)
    assert service._read_app_record(tmp_path, *service._bioengine(SETTINGS)) == FOUND
    settings = run_settings(**ADDRESS | other)
    assert service._read_app_record(tmp_path, *service._bioengine(settings)) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", json.dumps({"server_url": 3})])
def test_a_damaged_record_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / BIOENGINE_RECORD
    path.parent.mkdir()
    path.write_text(text)
    assert service._read_app_record(tmp_path, *service._bioengine(SETTINGS)) is None


@pytest.mark.parametrize(
    ("command", "target", "message"),
    [
        (deploy_service, "bioengine", "bioengine needs service.server_url"),
        (undeploy_service, "bioengine", "bioengine needs service.server_url"),
        (undeploy_service, "local", "local: nothing to undeploy, expected target"),
        (undeploy_service, "existing", "existing: nothing to undeploy"),
    ],
)
def test_an_impossible_deploy_is_refused_before_any_change(
    tmp_path: Path, command: Any, target: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        command(run_settings(target=target), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_token_is_masked_in_messages_of_the_worker() -> None:
    address = WorkerAddress("http://h", None, None, "se.cret")
    assert address.without_token("no se.cret here") == "no [token] here"
    assert replace(address, token=None).without_token("as it is") == "as it is"
    assert "se.cret" not in repr(address)
