"""The answerer: from a question to an answer that the company stands behind, or a hand-over.

A question that an operator answered in these very words gets his answer, small talk is answered at
once. Otherwise the question is ranked against what the company knows; what an operator taught is
told to the letter. A language model, when there is one, words any other answer from the best
passages; without one, or when it fails, the best item is told as it stands. Where two stand close
the person is asked which is meant; what is not sure enough is kept for an operator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

import numpy as np

from audiobot.answering import replying
from audiobot.answering.corrections import Known, lay_over, named
from audiobot.answering.desk import Desk, each_alone, not_yet
from audiobot.answering.embedding import EmbeddingService, NgramEncoder, as_embedding, as_vector
from audiobot.answering.evaluating import HeldOut, held_out
from audiobot.answering.experience import Experience, Snapshot
from audiobot.answering.judging import Judged, Remembered, judge
from audiobot.answering.learner import Learner
from audiobot.answering.mind import Key, Mind, fitted, keys_of, make_ranker, question_key
from audiobot.answering.ranking import Ranking
from audiobot.answering.small_talk import small_talk, without_greeting
from audiobot.answering.weights import Weights, kind_of
from audiobot.answering.whitening import NO_WHITENING, load_whitening
from audiobot.domain import (
    AnswerPreview,
    Conversation,
    KnowledgeItem,
    Language,
    QuestionGroup,
)
from audiobot.errors import LanguageModelError
from audiobot.one_thread import OneThread
from audiobot.ports import NO_METER, LanguageModel, Matrix, Meter, Passage, Reply, Similar, Store

_T = TypeVar("_T")

PASSAGES: Final = 4
_SOON_SECONDS: Final = 0.5
"""So long a start waits for the encoder before it makes do without."""


class KnowledgeAnswerer:
    """Implements :class:`audiobot.ports.Answerer` over a store, an encoder and maybe a model.

    ``sample`` is what is known while the store holds no knowledge of its own; at most
    ``error_rate`` of the answers told may be wrong.
    """

    def __init__(
        self,
        store: Store,
        embedding: EmbeddingService,
        weights: Weights,
        *,
        sample: Callable[[], Sequence[KnowledgeItem]],
        language_model: LanguageModel | None = None,
        min_rating: int = 4,
        error_rate: float = 0.1,
        meter: Meter = NO_METER,
    ) -> None:
        self._store = store
        self._meter = meter
        self._embedding = embedding
        self._weights = weights
        self._sample = sample
        self._language_model = language_model
        self._min_rating = min_rating
        self._error_rate = error_rate
        self._whitening = NO_WHITENING
        self._mind: Mind | None = None
        self._first_mind = asyncio.Event()
        self._items: Sequence[KnowledgeItem] = ()
        self._laid: Known | None = None
        self._corrected_at: datetime | None = None
        self._learner: Learner | None = None
        self._desk: Desk | None = None
        self._refreshing = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._calls = self._read = self._made = 0
        self._remembered = Remembered()
        self._search_thread = OneThread("search")
        self._fit_thread = OneThread("fit")

    @property
    def searches(self) -> int:
        """How much waits for the search thread: questions to be ranked, ratings to be learned."""
        return self._search_thread.waiting

    @property
    def version(self) -> str:
        """The ranking's, and the names of what it knows and of what raters taught it."""
        mind = self._mind
        return replying.VERSION + (f" {mind.known.edition} {mind.learned}" if mind else "")

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
    def recall_complete(self) -> bool:
        """False while not every rated dialogue is at hand: there are too many, or they load."""
        return self._learner is not None and not self._learner.experience.recall.partial

    @property
    def last_change(self) -> datetime | None:
        """When something learned last changed the answers; None before."""
        rated = self._learner.experience.recall.last_change if self._learner else None
        return max((at for at in (rated, self._corrected_at) if at is not None), default=None)

    # -- life ------------------------------------------------------------------------------

    async def start(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Load the encoder, the knowledge, the dialogues; meanwhile answer by n-grams.

        Where the encoder is soon there and the knowledge's vectors are kept, nobody needs them.
        """
        loading = asyncio.create_task(self._embedding.start(), name="load the encoder")
        try:
            await asyncio.wait({loading}, timeout=_SOON_SECONDS)
            await self._read_knowledge()
            known = await self._known()
            if not loading.done() or not await self._embedding.at_hand(keys_of(known)):
                await self._start_ngrams(known)
                self._first_mind.set()
            await loading
            learner = await self._start_learner()
            async with self._refreshing:
                await self._read_knowledge()
                await self._make_mind(await self._known(), progress)
        finally:
            loading.cancel()
            self._first_mind.set()
        await learner.load()
        await self._refit()

    async def _start_learner(self) -> Learner:
        """One that has learned nothing yet; from here on nothing that changes is missed."""
        self._whitening = await self._search(lambda: load_whitening(self._embedding.name))
        self._learner = Learner(
            self._store,
            Experience(self._embedding.dimension),
            self._search,
            self._vector_of,
            self._refit,
            self._min_rating,
        )
        self._desk = Desk(
            self._store,
            self._embedding,
            self._learner,
            self._search,
            self._fit,
            self._vector_of,
            self._mind_of,
            self._error_rate,
        )
        return self._learner

    async def _start_ngrams(self, known: Known) -> None:
        ngrams = NgramEncoder()

        async def encode(text: str) -> Matrix:
            return np.asarray((await self._search(lambda: ngrams.query([text])))[0])

        def make() -> Mind:
            keys = [*keys_of(known)]
            vectors = dict(zip(keys, ngrams.query([text for _, text in keys]), strict=True))
            ranker = make_ranker(
                known, vectors, ngrams.dimension, self._weights, NO_WHITENING, ngrams.name
            )
            return Mind(ngrams.name, encode, known, ranker)

        self._mind = await self._search(make)

    def close(self) -> None:
        """Stop the threads."""
        if self._learner is not None:
            self._learner.close()
        for thread in (self._search_thread, self._fit_thread):
            thread.close()

    async def refresh(self) -> None:
        """Take up knowledge and corrections as the store holds them now; see the port."""
        if self._learner is None:
            return  # both are still to be loaded
        async with self._refreshing:
            await self._read_knowledge()
            await self._make_mind(await self._known())

    async def take_corrections(self) -> None:
        """Take up the corrections alone; see the port."""
        if self._learner is None:
            return
        self._calls += 1
        call = self._calls
        known = await self._known(call)
        mind = self._mind
        if mind is not None:
            # Who asks in a corrected wording waits for no vectors and no index.
            self._mind = mind._replace(known=known, version=mind.version + 1)
        async with self._refreshing:
            if self._made < call:
                made = self._read
                await self._make_mind(self._laid or known)
                self._made = made

    async def reload(self) -> None:
        """Take up knowledge, corrections and dialogues anew: the store holds more than it did."""
        if self._learner is None:  # the start was broken off
            await self.start()
            return
        await self.refresh()
        await self._learner.load()
        await self._refit()

    async def _read_knowledge(self) -> None:
        sources = await self._store.get_knowledge()
        items = [item for source in sources for item in source.items]
        self._items = items or self._sample()

    async def _known(self, call: int | None = None) -> Known:
        """What was read of knowledge, under the corrections in force, as of now or of ``call``."""
        async with self._reading:
            if self._laid is None or call is None or self._read < call:
                read = self._calls
                every = await self._store.get_corrections(withdrawn=True)
                self._corrected_at = max(
                    (c.corrected_at for c in every), default=self._corrected_at
                )
                in_force = [correction for correction in every if not correction.withdrawn]
                self._laid = await asyncio.to_thread(lambda: named(lay_over(self._items, in_force)))
                self._read = read
            return self._laid

    async def _make_mind(
        self, known: Known, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        embedding = self._embedding
        vectors = await embedding.keep(keys_of(known), progress)
        learner = self._learner
        snapshot = await self._search(learner.experience.snapshot) if learner else None
        made = await self._fit(partial(self._mind_of, known, vectors, snapshot))
        version = self._mind.version + 1 if self._mind else 0
        # What was corrected meanwhile is told in its own words already.
        known = self._laid or known
        self._mind = made._replace(version=version, known=known, imported=self._items)

    def _mind_of(
        self, known: Known, vectors: Mapping[Key, Matrix], snapshot: Snapshot | None
    ) -> Mind:
        """One over ``known`` that has learned what is in ``snapshot``."""
        embedding, before = self._embedding, self._mind.ranker if self._mind else None
        dimension, name = embedding.dimension, embedding.name
        ranker = make_ranker(
            known, vectors, dimension, self._weights, self._whitening, name, before
        )
        return Mind(name, embedding.query, known, ranker, *fitted(known, ranker, snapshot))

    async def _refit(self) -> float:
        """Fit the head anew to all that raters taught; the seconds that it took."""
        started, learner = time.perf_counter(), self._learner
        while (mind := self._mind) is not None and mind.ranker is not None and learner is not None:
            ranker, snapshot = mind.ranker, await self._search(learner.experience.snapshot)
            matrix, name, trust = await self._fit(partial(fitted, mind.known, ranker, snapshot))
            if (now := self._mind) is not None and now.ranker is ranker:
                self._mind = now._replace(
                    head=matrix, learned=name, trust=trust, version=now.version + 1
                )
                break
            # One that was made meanwhile may have learned from less than this.
        return time.perf_counter() - started

    async def evaluate(self) -> HeldOut:
        """Fit the head anew and say how well it holds for questions that it did not learn from."""
        await self._refit()
        mind, learner = self._mind, self._learner
        if mind is None or mind.ranker is None or learner is None or not self._settled:
            return HeldOut(None, 0)
        ranker, snapshot = mind.ranker, await self._search(learner.experience.snapshot)
        return await self._fit(lambda: held_out(ranker, snapshot, mind.trust))

    async def _search(self, work: Callable[[], _T]) -> _T:
        return await self._search_thread.run(work)

    async def _fit(self, work: Callable[[], _T]) -> _T:
        return await self._fit_thread.run(work)

    async def _vector_of(self, conversation: Conversation) -> Matrix:
        """The question's vector: the stored one if today's encoder made it."""
        kept = conversation.embedding
        if kept is not None and kept.model == self._embedding.name:
            return as_vector(kept)
        _, text = question_key(without_greeting(conversation.user_message))
        return await self._embedding.query(text)

    # -- one question ----------------------------------------------------------------------

    async def answer(self, question: str, language: Language) -> Reply:
        """The reply; see the port."""
        mind = self._mind
        taught = mind is not None and mind.known.pinned(question, language) is not None
        if not taught and (talk := small_talk(question, language)) is not None:
            return Reply(text=talk, model_used="small_talk", language=language)
        await self._first_mind.wait()
        mind = self._mind
        if mind is None or (mind.ranker is None and mind.pinned(question, language) is None):
            return replying.hand_over(language, None, None, {})
        asked = without_greeting(question)
        # Chosen together with the encoder: a vector of one must never meet the other's graph.
        learner = self._learner if self._settled else None
        with self._meter.stage("embed"):
            vector = await mind.encode(question_key(asked)[1])
        with self._meter.stage("search"):
            judged, told = await self._judge(mind, learner, question, asked, vector, language)
        if self._language_model is None or told.model_used == "correction":
            return told  # an operator's words are told to the letter
        return await self._worded(mind, asked, language, judged.ranking, told)

    async def _judge(
        self,
        mind: Mind,
        learner: Learner | None,
        question: str,
        asked: str,
        vector: Matrix,
        language: Language,
    ) -> tuple[Judged, Reply]:
        """The best items, and what to tell of them; what was found before is at hand."""
        experience = learner.experience if learner is not None else None
        generation = experience.recall.generation if experience else 0
        found = self._remembered.get((mind.version, generation), (question, language))
        if found is not None:
            return found

        def search() -> tuple[int, Judged]:
            generation = experience.recall.generation if experience else 0
            return generation, judge(
                mind, experience, question, asked, vector, language, self._error_rate
            )

        generation, judged = await self._search(search)
        found = judged, replying.told(mind, judged, as_embedding(vector, mind.encoder), language)
        self._remembered.keep((mind.version, generation), (question, language), found)
        return found

    async def _worded(
        self, mind: Mind, question: str, language: Language, ranking: Ranking, otherwise: Reply
    ) -> Reply:
        """The answer in a language model's words; ``otherwise`` when it gives none in time."""
        assert self._language_model is not None
        # What was taken back just now is ranked until there is another ranker, and told no more.
        known = mind.known.by_id
        items = [r.item for r in ranking.ranked if r.item.item_id in known][:PASSAGES]
        if not items:
            return otherwise
        passages = [Passage(item.title, item.answer) for item in items]
        try:
            completion = await self._language_model.complete(question, passages, language)
        except LanguageModelError:
            return otherwise
        if completion is None:
            return otherwise
        return replying.worded(otherwise, completion, items, mind.known.taught, language)

    # -- past dialogues --------------------------------------------------------------------

    async def similar(self, conversation: Conversation, limit: int) -> list[Similar]:
        """Rated dialogues nearest to one; see the port."""
        if self._learner is None:
            return []
        vector = await self._vector_of(conversation)
        return await self._learner.similar(vector, limit, but=conversation.log_id)

    async def learn(self, log_ids: Sequence[UUID], *, here: bool = False) -> None:
        """Let ratings count from the next question on; see the port."""
        if self._learner is not None:  # else the dialogues are still to be loaded
            await self._learner.learn(log_ids, here=here)

    # -- the operator's desk -----------------------------------------------------------------

    async def group(self, turns: Sequence[Conversation]) -> list[QuestionGroup]:
        """Turns by what they ask; see the port."""
        if self._desk is None or not self._settled:
            return each_alone(turns)
        return await self._desk.group(turns)

    async def preview(
        self,
        answer: str,
        wordings: Sequence[str],
        language: Language,
        turns: Sequence[Conversation],
    ) -> AnswerPreview:
        """What a correction would do; see the port."""
        if self._desk is None or self._mind is None or not self._settled:
            return not_yet(answer, wordings)
        return await self._desk.preview(answer, wordings, language, turns, self._mind)
