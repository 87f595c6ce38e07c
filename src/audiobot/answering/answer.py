"""The answerer: from a question to an answer that the company stands behind, or a hand-over.

Small talk is answered at once. Otherwise the question is ranked against what the company knows;
a language model, when there is one, words the answer from the best passages; without one, or
when it fails, the best item is told as it stands. Below the threshold nothing is told: the
question is kept for a person.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import numpy as np

from audiobot.answering.embedding import (
    EmbeddingService,
    NgramEncoder,
    Side,
    as_embedding,
    as_vector,
)
from audiobot.answering.ranking import (
    Ranker,
    Ranking,
    Weights,
    as_rows,
    is_sure,
    kind_of,
    load_background,
)
from audiobot.answering.recall import Exemplar, Near, Recall
from audiobot.answering.small_talk import small_talk, without_greeting
from audiobot.domain import (
    Candidate,
    Conversation,
    Embedding,
    KnowledgeItem,
    Language,
    Source,
    SourceKind,
    utc_now,
)
from audiobot.errors import LanguageModelError, Unavailable, UnknownDialogue
from audiobot.messages import sentence
from audiobot.ports import NO_METER, LanguageModel, Matrix, Meter, Passage, Reply, Similar, Store

_T = TypeVar("_T")

NEIGHBOURS: Final = 16
RELEVANT_COSINE: Final = 0.93
"""Raw e5 cosines of Russian questions lie in 0.8-1.0; above this two ask about one thing."""
PASSAGES: Final = 4
_LOAD_BATCH: Final = 1_000
_REMEMBERED: Final = 1_000
_ENCODED_CHARACTERS: Final = 512
"""What a question is about is said by then; the encoder's time grows faster than its text."""


class _Mind(NamedTuple):
    """An encoder and the ranker over its vectors: swapped as one, never mixed."""

    encoder: str
    encode: Callable[[str], Awaitable[Matrix]]
    ranker: Ranker | None


class _Remembered:
    """Rankings of questions asked before, for as long as what they rest on is the same."""

    def __init__(self) -> None:
        self._rests_on: tuple[Ranker, int] | None = None
        self._found: OrderedDict[tuple[str, Language], tuple[Ranking, bool]] = OrderedDict()

    def get(
        self, rests_on: tuple[Ranker, int], asked: tuple[str, Language]
    ) -> tuple[Ranking, bool] | None:
        """The ranking, and whether it is sure enough to be told."""
        return self._found.get(asked) if self._rests_on == rests_on else None

    def keep(
        self,
        rests_on: tuple[Ranker, int],
        asked: tuple[str, Language],
        found: tuple[Ranking, bool],
    ) -> None:
        """What was found in the ranker and in one generation of the recall."""
        if self._rests_on != rests_on:
            self._rests_on = rests_on
            self._found.clear()
        self._found[asked] = found
        while len(self._found) > _REMEMBERED:
            self._found.popitem(last=False)


class KnowledgeAnswerer:
    """Implements :class:`audiobot.ports.Answerer` over a store, an encoder and maybe a model.

    ``sample`` is what is known while the store holds no knowledge of its own.
    """

    def __init__(
        self,
        store: Store,
        embedding: EmbeddingService,
        weights: Weights,
        *,
        sample: Callable[[], list[KnowledgeItem]],
        language_model: LanguageModel | None = None,
        min_rating: int = 4,
        meter: Meter = NO_METER,
    ) -> None:
        self._store = store
        self._meter = meter
        self._embedding = embedding
        self._weights = weights
        self._sample = sample
        self._language_model = language_model
        self._min_rating = min_rating
        self._mind: _Mind | None = None
        self._first_mind = asyncio.Event()
        self._recall: Recall | None = None
        self._noted: datetime | None = None
        self._note: int | None = None
        self._refreshing = asyncio.Lock()
        self._remembered = _Remembered()
        self._search_thread = ThreadPoolExecutor(1, "search")

    @property
    def ready(self) -> bool:
        """True once the knowledge's vectors by meaning are there: never with n-grams alone."""
        return self._settled and kind_of(self._embedding.name) == "dense"

    @property
    def _settled(self) -> bool:
        """True once questions meet the vectors of the encoder that stays, whichever it is."""
        return self._mind is not None and self._mind.encoder == self._embedding.name

    @property
    def language_model(self) -> LanguageModel | None:
        """The model that words answers, if one is configured."""
        return self._language_model

    @property
    def recall(self) -> Recall | None:
        """The well-rated dialogues at hand; None while loading."""
        return self._recall

    # -- life ------------------------------------------------------------------------------

    async def start(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Answer by n-grams first; then load the encoder, the knowledge, the dialogues."""
        try:
            await self._start_ngrams()
        finally:
            self._first_mind.set()
        await self._embedding.start()
        self._recall = Recall(self._embedding.dimension)
        await self._load_knowledge(progress)
        await self._load_dialogues()
        await self._search(self._recollect_change)

    async def _start_ngrams(self) -> None:
        ngrams = await self._search(NgramEncoder)

        async def encode(text: str) -> Matrix:
            rows = await self._search(lambda: ngrams.query([text]))
            return np.asarray(rows[0])

        async def vectors(texts: list[tuple[Side, str]]) -> dict[tuple[Side, str], Matrix]:
            rows = await self._search(lambda: ngrams.query([text for _, text in texts]))
            return dict(zip(texts, rows, strict=True))

        ranker = await self._make_ranker(vectors, ngrams.dimension)
        self._mind = _Mind(ngrams.name, encode, ranker)

    def close(self) -> None:
        """Stop the search thread."""
        self._search_thread.shutdown(wait=True, cancel_futures=True)
        if self._note is not None:
            os.close(self._note)

    async def refresh(self) -> None:
        """Take up the knowledge as the store holds it now; see the port."""
        if self._recall is not None:
            await self._load_knowledge()

    async def reload(self) -> None:
        """Take up knowledge and dialogues anew: the store holds more than it did."""
        if self._recall is not None:
            await self._load_knowledge()
            await self._load_dialogues()

    async def _load_knowledge(
        self, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        async with self._refreshing:
            embedding = self._embedding
            ranker = await self._make_ranker(
                lambda texts: embedding.keep(texts, progress), embedding.dimension
            )
            self._mind = _Mind(embedding.name, embedding.query, ranker)

    async def _make_ranker(
        self,
        vectors_of: Callable[[list[tuple[Side, str]]], Awaitable[dict[tuple[Side, str], Matrix]]],
        dimension: int,
    ) -> Ranker | None:
        """A ranker over the store's knowledge, or the sample; None when there is none at all."""
        sources = await self._store.get_knowledge()
        items = [item for source in sources for item in source.items] or self._sample()
        if not items:
            return None
        questions = [q for item in items for q in item.questions]
        answers = [f"{item.title}\n{item.answer}" for item in items]
        background = load_background()
        wanted: list[tuple[Side, str]] = [("query", q) for q in [*questions, *background]]
        wanted += [("passage", a) for a in answers]
        vectors = await vectors_of(wanted)
        return await self._search(
            lambda: Ranker(
                items,
                as_rows([vectors["query", q] for q in questions], dimension),
                as_rows([vectors["passage", a] for a in answers], dimension),
                as_rows([vectors["query", q] for q in background], dimension),
                self._weights,
            )
        )

    async def _load_dialogues(self) -> None:
        recall = self._recall
        assert recall is not None
        batch: list[tuple[Exemplar, Matrix]] = []

        async def flush() -> None:
            if batch:
                exemplars = [exemplar for exemplar, _ in batch]
                vectors = np.stack([vector for _, vector in batch])
                await self._search(lambda: recall.add(exemplars, vectors))
                batch.clear()

        async for conversation in self._store.get_rated_conversations(
            self._min_rating, answered=True, newest=recall.limit
        ):
            batch.append((_exemplar(conversation), await self._vector_of(conversation)))
            if len(batch) >= _LOAD_BATCH:
                await flush()
        await flush()
        recall.partial = len(recall) >= recall.limit

    async def _search(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._search_thread, work)

    async def _vector_of(self, conversation: Conversation) -> Matrix:
        """The question's vector: the stored one if today's encoder made it."""
        kept = conversation.embedding
        if kept is not None and kept.model == self._embedding.name:
            return as_vector(kept)
        asked = without_greeting(conversation.user_message)
        return await self._embedding.query(asked[:_ENCODED_CHARACTERS])

    # -- one question ----------------------------------------------------------------------

    async def answer(self, question: str, language: Language) -> Reply:
        """The reply; see the port."""
        talk = small_talk(question, language)
        if talk is not None:
            return Reply(text=talk, model_used="small_talk", language=language)
        await self._first_mind.wait()
        mind = self._mind
        if mind is None or mind.ranker is None:
            return self._hand_over(language, None, None)
        asked = without_greeting(question)
        # Chosen together with the encoder: a vector of one must never meet the other's graph.
        ranker, recall = mind.ranker, self._recall if self._settled else None
        with self._meter.stage("embed"):
            vector = await mind.encode(asked[:_ENCODED_CHARACTERS])

        with self._meter.stage("search"):
            ranking, sure = await self._rank(ranker, recall, asked, vector, language, mind.encoder)
        embedding = as_embedding(vector, mind.encoder)
        retrieved = (
            self._retrieved(ranking, embedding)
            if sure
            else self._hand_over(language, embedding, ranking)
        )
        if self._language_model is None:
            return retrieved
        return await self._worded(asked, language, ranking, retrieved)

    async def _rank(
        self,
        ranker: Ranker,
        recall: Recall | None,
        asked: str,
        vector: Matrix,
        language: Language,
        encoder: str,
    ) -> tuple[Ranking, bool]:
        """The best items, and whether the first may be told; what was found before is at hand."""
        rests_on = ranker, recall.generation if recall else 0
        found = self._remembered.get(rests_on, (asked, language))
        if found is not None:
            return found

        def search() -> tuple[tuple[Ranker, int], tuple[Ranking, bool]]:
            rests_on = ranker, recall.generation if recall else 0
            near = recall.near(vector, NEIGHBOURS) if recall else ()
            ranking = ranker.rank(asked, vector, language, near)
            sure = is_sure(ranker, asked, ranking, self._weights, encoder)
            return rests_on, (ranking, sure)

        rests_on, ranked = await self._search(search)
        self._remembered.keep(rests_on, (asked, language), ranked)
        return ranked

    def _retrieved(self, ranking: Ranking, embedding: Embedding) -> Reply:
        """The best item as it stands."""
        best = ranking.ranked[0]
        relevant = [near for near in best.dialogues if near.cosine >= RELEVANT_COSINE]
        return Reply(
            text=best.item.answer,
            model_used="retrieval",
            language=best.item.language,
            sources=_receipt(best.item, relevant),
            candidates=_candidates(ranking),
            propensity=1.0,
            similar_found=len(relevant),
            learning_improved=best.learned,
            versions=_versions(embedding.model),
            embedding=embedding,
        )

    def _hand_over(
        self, language: Language, embedding: Embedding | None, ranking: Ranking | None
    ) -> Reply:
        return Reply(
            text=sentence("handed_over", language),
            outcome="handed_over",
            model_used="handover",
            language=language,
            candidates=_candidates(ranking) if ranking else (),
            propensity=1.0,
            versions=_versions(embedding.model if embedding else "none"),
            embedding=embedding,
        )

    async def _worded(
        self, question: str, language: Language, ranking: Ranking, otherwise: Reply
    ) -> Reply:
        """The answer in a language model's words; ``otherwise`` when it gives none in time."""
        assert self._language_model is not None
        items = [ranked.item for ranked in ranking.ranked[:PASSAGES]]
        passages = [Passage(item.title, item.answer) for item in items]
        try:
            completion = await self._language_model.complete(question, passages, language)
        except LanguageModelError:
            return otherwise
        if completion is None:
            return otherwise
        sources = [_receipt(item, []) for item in items]
        return msgspec.structs.replace(
            otherwise,
            text=completion.text,
            outcome="answered",
            model_used=completion.model,
            language=language,
            sources=tuple(itertools.chain.from_iterable(sources)),
            similar_found=0,
            learning_improved=False,
            token_count=completion.token_count,
            versions={**otherwise.versions, "prompt": "grounded-1"},
        )

    # -- past dialogues --------------------------------------------------------------------

    async def similar(self, conversation: Conversation, limit: int) -> list[Similar]:
        """Rated dialogues nearest to one; see the port."""
        recall = self._recall
        if recall is None:
            return []
        vector = await self._vector_of(conversation)
        found = await self._search(lambda: recall.near(vector, limit + 1))
        similar: list[Similar] = []
        for near in found:
            if near.exemplar.log_id == conversation.log_id:
                continue
            other = await self._store.get_conversation(near.exemplar.log_id)
            if other is not None:
                similar.append(Similar(other, round(min(1.0, near.cosine), 4)))
        return similar[:limit]

    async def learn(self, log_ids: Sequence[UUID], *, here: bool = False) -> None:
        """Let ratings count from the next question on; see the port."""
        recall = self._recall
        if recall is None:
            return  # the dialogues are still to be loaded, these among them
        good: list[tuple[Exemplar, Matrix]] = []
        gone: list[UUID] = []
        unread: Unavailable | None = None
        for log_id in log_ids:
            try:
                rated = await self._as_rated(log_id, here=here)
            except Unavailable as error:
                unread = error
                continue
            if rated is None or rated.rating is None:
                continue
            if rated.rating < self._min_rating or rated.outcome != "answered":
                gone.append(log_id)
            else:
                good.append((_exemplar(rated), await self._vector_of(rated)))
        await self._search(lambda: self._take(recall, good, gone))
        if unread is not None:
            raise unread

    def _take(self, recall: Recall, good: list[tuple[Exemplar, Matrix]], gone: list[UUID]) -> None:
        for log_id in gone:
            recall.discard(log_id, utc_now())
        if good:
            recall.add([exemplar for exemplar, _ in good], np.stack([v for _, v in good]))
        if gone:
            self._note_change()

    async def _as_rated(self, log_id: UUID, *, here: bool) -> Conversation | None:
        """The dialogue with the rating that counts; None when there is none, or not in reach."""
        if here and (held := self._store.at_hand(log_id)) is not None:
            return held
        try:
            return await self._store.get_conversation(log_id)
        except UnknownDialogue:
            return None

    # The store knows when each dialogue was last rated, not that one once counted: when one was
    # lost is noted beside the vectors, or a restart would turn time back.

    def _note_change(self) -> None:
        change = self._recall.last_change if self._recall is not None else None
        folder = self._embedding.folder
        if change is None or folder is None or change == self._noted:
            return
        self._noted = change
        with contextlib.suppress(OSError):
            if self._note is None:
                folder.mkdir(parents=True, exist_ok=True)
                self._note = os.open(folder / "last-change", os.O_WRONLY | os.O_CREAT, 0o600)
            # Always as long as before, so that it is whole whenever the process is killed.
            os.pwrite(self._note, change.isoformat(timespec="microseconds").encode(), 0)

    def _recollect_change(self) -> None:
        folder = self._embedding.folder
        if self._recall is None or folder is None:
            return
        with contextlib.suppress(OSError, ValueError):
            noted = datetime.fromisoformat((folder / "last-change").read_text(encoding="ascii"))
            if noted.tzinfo is not None:
                self._recall.changed_at(noted)


def _versions(encoder: str) -> dict[str, str]:
    return {"encoder": encoder, "ranking": "fused-1"}


def _exemplar(conversation: Conversation) -> Exemplar:
    return Exemplar(
        conversation.log_id,
        without_greeting(conversation.user_message),
        conversation.item_id,
        conversation.rating or 0,
        conversation.updated_at or conversation.created_at,
        conversation.rater,
    )


def _candidates(ranking: Ranking) -> tuple[Candidate, ...]:
    return tuple(Candidate(r.item.item_id, round(r.score, 4)) for r in ranking.ranked)


def _receipt(item: KnowledgeItem, dialogues: list[Near]) -> tuple[Source, ...]:
    """What stands behind an answer: the item, and the dialogues that spoke for it."""
    kind: SourceKind = "knowledge" if item.questions else "document"
    receipt = [Source(kind=kind, title=item.title, ids=(item.item_id,))]
    if dialogues:
        # Ten thousand receipts name the same dialogues: one text for each of them is enough.
        ids = tuple(sys.intern(str(near.exemplar.log_id)) for near in dialogues)
        # Those of whom nothing is known may be one person, or among the known: the least it can be.
        raters = len({near.exemplar.rater for near in dialogues} - {None}) or 1
        receipt.append(
            Source(kind="dialogues", title=item.title, ids=ids, dialogues=len(ids), raters=raters)
        )
    return tuple(receipt)
