"""The store of embeddings: whole or absent, bounded, shared by jobs, never an image's failure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from samcourier.results.service_description import ServiceDescription
from samcourier.segmentation.embedding_cache import SUFFIX, EmbeddingStore, forecast_embeddings

EMBEDDING: dict[str, Any] = {
    "features": {"wire": 1, "dtype": "<f4", "shape": [1, 2], "codec": "raw", "data": bytes(8)},
    "original_size": [10, 12],
    "constant": False,
    "model_sha256": None,
}
ROOM = 1 << 20


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"*{SUFFIX}"))


def one_size(folder: Path) -> int:
    return (folder / f"a{SUFFIX}").stat().st_size


def test_a_kept_embedding_is_returned(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "new" / "folder", ROOM)
    assert store.get("a") is None
    assert store.keep("a", EMBEDDING)
    assert store.get("a") == EMBEDDING
    assert EmbeddingStore(store.folder, ROOM).get("a") == EMBEDDING
    assert store.get("b") is None
    assert store.summary() is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes(32) + content[32:],
    ],
    ids=["emptied", "torn", "a bit flipped", "another digest"],
)
def test_a_damaged_embedding_is_none_and_is_written_anew(tmp_path: Path, damage: Any) -> None:
    store = EmbeddingStore(tmp_path, ROOM)
    store.keep("a", EMBEDDING)
    path = tmp_path / f"a{SUFFIX}"
    path.write_bytes(damage(path.read_bytes()))
    assert store.get("a") is None
    store.keep("a", EMBEDDING)
    assert store.get("a") == EMBEDDING


def test_once_the_folder_is_full_new_ones_are_not_kept_and_old_ones_stay(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path, ROOM).keep("a", EMBEDDING)
    limit = 3 * one_size(tmp_path)
    store = EmbeddingStore(tmp_path, limit)
    assert [store.keep(key, EMBEDDING) for key in "bcde"] == [True, True, False, False]
    assert files(tmp_path) == [f"{key}{SUFFIX}" for key in "abc"]
    assert store.keep("b", EMBEDDING)
    assert store.summary() == (
        f"{tmp_path}: 2 embeddings not kept, its limit of {limit / 1e9:g} GB is reached"
    )


def test_jobs_that_share_a_folder_share_its_limit(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path, ROOM).keep("a", EMBEDDING)
    jobs = [EmbeddingStore(tmp_path, 4 * one_size(tmp_path)) for _ in range(2)]
    kept = [jobs[number % 2].keep(str(number), EMBEDDING) for number in range(6)]
    assert kept == [True, True, True, False, False, False]


def test_deleted_embeddings_free_space_after_the_next_count(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path, ROOM).keep("a", EMBEDDING)
    limit = one_size(tmp_path)
    assert not EmbeddingStore(tmp_path, limit).keep("b", EMBEDDING)
    (tmp_path / f"a{SUFFIX}").unlink()
    # Nobody counts 100 000 files for each job.
    assert not EmbeddingStore(tmp_path, limit).keep("b", EMBEDDING)
    os.utime(tmp_path / "bytes", (0, 0))
    assert EmbeddingStore(tmp_path, limit).keep("b", EMBEDDING)


def test_the_part_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    part = tmp_path / f".a{SUFFIX}.part"
    part.write_bytes(b"half")
    EmbeddingStore(tmp_path, ROOM).keep("b", EMBEDDING)
    assert not part.exists()


def test_a_folder_that_cannot_be_written_fails_no_image(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = EmbeddingStore(tmp_path / "file", ROOM)
    assert not store.keep("a", EMBEDDING)
    assert store.get("a") is None
    assert "1 embeddings not kept, File exists" in str(store.summary())


@pytest.mark.parametrize(
    ("description", "said"),
    [
        (
            ServiceDescription(embedding_bytes=4194304),
            "at most 4.2 MB for each plane, up to 20 GB in f: 4,768",
        ),
        (ServiceDescription(), "embeddings are kept, up to 20 GB in f"),
    ],
)
def test_the_number_of_kept_embeddings_is_logged_before_the_run(
    description: ServiceDescription, said: str
) -> None:
    assert said in forecast_embeddings(EmbeddingStore(Path("f"), 20_000_000_000), description)


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (ServiceDescription(embeddings=True, wire={"version": 1}), True),
        (ServiceDescription(embeddings=True), False),
        (ServiceDescription(embeddings=False, wire={}), False),
        (ServiceDescription(), False),
    ],
)
def test_the_description_tells_whether_a_service_has_embeddings(
    description: ServiceDescription, expected: bool
) -> None:
    assert description.gives_embeddings is expected
