"""The journal against damage: what is readable stays, what is lost is named, it always opens.

The oracle is the list of payloads with the byte ranges in which they were written; it shares no
code with the journal's own parsing.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from audiobot.storage.frames import KIND_OPERATION, Gap, frame
from audiobot.storage.journal import DamagedRecord, Entry, Journal, Position


class Written(NamedTuple):
    sequence: int
    position: Position
    payload: bytes


def write(journal: Journal, *payloads: bytes) -> list[Written]:
    """One commit of ``payloads``."""
    first = journal.next_sequence
    placed = [(journal.stage(payload), payload) for payload in payloads]
    journal.commit()
    return [Written(first + i, place, payload) for i, (place, payload) in enumerate(placed)]


def entries(journal: Journal) -> dict[int, bytes]:
    return {r.sequence: r.payload for r in journal.read_from(1) if isinstance(r, Entry)}


def lost(journal: Journal) -> set[int]:
    return {n for gap in journal.gaps for n in range(gap.first, gap.last + 1)}


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, list[Written]]:
    """A closed journal of several segments: twelve records in six commits."""
    directory = tmp_path / "small"
    journal = Journal(directory, segment_bytes=150)
    written = []
    for i in range(6):
        written += write(journal, f"first {i} ё".encode() * (i + 1), bytes([i, 0xF5, 0x41, 0xFF]))
    journal.close()
    assert len(journal.segments()) >= 3
    return directory, written


def copy(directory: Path, name: str) -> Path:
    target = directory.parent / name
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(directory, target))


def touched(written: list[Written], segment: int, start: int, end: int) -> set[int]:
    """Numbers of the records of which any byte lies in the range."""
    return {
        w.sequence
        for w in written
        if w.position.segment == segment
        and w.position.offset < end
        and start < w.position.offset + w.position.length
    }


def check_survives(directory: Path, written: list[Written], gone: set[int]) -> None:
    """Opening keeps all but ``gone``, names those, takes new records, and is then at peace."""
    journal = Journal(directory, segment_bytes=150)
    expected = {w.sequence: w.payload for w in written if w.sequence not in gone}
    assert entries(journal) == expected
    assert lost(journal) == gone
    (new,) = write(journal, b"after")
    assert new.sequence == len(written) + 1
    assert journal.read(new.position) == b"after"
    journal.close()
    again = Journal(directory, segment_bytes=150)
    assert not again.damaged
    assert entries(again) == {**expected, new.sequence: b"after"}
    assert lost(again) == gone
    again.close()


def test_what_is_committed_is_read_back_in_order_and_by_position(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    written = write(journal, b"one", "два".encode(), b"")
    assert [journal.read(w.position) for w in written] == [b"one", "два".encode(), b""]
    assert list(entries(journal)) == [1, 2, 3]
    assert [r.sequence for r in journal.read_from(2)] == [2, 3]
    journal.close()


def test_g01_what_is_staged_and_not_committed_is_not_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, b"kept")
    journal.stage(b"forgotten")
    journal.abort()
    journal.stage(b"never committed")
    journal.close()
    again = Journal(tmp_path)
    assert entries(again) == {1: b"kept"}
    assert (again.gaps, again.damaged) == ([], False)
    again.close()


def test_a_full_segment_is_followed_by_another_and_numbers_go_on(
    small: tuple[Path, list[Written]],
) -> None:
    directory, written = small
    journal = Journal(directory, segment_bytes=150)
    assert entries(journal) == {w.sequence: w.payload for w in written}
    assert all(journal.read(w.position) == w.payload for w in written)
    assert (journal.damaged, journal.gaps) == (False, [])
    journal.close()


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80])
def test_g11_any_one_byte_damaged_costs_at_most_its_record_and_names_it(
    small: tuple[Path, list[Written]], mask: int
) -> None:
    directory, written = small
    for path in sorted(directory.glob("*.log")):
        data = path.read_bytes()
        for offset in range(len(data)):
            hurt = copy(directory, "hurt")
            changed = bytearray(data)
            changed[offset] ^= mask
            (hurt / path.name).write_bytes(changed)
            gone = touched(written, int(path.stem), offset, offset + 1)
            journal = Journal(hurt, segment_bytes=150)
            assert lost(journal) == gone, (path.name, offset)
            expected = {w.sequence: w.payload for w in written if w.sequence not in gone}
            assert entries(journal) == expected, (path.name, offset)
            assert journal.damaged
            aside = list((hurt / "set-aside").iterdir())
            assert [p.read_bytes() for p in aside] == [bytes(changed)]
            journal.close()


def test_g11_a_segment_cut_anywhere_keeps_what_lies_before_the_cut(
    small: tuple[Path, list[Written]],
) -> None:
    directory, written = small
    for path in sorted(directory.glob("*.log")):
        data = path.read_bytes()
        for length in range(len(data)):
            hurt = copy(directory, "hurt")
            (hurt / path.name).write_bytes(data[:length])
            check_survives(hurt, written, touched(written, int(path.stem), length, len(data)))


def test_g11_a_whole_segment_gone_is_named(small: tuple[Path, list[Written]]) -> None:
    directory, written = small
    for path in sorted(directory.glob("*.log")):
        hurt = copy(directory, "hurt")
        (hurt / path.name).unlink()
        check_survives(hurt, written, touched(written, int(path.stem), 0, 1 << 30))


def test_g11_two_damages_at_once_are_both_named(small: tuple[Path, list[Written]]) -> None:
    directory, written = small
    first, last = written[1], written[-2]
    for w in (first, last):
        path = directory / f"{w.position.segment:08d}.log"
        data = bytearray(path.read_bytes())
        data[w.position.offset + w.position.length - 1] ^= 0x10
        path.write_bytes(data)
    check_survives(directory, written, {first.sequence, last.sequence})


def test_g11_garbage_between_records_costs_none(small: tuple[Path, list[Written]]) -> None:
    directory, written = small
    w = written[3]
    path = directory / f"{w.position.segment:08d}.log"
    data = path.read_bytes()
    junk = b"\xf5AB\xff" * 3 + b"junk"
    path.write_bytes(data[: w.position.offset] + junk + data[w.position.offset :])
    check_survives(directory, written, set())


def test_g11_everything_gone_but_the_mark_is_one_named_range(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    written = write(journal, b"a", b"b", b"c")
    journal.close()
    for path in tmp_path.glob("*.log"):
        path.unlink()
    check_survives(tmp_path, written, {1, 2, 3})


def test_g11_a_torn_tail_loses_only_what_was_never_acknowledged(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    written = write(journal, b"acknowledged")
    journal.close()
    path = tmp_path / "00000001.log"
    whole = path.read_bytes()
    unfinished = whole[written[0].position.offset :].replace(b"acknowledged", b"unfinished!!")
    for length in range(1, len(unfinished)):
        path.write_bytes(whole + unfinished[:length])
        again = Journal(tmp_path)
        assert entries(again) == {1: b"acknowledged"}
        assert (again.gaps, again.damaged, again.torn_bytes) == ([], False, length)
        again.close()


@pytest.mark.parametrize("witness", ["high-water mark", "index"])
def test_g11_an_acknowledged_tail_that_is_gone_is_named(tmp_path: Path, witness: str) -> None:
    journal = Journal(tmp_path)
    written = write(journal, b"one", b"two", b"three")
    journal.close()
    if witness == "index":
        (tmp_path / "high-water").unlink()
    path = tmp_path / "00000001.log"
    path.write_bytes(path.read_bytes()[: written[1].position.offset])
    again = Journal(tmp_path, promised=3 if witness == "index" else 0)
    assert again.gaps == [Gap(2, 3, 1)]
    assert again.damaged
    assert again.next_sequence == 4
    again.close()


def test_g11_a_damaged_mark_is_no_damage_of_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, b"one")
    journal.close()
    (tmp_path / "high-water").write_bytes(b"\xff" * 700)
    again = Journal(tmp_path)
    assert entries(again) == {1: b"one"}
    assert not again.damaged
    again.close()


def test_g11_the_mark_follows_the_commits(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, b"one", b"two")
    journal.mark()
    # As after a kill: nothing is closed. Both records vanish, the mark speaks.
    hurt = copy(tmp_path, "hurt")
    (hurt / "00000001.log").write_bytes((hurt / "00000001.log").read_bytes()[:22])
    again = Journal(hurt)
    assert lost(again) == {1, 2}
    again.close()
    journal.close()


def test_reading_a_record_that_the_medium_lost_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (w,) = write(journal, b"fragile")
    path = tmp_path / "00000001.log"
    path.write_bytes(path.read_bytes().replace(b"fragile", b"fragilE"))
    with pytest.raises(DamagedRecord):
        journal.read(w.position)
    with pytest.raises(DamagedRecord):
        journal.read(Position(99, 0, 10))
    journal.close()


def test_g11_damage_in_an_old_segment_is_found_later_and_mended_at_the_next_opening(
    small: tuple[Path, list[Written]],
) -> None:
    directory, written = small
    w = written[0]
    path = directory / f"{w.position.segment:08d}.log"
    data = bytearray(path.read_bytes())
    data[w.position.offset + 25] ^= 1
    path.write_bytes(data)
    quick = Journal(directory, segment_bytes=150, verify_bytes=0)
    assert w.position.segment in quick.unverified
    assert not quick.damaged
    verdicts = {number: quick.verify_segment(number) for number in quick.unverified}
    assert [number for number, good in verdicts.items() if not good] == [w.position.segment]
    quick.close()
    check_survives(directory, written, {w.sequence})


def test_a_record_too_large_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(ValueError, match="16 MiB"):
        journal.stage(b"x" * ((16 << 20) + 1))
    journal.close()


def test_g03_what_is_not_durable_yet_is_not_read(tmp_path: Path) -> None:
    """It may be taken back, and its number be given to another record."""
    journal = Journal(tmp_path / "slot")
    write(journal, b"durable")
    on_its_way = frame(KIND_OPERATION, 2, b"not yet")
    [segment] = (tmp_path / "slot").glob("*.log")
    with segment.open("ab") as file:
        file.write(on_its_way)
    assert entries(journal) == {1: b"durable"}
    journal.close()


def test_g03_nor_is_it_read_behind_damage(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "slot")
    write(journal, b"durable")
    write(journal, b"hurt")
    [segment] = (tmp_path / "slot").glob("*.log")
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content + frame(KIND_OPERATION, 3, b"not yet"))
    told = [*journal.read_from(1)]
    assert [(r.first, r.last) for r in told if isinstance(r, Gap)] == [(2, 2)]
    assert [r.sequence for r in told if isinstance(r, Entry)] == [1]
    journal.close()


@pytest.mark.parametrize("place", range(12))
def test_g11_what_is_damaged_while_it_runs_is_told_as_a_gap_and_kept_when_the_rest_goes(
    place: int, small: tuple[Path, list[Written]]
) -> None:
    directory, written = small
    journal = Journal(directory, segment_bytes=150)
    hurt = written[place].position
    path = directory / f"{hurt.segment:08d}.log"
    data = bytearray(path.read_bytes())
    data[hurt.offset + 10] ^= 1
    path.write_bytes(data)
    told = [r for r in journal.read_from(1) if isinstance(r, Gap)]
    assert told == [Gap(place + 1, place + 1, told[0].segment)]
    assert entries(journal).keys() == {w.sequence for w in written} - {place + 1}
    journal.trim()
    assert [kept.read_bytes() for kept in (directory / "set-aside").iterdir()] == [bytes(data)]
    journal.close()


def test_g11_sectors_that_cannot_be_read_cost_what_lay_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No disk of a test can be made to fail: the calls that would tell of it do."""
    directory = tmp_path / "slot"
    journal = Journal(directory)
    written = write(journal, *(bytes([n]) * 3_000 for n in range(9)))
    journal.close()
    bad = range(8_192, 12_288)
    gone = touched(written, 1, bad.start, bad.stop)
    read_bytes, pread = Path.read_bytes, os.pread

    def refuse_whole(path: Path) -> bytes:
        if path.name == "00000001.log":
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(path)

    def refuse_sector(fd: int, size: int, at: int) -> bytes:
        name = os.readlink(f"/proc/self/fd/{fd}")
        if name.endswith("00000001.log") and at < bad.stop and at + size > bad.start:
            raise OSError(errno.EIO, "Input/output error")
        return pread(fd, size, at)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "read_bytes", refuse_whole)
        disk.setattr(os, "pread", refuse_sector)
        journal = Journal(directory)
        assert lost(journal) == gone
        with pytest.raises(DamagedRecord):
            journal.read(written[min(gone) - 1].position)
        journal.close()
    journal = Journal(directory)
    assert entries(journal).keys() == {w.sequence for w in written} - gone
    journal.close()
