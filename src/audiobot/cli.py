"""The command line: words typed in a terminal to the command that does what they say.

What a command needs is imported when it is given: help must not wait for the whole program.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

import typer

from audiobot import __version__
from audiobot.domain import Language
from audiobot.errors import AudioBotError
from audiobot.messages import sentence

THREADS: Final = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
"""Read by libraries when they are loaded. Our matrices are small: a second thread for them costs
more than it brings, and threads that spin while they wait take the cores from those that work."""

app = typer.Typer(
    name="audiobot",
    help="VasDom AudioBot: a self-hosted, self-learning voice assistant for service companies.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _language() -> Language:
    """The terminal's: English unless its locale is Russian."""
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG", "")
    return "ru" if locale.lower().startswith("ru") else "en"


def _fail(error: AudioBotError) -> NoReturn:
    typer.secho(sentence(error.code, _language(), **error.details), fg="red", err=True)
    raise typer.Exit(2) from None


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="address to bind")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="port (else PORT, else 8000; 0: any)")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes; over 1 needs DATABASE_URL")] = 1,
) -> None:
    """Serve the API and the talk page."""
    from audiobot import main as server

    try:
        settings = server.prepare(quiet=False)
        server.serve(settings, host, settings.port if port is None else port, workers)
    except AudioBotError as error:
        _fail(error)


@app.command()
def talk() -> None:
    """Hold the same dialogue here in the terminal; a digit 1-5 rates the last answer."""
    from audiobot.commands import talk_forever
    from audiobot.main import prepare

    try:
        asyncio.run(talk_forever(prepare(quiet=True), _language(), sys.stdin))
    except AudioBotError as error:
        _fail(error)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help=".md, .csv or .jsonl files, or folders")],
) -> None:
    """Import the company's knowledge; it takes the sample's place. Importing again is safe."""
    from audiobot.commands import import_paths
    from audiobot.main import prepare

    try:
        code = asyncio.run(import_paths(prepare(quiet=True), paths, _language()))
    except AudioBotError as error:
        _fail(error)
    if code:
        raise typer.Exit(code)


@app.command()
def export(
    output: Annotated[
        Path | None, typer.Option(help="file to write (else standard output)")
    ] = None,
    min_rating: Annotated[
        int | None, typer.Option(min=1, max=5, help="least rating (else MIN_RATING_THRESHOLD)")
    ] = None,
) -> None:
    """Write well-rated dialogues as JSON lines in OpenAI's chat form."""
    from audiobot.commands import export_dialogues
    from audiobot.main import prepare

    try:
        asyncio.run(export_dialogues(prepare(quiet=True), output, min_rating, _language()))
    except AudioBotError as error:
        _fail(error)


@app.command()
def questions(
    limit: Annotated[int, typer.Option(min=1, max=500, help="how many at most")] = 50,
) -> None:
    """List the newest questions that the bot handed over and nobody has answered or dismissed."""
    from audiobot.commands import list_questions
    from audiobot.main import prepare

    try:
        asked = asyncio.run(list_questions(prepare(quiet=True), _language(), limit))
    except AudioBotError as error:
        _fail(error)
    for line in asked:
        typer.echo(line)


@app.command()
def prove(
    quick: Annotated[bool, typer.Option("--quick", help="a minute in place of fifteen")] = False,
    part: Annotated[
        Literal["heldout", "tuning"], typer.Option(help="which part of the shipped questions")
    ] = "heldout",
    style: Annotated[
        Literal["full", "terse", "both"] | None,
        typer.Option(help="whole sentences or two words as answers (else both; quick: full)"),
    ] = None,
    language: Annotated[
        Literal["ru", "en"] | None, typer.Option(help="of the questions and the report (else ru)")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=100, help="how many runs (else 10; quick: 2)")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="your own .csv or .jsonl: question, answer")
    ] = None,
    output: Annotated[Path, typer.Option(help="folder for the report")] = Path("prove"),
) -> None:
    """Measure what ratings and corrections teach, on simulated people; write a report."""
    from audiobot.proving.command import Asking, prove_learning

    styles: dict[str | None, tuple[Literal["full", "terse"], ...]] = {
        "full": ("full",), "terse": ("terse",), "both": ("full", "terse"),
    }  # fmt: skip
    asking = Asking(quick, part, styles.get(style), language, seeds, data, output)
    try:
        prove_learning(asking, _language())
    except AudioBotError as error:
        _fail(error)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command("migrate")
def migrate_() -> None:
    """Bring the database in DATABASE_URL to today's schema (``serve`` does so by itself)."""
    from audiobot.commands import migrate
    from audiobot.main import prepare

    try:
        typer.echo(asyncio.run(migrate(prepare(quiet=True), _language())))
    except AudioBotError as error:
        _fail(error)


@app.command()
def doctor() -> None:
    """Say what is installed, reachable and writable, and what to do about the rest."""
    from audiobot.commands import inspect

    try:
        checks = asyncio.run(inspect(_language()))
    except AudioBotError as error:
        _fail(error)
    colours = {"ok": "green", "note": "yellow", "bad": "red"}
    for check in checks:
        typer.secho(f"{check.verdict:>4}  ", fg=colours[check.verdict], nl=False)
        typer.echo(f"{check.name}: {check.text}")
    if any(check.verdict == "bad" for check in checks):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
) -> None:
    """Options before the command."""
    if show:
        typer.echo(f"audiobot {__version__}")
        raise typer.Exit


def main() -> None:
    """The console script's entry."""
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)
    app()
