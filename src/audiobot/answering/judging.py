"""Judging: what to do with a question, worked out from all that is known, or remembered."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from audiobot.answering.deciding import HAND_OVER, PINNED, Verdict, decide
from audiobot.answering.experience import Experience
from audiobot.answering.mind import Mind
from audiobot.answering.ranking import Ranking, pinned
from audiobot.domain import Language
from audiobot.ports import Matrix, Reply

_REMEMBERED: Final = 1_000

Asked = tuple[str, Language]


class Judged(NamedTuple):
    """What may answer a question, and what to do with it."""

    ranking: Ranking
    verdict: Verdict

    @property
    def answer(self) -> str | None:
        """The answer told; None for anything but an answer."""
        return self.ranking.ranked[0].item.answer if self.verdict.outcome == "answered" else None


def judge(
    mind: Mind,
    experience: Experience | None,
    question: str,
    asked: str,
    vector: Matrix,
    language: Language,
    error_rate: float,
) -> Judged:
    """The best items, and whether one of them is told; ``mind`` knows something.

    ``asked`` is the ``question`` without its greeting, and ``vector`` what it means.
    """
    ranker, item = mind.ranker, mind.pinned(question, language)
    if ranker is None:
        assert item is not None, "nothing is known"
        return Judged(pinned(Ranking([], ()), item), Verdict("answered", PINNED))
    believed = experience.believed(ranker, vector, mind.trust) if experience is not None else {}
    ranking = ranker.rank(asked, vector, language, believed, mind.head)
    if item is not None:
        ranking = pinned(ranking, item)
    elif ranking.ranked[0].item.item_id not in mind.known.by_id:  # taken back just now
        return Judged(ranking, HAND_OVER)
    verdict = decide(ranker, asked, ranking, language, error_rate)
    if any(item.item_id not in mind.known.by_id for item in verdict.choice):
        verdict = HAND_OVER
    return Judged(ranking, verdict)


class Remembered:
    """What was found for questions asked before, while what it rests on is the same."""

    def __init__(self) -> None:
        self._rests_on: tuple[int, int] | None = None
        self._found: OrderedDict[Asked, tuple[Judged, Reply]] = OrderedDict()

    def get(self, rests_on: tuple[int, int], asked: Asked) -> tuple[Judged, Reply] | None:
        """The judgement and its reply, if they still hold."""
        return self._found.get(asked) if self._rests_on == rests_on else None

    def keep(self, rests_on: tuple[int, int], asked: Asked, found: tuple[Judged, Reply]) -> None:
        """What was found by one version of the mind in one generation of experience."""
        if self._rests_on != rests_on:
            self._rests_on = rests_on
            self._found.clear()
        self._found[asked] = found
        while len(self._found) > _REMEMBERED:
            self._found.popitem(last=False)
