"""What counts after a start: the files that are there, and nothing after an empty one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

from audiobot.answering.knowledge import Importer
from audiobot.answering.sources import EmptyStart, StartingKnowledge
from audiobot.domain import utc_now
from audiobot.ports import Store
from tests.conformance.local import opened


class Listening:
    """An answerer that counts how often it was told to look again."""

    def __init__(self) -> None:
        self.refreshed = 0

    async def refresh(self) -> None:
        self.refreshed += 1

    async def learn(self, log_ids: Sequence[UUID]) -> None: ...


def table(animal: str) -> bytes:
    return f"question,answer\nWho is it?,It is the {animal}.\n".encode()


def starting(store: Store, place: Path) -> StartingKnowledge:
    return StartingKnowledge(store, Importer(store, Listening()), place / "knowledge.json")


async def names(store: Store) -> list[str]:
    return [source.name for source in await store.get_knowledge()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "knowledge"
    folder.mkdir()
    for name in ("cat", "dog"):
        (folder / f"{name}.csv").write_bytes(table(name))
    return folder


async def test_a_file_that_is_gone_is_withdrawn_at_the_next_start(
    tmp_path: Path, folder: Path
) -> None:
    async with opened(tmp_path / "data") as store:
        await starting(store, tmp_path).bring(folder)
        assert await names(store) == ["cat.csv", "dog.csv"]
        (folder / "cat.csv").unlink()
        imported = await starting(store, tmp_path).bring(folder)
        assert [i.source for i in imported if i.changed] == ["cat.csv"]
        assert await names(store) == ["dog.csv"]
        assert not any(i.changed for i in await starting(store, tmp_path).bring(folder))


async def test_another_folder_takes_the_first_ones_place(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "other.csv").write_bytes(table("fox"))
    async with opened(tmp_path / "data") as store:
        await starting(store, tmp_path).bring(folder)
        await starting(store, tmp_path).bring(tmp_path / "other.csv")
        assert await names(store) == ["other.csv"]


async def test_what_was_imported_by_hand_stays(tmp_path: Path, folder: Path) -> None:
    async with opened(tmp_path / "data") as store:
        by_hand = Importer(store, Listening())
        await by_hand.import_file("hand.csv", table("horse"))
        await starting(store, tmp_path).bring(folder)
        await by_hand.import_file("cat.csv", table("lion"))
        (folder / "cat.csv").unlink()
        await starting(store, tmp_path).bring(folder)
        assert await names(store) == ["cat.csv", "dog.csv", "hand.csv"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"cat.csv": 1}'])
async def test_a_memory_that_is_damaged_is_no_reason_not_to_start(
    tmp_path: Path, folder: Path, damage: bytes
) -> None:
    (tmp_path / "knowledge.json").write_bytes(damage)
    async with opened(tmp_path / "data") as store:
        await starting(store, tmp_path).bring(folder)
        (folder / "cat.csv").unlink()
        await starting(store, tmp_path).bring(folder)
        assert await names(store) == ["dog.csv"]


async def test_after_an_empty_start_only_what_is_imported_since_counts(tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as store:
        await Importer(store, Listening()).import_file("cat.csv", table("cat"))
        empty = EmptyStart.over(store, utc_now())
        assert await names(empty) == []
        listening = Listening()
        importer = Importer(empty, listening)
        await importer.import_file("dog.csv", table("dog"))
        assert await names(empty) == ["dog.csv"]
        # The same file once more: it counts from now on, though it is kept already.
        assert (await importer.import_file("cat.csv", table("cat"))).changed
        assert await names(empty) == ["cat.csv", "dog.csv"]
        assert listening.refreshed == 2
        assert await names(store) == ["cat.csv", "dog.csv"]
        assert not (await importer.import_file("cat.csv", table("cat"))).changed


@pytest.mark.parametrize("animal", ["cat", "lion"])
async def test_what_one_process_imports_again_after_an_empty_start_counts_in_every_one(
    tmp_path: Path, animal: str
) -> None:
    async with opened(tmp_path / "data") as store:
        for name in ("cat", "dog"):
            await Importer(store, Listening()).import_file(f"{name}.csv", table(name))
        since = utc_now()
        one, two = [EmptyStart.over(store, since) for _ in range(2)]
        assert await names(two) == []
        imported = await Importer(one, Listening()).import_file("cat.csv", table(animal))
        assert imported.changed
        started_anew = EmptyStart.over(store, since)
        for each in (one, two, started_anew):
            assert await names(each) == ["cat.csv"]
        (kept,) = await two.get_knowledge()
        assert kept.items[0].answer == f"It is the {animal}."
        assert not (await Importer(two, Listening()).import_file("cat.csv", table(animal))).changed


@pytest.mark.parametrize(
    ("name", "data", "left"),
    [
        ("a.csv", b"question,answer\n", []),
        ("a.csv", b"question,answer\n,\n\n", []),
        ("a.jsonl", b"\n", []),
        ("a.md", b"", []),
        ("a.csv", b"", ["a.csv"]),
        ("a.csv", b"question,answer\nA?,\n", ["a.csv"]),
        ("a.md", b"\xff", ["a.md"]),
    ],
)
async def test_a_file_without_a_row_clears_its_source_and_one_of_bad_rows_does_not(
    tmp_path: Path, name: str, data: bytes, left: list[str]
) -> None:
    good = {"csv": table("cat"), "jsonl": b'{"question":"A?","answer":"B."}', "md": b"# A\n\nB.\n"}
    async with opened(tmp_path / "data") as store:
        listening = Listening()
        importer = Importer(store, listening)
        await importer.import_file(name, good[name.rpartition(".")[2]])
        await importer.import_file(name, data)
        assert await names(store) == left
        assert listening.refreshed == 2 - len(left)
