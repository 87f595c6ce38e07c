"""Every text of the console, in Russian and English, by code; plurals, numbers and dates too."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from audiobot.domain import Language
from audiobot.messages import codes, sentence

_TEXTS: Final[dict[str, tuple[str, str]]] = {
    # The frame of every page.
    "title": ("Рабочее место оператора", "Operator's console"),
    "skip": ("К содержанию", "Skip to content"),
    "sections": ("Разделы", "Sections"),
    "inbox": ("Вопросы", "Questions"),
    "answers": ("Ответы", "Answers"),
    "language": ("Язык", "Language"),
    "sign_out": ("Выйти", "Sign out"),
    "close_notice": ("Убрать сообщение", "Dismiss this message"),
    "needs_script": (
        "Включите JavaScript, чтобы отвечать на вопросы.",
        "Turn JavaScript on to answer questions.",
    ),
    "no_connection": (
        "Сервер не ответил. Написанное осталось на странице: проверьте связь и повторите.",
        "The server did not answer. What you wrote is still here: check the connection, try again.",
    ),
    "incomplete": (
        "База данных сейчас недоступна: показано не всё, остальное появится само.",
        "The database is out of reach: some is missing here, and will come by itself.",
    ),
    # Signing in.
    "sign_in": ("Вход", "Sign in"),
    "token": ("Токен оператора", "Operator's token"),
    "token_where": (
        "Его задаёт настройка AUDIOBOT_OPERATOR_TOKEN. Если её нет, токен лежит в файле "
        "operator-token в каталоге данных.",
        "It is the setting AUDIOBOT_OPERATOR_TOKEN. Where that is not set, it is in the file "
        "operator-token of the data directory.",
    ),
    "token_none": (
        "Без токена консоль открывается только на той же машине. Задайте AUDIOBOT_OPERATOR_TOKEN "
        "и перезапустите сервер.",
        "Without a token the console opens on the same machine only. Set AUDIOBOT_OPERATOR_TOKEN "
        "and start the server again.",
    ),
    "sign_in_button": ("Войти", "Sign in"),
    # The inbox.
    "inbox_title": ("Ждут ответа", "Waiting for an answer"),
    "waiting": ("{turns} в {groups}", "{turns} in {groups}"),
    "inbox_empty_title": ("Всё разобрано", "All done"),
    "inbox_empty": (
        "Сюда попадают вопросы, на которые бот не ответил, и ответы с оценкой 1–2. Задайте боту "
        "вопрос на его странице, чтобы проверить, как он отвечает.",
        "Questions that the bot could not answer come here, and answers rated 1–2. Ask the bot "
        "something on its own page to see how it does.",
    ),
    "open_talk": ("Открыть страницу бота", "Open the bot's page"),
    "news": ("Новое: {turns}. Показать", "New: {turns}. Show"),
    "last_asked": ("последний раз {when}", "last on {when}"),
    "keys": (
        "Клавиши: J и K — по вопросам, Enter — открыть, Ctrl + Enter — сохранить, Esc — закрыть.",
        "Keys: J and K move between questions, Enter opens, Ctrl + Enter saves, Esc closes.",
    ),
    "turns_title": ("Как спрашивали", "How it was asked"),
    "more_turns": ("Показать ещё {count}", "Show {count} more"),
    "bot_said": ("Бот:", "Bot:"),
    "handed_over": ("передано сотруднику", "passed on to a person"),
    "rating": ("{rating} из 5", "{rating} of 5"),
    "said_word": ("Отзыв:", "Comment:"),
    # The editor.
    "answer": ("Правильный ответ", "The right answer"),
    "answer_hint": (
        "Полным предложением, на языке вопроса: бот скажет его слово в слово.",
        "In a full sentence, in the question's language: the bot tells it word for word.",
    ),
    "wordings": ("На какие вопросы отвечает", "Which questions it answers"),
    "wordings_hint": (
        "По одному в строке. Допишите, как ещё могут спросить.",
        "One in a line. Add other ways to ask it.",
    ),
    "save": ("Сохранить", "Save"),
    "dismiss": ("Ответ не нужен", "Needs no answer"),
    "close": ("Закрыть", "Close"),
    "undo": ("Отменить", "Undo"),
    # The preview.
    "preview_title": ("Что изменится", "What changes"),
    "preview_wait": (
        "Начните писать ответ — здесь появится, на какие вопросы он подойдёт.",
        "Begin to write the answer: which questions it fits appears here.",
    ),
    "preview_none": (
        "Ни на один из прошлых вопросов бот не ответит иначе ({looked}).",
        "No past question would be answered differently ({looked}).",
    ),
    "preview_caught": (
        "Бот ответит так на {caught} ({looked}).",
        "It would answer {caught} ({looked}).",
    ),
    "preview_changes": (
        "У {changed} уже есть ответ, он сменится:",
        "Already answered, and that would change: {changed}.",
    ),
    "preview_new": ("Сейчас без ответа:", "Not answered today:"),
    "before": ("Сейчас:", "Now:"),
    "after": ("Станет:", "Then:"),
    "more_caught": ("И ещё {count}.", "And {count} more."),
    "terse": (
        "Ответ не говорит, о чём он: «Да, раз в месяц» понятно только рядом с вопросом. Назовите "
        "предмет — «Окна моем раз в месяц», — и бот поймёт больше вопросов.",
        "The answer does not say what it is about: 'Yes, once a month' needs its question beside "
        "it. Name the thing, as in 'Windows are washed once a month', and more questions find it.",
    ),
    # What became of it.
    "saved": ("Сохранено: бот ответит так на {turns}.", "Saved: it answers {turns}."),
    "saved_plain": ("Сохранено, ответ уже действует.", "Saved, the answer counts already."),
    "saved_replaced": (
        "Пока вы писали, другой оператор ответил: «{answer}». Теперь действует ваш ответ.",
        "While you wrote, another operator answered: '{answer}'. Your answer counts now.",
    ),
    "saved_withdrawn": (
        "Пока вы писали, другой оператор отозвал этот ответ. Теперь он снова действует.",
        "While you wrote, another operator withdrew this answer. Now it counts again.",
    ),
    "saved_dismissed": (
        "Пока вы писали, другой оператор отклонил эти вопросы. Ваш ответ сохранён и действует.",
        "While you wrote, another operator dismissed these questions. Your answer is kept and "
        "counts.",
    ),
    "mine_changed": (
        "Другой оператор только что ответил иначе, чем вы: «{answer}». Теперь действует его ответ.",
        "Another operator has just answered otherwise than you: '{answer}'. That one counts now.",
    ),
    "mine_withdrawn": (
        "Другой оператор только что отозвал ваш ответ: он больше не действует.",
        "Another operator has just withdrawn your answer: it counts no more.",
    ),
    "dismissed": ("Отклонено: {turns}.", "Dismissed: {turns}."),
    "dismissed_answered": (
        "На эти вопросы только что ответил другой оператор: «{answer}». Этот ответ действует.",
        "Another operator has just answered these questions: '{answer}'. That answer counts.",
    ),
    "gone": (
        "На этот вопрос уже ответили, или его отклонили.",
        "That question was answered or dismissed meanwhile.",
    ),
    "reload": ("Обновить список", "Reload the list"),
    "undone": ("Отменено, всё как было.", "Undone, all is as it was."),
    "undo_changed": (
        "Не отменено: другой оператор уже изменил этот ответ: «{answer}». Действует его ответ.",
        "Not undone: another operator has changed this answer since: '{answer}'. That one counts.",
    ),
    "undo_withdrawn": (
        "Отменять нечего: другой оператор уже отозвал этот ответ.",
        "There is nothing to undo: another operator has withdrawn this answer since.",
    ),
    "withdrawn_now": (
        "Ответ отозван и больше не действует.",
        "The answer is withdrawn and counts no more.",
    ),
    "withdraw_changed": (
        "Не отозвано: другой оператор уже изменил этот ответ: «{answer}». Действует его ответ.",
        "Not withdrawn: another operator has changed this answer: '{answer}'. That one counts.",
    ),
    "withdraw_withdrawn": (
        "Этот ответ уже отозвал другой оператор.",
        "Another operator has withdrawn this answer already.",
    ),
    "restored_now": ("Ответ снова действует.", "The answer counts again."),
    "suggestion_dismissed": ("Предложение отклонено.", "The suggestion is dismissed."),
    # Answers.
    "answers_title": ("Ответы операторов", "Operators' answers"),
    "answers_empty": (
        "Ответов пока нет. Откройте «Вопросы», напишите первый — он появится здесь.",
        "There are no answers yet. Open Questions and write the first: it appears here.",
    ),
    "answers_more": (
        "Показаны последние {count}.",
        "Only the last {count} are shown.",
    ),
    "answers_to": ("Отвечает на:", "Answers:"),
    "edit": ("Изменить", "Edit"),
    "withdraw": ("Отозвать", "Withdraw"),
    "restore": ("Вернуть", "Restore"),
    "withdrawn_title": ("Отозванные ({count})", "Withdrawn ({count})"),
    "suggestions_title": ("Предложения клиентов", "Customers' suggestions"),
    "suggestions_hint": (
        "Это чужие слова: бот не скажет их, пока вы не примете.",
        "These are a stranger's words: the bot never tells them before you accept.",
    ),
    "suggestions_empty": (
        "Новых предложений нет. Клиент может предложить ответ, когда ставит оценку.",
        "There are no new suggestions. A customer can offer an answer beside a rating.",
    ),
    "praised_title": ("Удачные слова языковой модели", "A language model's words that were liked"),
    "praised_hint": (
        "Люди поставили им 4–5. Ответом бота они станут, только если вы их примете.",
        "People rated them 4–5. They become the bot's answer only if you accept them.",
    ),
    "model_said": ("Модель ответила:", "The model said:"),
    "show_model_words": ("Показать слова модели", "Show the model's words"),
    "praised_dismissed": ("Слова модели отклонены.", "The model's words are dismissed."),
    "quarantined": (
        "Осторожно: есть ссылка, телефон или брань",
        "Careful: holds a link, a phone number or foul words",
    ),
    "show_words": ("Показать слова клиента", "Show the customer's words"),
    "suggested": ("Клиент предлагает:", "The customer suggests:"),
    "accept": ("Взять в ответ", "Use as an answer"),
    "decline": ("Отклонить", "Dismiss"),
}

_PLURALS: Final[dict[str, tuple[tuple[str, str, str], tuple[str, str]]]] = {
    "questions": (("вопрос", "вопроса", "вопросов"), ("question", "questions")),
    "of_questions": (("вопроса", "вопросов", "вопросов"), ("question", "questions")),
    "in_groups": (("группе", "группах", "группах"), ("group", "groups")),
    "times": (("раз", "раза", "раз"), ("time", "times")),
    "praised_by": (
        ("человек доволен", "человека довольны", "человек довольны"),
        ("person liked it", "people liked it"),
    ),
    "low": (
        ("низкая оценка", "низкие оценки", "низких оценок"),
        ("low rating", "low ratings"),
    ),
    "looked": (
        ("просмотрен {n} вопрос", "просмотрено {n} вопроса", "просмотрено {n} вопросов"),
        ("{n} question looked at", "{n} questions looked at"),
    ),
}

_FIELDS: Final[dict[str, str]] = {"answer": "answer", "wordings": "wordings"}


def text(code: str, language: Language, **details: object) -> str:
    """The console's text for ``code`` in ``language``, its blanks filled from ``details``."""
    russian, english = _TEXTS[code]
    return (russian if language == "ru" else english).format(**details)


def plural(code: str, count: int, language: Language) -> str:
    """``count`` with its noun, in the form that goes with the number."""
    russian, english = _PLURALS[code]
    shown = number(count, language)
    form = russian[_russian_form(count)] if language == "ru" else english[count != 1]
    return form.format(n=shown) if "{n}" in form else f"{shown} {form}"


def _russian_form(count: int) -> int:
    """0 for 1, 21, 101; 1 for 2-4, 22; 2 for the others, 11-14 among them."""
    last, teens = count % 10, count % 100 in range(11, 15)
    if last == 1 and not teens:
        return 0
    return 1 if last in range(2, 5) and not teens else 2


def number(count: int, language: Language) -> str:
    """A whole number with its thousands apart."""
    return f"{count:,}".replace(",", "\N{NO-BREAK SPACE}" if language == "ru" else ",")


def moment(at: datetime) -> str:
    """A date and time as dd.mm.yyyy hh:mm; the page turns it into the reader's own time."""
    return at.strftime("%d.%m.%Y %H:%M")


def error_text(code: str, language: Language, details: dict[str, object]) -> str:
    """An error's sentence, its field named as the page names it."""
    field = details.get("field")
    if isinstance(field, str) and field in _FIELDS:
        details = {**details, "field": text(_FIELDS[field], language)}
    return sentence(code if code in codes() else "internal", language, **details)


def text_codes() -> frozenset[str]:
    """Every code that has a text here."""
    return frozenset(_TEXTS)
