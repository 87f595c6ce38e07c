"""The composition root: settings into services into a running server; it alone names adapters.

Everything that opens is closed by one AsyncExitStack, in the opposite order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvicorn
import uvloop
from pydantic import SecretStr

from audiobot import __version__, heap
from audiobot.answering.answer import KnowledgeAnswerer
from audiobot.answering.embedding import EmbeddingService, shipped_vectors
from audiobot.answering.evaluating import Cycle, Reason
from audiobot.answering.following import follow
from audiobot.answering.knowledge import Importer, sample_items
from audiobot.answering.sources import EmptyStart, StartingKnowledge
from audiobot.answering.weights import load_weights
from audiobot.conversation import ConversationService
from audiobot.domain import ModelMetrics, utc_now
from audiobot.errors import AudioBotError, SetupError, Unavailable
from audiobot.http.access import Access, is_loopback
from audiobot.http.app import create_app
from audiobot.http.protocol import bounded
from audiobot.http.services import LearningState, Services, SystemSample
from audiobot.messages import sentence, state_sentence
from audiobot.ports import NO_METER, ChangeMark, Imported, Meter
from audiobot.sampling import Sampler
from audiobot.settings import Settings, check_together, load_settings, unknown_names
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory, DialogueIds, KeySet
from audiobot.storage.journal import replace_file
from audiobot.storage.modes import Switched, outage_switches
from audiobot.telemetry import (
    Metrics,
    MetricsMeter,
    SharedFiles,
    Traces,
    TracingMeter,
    configure_logging,
    get_logger,
    watch_loop,
)
from audiobot.workers import run_workers

if TYPE_CHECKING:
    from audiobot.answering.language_model import OpenAICompatibleModel
    from audiobot.storage.dsn import Dsn

log = get_logger(__name__)

GRACE_SECONDS: Final = 10
_BACKLOG: Final = 2_048
_PROGRESS_SECONDS: Final = 2.0
_SETTLE_SECONDS: Final = 1.5
_NO_KNOWLEDGE: Final = "none"


_METRICS: Final = Path("run") / "metrics"


@dataclass(frozen=True)
class Core:
    """Store, answerer and use case, without a door: what commands and the server share."""

    store: StorageAdapter
    answerer: KnowledgeAnswerer
    embedding: EmbeddingService
    conversation: ConversationService
    importer: Importer
    keys: KeySet
    directory: DataDirectory
    metrics: Metrics
    traces: Traces | None


@asynccontextmanager
async def open_core(
    settings: Settings,
    *,
    answering: bool = True,
    directory: DataDirectory | None = None,
    slot: int = 0,
    shared: SharedFiles | None = None,
) -> AsyncIterator[Core]:
    """Everything but HTTP, opened on the data directory and closed in order.

    The encoder loads in the background, and the knowledge that is set comes in, unless nothing
    will be asked (``answering``). A worker among several is given the ``directory`` that its
    parent owns, works in a ``slot`` of it and counts in its files there (``shared``).
    """
    watch_loop()
    dsn = _read_dsn(settings)
    if shared is not None:
        shared.take(slot)
    metrics = Metrics(shared)
    metrics.expect_switches(outage_switches() if dsn is not None else ())
    traces = Traces(settings.traces, __version__) if settings.traces else None
    meter = TracingMeter(metrics, traces) if traces else MetricsMeter(metrics)

    def tell(switched: Switched, backlog: int) -> None:
        if switched.before != switched.after:
            metrics.switched(switched.before, switched.after, switched.reason)
        _log_switch(switched, backlog)

    async with AsyncExitStack() as stack:
        if traces is not None:
            stack.push_async_callback(asyncio.to_thread, traces.close)
        if directory is None:
            directory = own_directory(settings)
            stack.callback(directory.release)
        keys = KeySet(directory.path / "keys.json", _revealed(settings.secret))
        store = StorageAdapter(
            directory,
            DialogueIds(keys.ids),
            dsn=dsn,
            misread=dsn is None and settings.database_url is not None,
            keys=keys,
            max_conversations=settings.max_conversations,
            slot=slot,
            tell=tell,
            meter=meter,
        )
        await asyncio.to_thread(
            store.open, lambda done: log.info("reading the journal", records=done)
        )
        await store.start()
        stack.push_async_callback(store.close)
        # What is known, and what a command tells, shall be PostgreSQL's if it is there.
        await store.settle(_SETTLE_SECONDS)
        model = make_language_model(settings, meter)
        if model is not None:
            stack.push_async_callback(model.close)
            stack.push_async_callback(_cancel, asyncio.create_task(model.watch()))
        cache = directory.path / "cache" / "vectors.npz"
        embedding = EmbeddingService(cache, shipped_vectors(), meter=meter)
        stack.callback(embedding.close)
        empty = settings.knowledge == _NO_KNOWLEDGE
        known = EmptyStart.over(store, directory.since) if empty else store
        answerer = KnowledgeAnswerer(
            known,
            embedding,
            load_weights(),
            # A company that named its knowledge never wants the sample's, even when it is empty.
            sample=sample_items if settings.knowledge is None else list,
            language_model=model,
            min_rating=settings.min_rating_threshold,
            error_rate=settings.error_rate,
            meter=meter,
        )
        stack.callback(answerer.close)
        importer = Importer(known, answerer)
        if answering and settings.knowledge not in (None, _NO_KNOWLEDGE):
            started = StartingKnowledge(store, importer, directory.path / "knowledge.json")
            for imported in await started.bring(Path(settings.knowledge)):
                _log_import(imported)
        if answering:
            cycle = Cycle(
                store, answerer, settings.retraining_threshold, _log_evaluation, _log_put_off
            )
            learning = asyncio.create_task(
                # One evaluates for all, of several machines the one that looks first: what it finds
                # is a row of the store they share.
                _learn(store, answerer, cycle if slot == 0 else None),
                name="learn",
            )
            stack.push_async_callback(_cancel, learning)
        conversation = ConversationService(store, answerer, meter)
        stack.push_async_callback(conversation.settle)
        yield Core(
            store, answerer, embedding, conversation, importer, keys, directory, metrics, traces
        )


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _read_dsn(settings: Settings) -> Dsn | None:
    """Where PostgreSQL is. A DATABASE_URL that cannot be read does not keep from serving."""
    if settings.database_url is None:
        return None
    from audiobot.storage.dsn import parse_dsn  # noqa: PLC0415  # it brings PostgreSQL's driver

    try:
        dsn = parse_dsn(settings.database_url.get_secret_value())
    except SetupError as error:
        log.error(  # noqa: TRY400  # a trace could quote the URL, and that holds a password
            "DATABASE_URL cannot be read: dialogues stay in the journal",
            cause=error.details["cause"],
        )
        return None
    for name in dsn.unknown:
        log.warning("unknown parameter of DATABASE_URL left out", name=name)
    log.info("PostgreSQL is configured", server=dsn.shown)
    return dsn


_REASONS: Final = {
    "ratings_low": "the average rating is under RETRAINING_THRESHOLD: fitted anew and evaluated",
    "ratings_many": "many new ratings: fitted anew and evaluated",
}


def _log_evaluation(metrics: ModelMetrics, reason: Reason) -> None:
    log.info(
        _REASONS[reason],
        average=metrics.avg_rating,
        rated=metrics.details["rated"],
        held_out_accuracy=metrics.held_out_accuracy,
        held_out_questions=metrics.details["held_out_questions"],
        taught_questions=metrics.details["taught_questions"],
        version=metrics.model_version,
    )


def _log_put_off(error: AudioBotError) -> None:
    log.warning(
        "the evaluation waits until the store can be used, and then comes by itself",
        cause=sentence(error.code, "en", **error.details),
    )


def _log_switch(switched: Switched, backlog: int) -> None:
    if switched.before == switched.after:
        log.warning(
            "PostgreSQL is out of reach: dialogues go to the journal",
            reason=switched.reason,
            cause=sentence(f"cause_{switched.reason}", "en"),
            backlog=backlog,
        )
        return
    log.info(
        "storage mode changed",
        before=switched.before,
        after=switched.after,
        reason=switched.reason,
        state=state_sentence(switched.after, switched.reason, backlog, 0, "en"),
        seconds=round(switched.seconds, 3),
        backlog=backlog,
    )


def make_language_model(
    settings: Settings, meter: Meter = NO_METER
) -> OpenAICompatibleModel | None:
    """The language model that is configured, if one is."""
    if not (settings.llm_base_url and settings.llm_model):
        return None
    # Imported only when it is used: the client costs every start a third of a second.
    from audiobot.answering.language_model import OpenAICompatibleModel  # noqa: PLC0415

    key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
    return OpenAICompatibleModel(
        settings.llm_base_url,
        settings.llm_model,
        key,
        deadline=settings.llm_timeout,
        meter=meter,
    )


def _log_import(imported: Imported) -> None:
    if imported.changed and not imported.items:
        log.info("knowledge withdrawn", source=imported.source)
    else:
        log.info("knowledge imported", source=imported.source, items=imported.items)
    for row in imported.bad_rows:
        log.warning("row left out", source=imported.source, line=row.line, reason=row.code)


def own_directory(settings: Settings) -> DataDirectory:
    """The data directory, ours until it is released."""
    directory = DataDirectory(settings.data_dir)
    if directory.open_to_others:
        log.warning("others can read the data directory: chmod 700", path=str(directory.path))
    return directory


async def _learn(store: StorageAdapter, answerer: KnowledgeAnswerer, cycle: Cycle | None) -> None:
    """Load encoder, knowledge and dialogues; then hear what other processes learn, and evaluate.

    Without them the n-grams go on answering.
    """
    mark = (await store.changes(None)).mark
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _PROGRESS_SECONDS:
            told = time.monotonic()
            log.info("reading the knowledge", done=done, total=total)

    try:
        await answerer.start(progress)
    except Unavailable:
        # All is loaded when it is heard of again.
        mark = ChangeMark()
        log.warning("PostgreSQL broke off while the knowledge was read: it is read once it is back")
    except Exception:  # the n-grams go on, health says so
        log.exception("the encoder could not be loaded")
        return
    else:
        log.info("ready to answer by meaning")
    # What was loaded stays: the collector need not walk a hundred thousand dialogues time and
    # again, which holds the loop up for a tenth of a second.
    gc.freeze()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow(store, answerer, mark))
        if cycle is not None:
            tasks.create_task(cycle.run())


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _take_gauges(core: Core, metrics: Metrics) -> None:
    """Every gauge that somebody here can tell at once."""
    metrics.take_status(core.store.status())
    model = core.answerer.language_model
    metrics.model_configured.set(model is not None)
    metrics.model_usable.set(model is not None and model.usable)
    metrics.encoder_ready.set(core.answerer.ready)
    metrics.embedding_queue.set(core.embedding.waiting)
    metrics.search_queue.set(core.answerer.searches)


@asynccontextmanager
async def open_services(
    settings: Settings,
    host: str,
    *,
    process_token: str,
    port: int | None = None,
    answering: bool = True,
    directory: DataDirectory | None = None,
    slot: int = 0,
    shared: SharedFiles | None = None,
) -> AsyncIterator[Services]:
    """A whole AudioBot, short of listening.

    ``process_token`` makes its bearer an operator for as long as this process lives. With
    ``port``, a note in the data directory tells commands on this machine where to knock.
    """
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(
            open_core(settings, answering=answering, directory=directory, slot=slot, shared=shared)
        )
        if port is not None and directory is None:
            core.directory.announce(_address(host, port), process_token)
        loopback = is_loopback(host)
        token = settings.operator_token.get_secret_value() if settings.operator_token else None
        if token is None and not loopback:
            token = _kept_token(core.directory.path / "operator-token")
        sampler = Sampler(core.metrics, settings.data_dir, partial(_take_gauges, core))
        stack.push_async_callback(_cancel, asyncio.create_task(sampler.run()))
        stack.push_async_callback(_cancel, asyncio.create_task(heap.tend()))
        model = core.answerer.language_model

        def learning() -> LearningState:
            return LearningState(
                last_update=core.answerer.last_change,
                embeddings_ready=core.answerer.ready,
                embeddings_cached=core.embedding.cached,
                recall_complete=core.answerer.recall_complete,
            )

        yield Services(
            store=core.store,
            conversation=core.conversation,
            access=Access(
                operator_token=token,
                process_token=process_token,
                loopback=loopback,
                rater_key=core.keys.raters,
                trusted_proxies=settings.trusted_proxies,
                rate_limit=settings.rate_limit,
            ),
            metrics=core.metrics,
            traces=core.traces,
            started_at=utc_now(),
            min_rating=settings.min_rating_threshold,
            max_conversations=settings.max_conversations,
            cors_origins=settings.cors_origins,
            learning=learning,
            language_model_usable=lambda: model is not None and model.usable,
            system=lambda: SystemSample(
                cpu_percent=sampler.cpu_percent,
                memory_percent=sampler.memory_percent,
                disk_percent=sampler.disk_percent,
            ),
            sample=sampler.take,
            importer=core.importer,
        )


def _address(host: str, port: int) -> str:
    """How a command on this machine reaches a server bound to ``host``."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # a comparison
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _kept_token(path: Path) -> str:
    """The operator's token made for a server that others can reach: shown once, then kept."""
    if path.exists():
        return path.read_text().strip()
    token = secrets.token_urlsafe(24)
    replace_file(path, token.encode())
    print(  # noqa: T201  # shown once, and never logged
        f"Токен оператора / operator token: {token}\n({path})",
        flush=True,
    )
    return token


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ``SetupError`` with a sentence when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named: asyncio turns Nagle's algorithm off only where it sees TCP, and with
    # it on every reply waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Until one of two listens, both may bind: here the second one learns of the first.
        listener.listen(_BACKLOG)
    except (OSError, UnicodeError) as error:
        listener.close()
        cause = getattr(error, "strerror", None) or str(error)
        raise SetupError("port_in_use", host=host, port=port, cause=cause) from error
    return listener


def prepare(*, quiet: bool) -> Settings:
    """The settings, with logging set up and every unknown name warned of; first of all to do.

    ``quiet`` is for commands: without a log level of its own, only warnings are shown.
    """
    settings = load_settings()
    check_together(settings)
    level = "warning" if quiet and settings.log_level == "info" else settings.log_level
    configure_logging(level)
    for name in unknown_names(os.environ):
        log.warning("unknown setting ignored", name=name)
    return settings


def serve(settings: Settings, host: str, port: int, workers: int = 1) -> None:
    """Serve until SIGTERM or SIGINT: then stop accepting, finish requests, close the journal."""
    if workers > 1 and settings.database_url is None:
        raise SetupError("workers_need_database")
    heap.share()
    token = secrets.token_urlsafe(32)
    with contextlib.closing(listen(host, port)) as listener:
        if workers == 1:
            _run(_serve(settings, host, listener, token))
            return
        directory = own_directory(settings)
        try:
            # Made once, before there are several who would make them.
            KeySet(directory.path / "keys.json", _revealed(settings.secret))
            if settings.operator_token is None and not is_loopback(host):
                _kept_token(directory.path / "operator-token")
            shared = SharedFiles(directory.path / _METRICS)
            _make_room_for(shared, workers)
            directory.announce(_address(host, listener.getsockname()[1]), token)
            run_workers(
                workers,
                lambda slot: _run(_serve(settings, host, listener, token, directory, slot, shared)),
                shared.died,
            )
        finally:
            directory.release()


def _run(serving: Coroutine[None, None, None]) -> None:
    """Serve on uvloop's event loop: the same promises at half the cost of asyncio's own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serving)


def _make_room_for(shared: SharedFiles, workers: int) -> None:
    try:
        shared.clear(workers)
    except OSError as error:
        raise SetupError(
            "data_dir_unwritable", path=shared.directory, cause=error.strerror or str(error)
        ) from error


async def _serve(
    settings: Settings,
    host: str,
    listener: socket.socket,
    process_token: str,
    directory: DataDirectory | None = None,
    slot: int = 0,
    shared: SharedFiles | None = None,
) -> None:
    """One process's share of serving."""
    port = listener.getsockname()[1]
    opened = open_services(
        settings,
        host,
        process_token=process_token,
        port=port,
        directory=directory,
        slot=slot,
        shared=shared,
    )
    async with opened as services:
        config = uvicorn.Config(
            create_app(services),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            http=bounded(lambda reason: services.metrics.refused[reason].inc()),
        )
        # uvicorn raises the signal that stopped it once more after serving; the second
        # one must find us closing the journal, not dead.
        for received in (signal.SIGTERM, signal.SIGINT):
            signal.signal(received, lambda *_: None)
        log.info("serving", address=f"{host}:{port}", version=__version__)
        await uvicorn.Server(config).serve(sockets=[listener])
    log.info("stopped", journal="synced")
