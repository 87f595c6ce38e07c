"""The console's second page: the answers in force, and what customers suggest in their place."""

from __future__ import annotations

import time
from typing import Final
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from audiobot.domain import MAX_CORRECTION, MAX_WORDINGS, Correction, Language
from audiobot.errors import InvalidValue, Unavailable
from audiobot.http import wire
from audiobot.http.console import view
from audiobot.http.console.desk import MOST, Desk
from audiobot.http.console.door import Door, Visit
from audiobot.http.console.inbox import (
    Editor,
    Inbox,
    ids_in,
    saved_words,
    shortened,
    undo_notice,
    version_in,
    whole,
)
from audiobot.http.console.texts import text
from audiobot.http.services import Services

_SHOWN: Final = 200
_PRAISED: Final = 20
STOP: Final = 286
"""The status by which a server ends a poll of htmx's (https://htmx.org/docs/#polling)."""


class Answers:
    """The handlers of the second page, and of the form for an answer, wherever it stands."""

    def __init__(self, services: Services, desk: Desk, inbox: Inbox) -> None:
        self._store, self._conversation = services.store, services.conversation
        self._desk, self._inbox = desk, inbox

    async def show(self, visit: Visit) -> Response:
        """The whole page."""
        return visit.page("answers.html", desk=await self._lists(visit))

    async def _lists(self, visit: Visit, *, out_of_band: bool = False) -> str:
        complete = self._store.status().complete
        in_force, withdrawn = await self._desk.answers()
        return visit.render(
            "desk.html",
            suggestions=await self._store.get_suggestions(MOST),
            praised=await self._conversation.praised(_PRAISED),
            in_force=in_force[:_SHOWN],
            hidden=len(in_force) > _SHOWN,
            shown=_SHOWN,
            withdrawn=withdrawn[:_SHOWN],
            complete=complete and self._store.status().complete,
            oob=out_of_band,
            shortened=shortened,
        )

    async def _changed(self, visit: Visit, notice: str) -> Response:
        """A message, and the lists as they are now."""
        return view.html([notice, await self._lists(visit, out_of_band=True)])

    async def save(self, visit: Visit) -> Response:
        """Keep an answer; the list it came from follows."""
        kind = visit.form.one("kind")
        if kind == "group":
            return view.html(await self._inbox.save(visit))
        named = visit.form.one("correction_id")
        saved = await self._desk.save(
            visit.form.one("answer").strip(),
            visit.form.lines("wordings"),
            ids_in(visit),
            correction_id=wire.parse_correction_id(named) if named else None,
            seen_version=version_in(visit),
        )
        words = saved_words(visit, saved)
        notice = undo_notice(visit, words, saved.correction, saved.before, "answer")
        return await self._changed(visit, notice)

    async def edit(self, visit: Visit) -> Response:
        """The form for an answer that is there."""
        kept = await self._desk.answer_of(_name(visit))
        begun = _editing(kept, f"{kept.correction_id}", "answer")
        return view.html(visit.render("editor.html", editor=begun))

    async def withdraw(self, visit: Visit) -> Response:
        """Let an answer count no more; from the inbox this undoes what was just saved."""
        if (overtaken := await self._overtaken(visit)) is not None:
            return overtaken
        outcome = await self._conversation.withdraw(_name(visit), withdrawn=True)
        kept = outcome.correction
        if visit.form.one("kind") == "group":
            return view.html(await self._inbox.came_back(visit, kept.log_ids))
        undo = {"url": f"/console/answers/{kept.correction_id}/restore", "kind": "answer"}
        words = [text("withdrawn_now", visit.language)]
        return await self._changed(visit, visit.render("notice.html", words=words, undo=undo))

    async def restore(self, visit: Visit) -> Response:
        """Let a withdrawn answer count again."""
        await self._conversation.withdraw(_name(visit), withdrawn=False)
        words = [text("restored_now", visit.language)]
        return await self._changed(visit, visit.render("notice.html", words=words, undo=None))

    async def back(self, visit: Visit) -> Response:
        """Undo a change: the answer that was there before, word for word."""
        if (overtaken := await self._overtaken(visit)) is not None:
            return overtaken
        log_ids = ids_in(visit)
        await self._conversation.correct(
            visit.form.one("answer"),
            visit.form.every("wording"),
            language=_language(visit.form.one("language")),
            log_ids=log_ids,
            correction_id=_name(visit),
            seen_version=version_in(visit),
        )
        if visit.form.one("kind") == "group":
            return view.html(await self._inbox.came_back(visit, log_ids))
        words = [text("undone", visit.language)]
        return await self._changed(visit, visit.render("notice.html", words=words, undo=None))

    async def _overtaken(self, visit: Visit) -> Response | None:
        """What is said in place of what would undo another operator's later work."""
        newer = await self._desk.changed_since(_name(visit), version_in(visit))
        if newer is None:
            return None
        words = [_overtaken_words(newer, visit.language, undoing=bool(visit.form.one("kind")))]
        notice = visit.render("notice.html", words=words, undo=None)
        if visit.form.one("kind") == "group":
            return view.html(notice)
        return await self._changed(visit, notice)

    async def watch(self, visit: Visit) -> Response:
        """Tell who saved an answer, for some minutes, when a colleague's takes its place."""
        asked = visit.request.query_params
        version, until = (whole(asked.get(n, ""), n) for n in ("seen_version", "until"))
        own = [wire.parse_correction_id(name) for name in asked.getlist("own")]
        try:
            newer = await self._desk.overtaken(_name(visit), version, asked.get("said", ""), own)
        except Unavailable:
            newer = None  # it is asked for again, and what stands on the page stays
        if newer is None:
            return view.html("", STOP if time.time() > until else 204)
        words = [
            text("mine_withdrawn", visit.language)
            if newer.withdrawn
            else text("mine_changed", visit.language, answer=shortened(newer.answer))
        ]
        notice = visit.render("notice.html", words=words, undo=None)
        return view.html(visit.render("also.html", notice=notice), STOP)

    async def accept(self, visit: Visit) -> Response:
        """The form for a customer's words: an operator may change them, and must say yes."""
        suggested = await self._desk.suggestion(_op_id(visit))
        if suggested is None:
            return view.html(visit.render("gone.html"))
        turn = suggested.conversation
        asked = " ".join(turn.user_message.split())
        begun = Editor(str(suggested.op_id), "suggestion", [turn.log_id], [asked])
        kept = await self._desk.settling([turn.log_id])
        if kept is not None:
            begun = _editing(kept, str(suggested.op_id), "suggestion")
            wordings = list(dict.fromkeys([*begun.wordings, asked]))[:MAX_WORDINGS]
            begun = begun._replace(wordings=wordings)
        begun = begun._replace(answer=suggested.text[:MAX_CORRECTION])
        return view.html(visit.render("editor.html", editor=begun))

    async def approve(self, visit: Visit) -> Response:
        """The form for a language model's words: likewise."""
        found = await self._desk.praised(_praise_id(visit))
        if found is None:
            return view.html(visit.render("gone.html"))
        begun = Editor(
            key=str(found.praise_id),
            kind="suggestion",
            log_ids=[turn.log_id for turn in reversed(found.turns)],
            wordings=[" ".join(found.newest.user_message.split())],
            answer=found.newest.ai_response[:MAX_CORRECTION],
        )
        return view.html(visit.render("editor.html", editor=begun))

    async def disapprove(self, visit: Visit) -> Response:
        """Take a language model's words out of sight."""
        praise_id = _praise_id(visit)
        await self._store.dismiss([praise_id])
        undo = {"url": f"/console/praised/{praise_id}/back"}
        words = [text("praised_dismissed", visit.language)]
        return await self._changed(visit, visit.render("notice.html", words=words, undo=undo))

    async def praise_again(self, visit: Visit) -> Response:
        """Undo that."""
        await self._store.dismiss([_praise_id(visit)], dismissed=False)
        words = [text("undone", visit.language)]
        return await self._changed(visit, visit.render("notice.html", words=words, undo=None))

    async def decline(self, visit: Visit) -> Response:
        """Take a suggestion out of sight."""
        op_id = _op_id(visit)
        await self._store.dismiss([op_id])
        undo = {"url": f"/console/suggestions/{op_id}/back"}
        words = [text("suggestion_dismissed", visit.language)]
        return await self._changed(visit, visit.render("notice.html", words=words, undo=undo))

    async def wait_again(self, visit: Visit) -> Response:
        """Undo that."""
        await self._store.dismiss([_op_id(visit)], dismissed=False)
        words = [text("undone", visit.language)]
        return await self._changed(visit, visit.render("notice.html", words=words, undo=None))


def _editing(kept: Correction, key: str, kind: str) -> Editor:
    return Editor(
        key=key,
        kind=kind,
        log_ids=kept.log_ids,
        wordings=[" ".join(wording.split()) for wording in kept.wordings],
        answer=kept.answer,
        correction_id=kept.correction_id,
        seen_version=kept.version,
    )


def _overtaken_words(newer: Correction, language: Language, *, undoing: bool) -> str:
    answer = shortened(newer.answer)
    if undoing and newer.withdrawn:
        return text("undo_withdrawn", language)
    if undoing:
        return text("undo_changed", language, answer=answer)
    if newer.withdrawn:
        return text("withdraw_withdrawn", language)
    return text("withdraw_changed", language, answer=answer)


def _name(visit: Visit) -> UUID:
    return wire.parse_correction_id(str(visit.request.path_params["correction_id"]))


def _op_id(visit: Visit) -> UUID:
    return wire.parse_log_id(str(visit.request.path_params["op_id"]))


def _praise_id(visit: Visit) -> UUID:
    return wire.parse_log_id(str(visit.request.path_params["praise_id"]))


def _language(given: str) -> Language:
    if given == "ru":
        return "ru"
    if given == "en":
        return "en"
    raise InvalidValue("field_invalid", field="language")


def add_routes(router: APIRouter, door: Door, answers: Answers) -> None:
    """The second page's addresses."""
    router.add_api_route("/answers", door.page(answers.show), methods=["GET"])
    for path, handler in (
        ("/answers", answers.save),
        ("/answers/{correction_id}/withdraw", answers.withdraw),
        ("/answers/{correction_id}/restore", answers.restore),
        ("/answers/{correction_id}/back", answers.back),
        ("/suggestions/{op_id}/dismiss", answers.decline),
        ("/suggestions/{op_id}/back", answers.wait_again),
        ("/praised/{praise_id}/dismiss", answers.disapprove),
        ("/praised/{praise_id}/back", answers.praise_again),
    ):
        router.add_api_route(path, door.part(handler), methods=["POST"])
    for path, handler in (
        ("/answers/{correction_id}", answers.edit),
        ("/answers/{correction_id}/watch", answers.watch),
        ("/suggestions/{op_id}", answers.accept),
        ("/praised/{praise_id}", answers.approve),
    ):
        router.add_api_route(path, door.part(handler), methods=["GET"])
