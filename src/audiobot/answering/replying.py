"""Replying: a judgement as the reply that a person gets, with the receipt of what it rests on."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final
from uuid import UUID

import msgspec

from audiobot.answering.corrections import name_of
from audiobot.answering.deciding import Verdict
from audiobot.answering.judging import Judged
from audiobot.answering.mind import Mind
from audiobot.answering.ranking import Ranked, Ranking
from audiobot.domain import (
    Candidate,
    Embedding,
    KnowledgeItem,
    Language,
    Source,
    SourceKind,
)
from audiobot.messages import sentence
from audiobot.ports import Completion, Reply

VERSION: Final = "voices-4"
"""Of the ranking."""
_PROMPT: Final = "grounded-1"
_VERSIONS: Final = 16


def told(mind: Mind, judged: Judged, embedding: Embedding, language: Language) -> Reply:
    """The best item as it stands, a question back, or a hand-over."""
    ranking, verdict = judged
    versions = _versions(embedding.model, mind.known.edition, mind.learned)
    if verdict.outcome == "handed_over":
        return hand_over(language, embedding, ranking, versions)
    if verdict.outcome == "asked":
        one, other = verdict.choice
        return Reply(
            text=sentence("asked_which", language, one=name_of(one), other=name_of(other)),
            outcome="asked",
            language=language,
            confidence=_rounded(verdict),
            sources=tuple(_source(item, name_of(item)) for item in verdict.choice),
            candidates=_candidates(ranking),
            propensity=1.0,
            versions=versions,
            embedding=embedding,
        )
    best = ranking.ranked[0]
    taught = mind.known.taught.get(best.item.item_id, ())
    return Reply(
        text=best.item.answer,
        model_used="correction" if taught else "retrieval",
        language=best.item.language,
        confidence=_rounded(verdict),
        sources=receipt(best, taught, language),
        candidates=_candidates(ranking),
        propensity=1.0,
        similar_found=len(best.belief.for_it) + len(taught),
        learning_improved=bool(best.belief.for_it or taught),
        versions=versions,
        embedding=embedding,
    )


def hand_over(
    language: Language,
    embedding: Embedding | None,
    ranking: Ranking | None,
    versions: dict[str, str],
) -> Reply:
    """The question is kept for an operator; of it is known what is known so far."""
    return Reply(
        text=sentence("handed_over", language),
        outcome="handed_over",
        model_used="handover",
        language=language,
        candidates=_candidates(ranking) if ranking else (),
        propensity=1.0,
        versions=versions,
        embedding=embedding,
    )


def worded(
    otherwise: Reply,
    completion: Completion,
    items: Sequence[KnowledgeItem],
    taught: Mapping[str, Sequence[UUID]],
    language: Language,
) -> Reply:
    """The answer in a language model's words, which were made of ``items``.

    ``taught`` are the corrections behind an item.
    """
    behind = (_behind(item, taught.get(item.item_id, ()), language) for item in items)
    return msgspec.structs.replace(
        otherwise,
        text=completion.text,
        outcome="answered",
        model_used=completion.model,
        language=language,
        confidence=None,  # what was calibrated are the company's own words
        sources=tuple(source for of_item in behind for source in of_item),
        similar_found=0,
        learning_improved=False,
        token_count=completion.token_count,
        versions={**otherwise.versions, "prompt": _PROMPT},
    )


def _rounded(verdict: Verdict) -> float | None:
    return None if verdict.confidence is None else round(verdict.confidence, 4)


@lru_cache(_VERSIONS)
def _versions(encoder: str, knowledge: str, learned: str) -> dict[str, str]:
    """One for all dialogues of a time, which are held by the thousand."""
    found = {"encoder": encoder, "ranking": VERSION, "knowledge": knowledge, "learned": learned}
    return {name: version for name, version in found.items() if version}


def _candidates(ranking: Ranking) -> tuple[Candidate, ...]:
    return tuple(Candidate(r.item.item_id, round(r.score, 4)) for r in ranking.ranked)


def _source(item: KnowledgeItem, title: str) -> Source:
    kind: SourceKind = "knowledge" if item.questions else "document"
    return Source(kind=kind, title=title, ids=(item.item_id,))


def _behind(item: KnowledgeItem, taught: Sequence[UUID], language: Language) -> list[Source]:
    """The item, and who taught it."""
    found = [_source(item, item.title)] if item.title else []
    if taught:
        title = sentence("operator_answer", language)
        found.append(Source(kind="correction", title=title, ids=tuple(map(str, taught))))
    return found


def receipt(best: Ranked, taught: Sequence[UUID], language: Language) -> tuple[Source, ...]:
    """What stands behind an answer: the item, who taught it, the dialogues that spoke for it."""
    item, dialogues = best.item, best.belief.for_it
    found = _behind(item, taught, language)
    if dialogues:
        # Interned: each dialogue that speaks here stands in the receipts of many.
        ids = tuple(sys.intern(str(exemplar.log_id)) for exemplar in dialogues)
        # Those of whom nothing is known may be one person, or among the known: the least it can be.
        raters = len({exemplar.rater for exemplar in dialogues} - {None}) or 1
        title = item.title or sentence("operator_answer", language)
        found.append(
            Source(kind="dialogues", title=title, ids=ids, dialogues=len(ids), raters=raters)
        )
    return tuple(found)
