"""Files of knowledge into items: every form, every bad row by its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from audiobot.answering.knowledge import (
    MAX_BROKEN,
    find_files,
    language_of,
    parse,
    read_file,
    sample_items,
    source_name,
)
from audiobot.errors import InvalidValue, SetupError


@pytest.mark.parametrize("suffix", [".pdf", "", ".csv.gz", ".txt"])
def test_another_kind_of_file_is_refused(suffix: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        parse(f"faq{suffix}", b"")
    assert raised.value.code == "knowledge_kind"


@pytest.mark.parametrize(
    "data",
    [
        b"question,answer\nA?,B.\n",
        b"question,answer\r\nA?,B.\r\n",
        b"question,answer\rA?,B.\r",
        b"\xef\xbb\xbfquestion,answer\nA?,B.",
        b"Question ; Answer\n A? ; B. \n",
        b"answer,id,question\nB.,7,A?\n",
        b'"question","answer"\n"A?","B."\n\n,\n',
        "Вопрос;Ответ\nA?;B.\n".encode("cp1251"),
    ],
)
def test_the_usual_forms_of_a_table_give_the_same_item(data: bytes) -> None:
    parsed = parse("faq.csv", data)
    assert parsed.bad == []
    assert [(i.title, i.answer, i.questions) for i in parsed.items] == [("A?", "B.", ("A?",))]


def test_a_comma_table_with_a_semicolon_in_a_heading_is_still_a_comma_table() -> None:
    parsed = parse("faq.csv", b'question,answer,"notes; ours"\nA?,B.,c\n')
    assert [(i.title, i.answer) for i in parsed.items] == [("A?", "B.")]


def test_further_wordings_are_kept_once_each() -> None:
    (item,) = parse("faq.csv", b"question,answer,also\nA?,B., b? | A? || c? |b?\n").items
    assert item.questions == ("A?", "b?", "c?")
    (item,) = parse("a.jsonl", b'{"question":"A?","answer":"B.","also":["b?"," ","b?"]}').items
    assert item.questions == ("A?", "b?")


@pytest.mark.parametrize(
    ("name", "data", "bad"),
    [
        ("a.csv", b"", [(1, "row_no_columns")]),
        ("a.csv", b"x,y\n1,2\n", [(1, "row_no_columns")]),
        ("a.csv", b"question,answer\n,B.\nA?,\nC?,D.\n", [(2, "text_blank"), (3, "text_blank")]),
        ("a.csv", b'question,answer\n"A\nB?",x\n,y\n', [(4, "text_blank")]),
        ("a.csv", b"question,answer\nA?\n", [(2, "text_blank")]),
        ("a.csv", b"question,answer\nA?,B.\na?,C.\n", [(3, "row_repeated")]),
        ("a.csv", b"question,answer\nA?,%s\n" % (b"x" * 8_001), [(2, "text_too_long")]),
        ("a.csv", b"question,answer\n%s,B.\n" % (b"x" * 2_001), [(2, "text_too_long")]),
        ("a.csv", "question,answer\nA?,да, конечно, придём\n".encode(), [(2, "row_not_csv")]),
        ("a.csv", b"question,answer,\nA?,yes, of course,\n", [(2, "row_not_csv")]),
        ("a.csv", b'question,answer\n"A"?,B.\n', [(2, "row_not_csv")]),
        ("a.csv", b'question,answer\nA?,"B.', [(2, "row_not_csv")]),
        ("a.jsonl", b"{}\n\n[]\nnull\n5\n{\n", [(n, "row_not_json") for n in (1, 3, 4, 5, 6)]),
        ("a.jsonl", b'{"question":"A?","answer":5}', [(1, "row_not_json")]),
        ("a.jsonl", b'{"question":"A\\u0000?","answer":"B"}', [(1, "text_has_nul")]),
        ("a.jsonl", b"[" * 200_000, [(1, "row_not_json")]),
        ("a.jsonl", b"\n\n\xff", [(3, "row_not_utf8")]),
        ("a.md", b"# A\n\n\xff", [(3, "row_not_utf8")]),
        ("a.md", b"# A\n\nx\x00y\n", [(1, "text_has_nul")]),
        ("a.md", b"", []),
        ("a.md", b"# Only a heading\n", []),
    ],
)
def test_a_bad_row_is_named_by_its_line(name: str, data: bytes, bad: list[tuple[int, str]]) -> None:
    assert [(row.line, row.code) for row in parse(name, data).bad] == bad


@pytest.mark.parametrize(
    ("rows", "bad", "good"),
    [
        ('A?,a.\nB?,"ответ b\nC?,c.\nD?,d.\n', [3], {"A?": "a.", "C?": "c.", "D?": "d."}),
        ('A?,a.\nB?,"b\nC?,"c, too"\nD?,d.\n', [3], {"A?": "a.", "C?": "c, too", "D?": "d."}),
        ('B?,"b\nC?,"c\n\nc"\nD?,"d"\n', [2], {"C?": "c\n\nc", "D?": "d"}),
        ('"A\nB?"x,y\nC?,c.\n', [2, 3], {"C?": "c."}),
        ('A 5" pipe?,a.\nB?,"say ""b"""\n', [], {'A 5" pipe?': "a.", "B?": 'say "b"'}),
        ('A?, "yes, of course"\nB?,b.,,\n', [], {"A?": "yes, of course", "B?": "b."}),
    ],
)
def test_a_quote_or_comma_too_many_costs_its_own_row_and_is_never_told_as_an_answer(
    rows: str, bad: list[int], good: dict[str, str]
) -> None:
    parsed = parse("a.csv", f"question,answer\n{rows}".encode())
    assert [(row.line, row.code) for row in parsed.bad] == [(line, "row_not_csv") for line in bad]
    assert {item.title: item.answer for item in parsed.items} == good


def test_a_table_made_of_broken_quotes_ends_soon_and_says_that_the_rest_was_left_out() -> None:
    parsed = parse("a.csv", b"question,answer\n" + b'a",b,"c\n' * 1_000_000)
    assert parsed.items == []
    assert parsed.bad[-1].code == "row_rest_left_out"
    assert len(parsed.bad) == MAX_BROKEN + 1


def test_a_field_of_more_than_the_csv_modules_limit_is_a_bad_row_and_the_rest_goes_in() -> None:
    data = b"question,answer\nA?,B.\nlong?," + b"x" * 140_000 + b"\nC?,D.\n"
    parsed = parse("a.csv", data)
    assert [row.line for row in parsed.bad] == [3]
    assert [item.title for item in parsed.items] == ["A?", "C?"]


def test_a_table_mostly_in_utf8_with_one_broken_byte_is_not_silently_turned_into_rubbish() -> None:
    data = "question,answer\nГде ключ?,Под ковриком.\n".encode() + b"A?,\xff\n"
    answers = [item.answer for item in parse("a.csv", data).items]
    assert all("РџР" not in answer and "\ufffd" not in answer for answer in answers)


def test_a_document_gives_a_passage_for_each_section() -> None:
    text = "Before.\n\n# Title\n\nIntro.\n\n## One ##\n\nFirst.\n\nSecond.\n\n### Deep\n\nThird.\n"
    items = parse("doc.md", text.encode()).items
    assert [(item.title, item.answer) for item in items] == [
        ("doc", "Before."),
        ("Title", "Intro."),
        ("Title: One", "First.\n\nSecond."),
        ("Title: Deep", "Third."),
    ]
    assert all(item.questions == () for item in items)


@pytest.mark.parametrize(
    "text", ["**Ring 112 first.**", "*a* and *b*", "_Closed on Sundays._", "*"]
)
def test_a_paragraph_in_bold_or_italics_is_told_like_any_other(text: str) -> None:
    (item,) = parse("doc.md", f"# T\n\n## S\n\n{text}\n".encode()).items
    assert item.answer == text


@pytest.mark.parametrize(
    "code",
    [
        "```\n# no heading\n```",
        "```sh\n# no heading\n~~~\n# nor this\n``\n```",
        "  ~~~~\n# no heading\n~~~\n## nor this\n~~~~~  ",
    ],
)
def test_a_line_within_a_code_fence_is_no_heading(code: str) -> None:
    items = parse("doc.md", f"# T\n\n{code}\n\n## After\n\nText.\n".encode()).items
    assert [(item.title, item.answer) for item in items] == [
        ("T", code.strip()),
        ("T: After", "Text."),
    ]


def test_inline_code_opens_no_fence() -> None:
    items = parse("doc.md", b"# T\n\n```run```\n\n## After\n\nText.\n").items
    assert [item.title for item in items] == ["T", "T: After"]


def test_the_samples_own_disclaimer_is_no_answer() -> None:
    assert not [item for item in sample_items() if "все сведения придуманы" in item.answer]


@pytest.mark.parametrize("name", ["faq.csv", "dir/faq.csv", "имя.md"])
def test_a_source_is_called_by_its_place_below_the_folder(tmp_path: Path, name: str) -> None:
    assert source_name(tmp_path / name, tmp_path) == name


def test_a_file_name_that_is_no_text_is_refused_by_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff.csv")
    file.write_text("question,answer\nA?,B.\n")
    with pytest.raises(SetupError) as raised:
        source_name(file, tmp_path)
    assert raised.value.code == "file_name_not_utf8"
    assert "?.csv" in str(raised.value.details["path"])


def test_a_file_that_cannot_be_read_is_named_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as raised:
        read_file(tmp_path)
    assert raised.value.code == "knowledge_unreadable"
    assert raised.value.details["cause"] == "Is a directory"


def test_a_long_section_is_cut_at_paragraphs_and_nothing_is_lost() -> None:
    paragraphs = [f"Абзац {n}. " + "слово " * 60 for n in range(12)]
    items = parse("doc.md", ("# T\n\n" + "\n\n".join(paragraphs)).encode()).items
    assert len(items) > 1
    assert len({item.item_id for item in items}) == len(items)
    joined = "\n\n".join(item.answer for item in items)
    assert joined == "\n\n".join(paragraph.strip() for paragraph in paragraphs)


def test_an_edited_answer_keeps_its_id_and_another_file_has_others() -> None:
    def ids(name: str, data: bytes) -> list[str]:
        return [item.item_id for item in parse(name, data).items]

    first = ids("faq.csv", b"question,answer\nA?,B.\n")
    assert ids("faq.csv", b"question,answer\nA?,Changed.\n") == first
    assert ids("faq.csv", b"question,answer\nZ?,Y.\nA?,B.\n")[1:] == first
    assert ids("other.csv", b"question,answer\nA?,B.\n") != first


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Сколько стоит?", "ru"),
        ("How much?", "en"),
        ("Тариф «Standard»", "ru"),
        ("123", "ru"),
        ("Email info@example.org or call, ok да", "en"),
        ("Ё", "ru"),
    ],
)
def test_an_items_language_is_that_of_its_letters(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("question", "answer", "language"),
    [
        ("Ваш сайт?", "https://vasdom-service.example/prices", "ru"),
        ("Почта?", "office@vasdom-service.example", "ru"),
        ("Какой у вас Wi-Fi?", "VasDom Guest", "ru"),
        ("Wi-Fi?", "Пароль написан на стойке у входа.", "ru"),
        ("Where is your site?", "https://vasdom-service.example/prices", "en"),
        ("Your e-mail?", "Write to office@vasdom-service.example.", "en"),
    ],
)
def test_an_answer_is_in_the_language_of_its_question_whatever_address_it_gives(
    question: str, answer: str, language: str
) -> None:
    (item,) = parse("a.csv", f"question,answer\n{question},{answer}\n".encode()).items
    assert item.language == language


@pytest.mark.timeout(20)
def test_a_heading_of_many_spaces_is_read_as_soon_as_any_other() -> None:
    wide = " " * 200_000
    text = f"# Раздел{wide}стр. 5{wide}##\n\nТекст раздела.\n\n##{wide}Ещё{wide}#\nЕщё текст.\n"
    first, second = parse("a.md", text.encode()).items
    assert (first.title[:6], first.answer) == ("Раздел", "Текст раздела.")
    assert second.answer == "Ещё текст."


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("## Окна", "Окна"), ("###### Окна ######", "Окна"), ("#\tОкна#", "Окна"),
        ("##   Окна и # двери   ", "Окна и # двери"), ("## ##", ""),
    ],
)  # fmt: skip
def test_a_heading_is_its_words(line: str, title: str) -> None:
    (item,) = parse("a.md", f"{line}\nТекст раздела.\n".encode()).items
    assert item.title.removeprefix("a: ") == (title or "a")
    assert item.answer == "Текст раздела."


@pytest.mark.parametrize("line", ["####### Окна", "#Окна", " ## Окна", "##"])
def test_what_only_looks_like_a_heading_is_text(line: str) -> None:
    (item,) = parse("a.md", f"# Дом\n{line}\n".encode()).items
    assert line.strip() in item.answer


def test_files_are_found_in_a_stable_order_without_readmes(tmp_path: Path) -> None:
    for name in ("b.md", "a.csv", "README.md", "x.txt", "z/c.jsonl", "z/D.CSV"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path)]
    assert sorted(found) == ["a.csv", "b.md", "z/D.CSV", "z/c.jsonl"]
    assert found == [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path)]
    assert find_files(tmp_path / "x.txt") == [tmp_path / "x.txt"]
    with pytest.raises(SetupError):
        find_files(tmp_path / "nowhere")


def test_the_sample_company_is_as_large_as_promised_and_every_item_distinct() -> None:
    items = sample_items()
    russian = [item for item in items if item.language == "ru" and item.questions]
    documents = {item.title.split(":")[0] for item in items if not item.questions}
    assert len(russian) >= 60
    assert len(documents) >= 10
    assert len({item.item_id for item in items}) == len(items)
    questions = [q.casefold() for item in items for q in item.questions]
    assert len(set(questions)) == len(questions)
