"""A refused caller is told who was refused, what is missing and what to do; never the token."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from samcourier.errors import Denied
from samcourier.transports.translate import translate_opening
from samservice.hypha.refusals import explain_refusal

SECRET = "c2VjcmV0LXNpZ25hdHVyZQ"


def token_of(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJIUzI1NiJ9.{payload}.{SECRET}"


ANN = token_of(
    **{"sub": "u-1", "https://server.example/email": "ann@example.org"}, exp=1_700_000_000
)
NAMELESS = token_of(sub="u-1", email=None)

MISMATCH = (
    "Failed to establish connection: Failed to authenticate user: Current workspace encoded in the "
    "token (ws-a) does not match the specified workspace (ws-b)"
)


@pytest.mark.parametrize(
    ("said", "token", "sentence"),
    [
        (
            "Authentication error: The token has expired. Please fetch a new one",
            ANN,
            "the token of ann@example.org has expired on 2023-11-14 at 22:13 UTC: get a new one "
            "from the server and put it into HYPHA_TOKEN or the token file",
        ),
        ("Signature has expired", NAMELESS, "the token of u-1 has expired: get a new one"),
        (
            MISMATCH,
            ANN,
            "the token of ann@example.org is for workspace 'ws-a', not for 'ws-b': put",
        ),
        (
            "Failed to establish connection: Permission denied for workspace: ws-1",
            None,
            "an anonymous caller (no token is given) has no right to workspace 'ws-1': ask its",
        ),
        ("Permission denied for workspace ws-1", NAMELESS, "u-1 has no right to workspace 'ws-1'"),
        (
            "PermissionError: Permission denied for non-public service in workspace lab",
            ANN,
            "ann@example.org is no member of the service's workspace, and the service is not",
        ),
        (
            "Permission denied for invoking protected method a/b:c.d, workspace mismatch: a != b",
            NAMELESS,
            "u-1 is no member of the service's workspace",
        ),
        (
            "Authentication error: Error decoding token headers.",
            "not.a.token",
            "the server does not accept the token of an unknown user (Error decoding token "
            "headers): check HYPHA_TOKEN or the token file",
        ),
        ("Error decoding token headers.", "", "the server does not accept the token of"),
    ],
)
def test_a_refusal_is_one_sentence(said: str, token: str | None, sentence: str) -> None:
    explained = explain_refusal(said, token)
    assert explained is not None
    assert explained.startswith(sentence)
    assert SECRET not in explained
    assert ANN.split(".")[1] not in explained
    assert "\n" not in explained


@pytest.mark.parametrize(
    "token", [ANN, "a.b.c", "....", "a", "a.bnVsbA.c", "a.\u00e9.c", "a._w.c", ""]
)
def test_any_token_can_be_refused(token: str) -> None:
    assert explain_refusal("token has expired", token) is not None


@pytest.mark.parametrize("said", ["", "User is blocked: abuse", "Service not found", "refused"])
def test_other_words_are_left_as_they_are(said: str) -> None:
    assert explain_refusal(said, ANN) is None


def test_an_opening_names_whose_token_it_was() -> None:
    error = ConnectionAbortedError("Authentication error: The token has expired.")
    translated = translate_opening(error, "websocket", ANN)
    assert type(translated) is Denied
    assert str(translated).startswith("websocket: the token of ann@example.org has expired on")
    again = translate_opening(translated, "webrtc", ANN)
    assert again is translated
