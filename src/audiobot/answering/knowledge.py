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
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from audiobot.domain import MAX_MESSAGE, MAX_RESPONSE, KnowledgeItem, Language, check_text
from audiobot.errors import InvalidValue, SetupError
from audiobot.ports import Answerer, BadRow, Imported, Store

MAX_FILE_BYTES: Final = 8 << 20
MAX_SECTION: Final = 1_200
_BROKEN: Final = "\ufffd"
SUFFIXES: Final = (".csv", ".jsonl", ".md")

_HEADING: Final = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*")
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
    """Russian unless the text has Latin letters and no Cyrillic ones to speak of."""
    cyrillic = sum("а" <= c <= "я" or c == "ё" for c in text.lower())
    latin = sum("a" <= c <= "z" for c in text.lower())
    return "en" if latin > 3 * cyrillic else "ru"


def find_files(path: Path) -> list[Path]:
    """The importable files at ``path`` (a file or a folder), in a stable order."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SetupError("knowledge_missing", path=path)
    found = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
    found = sorted(p for p in found if p.name.lower() != "readme.md")
    if not found:
        raise SetupError("knowledge_missing", path=path)
    return found


def source_name(file: Path, root: Path) -> str:
    """What a file is called as a source: its place below the folder that was named, or its name."""
    return file.name if file == root else file.relative_to(root).as_posix()


def sample_files() -> list[Path]:
    """The files of the sample company that comes with AudioBot."""
    return find_files(Path(str(resources.files("audiobot") / "sample_company")))


def read_file(path: Path) -> bytes:
    """A file's bytes; raises ``SetupError`` when it is missing or too large."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SetupError("knowledge_too_large", path=path, limit=MAX_FILE_BYTES >> 20)
        return path.read_bytes()
    except OSError as error:
        raise SetupError("knowledge_missing", path=path) from error


def sample_items() -> list[KnowledgeItem]:
    """What the sample company knows."""
    return [item for path in sample_files() for item in parse(path.name, read_file(path)).items]


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
        if parsed.items:
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
    language = language_of(title + answer)
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
    for delimiter in ",;":
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            names = [_COLUMNS.get(cell.strip().casefold(), "") for cell in next(reader, [])]
        except csv.Error:
            continue
        if "question" in names and "answer" in names:
            break
    else:
        yield BadRow(1, "row_no_columns", {})
        return
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield BadRow(start, "row_not_csv", {})
            continue
        if not any(cell.strip() for cell in cells):
            continue
        row = dict(zip(names, cells, strict=False))
        also = row.get("also", "").split("|")
        yield _question_item(source, start, row.get("question", ""), row.get("answer", ""), also)


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

    def section() -> Iterator[_Row]:
        paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip())
        body = [p.strip() for p in paragraphs if p.strip() and not re.fullmatch(r"[*_].*[*_]", p)]
        for number, part in enumerate(_portions(body)):
            name = f"{title}: {heading}" if heading else title
            about = f"{title}/{heading}/{number}"
            try:
                yield start, _item(source, about, name[:MAX_MESSAGE], part, ())
            except InvalidValue as error:
                yield BadRow(start, error.code, error.details)

    for number, line in enumerate(text.splitlines(), 1):
        match = _HEADING.fullmatch(line)
        if match is None:
            lines.append(line)
            continue
        yield from section()
        lines.clear()
        start = number
        if len(match[1]) == 1:
            title, heading = match[2], ""
        else:
            heading = match[2]
    yield from section()


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
