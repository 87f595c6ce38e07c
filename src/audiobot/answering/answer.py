"""The answerer: from a question to an answer that the company stands behind, or a hand-over.

A question that an operator answered in these very words gets his answer, small talk is answered at
once. Otherwise the question is ranked against what the company knows; a language model, when there
is one, words the answer from the best passages; without one, or when it fails, the best item is
told as it stands. Where two stand close the person is asked which is meant; what is not sure
enough is kept for an operator.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import numpy as np

from audiobot.answering.corrections import Known, is_terse, lay_over
from audiobot.answering.deciding import HAND_OVER, PINNED, Verdict, decide
from audiobot.answering.embedding import EmbeddingService, NgramEncoder, as_embedding, as_vector
from audiobot.answering.evaluating import HeldOut, held_out
from audiobot.answering.experience import Experience
from audiobot.answering.grouping import group_by_meaning
from audiobot.answering.learner import Learner
from audiobot.answering.mind import Key, Mind, fitted, keys_of, make_ranker, question_key
from audiobot.answering.ranking import Ranked, Ranking, pinned
from audiobot.answering.small_talk import small_talk, without_greeting
from audiobot.answering.weights import Weights, kind_of, load_background
from audiobot.answering.whitening import NO_WHITENING, load_whitening
from audiobot.domain import (
    AnswerPreview,
    Candidate,
    Conversation,
    Correction,
    Embedding,
    KnowledgeItem,
    Language,
    PreviewedTurn,
    QuestionGroup,
    Source,
    SourceKind,
    utc_now,
)
from audiobot.errors import LanguageModelError
from audiobot.messages import sentence
from audiobot.ports import NO_METER, LanguageModel, Matrix, Meter, Passage, Reply, Similar, Store

_T = TypeVar("_T")

PASSAGES: Final = 4
_REMEMBERED: Final = 1_000
_NEAR_ANSWER: Final = 20
"""Rated dialogues near an answer's questions that its preview looks at."""
_PREVIEWED: Final = 16
_PREVIEWED_CHARACTERS: Final = 512
"""How many of an answer's questions its preview takes up, and of how many characters."""
_LIKELY: Final = 64
"""Of all past questions so many, the nearest to the answer's, may be caught by it."""
_AT_A_TIME: Final = 8
"""Past questions that a preview looks at before it lets others through."""
_SOON_SECONDS: Final = 0.5
"""So long a start waits for the encoder before it makes do without."""
_LOW: Final = 2
_VERSION: Final = "voices-2"
_NOBODY: Final = UUID(int=0)

Asked = tuple[str, Language]


class _Judged(NamedTuple):
    ranking: Ranking
    verdict: Verdict


class _Remembered:
    """Judgements of questions asked before, for as long as what they rest on is the same."""

    def __init__(self) -> None:
        self._rests_on: tuple[int, int] | None = None
        self._found: OrderedDict[Asked, _Judged] = OrderedDict()

    def get(self, rests_on: tuple[int, int], asked: Asked) -> _Judged | None:
        """The judgement, if it still holds."""
        return self._found.get(asked) if self._rests_on == rests_on else None

    def keep(self, rests_on: tuple[int, int], asked: Asked, found: _Judged) -> None:
        """What was found by one version of the mind in one generation of experience."""
        if self._rests_on != rests_on:
            self._rests_on = rests_on
            self._found.clear()
        self._found[asked] = found
        while len(self._found) > _REMEMBERED:
            self._found.popitem(last=False)


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
        sample: Callable[[], list[KnowledgeItem]],
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
        self._items: list[KnowledgeItem] = []
        self._laid: Known | None = None
        self._corrected_at: datetime | None = None
        self._learner: Learner | None = None
        self._refreshing = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._calls = self._read = self._made = 0
        self._remembered = _Remembered()
        self._search_thread = ThreadPoolExecutor(1, "search")
        self._fit_thread = ThreadPoolExecutor(1, "fit")

    version: Final = _VERSION

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
            if not loading.done() or not self._embedding.at_hand(keys_of(known)):
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
        return self._learner

    async def _start_ngrams(self, known: Known) -> None:
        ngrams = NgramEncoder()

        async def encode(text: str) -> Matrix:
            return np.asarray((await self._search(lambda: ngrams.query([text])))[0])

        def make() -> Mind:
            keys = keys_of(known)
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
            thread.shutdown(wait=True, cancel_futures=True)

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
        if self._learner is None:
            return
        await self.refresh()
        await self._learner.load()
        await self._refit()

    async def _read_knowledge(self) -> None:
        sources = await self._store.get_knowledge()
        self._items = [item for source in sources for item in source.items] or self._sample()

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
                self._laid = await asyncio.to_thread(lay_over, self._items, in_force)
                self._read = read
            return self._laid

    async def _make_mind(
        self, known: Known, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        embedding = self._embedding
        vectors = await embedding.keep(keys_of(known), progress)
        learner = self._learner
        snapshot = await self._search(learner.experience.snapshot) if learner else None
        weights, whitening = self._weights, self._whitening
        before = self._mind.ranker if self._mind else None

        def make() -> Mind:
            ranker = make_ranker(
                known, vectors, embedding.dimension, weights, whitening, embedding.name, before
            )
            head = fitted(ranker, snapshot)
            return Mind(embedding.name, embedding.query, known, ranker, head)

        made = await self._fit(make)
        version = self._mind.version + 1 if self._mind else 0
        # What was corrected meanwhile is told in its own words already.
        self._mind = made._replace(version=version, known=self._laid or known)

    async def _refit(self) -> float:
        """Fit the head anew to all that raters taught; the seconds that it took."""
        mind, learner = self._mind, self._learner
        if mind is None or mind.ranker is None or learner is None:
            return 0.0
        snapshot = await self._search(learner.experience.snapshot)
        started = time.perf_counter()
        head = await self._fit(lambda: fitted(mind.ranker, snapshot))
        if self._mind is mind:  # one made meanwhile has a head of its own
            self._mind = mind._replace(head=head, version=mind.version + 1)
        return time.perf_counter() - started

    async def evaluate(self) -> HeldOut:
        """Fit the head anew and say how well it holds for questions that it did not learn from."""
        await self._refit()
        mind, learner = self._mind, self._learner
        if mind is None or mind.ranker is None or learner is None or not self._settled:
            return HeldOut(None, 0)
        ranker, snapshot = mind.ranker, await self._search(learner.experience.snapshot)
        return await self._fit(lambda: held_out(ranker, snapshot))

    async def _search(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._search_thread, work)

    async def _fit(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._fit_thread, work)

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
            return self._hand_over(language, None, None)
        asked = without_greeting(question)
        # Chosen together with the encoder: a vector of one must never meet the other's graph.
        learner = self._learner if self._settled else None
        with self._meter.stage("embed"):
            vector = await mind.encode(question_key(asked)[1])
        with self._meter.stage("search"):
            judged = await self._judge(mind, learner, question, asked, vector, language)
        embedding = as_embedding(vector, mind.encoder)
        told = self._told(mind, judged, embedding, language)
        if self._language_model is None:
            return told
        return await self._worded(asked, language, judged.ranking, told)

    async def _judge(
        self,
        mind: Mind,
        learner: Learner | None,
        question: str,
        asked: str,
        vector: Matrix,
        language: Language,
    ) -> _Judged:
        """The best items, and what to do with them; what was found before is at hand."""
        experience = learner.experience if learner is not None else None
        generation = experience.recall.generation if experience else 0
        found = self._remembered.get((mind.version, generation), (question, language))
        if found is not None:
            return found

        def search() -> tuple[int, _Judged]:
            generation = experience.recall.generation if experience else 0
            return generation, self._look(mind, experience, question, asked, vector, language)

        generation, judged = await self._search(search)
        self._remembered.keep((mind.version, generation), (question, language), judged)
        return judged

    def _look(
        self,
        mind: Mind,
        experience: Experience | None,
        question: str,
        asked: str,
        vector: Matrix,
        language: Language,
    ) -> _Judged:
        ranker, item = mind.ranker, mind.pinned(question, language)
        if ranker is None:
            assert item is not None, "nothing is known"
            return _Judged(pinned(Ranking([], ()), item), Verdict("answered", PINNED))
        believed = experience.believed(ranker, vector) if experience is not None else {}
        ranking = ranker.rank(asked, vector, language, believed, mind.head)
        if item is not None:
            ranking = pinned(ranking, item)
        elif ranking.ranked[0].item.item_id not in mind.known.by_id:  # taken back just now
            return _Judged(ranking, HAND_OVER)
        return _Judged(ranking, decide(ranker, asked, ranking, language, self._error_rate))

    def _told(self, mind: Mind, judged: _Judged, embedding: Embedding, language: Language) -> Reply:
        """The best item as it stands, a question back, or a hand-over."""
        ranking, verdict = judged
        if verdict.outcome == "handed_over":
            return self._hand_over(language, embedding, ranking)
        if verdict.outcome == "asked":
            one, other = verdict.choice
            return Reply(
                text=sentence("asked_which", language, one=one.title, other=other.title),
                outcome="asked",
                language=language,
                confidence=_rounded(verdict),
                sources=tuple(_source(item) for item in verdict.choice),
                candidates=_candidates(ranking),
                propensity=1.0,
                versions=_versions(embedding.model),
                embedding=embedding,
            )
        best = ranking.ranked[0]
        taught = mind.known.taught.get(best.item.item_id, ())
        return Reply(
            text=best.item.answer,
            model_used="correction" if taught else "retrieval",
            language=best.item.language,
            confidence=_rounded(verdict),
            sources=_receipt(best, taught, language),
            candidates=_candidates(ranking),
            propensity=1.0,
            similar_found=len(best.belief.for_it) + len(taught),
            learning_improved=bool(best.belief.for_it or taught),
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
        return msgspec.structs.replace(
            otherwise,
            text=completion.text,
            outcome="answered",
            model_used=completion.model,
            language=language,
            confidence=None,  # what was calibrated are the company's own words
            sources=tuple(_source(item) for item in items if item.title),
            similar_found=0,
            learning_improved=False,
            token_count=completion.token_count,
            versions={**otherwise.versions, "prompt": "grounded-1"},
        )

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
        if not self._settled or not turns:
            return [_group([turn]) for turn in turns]
        vectors = np.stack([await self._vector_of(turn) for turn in turns])
        lines = [await self._embedding.query(line) for line in load_background()]
        found = await self._fit(lambda: group_by_meaning(vectors, np.stack(lines)))
        groups = [_group([turns[i] for i in rows]) for rows in found]
        return sorted(groups, key=_worth, reverse=True)

    async def preview(
        self,
        answer: str,
        wordings: Sequence[str],
        language: Language,
        turns: Sequence[Conversation],
    ) -> AnswerPreview:
        """What a correction would do; see the port."""
        terse = is_terse(answer, wordings)
        mind, learner = self._mind, self._learner
        if mind is None or learner is None or not self._settled:
            return AnswerPreview(caught=(), looked_at=0, terse=terse)
        corrections = await self._store.get_corrections()
        given = Correction(
            correction_id=_NOBODY,
            answer=answer,
            wordings=_first(wordings),
            language=language,
            corrected_at=utc_now(),
            version=0,
        )
        known = await asyncio.to_thread(lay_over, self._items, [*corrections, given])
        vectors: dict[Key, Matrix] = await self._embedding.vectors(keys_of(known))
        past = {turn.log_id: turn for turn in turns if turn.language == language}
        # Of wordings that differ in nothing but case and points one is kept.
        keys = {question_key(wording) for wording in given.wordings} & vectors.keys()
        for key in sorted(keys):
            for near in await learner.similar(vectors[key], _NEAR_ANSWER):
                past.setdefault(near.conversation.log_id, near.conversation)
        asked = [(turn, await self._vector_of(turn)) for turn in past.values()]

        def nearness(one: tuple[Conversation, Matrix]) -> float:
            return max((float(vectors[key] @ one[1]) for key in keys), default=0.0)

        likely = sorted(asked, key=nearness)[-_LIKELY:]
        snapshot = await self._search(learner.experience.snapshot)

        def make() -> Mind:
            made = make_ranker(
                known,
                vectors,
                self._embedding.dimension,
                self._weights,
                self._whitening,
                mind.encoder,
                mind.ranker,
            )
            return Mind(mind.encoder, mind.encode, known, made, fitted(made, snapshot))

        then = await self._fit(make)

        def look(part: Sequence[tuple[Conversation, Matrix]]) -> list[PreviewedTurn]:
            return [
                PreviewedTurn(
                    log_id=turn.log_id, question=turn.user_message, before=before, after=after
                )
                for turn, vector in part
                if (after := self._says(then, learner, turn, vector)) == answer
                and (before := self._says(mind, learner, turn, vector)) != answer
            ]

        caught: list[PreviewedTurn] = []
        for start in range(0, len(likely), _AT_A_TIME):  # questions of people are let through
            part = likely[start : start + _AT_A_TIME]
            caught += await self._search(partial(look, part))
        return AnswerPreview(caught=tuple(caught), looked_at=len(asked), terse=terse)

    def _says(self, mind: Mind, learner: Learner, turn: Conversation, vector: Matrix) -> str | None:
        """What a mind tells a past question; None for anything but an answer."""
        if mind.ranker is None:
            return None
        words = without_greeting(turn.user_message)
        ranking, verdict = self._look(
            mind, learner.experience, turn.user_message, words, vector, turn.language
        )
        return ranking.ranked[0].item.answer if verdict.outcome == "answered" else None


def _group(turns: Sequence[Conversation]) -> QuestionGroup:
    """One group; the question that says it best is the shortest that says it at all."""
    longest = sorted(turns, key=lambda turn: len(turn.user_message))
    middle = longest[(len(longest) - 1) // 2]
    return QuestionGroup(question=middle.user_message, language=middle.language, turns=tuple(turns))


def _first(wordings: Sequence[str]) -> tuple[str, ...]:
    """The first wordings, as many as are encoded while somebody waits."""
    first = wordings[:_PREVIEWED]
    lengths = itertools.accumulate(len(question_key(wording)[1]) for wording in first)
    return tuple(first[: max(1, sum(so_far <= _PREVIEWED_CHARACTERS for so_far in lengths))])


def _worth(group: QuestionGroup) -> int:
    low = sum(turn.rating is not None and turn.rating <= _LOW for turn in group.turns)
    return len(group.turns) + low


def _rounded(verdict: Verdict) -> float | None:
    return None if verdict.confidence is None else round(verdict.confidence, 4)


def _versions(encoder: str) -> dict[str, str]:
    return {"encoder": encoder, "ranking": _VERSION}


def _candidates(ranking: Ranking) -> tuple[Candidate, ...]:
    return tuple(Candidate(r.item.item_id, round(r.score, 4)) for r in ranking.ranked)


def _source(item: KnowledgeItem) -> Source:
    kind: SourceKind = "knowledge" if item.questions else "document"
    return Source(kind=kind, title=item.title, ids=(item.item_id,))


def _receipt(best: Ranked, taught: Sequence[UUID], language: Language) -> tuple[Source, ...]:
    """What stands behind an answer: the item, who taught it, the dialogues that spoke for it."""
    item, dialogues = best.item, best.belief.for_it
    receipt = [_source(item)] if item.title else []
    if taught:
        title = sentence("operator_answer", language)
        receipt.append(Source(kind="correction", title=title, ids=tuple(map(str, taught))))
    if dialogues:
        ids = tuple(str(exemplar.log_id) for exemplar in dialogues)
        # Those of whom nothing is known may be one person, or among the known: the least it can be.
        raters = len({exemplar.rater for exemplar in dialogues} - {None}) or 1
        title = item.title or sentence("operator_answer", language)
        receipt.append(
            Source(kind="dialogues", title=title, ids=ids, dialogues=len(ids), raters=raters)
        )
    return tuple(receipt)
