"""Documents and question-answer tables into knowledge items: .md, .csv, .jsonl, row by row.

A bad row is named by file and line, the good ones go in. An item's id comes from what it is
about (its source's name and its question or section), so importing again changes nothing and an
edited answer takes the old one's place.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from audiobot.domain import (
    MAX_MESSAGE,
    MAX_RESPONSE,
    KnowledgeItem,
    Language,
    check_text,
    spoken_language,
)
from audiobot.errors import InvalidValue, SetupError
from audiobot.ports import Answerer, BadRow, Imported, Store

MAX_FILE_BYTES: Final = 8 << 20
MAX_SECTION: Final = 1_200
_BROKEN: Final = "\ufffd"
SUFFIXES: Final = (".csv", ".jsonl", ".md")

MAX_BROKEN: Final = 1_000
MAX_ROW_LINES: Final = 1_000
"""Bounds of a hostile table: lines that an unclosed quote may swallow, and how often it may."""

_ADDRESS: Final = re.compile(r"https?://\S+|www\.\S+|\S{1,100}@\S+")
_CYRILLIC: Final = re.compile("[а-яёА-ЯЁ]+")
_LATIN: Final = re.compile("[a-zA-Z]+")
_LEVELS: Final = 6
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_DISCLAIMER: Final = re.compile("^\\*Образец: .*\\*$".encode(), re.MULTILINE)
_COLUMNS: Final = {
    "question": "question",
    "вопрос": "question",
    "answer": "answer",
    "ответ": "answer",
    "also": "also",
    "другие формулировки": "also",
}


class Parsed(NamedTuple):
    """One file's worth of knowledge: the good items and the bad rows."""

    items: list[KnowledgeItem]
    bad: list[BadRow]


def language_of(text: str) -> Language:
    """Russian unless the text has Latin letters and no Cyrillic ones to speak of.

    Addresses are in no language.
    """
    text = _ADDRESS.sub(" ", text)
    cyrillic, latin = (sum(map(len, kind.findall(text))) for kind in (_CYRILLIC, _LATIN))
    return "en" if latin > 3 * cyrillic else "ru"


def find_files(path: Path) -> list[Path]:
    """The importable files at ``path`` (a file or a folder), in a stable order."""
    try:
        if path.is_file():
            return [path]
        found = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
    except OSError as error:
        cause = error.strerror or str(error)
        raise SetupError("knowledge_unreadable", path=shown(path), cause=cause) from error
    found = sorted(p for p in found if p.name.lower() != "readme.md")
    if not found:
        raise SetupError("knowledge_missing", path=shown(path))
    return found


def source_name(file: Path, root: Path) -> str:
    """What a file is called as a source: its place below the folder that was named, or its name.

    Raises ``SetupError`` for a name that is no text: nothing could keep it.
    """
    name = file.name if file == root else file.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SetupError("file_name_not_utf8", path=shown(file)) from None
    return name


def shown(path: Path) -> str:
    """A path for people to read: bytes of its name that are no text become question marks."""
    return str(path).encode(errors="replace").decode()


def sample_files() -> list[Path]:
    """The files of the sample company that comes with AudioBot."""
    return find_files(Path(str(resources.files("audiobot") / "sample_company")))


def read_file(path: Path) -> bytes:
    """A file's bytes; raises ``SetupError`` when it cannot be read or is too large."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SetupError("knowledge_too_large", path=shown(path), limit=MAX_FILE_BYTES >> 20)
        return path.read_bytes()
    except OSError as error:
        cause = error.strerror or str(error)
        raise SetupError("knowledge_unreadable", path=shown(path), cause=cause) from error


@cache
def sample_items() -> Sequence[KnowledgeItem]:
    """What the sample company knows, without the line that says it is made up; read once."""
    texts = [(path.name, _DISCLAIMER.sub(b"", read_file(path))) for path in sample_files()]
    return tuple(item for name, text in texts for item in parse(name, text).items)


def parse(source: str, data: bytes) -> Parsed:
    """Items and bad rows in a file's bytes; the name's ending says how to read them."""
    suffix = Path(source).suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidValue("knowledge_kind")
    result = Parsed([], [])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if suffix != ".csv":
            line = data[: error.start].count(b"\n") + 1
            result.bad.append(BadRow(line, "row_not_utf8", {}))
            return result
        text = _table_text(data)
    rows = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".md": _markdown_rows}[suffix](source, text)
    seen: set[str] = set()
    for row in rows:
        if isinstance(row, BadRow):
            result.bad.append(row)
            continue
        line, item = row
        if item.item_id in seen:
            result.bad.append(BadRow(line, "row_repeated", {}))
            continue
        seen.add(item.item_id)
        result.items.append(item)
    return result


class Importer:
    """Implements :class:`audiobot.ports.KnowledgeImporter` over a store and an answerer."""

    def __init__(self, store: Store, answerer: Answerer) -> None:
        self._store = store
        self._answerer = answerer

    async def import_file(self, name: str, data: bytes) -> Imported:
        """Take a file in; see the port."""
        parsed = await asyncio.to_thread(parse, name, data)
        changed = False
        if parsed.items or not parsed.bad:
            changed = await self._store.replace_knowledge(name, parsed.items)
        if changed:
            await self._answerer.refresh()
        return Imported(name, len(parsed.items), changed, parsed.bad)


def _item(
    source: str, about: str, title: str, answer: str, questions: tuple[str, ...]
) -> KnowledgeItem:
    if any(_BROKEN in text for text in (title, answer, *questions)):
        raise InvalidValue("row_not_utf8")
    check_text("answer", answer, MAX_RESPONSE, blank=False)
    check_text("title", title, MAX_MESSAGE, blank=False)
    for question in questions:
        check_text("question", question, MAX_MESSAGE, blank=False)
    identity = hashlib.blake2b(f"{source}\n{about}".encode(), digest_size=12).hexdigest()
    # Who asks in Russian is told what stands beside it, be it a name in Latin letters.
    russian = any(spoken_language(question) == "ru" for question in questions)
    language = "ru" if russian else language_of(f"{title} {answer}")
    return KnowledgeItem(
        item_id=identity, title=title, answer=answer, questions=questions, language=language
    )


def _table_text(data: bytes) -> str:
    """UTF-8, its broken bytes marked; a table that is mostly not UTF-8 is Excel's Windows-1251."""
    text = data.decode("utf-8-sig", errors="replace")
    broken = text.count(_BROKEN)
    whole = sum(c > "\x7f" for c in text) - broken
    return data.decode("cp1251", errors="replace") if broken > whole else text


_Row = tuple[int, KnowledgeItem] | BadRow


def _question_item(source: str, line: int, question: str, answer: str, also: list[str]) -> _Row:
    question, answer = question.strip(), answer.strip()
    wordings = tuple(dict.fromkeys([question, *(a.strip() for a in also if a.strip())]))
    try:
        check_text("question", question, MAX_MESSAGE, blank=False)
        return line, _item(source, question.casefold(), question, answer, wordings)
    except InvalidValue as error:
        return BadRow(line, error.code, error.details)


def _csv_rows(source: str, text: str) -> Iterator[_Row]:
    lines = list(io.StringIO(text, newline=""))
    for delimiter in ",;":
        records = _csv_records(lines, delimiter)
        _, cells = next(records, (1, None))
        names = [_COLUMNS.get(cell.strip().casefold(), "") for cell in cells or []]
        if cells and "question" in names and "answer" in names:
            break
    else:
        yield BadRow(1, "row_no_columns", {})
        return
    while not cells[-1].strip():
        cells.pop()
    width, broken = len(cells), 0
    for line, cells in records:
        if cells is None or any(cell.strip() for cell in cells[width:]):
            # A comma or a quote too many: half an answer would be told as the whole one.
            broken += 1
            yield BadRow(line, "row_not_csv", {})
            if broken == MAX_BROKEN:
                yield BadRow(line, "row_rest_left_out", {})
                return
        elif any(cell.strip() for cell in cells):
            row = dict(zip(names, cells, strict=False))
            also = row.get("also", "").split("|")
            yield _question_item(source, line, row.get("question", ""), row.get("answer", ""), also)


def _csv_records(lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str] | None]]:
    """Every record and the line it begins at; None for what is none, and on from its next line.

    An unclosed quote swallows lines until another quote or the end. They are read anew, and there
    a record with an odd number of quotes is none either: it may be the end of the broken one.
    """
    at = doubtful = 0
    while at < len(lines):
        reader = csv.reader(
            map(lines.__getitem__, range(at, min(at + MAX_ROW_LINES, len(lines)))),
            delimiter=delimiter,
            skipinitialspace=True,
            strict=True,
        )
        cells: list[str] | None
        try:
            cells = next(reader)
        except csv.Error:
            cells, doubtful = None, max(doubtful, at + reader.line_num)
        end = at + reader.line_num
        if at < doubtful and sum(line.count('"') for line in lines[at:end]) % 2:
            cells = None
        yield at + 1, cells
        at = end if cells is not None else at + 1


class _JsonRow(msgspec.Struct):
    question: str
    answer: str
    also: list[str] = []


def _jsonl_rows(source: str, text: str) -> Iterator[_Row]:
    for line, raw in enumerate(text.split("\n"), 1):
        if not raw.strip():
            continue
        try:
            row = msgspec.json.decode(raw, type=_JsonRow)
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            yield BadRow(line, "row_not_json", {})
            continue
        yield _question_item(source, line, row.question, row.answer, row.also)


def _markdown_rows(source: str, text: str) -> Iterator[_Row]:
    """Each section of a document is a passage, titled by its headings."""
    title = Path(source).stem
    heading, start = "", 1
    lines: list[str] = []

    fence = ""

    def section() -> Iterator[_Row]:
        paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip())
        body = [p.strip() for p in paragraphs if p.strip()]
        for number, part in enumerate(_portions(body)):
            name = f"{title}: {heading}" if heading else title
            about = f"{title}/{heading}/{number}"
            try:
                yield start, _item(source, about, name[:MAX_MESSAGE], part, ())
            except InvalidValue as error:
                yield BadRow(start, error.code, error.details)

    for number, line in enumerate(text.splitlines(), 1):
        fence = _fence_after(line, fence)
        found = None if fence else _heading(line)
        if found is None:
            lines.append(line)
            continue
        yield from section()
        lines.clear()
        start = number
        level, name = found
        title, heading = (name, "") if level == 1 else (title, name)
    yield from section()


def _heading(line: str) -> tuple[int, str] | None:
    """The level of a heading and its words. No pattern: those that fit are slow on many spaces."""
    level = len(line) - len(line.lstrip("#"))
    if not 1 <= level <= _LEVELS or not line[level : level + 1].isspace():
        return None
    return level, line[level:].strip().rstrip("#").rstrip()


def _fence_after(line: str, fence: str) -> str:
    """The code fence that is open after ``line``, given the one before it; "" for none."""
    match = _FENCE.fullmatch(line)
    if match is None:
        return fence
    if not fence:
        return "" if match[1][0] == "`" and "`" in match[2] else match[1]
    return "" if match[1].startswith(fence) and not match[2].strip() else fence


def _portions(paragraphs: list[str]) -> Iterator[str]:
    """Paragraphs joined as long as a portion stays readable as one answer."""
    portion = ""
    for paragraph in paragraphs:
        if portion and len(portion) + len(paragraph) > MAX_SECTION:
            yield portion
            portion = ""
        portion = f"{portion}\n\n{paragraph}" if portion else paragraph
    if portion:
        yield portion
