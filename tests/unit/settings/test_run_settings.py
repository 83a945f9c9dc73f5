"""Every key of the settings has one default, which the shipped config and its page repeat."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import yaml
from click.testing import CliRunner

from samcourier.cli.options import (
    CONNECTIONS_KEYS,
    SEGMENT_KEYS,
    SERVICE_KEYS,
    settings_options,
)
from samcourier.pipeline.config import config_schema, read_config
from samcourier.settings.run_settings import RunSettings

REPO = Path(__file__).parents[3]
#: The demo's: every other config names its own.
NAMED = {"dataset", "sheet"}
DEFAULTS: dict[str, Any] = json.loads(msgspec.json.encode(RunSettings(dataset="demo")))


def keys(values: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key, default) of each key that holds no further keys."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from keys(value, f"{where}{name}.")
        elif where or name not in NAMED:
            yield f"{where}{name}", value


def rows_of_the_page() -> dict[str, str]:
    """Return {key: default} of the table in config/README.md."""
    page = (REPO / "config/README.md").read_text()
    return dict(re.findall(r"^\| `([a-z_.]+)` \| `(.*?)` \|", page, flags=re.M))


def test_the_shipped_config_has_every_key_with_its_default() -> None:
    shipped = yaml.safe_load((REPO / "config/config.yaml").read_text())
    assert dict(keys(shipped)) == dict(keys(DEFAULTS))
    assert read_config(shipped) == RunSettings(dataset="demo", sheet="config/images.tsv")


@pytest.mark.parametrize(("key", "default"), list(keys(DEFAULTS)))
def test_the_page_of_the_config_has_the_default(key: str, default: Any) -> None:
    written = rows_of_the_page()[key]
    assert yaml.safe_load(written) == default, f"config/README.md: {key}"


def test_the_schema_in_the_repository_is_the_one_of_the_types() -> None:
    path = REPO / "workflow/schemas/config.schema.yaml"
    generated = json.loads(json.dumps(config_schema()))
    assert yaml.safe_load(path.read_text()) == generated, "make schemas"


def test_the_options_of_a_command_have_the_defaults_of_their_keys() -> None:
    given: list[RunSettings] = []

    @click.command()
    @settings_options({**SERVICE_KEYS, **SEGMENT_KEYS, **CONNECTIONS_KEYS})
    def command(settings: RunSettings) -> None:
        given.append(settings)

    assert CliRunner().invoke(command, []).exit_code == 0
    assert given == [RunSettings(dataset="")]


def test_a_command_may_have_another_default_than_the_settings() -> None:
    given: list[RunSettings] = []

    @click.command()
    @settings_options({"batch_size": "--batch-size"}, batch_size=25)
    def command(settings: RunSettings) -> None:
        given.append(settings)

    CliRunner().invoke(command, [])
    CliRunner().invoke(command, ["--batch-size", "3"])
    assert [settings.batch_size for settings in given] == [25, 3]
    assert "default: 25" in CliRunner().invoke(command, ["--help"]).output
