"""The talk page of a server whose dialogues live in PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from tests.browser.talk import FAR, FEEDBACK, PRICE, OpenTalk
from tests.conftest import wait_until_left
from tests.postgres import Cluster
from tests.proxy import free_port
from tests.servers import serving


def test_what_is_asked_and_rated_on_the_page_lies_in_postgres(
    open_talk: OpenTalk, cluster: Cluster, database: str, tmp_path: Path
) -> None:
    with serving(tmp_path / "data", DATABASE_URL=cluster.dsn(database)) as server:
        server.wait_for_mode("postgres")
        server.wait_for_meaning()
        talk = open_talk(server)
        talk.ask_and_wait(PRICE)
        expect(talk.answer).to_contain_text("2 100 ₽")
        talk.star(4).click()
        expect(talk.rating_status).to_have_text("Сохранено")
        talk.ask_and_wait(FAR)
        expect(talk.turn.locator(".handed-over")).to_have_text("Вопрос передан сотруднику")
        rated = [body["log_id"] for body in talk.posts_to(FEEDBACK)]
        kept = cluster.execute(
            "SELECT user_message, rating, outcome, id::text FROM voice_logs ORDER BY created_at",
            database,
        )
    assert kept[0] == (PRICE, 4, "answered", rated[0])
    assert kept[1][:3] == (FAR, None, "handed_over")
    wait_until_left(cluster, database)


def test_the_page_says_what_is_safe_while_postgres_is_away(
    open_talk: OpenTalk, tmp_path: Path
) -> None:
    dsn = f"postgresql://owner@127.0.0.1:{free_port()}/nowhere"
    with serving(tmp_path / "data", DATABASE_URL=dsn) as server:
        server.wait_for_mode("fallback")
        server.wait_for_meaning()
        talk = open_talk(server)
        line = talk.page.locator("#connection")
        expect(line).to_contain_text("PostgreSQL недоступен")
        expect(line).to_contain_text("в целости в журнале")
        talk.ask_and_wait(PRICE)
        expect(talk.answer).to_contain_text("2 100 ₽")
        talk.page.locator("#lang-en").click()
        expect(line).to_contain_text("safe in the journal")
