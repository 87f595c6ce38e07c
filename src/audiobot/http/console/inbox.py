"""The console's first page: groups of questions that wait, an answer for each, and its undoing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from audiobot.domain import (
    MAX_WORDINGS,
    AnswerPreview,
    Conversation,
    Correction,
    PreviewedTurn,
    QuestionGroup,
)
from audiobot.errors import InvalidValue
from audiobot.http import wire
from audiobot.http.console import view
from audiobot.http.console.desk import MOST, Desk, Saved, digest
from audiobot.http.console.door import Door, Visit
from audiobot.http.console.texts import error_text, plural, text
from audiobot.http.services import Services

_T = TypeVar("_T")

_SHOWN_TURNS: Final = 4
_SHOWN_CAUGHT: Final = 12
_WATCHED_SECONDS: Final = 300.0


class Editor(NamedTuple):
    """What the form for an answer begins with."""

    key: str
    kind: str
    """``group``, ``answer`` or ``suggestion``: what becomes of its card when it is saved."""
    log_ids: Sequence[UUID]
    wordings: Sequence[str]
    answer: str = ""
    correction_id: UUID | None = None
    seen_version: int | None = None


def key_of(turns: Sequence[Conversation]) -> str:
    """A group's name while it waits: its oldest turn, so that a new one changes nothing."""
    return str(turns[-1].log_id)


def came_in(turn: Conversation) -> datetime:
    """When a turn began to wait: as it was handed over, else as it got its low rating."""
    if turn.outcome == "handed_over" or turn.updated_at is None:
        return turn.created_at
    return max(turn.created_at, turn.updated_at)


def card(visit: Visit, group: QuestionGroup) -> str:
    """One group, closed."""
    low = sum(turn.rating is not None for turn in group.turns)
    return visit.render("group.html", group=group, key=key_of(group.turns), low=low)


def summary(visit: Visit, groups: Sequence[QuestionGroup], *, out_of_band: bool) -> str:
    """How much waits, in one sentence."""
    turns = sum(len(group.turns) for group in groups)
    return visit.render("summary.html", turns=turns, groups=len(groups), oob=out_of_band)


def editor(group: QuestionGroup) -> Editor:
    """The form for one group's answer, with the questions as they were put."""
    asked = dict.fromkeys(" ".join(turn.user_message.split()) for turn in group.turns)
    return Editor(
        key=key_of(group.turns),
        kind="group",
        # The oldest first: two operators then write under one id, whatever came in between.
        log_ids=[turn.log_id for turn in reversed(group.turns)],
        wordings=list(asked)[:MAX_WORDINGS],
    )


def saved_words(visit: Visit, saved: Saved) -> list[str]:
    """What became of an answer, and of what another operator had done meanwhile."""
    language, replaced = visit.language, saved.replaced
    turns = len(saved.correction.log_ids)
    words = [
        text("saved", language, turns=plural("questions", turns, language))
        if turns
        else text("saved_plain", language)
    ]
    if replaced is not None and replaced.withdrawn:
        words.append(text("saved_withdrawn", language))
    elif replaced is not None:
        words.append(text("saved_replaced", language, answer=shortened(replaced.answer)))
    if saved.dismissed:
        words.append(text("saved_dismissed", language))
    return words


def shortened(words: str, most: int = 160) -> str:
    """A text that fits into a message."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"


def ids_in(visit: Visit) -> list[UUID]:
    """The turns that a form is about."""
    return [wire.parse_log_id(given) for given in visit.form.every("log_id")]


def version_in(visit: Visit) -> int | None:
    """The version that the form's author had before them."""
    given = visit.form.one("seen_version")
    return whole(given, "seen_version") if given else None


def whole(given: str, field: str) -> int:
    """A number that a page of ours wrote into a form or an address."""
    if not (given.isascii() and given.isdigit() and len(given) <= 19):
        raise InvalidValue("field_invalid", field=field)
    return int(given)


def counted(turns: Sequence[_T], same: Callable[[_T], object]) -> list[tuple[_T, int]]:
    """Each kind of turn once, by its first, and how many of it there are."""
    kinds: dict[object, list[_T]] = {}
    for turn in turns:
        kinds.setdefault(same(turn), []).append(turn)
    return [(kind[0], len(kind)) for kind in kinds.values()]


class Preview(NamedTuple):
    """An answer's preview as the page shows it: what changes first, then what is new."""

    changed: list[tuple[PreviewedTurn, int]]
    new: list[tuple[PreviewedTurn, int]]
    changes: int
    hidden: int
    found: AnswerPreview


def arranged(found: AnswerPreview) -> Preview:
    """The first of each kind, and how many are left out."""
    kinds = counted(found.caught, lambda turn: (turn.question, turn.before, turn.after))
    changed = [kind for kind in kinds if kind[0].before is not None]
    new = [kind for kind in kinds if kind[0].before is None]
    shown, rest = changed[:_SHOWN_CAUGHT], max(3, _SHOWN_CAUGHT - len(changed))
    hidden = len(found.caught) - sum(times for _, times in [*shown, *new[:rest]])
    return Preview(shown, new[:rest], sum(times for _, times in changed), hidden, found)


class Inbox:
    """The handlers of the first page."""

    def __init__(self, services: Services, desk: Desk) -> None:
        self._store, self._conversation = services.store, services.conversation
        self._desk = desk

    async def show(self, visit: Visit) -> Response:
        """The whole page."""
        complete = self._store.status().complete
        groups = await self._desk.groups()
        newest = max((came_in(t) for g in groups for t in g.turns), default=None)
        return visit.page(
            "inbox.html",
            cards=[card(visit, group) for group in groups],
            summary=summary(visit, groups, out_of_band=False),
            since=f"{newest.timestamp():.6f}" if newest else "0",
            complete=complete and self._store.status().complete,
        )

    async def open(self, visit: Visit) -> Response:
        """One group's turns, and the form for its answer."""
        log_id = wire.parse_log_id(str(visit.request.path_params["log_id"]))
        group = await self._desk.group_of([log_id])
        if group is None:
            return view.html(visit.render("gone.html"))
        return view.html(
            visit.render(
                "opened.html",
                turns=counted(
                    group.turns,
                    lambda turn: (
                        turn.user_message,
                        turn.ai_response,
                        turn.rating,
                        turn.feedback_text,
                    ),
                ),
                shown=_SHOWN_TURNS,
                editor=editor(group),
                key=key_of(group.turns),
            )
        )

    async def news(self, visit: Visit) -> Response:
        """How many turns came in since the page was made."""
        try:
            since = float(visit.request.query_params.get("since", ""))
        except ValueError:
            raise InvalidValue("field_invalid", field="since") from None
        found = await self._store.get_inbox(MOST)
        count = sum(came_in(turn).timestamp() > since + 1e-6 for turn in found)
        return view.html(visit.render("news.html", count=count) if count else "")

    async def preview(self, visit: Visit) -> Response:
        """What the answer would change, as far as it is written."""
        answer, wordings = visit.form.one("answer").strip(), visit.form.lines("wordings")
        if not answer:
            return view.html(visit.render("preview_wait.html"))
        try:
            found = await self._conversation.preview(answer, wordings)
        except InvalidValue as error:
            words = error_text(error.code, visit.language, error.details)
            return view.html(visit.render("preview_refused.html", words=words))
        return view.html(visit.render("preview.html", preview=arranged(found)))

    async def save(self, visit: Visit) -> list[str]:
        """Keep a group's answer; its card goes, and may come back."""
        saved = await self._desk.save(
            visit.form.one("answer").strip(),
            visit.form.lines("wordings"),
            ids_in(visit),
            waiting=True,
        )
        return [
            undo_notice(visit, saved_words(visit, saved), saved.correction, saved.before, "group"),
            visit.render("removed.html", id=f"card-{visit.form.one('key')}"),
            summary(visit, await self._desk.groups(), out_of_band=True),
        ]

    async def dismiss(self, visit: Visit) -> Response:
        """Take a group out of sight; an answer given meanwhile stays in force, and is told."""
        log_ids = ids_in(visit)
        answered = await self._desk.dismiss(log_ids)
        turns = plural("questions", len(log_ids), visit.language)
        words = [text("dismissed", visit.language, turns=turns)]
        if answered is not None:
            told = shortened(answered.answer)
            words = [text("dismissed_answered", visit.language, answer=told)]
        undo = {"url": "/console/inbox/back", "log_ids": log_ids} if answered is None else None
        return view.html(
            [
                visit.render("notice.html", words=words, undo=undo),
                visit.render("removed.html", id=f"card-{visit.form.one('key')}"),
                summary(visit, await self._desk.groups(), out_of_band=True),
            ]
        )

    async def back(self, visit: Visit) -> Response:
        """Undo a dismissal."""
        log_ids = ids_in(visit)
        await self._store.dismiss(log_ids, dismissed=False)
        return view.html(await self.came_back(visit, log_ids))

    async def came_back(self, visit: Visit, log_ids: Sequence[UUID]) -> list[str]:
        """After an undo: a group that waits again stands first in the list."""
        pieces = [visit.render("notice.html", words=[text("undone", visit.language)], undo=None)]
        groups = await self._desk.groups()
        wanted = set(log_ids)
        pieces += [
            visit.render("returned.html", card=card(visit, group))
            for group in groups
            if any(turn.log_id in wanted for turn in group.turns)
        ]
        return [*pieces, summary(visit, groups, out_of_band=True)]


def undo_notice(
    visit: Visit,
    words: list[str],
    kept: Correction,
    before: Correction | None,
    kind: str,
) -> str:
    """A message with the way back: to the answer that was there before, or to none."""
    undo: dict[str, object] = {"url": f"/console/answers/{kept.correction_id}/withdraw"}
    if before is not None and not before.withdrawn:
        undo = {"url": f"/console/answers/{kept.correction_id}/back", "before": before}
    undo |= {"kind": kind, "log_ids": kept.log_ids, "seen_version": kept.version}
    notice = visit.render("notice.html", words=words, undo=undo)
    # Now and then it is looked whether a colleague's answer took the place of this one.
    until, said = int(time.time() + _WATCHED_SECONDS), digest(kept.answer)
    return notice + visit.render("watch.html", kept=kept, until=until, said=said)


def add_routes(router: APIRouter, door: Door, inbox: Inbox) -> None:
    """The first page's addresses; saving is with the answers, whose form is the same."""
    router.add_api_route("", door.page(inbox.show), methods=["GET"])
    router.add_api_route("/inbox/news", door.part(inbox.news), methods=["GET"])
    router.add_api_route("/inbox/preview", door.part(inbox.preview), methods=["POST"])
    router.add_api_route("/inbox/dismiss", door.part(inbox.dismiss), methods=["POST"])
    router.add_api_route("/inbox/back", door.part(inbox.back), methods=["POST"])
    router.add_api_route("/inbox/{log_id}", door.part(inbox.open), methods=["GET"])
