"""Every sentence AudioBot says on its own account, in Russian and English, by code."""

from __future__ import annotations

import string
from typing import Final

from audiobot.domain import Language, StorageMode

_SENTENCES: Final[dict[str, tuple[str, str]]] = {
    # Bad input.
    "text_too_long": (
        "Поле «{field}» длиннее {limit} знаков: сократите его.",
        "The field '{field}' is longer than {limit} characters: shorten it.",
    ),
    "text_has_nul": (
        "В поле «{field}» есть нулевой символ: уберите его.",
        "The field '{field}' holds a NUL character: remove it.",
    ),
    "text_has_surrogate": (
        "В поле «{field}» есть символ, который нельзя записать в UTF-8: уберите его.",
        "The field '{field}' holds a character that UTF-8 cannot express: remove it.",
    ),
    "text_blank": (
        "Поле «{field}» пустое: напишите в нём хотя бы одно слово.",
        "The field '{field}' is blank: write at least one word in it.",
    ),
    "rating_range": (
        "Оценка — это целое число от 1 до 5.",
        "The rating is a whole number from 1 to 5.",
    ),
    "embedding_shape": (
        "Размер вектора не совпадает с указанным.",
        "The vector's size does not match the one given.",
    ),
    "embedding_not_finite": (
        "В векторе есть NaN или бесконечность.",
        "The vector holds NaN or infinity.",
    ),
    "field_missing": (
        "Не хватает поля «{field}»: добавьте его.",
        "The field '{field}' is missing: add it.",
    ),
    "field_invalid": (
        "Поле «{field}» имеет неверное значение: сверьтесь с описанием в /openapi.json.",
        "The field '{field}' has a wrong value: see its description in /openapi.json.",
    ),
    "body_not_object": (
        "Тело запроса должно быть объектом JSON.",
        "The request's body must be a JSON object.",
    ),
    "json_malformed": (
        "Тело запроса — не JSON в UTF-8: исправьте его и повторите.",
        "The request's body is not JSON in UTF-8: mend it and try again.",
    ),
    "body_too_large": (
        "Тело запроса больше {limit} байт: сократите его.",
        "The request's body is over {limit} bytes: shorten it.",
    ),
    "content_type": (
        "Ожидается Content-Type: application/json.",
        "Content-Type: application/json is expected.",
    ),
    "list_too_long": (
        "В поле «{field}» больше {limit} записей: сократите список.",
        "The field '{field}' holds more than {limit} entries: shorten the list.",
    ),
    "unknown_correction": (
        "Такой правки нет: обновите список правок.",
        "There is no such correction: read the list of corrections again.",
    ),
    "correction_same": (
        "Это тот же ответ, что уже был дан: напишите, как надо было ответить.",
        "That is the answer that was given: write what it should have been.",
    ),
    "correction_language": (
        "Ответ на другом языке, чем вопрос: напишите его на языке вопроса.",
        "The answer is in another language than the question: write it in the question's.",
    ),
    "unknown_dialogue": (
        "Такого диалога AudioBot не вёл: проверьте log_id.",
        "AudioBot never held that dialogue: check the log_id.",
    ),
    "idempotency_mismatch": (
        "С этим Idempotency-Key уже был другой запрос: возьмите новый ключ.",
        "That Idempotency-Key came with another request before: use a new key.",
    ),
    "idempotency_key": (
        "Idempotency-Key — от 1 до 200 печатных знаков ASCII.",
        "Idempotency-Key is 1 to 200 printable ASCII characters.",
    ),
    "format_unknown": (
        "Такого формата выгрузки нет: используйте format=openai.",
        "There is no such export format: use format=openai.",
    ),
    "mask_not_built": (
        "Маскирование в этой версии ещё не построено: вызовите с mask=false.",
        "Masking is not built in this version yet: call with mask=false.",
    ),
    "not_found": ("Такой страницы нет.", "There is no such page."),
    "method_not_allowed": (
        "Этот метод здесь не поддерживается.",
        "That method is not supported here.",
    ),
    "bad_request": (
        "Запрос не разобрать: проверьте его и повторите.",
        "The request cannot be read: check it and try again.",
    ),
    "head_too_large": (
        "Заголовки запроса больше {limit} байт: сократите их.",
        "The request's headers are over {limit} bytes: shorten them.",
    ),
    "request_timeout": (
        "Запрос не пришёл целиком вовремя: отправьте его ещё раз.",
        "The request did not come whole in time: send it again.",
    ),
    "too_many_connections": (
        "Соединений слишком много: повторите через {retry_after} с.",
        "There are too many connections: try again in {retry_after} s.",
    ),
    "form_type": (
        "Форма пришла в незнакомом виде: обновите страницу и отправьте её ещё раз.",
        "The form came in an unknown shape: reload the page and send it again.",
    ),
    "form_malformed": (
        "Форму не разобрать: обновите страницу и отправьте её ещё раз.",
        "The form cannot be read: reload the page and send it again.",
    ),
    # Who is who.
    "session_over": (
        "Сеанс закончился. Войдите снова в другой вкладке и повторите: написанное останется здесь.",
        "Your session is over. Sign in again in another tab and repeat: what you wrote stays here.",
    ),
    "form_stale": (
        "Страница устарела, ничего не изменено. Обновите её и повторите: написанный ответ "
        "сохранится.",
        "This page is out of date and nothing was changed. Reload it and repeat: the answer you "
        "wrote is kept.",
    ),
    "token_wrong": (
        "Это не тот токен: скопируйте его целиком и попробуйте ещё раз.",
        "That is not the token: copy all of it and try again.",
    ),
    "operator_only": (
        "Этот вызов — для оператора: передайте заголовок Authorization: Bearer с его токеном.",
        "This call is an operator's: send the header Authorization: Bearer with the token.",
    ),
    "too_many_requests": (
        "Слишком много запросов: повторите через {retry_after} с.",
        "Too many requests: try again in {retry_after} s.",
    ),
    # Storage.
    "disk_full": (
        "На диске кончилось место, новые вопросы пока не принимаются; всё принятое сохранено. "
        "Освободите место в каталоге данных.",
        "The disk is full, new questions are refused for now; all that was accepted is safe. "
        "Free some space for the data directory.",
    ),
    "journal_unwritable": (
        "Журнал не удаётся записать; всё принятое сохранено. Проверьте каталог данных.",
        "The journal cannot be written; all that was accepted is safe. Check the data directory.",
    ),
    "journal_unreadable": (
        "Журнал не удаётся прочитать; всё принятое сохранено. Повторите через несколько секунд.",
        "The journal cannot be read; all that was accepted is safe. Try again in a few seconds.",
    ),
    "shutting_down": (
        "Сервер останавливается: повторите запрос через несколько секунд.",
        "The server is stopping: try again in a few seconds.",
    ),
    "internal": (
        "Внутренняя ошибка. Она записана в журнал сервера под номером {request_id}.",
        "Internal error. It is in the server's log under {request_id}.",
    ),
    "state_memory": (
        "Диалоги хранятся на этой машине: каждый записан в журнал на диске до ответа.",
        "Dialogues are kept on this machine: each is in the journal on disk before the reply.",
    ),
    "state_full": (
        "На диске нет места: новые вопросы отклоняются, всё принятое цело.",
        "The disk is full: new questions are refused, all that was accepted is safe.",
    ),
    "state_unwritable": (
        "Журнал не записывается: новые вопросы отклоняются, всё принятое цело.",
        "The journal cannot be written: new questions are refused, all accepted ones are safe.",
    ),
    "state_postgres": (
        "Диалоги хранятся в PostgreSQL.",
        "Dialogues are kept in PostgreSQL.",
    ),
    "state_fallback": (
        "PostgreSQL недоступен {minutes} мин ({cause}); {backlog} записей в целости в журнале.",
        "PostgreSQL has been away for {minutes} min ({cause}); {backlog} records are safe in the "
        "journal.",
    ),
    "state_recovering": (
        "PostgreSQL снова на связи; {backlog} записей переносится из журнала.",
        "PostgreSQL is back; {backlog} records are on their way from the journal.",
    ),
    "state_draining": (
        "Сервер останавливается; {backlog} записей в целости в журнале.",
        "The server is stopping; {backlog} records are safe in the journal.",
    ),
    "database_away": (
        "PostgreSQL перестал отвечать, список оборвался: повторите через несколько секунд.",
        "PostgreSQL stopped answering and the list broke off: try again in a few seconds.",
    ),
    "export_partial": (
        "PostgreSQL недоступен: выгружено только то, что лежит в журнале.",
        "PostgreSQL is out of reach: only what the journal holds was exported.",
    ),
    "questions_partial": (
        "PostgreSQL недоступен: здесь только вопросы, которые лежат в журнале.",
        "PostgreSQL is out of reach: only the questions that the journal holds are here.",
    ),
    "value_refused": (
        "База данных не принимает такое значение: измените его и повторите.",
        "The database does not take such a value: change it and try again.",
    ),
    # Start.
    "data_dir_unwritable": (
        "В каталог данных {path} нельзя писать ({cause}). Исправьте права или укажите другой в "
        "AUDIOBOT_DATA_DIR.",
        "The data directory {path} cannot be written ({cause}). Mend its permissions or name "
        "another in AUDIOBOT_DATA_DIR.",
    ),
    "data_dir_full": (
        "В каталоге данных {path} свободно меньше {need} МиБ. Освободите место или укажите "
        "другой в AUDIOBOT_DATA_DIR.",
        "The data directory {path} has less than {need} MiB free. Free some space or name "
        "another in AUDIOBOT_DATA_DIR.",
    ),
    "data_dir_in_use": (
        "Каталог данных {path} занят другим сервером AudioBot ({owner}). Остановите его или "
        "укажите другой каталог в AUDIOBOT_DATA_DIR.",
        "The data directory {path} belongs to another running AudioBot ({owner}). Stop it or "
        "name another in AUDIOBOT_DATA_DIR.",
    ),
    "slot_in_use": (
        "Журнал {path} занят другим процессом AudioBot: остановите его.",
        "The journal {path} belongs to another AudioBot process: stop it.",
    ),
    "port_in_use": (
        "Адрес {host}:{port} занять нельзя ({cause}). Выберите другой порт: --port или PORT.",
        "The address {host}:{port} cannot be bound ({cause}). Choose another: --port or PORT.",
    ),
    "workers_need_database": (
        "Без DATABASE_URL работает один процесс: уберите --workers или задайте DATABASE_URL.",
        "Without DATABASE_URL there is one worker: drop --workers or set DATABASE_URL.",
    ),
    "tracing_missing": (
        "Для AUDIOBOT_TRACES нужны пакеты OpenTelemetry: "
        ".venv/bin/pip install 'vasdom-audiobot[tracing]'",
        "AUDIOBOT_TRACES needs OpenTelemetry's packages: "
        ".venv/bin/pip install 'vasdom-audiobot[tracing]'",
    ),
    "database_url_invalid": (
        "DATABASE_URL не разобрать ({cause}). Пример: postgresql://user:password@host:5432/name",
        "DATABASE_URL cannot be read ({cause}). For example: "
        "postgresql://user:password@host:5432/name",
    ),
    "database_unreachable": (
        "С сервером {server} не соединиться: {cause}. Диалоги пока лежат в журнале; проверьте "
        "DATABASE_URL и сервер.",
        "{server} cannot be reached: {cause}. Dialogues are in the journal meanwhile; check "
        "DATABASE_URL and the server.",
    ),
    "migrate_without_database": (
        "Обновлять нечего: задайте DATABASE_URL, такой же, как у сервера.",
        "There is nothing to migrate: set DATABASE_URL, the one that the server has.",
    ),
    "migrated": (
        "База данных обновлена: {before} → {after}.",
        "The database was upgraded: {before} → {after}.",
    ),
    "migrated_already": (
        "База данных уже обновлена ({after}).",
        "The database is up to date ({after}).",
    ),
    "doctor_migrate": (
        "Схема будет обновлена при следующем запуске или командой audiobot migrate.",
        "The schema will be upgraded at the next start, or by audiobot migrate.",
    ),
    "doctor_rights": (
        "Роли не хватает прав: {rights}. Выдайте их командой GRANT.",
        "The role lacks rights: {rights}. Give them with GRANT.",
    ),
    "doctor_orphans": (
        "Векторов без диалога: {count}. Они хранятся и ни на что не влияют.",
        "Vectors without a dialogue: {count}. They are kept and change nothing.",
    ),
    # Why PostgreSQL is away, after a colon or in brackets.
    "cause_url": ("DATABASE_URL не разобрать", "DATABASE_URL cannot be read"),
    "cause_starting": ("ещё не опрошен", "not asked yet"),
    "cause_refused": ("соединение отклонено", "connection refused"),
    "cause_dns": ("имя сервера не находится", "the server's name is not found"),
    "cause_lost": ("соединение оборвалось", "the connection broke"),
    "cause_timeout": ("не отвечает вовремя", "no answer in time"),
    "cause_locked": ("таблица заблокирована", "a table is locked"),
    "cause_read_only": ("сервер только читает", "the server is read-only"),
    "cause_too_many_connections": ("слишком много соединений", "too many connections"),
    "cause_password": ("имя или пароль не подходят", "the user or password is wrong"),
    "cause_database_missing": ("такой базы нет", "there is no such database"),
    "cause_schema": (
        "таблиц, столбцов или прав не хватает",
        "tables, columns or rights are missing",
    ),
    "cause_full": ("на сервере нет места", "the server is out of room"),
    "cause_restarting": ("сервер перезапускается", "the server is restarting"),
    "cause_hindered": (
        "обновлению мешает объект, зависящий от таблиц: его назовёт audiobot migrate",
        "something that depends on the tables hinders their upgrade: audiobot migrate names it",
    ),
    "cause_foreign": ("база другой программы", "a database of another program"),
    "cause_too_old": ("сервер слишком стар", "the server is too old"),
    "cause_encoding": (
        "кодировка базы данных не UTF-8",
        "the database's encoding is not UTF-8",
    ),
    "cause_unknown": ("неизвестная ошибка", "an unknown error"),
    "database_too_old": (
        "Сервер PostgreSQL версии {version} слишком стар: нужна {oldest} или новее.",
        "The PostgreSQL server is version {version}, too old: {oldest} or newer is needed.",
    ),
    "database_encoding": (
        "Кодировка базы данных — {found}, в ней есть не все буквы. Создайте базу с ENCODING 'UTF8' "
        "и укажите её в DATABASE_URL.",
        "The database's encoding is {found}, which lacks letters. Make one with ENCODING 'UTF8' "
        "and name it in DATABASE_URL.",
    ),
    "database_of_another": (
        "База данных занята другой программой или более новым AudioBot ({found}). Создайте для "
        "AudioBot отдельную базу и укажите её в DATABASE_URL.",
        "The database belongs to another program or to a later AudioBot ({found}). Make one for "
        "AudioBot alone and name it in DATABASE_URL.",
    ),
    "database_no_rights": (
        "Роль не может создать или изменить таблицы ({server}: {cause}). Выдайте ей GRANT CREATE "
        "ON SCHEMA, сделайте её владельцем таблиц или выполните audiobot migrate от имени "
        "владельца.",
        "The role may not create or change the tables ({server}: {cause}). Give it GRANT CREATE "
        "ON SCHEMA, make it the tables' owner, or run audiobot migrate as their owner.",
    ),
    "database_in_the_way": (
        "Обновить таблицы мешает то, что от них зависит ({cause}). Удалите этот объект, выполните "
        "audiobot migrate и создайте его заново; до того база остаётся прежней.",
        "Something that depends on the tables hinders their upgrade ({cause}). Drop it, run "
        "audiobot migrate, then make it anew; until then the database is as it was.",
    ),
    "setting_invalid": (
        "Настройка {name} неверна: {cause}.",
        "The setting {name} is wrong: {cause}.",
    ),
    "setting_missing": (
        "Настройка {given} задана, а {missing} нет: задайте обе или ни одной.",
        "{given} is set and {missing} is not: set both or neither.",
    ),
    "knowledge_missing": (
        "Знаний по пути {path} нет: проверьте AUDIOBOT_KNOWLEDGE или аргумент команды.",
        "There is no knowledge at {path}: check AUDIOBOT_KNOWLEDGE or the command's argument.",
    ),
    "knowledge_unreadable": (
        "Файл {path} не прочитать ({cause}): проверьте путь и права на чтение.",
        "The file {path} cannot be read ({cause}): check the path and its permissions.",
    ),
    "file_name_not_utf8": (
        "Имя файла {path} не в UTF-8: переименуйте его.",
        "The name of the file {path} is not in UTF-8: rename it.",
    ),
    "output_unwritable": (
        "Файл {path} не записать ({cause}): укажите другое место.",
        "The file {path} cannot be written ({cause}): name another place.",
    ),
    "knowledge_too_large": (
        "Файл {path} больше {limit} МиБ: разделите его.",
        "The file {path} is over {limit} MiB: split it.",
    ),
    "knowledge_kind": (
        "Это не .md, .csv и не .jsonl: сохраните файл в одном из этих видов.",
        "This is no .md, .csv or .jsonl file: save it as one of these.",
    ),
    "row_not_utf8": (
        "Файл не в UTF-8: сохраните его в этой кодировке.",
        "The file is not in UTF-8: save it in that encoding.",
    ),
    "row_repeated": (
        "Такой вопрос в файле уже есть: оставьте один.",
        "The file holds that question already: keep one of them.",
    ),
    "row_no_columns": (
        "В первой строке нужны названия столбцов: question,answer (или вопрос,ответ).",
        "The first line must name the columns: question,answer.",
    ),
    "row_not_csv": (
        "Строку не разобрать как CSV: лишний разделитель или незакрытая кавычка. Возьмите текст с "
        "разделителями в кавычки, кавычки внутри удвойте.",
        "The row cannot be read as CSV: a separator too many, or an unclosed quote. Put text with "
        "separators into quotes, and double the quotes within.",
    ),
    "row_rest_left_out": (
        "Строк, которые не разобрать, слишком много: остальные не прочитаны. Исправьте таблицу.",
        "Too many rows cannot be read: the rest was left out. Mend the table.",
    ),
    "row_not_json": (
        'Строка — не объект вида {{"question": "…", "answer": "…"}}.',
        'The row is no object such as {{"question": "…", "answer": "…"}}.',
    ),
    "record_too_large": (
        "Запись больше {limit} МиБ: разделите её.",
        "The record is over {limit} MiB: split it.",
    ),
    "knowledge_withdrawn": (
        "строк в файле нет, поэтому прежние знания из него больше не действуют.",
        "the file has no rows, so what it held before counts no more.",
    ),
    "source_taken": (
        "Имя {name} в этом вызове уже занято файлом {first}: переименуйте один из них или "
        "импортируйте общую папку.",
        "The name {name} is taken by {first} in this call: rename one of them, or import the "
        "folder that holds both.",
    ),
    "input_not_utf8": (
        "Ввод не в UTF-8: настройте кодировку терминала и повторите.",
        "The input is not in UTF-8: set the terminal's encoding and try again.",
    ),
    "server_away": (
        "Сервер {address} не отвечает ({cause}). Проверьте, что он работает, и повторите.",
        "The server at {address} does not answer ({cause}). Check that it runs and try again.",
    ),
    "server_said": ("Сервер ответил: {detail}", "The server said: {detail}"),
    "doctor_no_encoder": (
        "не установлен: ответы ищутся по буквосочетаниям, это слабее. На x86-64 его ставит "
        "make install.",
        "not installed: answers are found by letter groups, which is weaker. On x86-64 make "
        "install brings it.",
    ),
    "doctor_no_server": (
        "не запущен: audiobot serve (или make serve).",
        "not running: audiobot serve (or make serve).",
    ),
    "doctor_ephemeral": (
        "каталог данных исчезнет вместе с контейнером или машиной: подключите том.",
        "the data directory goes with the container or machine: mount a volume.",
    ),
    "doctor_unknown_setting": (
        "такой настройки нет: проверьте имя.",
        "there is no such setting: check the name.",
    ),
    "doctor_no_database": (
        "не настроен, и это не ошибка: диалоги лежат в журнале на этой машине.",
        "not configured, and that is fine: dialogues are in the journal on this machine.",
    ),
    "doctor_database_elsewhere": (
        "не проверен: у работающего здесь сервера есть DATABASE_URL, у этой команды — нет. Дайте "
        "ей файл настроек сервера (обычно /etc/audiobot.env).",
        "not looked at: the server that runs here has a DATABASE_URL, this command has none. Give "
        "it the server's environment file (as a rule /etc/audiobot.env).",
    ),
    "doctor_no_model": (
        "не настроена, и это не ошибка: бот отвечает словами компании.",
        "not configured, and that is fine: the bot answers in the company's own words.",
    ),
    "doctor_model_away": (
        "не отвечает: проверьте AUDIOBOT_LLM_BASE_URL и ключ. Бот отвечает без неё.",
        "does not answer: check AUDIOBOT_LLM_BASE_URL and the key. The bot answers without it.",
    ),
    "llm_failed": (
        "Языковая модель не дала ответа ({cause}).",
        "The language model gave no answer ({cause}).",
    ),
    # A proof on the owner's questions.
    "prove_kind": (
        "Это не .csv и не .jsonl: сохраните вопросы и ответы в одном из этих видов.",
        "This is no .csv or .jsonl file: save questions and answers as one of these.",
    ),
    "prove_empty": (
        "В файле нет ни одной строки с вопросом и ответом: добавьте их.",
        "The file holds no row with a question and an answer: add some.",
    ),
    "prove_one_row": (
        "В файле одна строка, учиться не на чем: добавьте другие вопросы и ответы.",
        "The file holds one row, there is nothing to learn on: add other questions and answers.",
    ),
    "prove_no_answers": (
        "В файле нет ни одного ответа: заполните столбец answer (или ответ).",
        "The file holds no answer at all: fill in the column named answer.",
    ),
    "prove_all_repeated": (
        "Все строки файла повторяют одну: добавьте другие вопросы и ответы.",
        "Every row of the file repeats one: add other questions and answers.",
    ),
    "prove_few_intents": (
        "Ответов, у которых есть хотя бы две формулировки вопроса: {found}, а нужно {least}. "
        "Добавьте строки с теми же ответами и другими вопросами.",
        "Answers with two wordings of their question at least: {found}, and {least} are needed. "
        "Add rows with the same answers and other questions.",
    ),
    # What the bot says in a dialogue.
    "asked_which": (
        "Уточните, пожалуйста, о чём вы спрашиваете: «{one}» или «{other}»?",
        "Which of these do you mean: “{one}” or “{other}”?",
    ),
    "operator_answer": ("Ответ оператора", "An operator's answer"),
    "handed_over": (
        "Точного ответа на этот вопрос у меня нет, поэтому гадать не буду. Я сохранил его для "
        "сотрудника компании.",
        "I have no certain answer to that, so I will not guess. I have kept your question for "
        "the company's staff.",
    ),
    "small_talk_hello": (
        "Здравствуйте! Я отвечаю на вопросы об услугах компании. Что вас интересует?",
        "Hello! I answer questions about the company's services. What would you like to know?",
    ),
    "small_talk_thanks": (
        "Пожалуйста! Если ответ помог, поставьте ему оценку — так я учусь.",
        "You are welcome! If the answer helped, please rate it: that is how I learn.",
    ),
    "small_talk_bye": ("До свидания! Хорошего дня.", "Goodbye! Have a good day."),
    "small_talk_who": (
        "Я AudioBot, программа-помощник. Отвечаю по материалам компании, а когда не знаю "
        "ответа, сохраняю вопрос для сотрудника.",
        "I am AudioBot, an assistant program. I answer from the company's own material, and "
        "when I do not know, I keep the question for its staff.",
    ),
    "feedback_thanks": ("Спасибо, оценка сохранена.", "Thank you, your rating is kept."),
    "correction_replaced": (
        "До вас на этот вопрос ответили: «{answer}». Теперь действует ваш ответ.",
        "Before you this question was answered: '{answer}'. Your answer counts now.",
    ),
    "feedback_pending": (
        "Спасибо, оценка сохранена и будет присоединена к диалогу, как только он станет доступен.",
        "Thank you, your rating is kept and will join its dialogue as soon as that is in reach.",
    ),
}


class _Blank(string.Formatter):
    """A formatter for which a missing detail is a dash, so that no error hides another."""

    def get_value(self, key: int | str, args: object, kwargs: object) -> object:  # noqa: ARG002  # the base class's shape
        assert isinstance(kwargs, dict)
        return kwargs.get(key, "-")


_formatter = _Blank()


def sentence(code: str, language: Language, **details: object) -> str:
    """The sentence for ``code`` in ``language``, its blanks filled from ``details``."""
    russian, english = _SENTENCES.get(code, (code, code))
    return _formatter.vformat(russian if language == "ru" else english, (), details)


def state_sentence(
    mode: StorageMode, reason: str, backlog: int, minutes: int, language: Language
) -> str:
    """What is safe now: the one sentence for a state that health, doctor, log and pages share."""
    return sentence(
        f"state_{mode}",
        language,
        minutes=minutes,
        cause=sentence(f"cause_{reason}", language),
        backlog=backlog,
    )


def codes() -> frozenset[str]:
    """Every code that has a sentence."""
    return frozenset(_SENTENCES)
