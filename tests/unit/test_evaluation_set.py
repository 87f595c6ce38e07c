"""The evaluation set keeps what its README says, and its held-out part is the frozen one."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from importlib import resources
from itertools import combinations, groupby
from statistics import median
from typing import Any

import pytest

FOLDER = resources.files("audiobot") / "evaluation_set"
VOICES = {"formal", "colloquial", "elderly", "hurried", "typos", "asr"}
PER_INTENT = {"ru": {"stream": 8, "test": 6}, "en": {"stream": 3, "test": 3}}


def lines(name: str) -> list[bytes]:
    """The lines as they lie on the disk: the hash is over bytes, not over their meaning."""
    return (FOLDER / name).read_bytes().removesuffix(b"\n").split(b"\n")


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(name)]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


INTENTS = {row["intent"]: row for row in rows("intents.jsonl")}
QUESTIONS = rows("questions.jsonl")
OUT_OF_SCOPE = rows("out_of_scope.jsonl")
FUNCTION_WORDS = set(
    """
    и а но или ли же то бы чтоб чтобы что если ежели не ни нет да уж ведь вот
    как когда где куда откуда сколько почём почему зачем отчего кто кого кому чего чему чем
    чей чья чьё чьи каков какова каково какой какая какое какие какую каким какого который
    которая в во на по с со к ко за из от до для у о об про под над при без через между
    тут там это этот эта эти тот та те я мне меня мы нам нас наш наша наши ты вы вам вас ваш ваша
    ваши он она оно они его её их им ему ей мой моя мои свой свои
    the a an is are was were be do does did will would can could should may must have has what when
    where which who whom whose why how if or and but not no so then here there to of in on at by for
    from with about into up out off any some every i you we he she it they them us our your my his
    her its their this that these those
    """.split()
)
"""What stays of a question when its topic is taken out."""


def of_intent(intent: str, language: str | None = None) -> list[dict[str, Any]]:
    return [
        question
        for question in QUESTIONS
        if question["intent"] == intent and language in {None, question["language"]}
    ]


def test_the_intents_are_as_many_as_promised() -> None:
    assert len(lines("intents.jsonl")) == len(INTENTS) == 48
    assert Counter(row["part"] for row in INTENTS.values()) == {"tuning": 22, "heldout": 26}
    for part in ("tuning", "heldout"):
        own = [row for row in INTENTS.values() if row["part"] == part]
        assert sum(row["protected"] for row in own) >= 3
        assert sum("full_en" in row for row in own) >= 6


def test_every_question_belongs_to_an_intent() -> None:
    assert {question["intent"] for question in QUESTIONS} == set(INTENTS)
    assert {question["voice"] for question in QUESTIONS} == VOICES


@pytest.mark.parametrize("intent", INTENTS)
def test_an_intent_is_asked_for_in_all_voices_and_both_uses(intent: str) -> None:
    assert {question["voice"] for question in of_intent(intent, "ru")} == VOICES
    spoken = {"ru", "en"} if "full_en" in INTENTS[intent] else {"ru"}
    assert {question["language"] for question in of_intent(intent)} == spoken
    for language in spoken:
        uses = Counter(question["use"] for question in of_intent(intent, language))
        assert uses == PER_INTENT[language]


@pytest.mark.parametrize("intent", INTENTS)
def test_no_frame_of_an_intent_is_in_both_uses(intent: str) -> None:
    frames = defaultdict(set)
    for question in of_intent(intent):
        frames[question["use"]].add(question["template"])
    assert not frames["stream"] & frames["test"]


def templates(text: str) -> set[str]:
    """How it opens, its runs of three words, and its function words around gaps."""
    all_words = words(text)
    kept = [word if word in FUNCTION_WORDS else "_" for word in all_words]
    frame = " ".join(word for word, _ in groupby(kept))
    runs = {" ".join(run) for run in zip(all_words, all_words[1:], all_words[2:], strict=False)}
    built = {frame} if sum(word != "_" for word in kept) > 1 else set()
    return {f"{' '.join(all_words[:2])} …"} | runs | built


def test_the_parts_share_no_template() -> None:
    part = {True: set[str](), False: set[str]()}
    for row in QUESTIONS + OUT_OF_SCOPE:
        of = row["part"] if "part" in row else INTENTS[row["intent"]]["part"]
        part[of == "heldout"] |= templates(row["text"])
    assert len(part[True]) > 2_000
    assert part[True] & part[False] == set()


@pytest.mark.parametrize("intent", INTENTS)
def test_a_terse_answer_is_shorter_than_the_full_one(intent: str) -> None:
    row = INTENTS[intent]
    assert len(row["terse"]) < len(row["full"])
    assert ("full_en" in row) == ("terse_en" in row)
    assert len(row.get("terse_en", "")) < len(row.get("full_en", "x"))


def test_out_of_scope_questions_are_half_far_half_near_in_each_part() -> None:
    counts = Counter((row["kind"], row["part"]) for row in OUT_OF_SCOPE)
    assert counts == dict.fromkeys(
        [(kind, part) for kind in ("far", "near") for part in ("tuning", "heldout")], 56
    )
    for part in ("tuning", "heldout"):
        assert {row["voice"] for row in OUT_OF_SCOPE if row["part"] == part} == VOICES


def test_no_text_occurs_twice() -> None:
    texts = [row["text"] for row in QUESTIONS + OUT_OF_SCOPE]
    for row in INTENTS.values():
        texts += [row[key] for key in ("full", "terse", "full_en", "terse_en") if key in row]
    counts = Counter(" ".join(words(text)) for text in texts)
    assert [text for text, count in counts.items() if count > 1] == []


def test_recognised_speech_has_no_punctuation_capitals_or_digits() -> None:
    for row in QUESTIONS + OUT_OF_SCOPE:
        if row["voice"] == "asr":
            assert re.fullmatch(r"[a-zа-яё ]+", row["text"]), row["text"]


def test_questions_of_an_intent_share_few_words() -> None:
    overlaps = []
    for intent in INTENTS:
        for language in PER_INTENT:
            sets = [set(words(question["text"])) for question in of_intent(intent, language)]
            overlaps += [len(a & b) / len(a | b) for a, b in combinations(sets, 2)]
    assert median(overlaps) <= 0.15
    assert max(overlaps) <= 0.6


def test_the_held_out_part_is_the_frozen_one() -> None:
    held_out = {intent for intent, row in INTENTS.items() if row["part"] == "heldout"}
    part = [
        line
        for name in ("intents.jsonl", "questions.jsonl", "out_of_scope.jsonl")
        for line, row in zip(lines(name), rows(name), strict=True)
        if row.get("part") == "heldout" or (name == "questions.jsonl" and row["intent"] in held_out)
    ]
    digest = hashlib.sha256(b"\n".join(sorted(part))).hexdigest()
    assert (FOLDER / "FROZEN.sha256").read_text(encoding="ascii") == f"{digest}\n"
