"""The store through faults, kills and restarts against a small independent model (Hypothesis)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import migrate
from tests.faults.world import FAULTS, World, scaled_down
from tests.postgres import Cluster, template_of

ratings = st.integers(1, 5)
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20
)


class StoreThroughFaults(RuleBasedStateMachine):
    cluster: Cluster
    database: str
    dialogues = Bundle("dialogues")

    @initialize()
    def begin(self) -> None:
        self.world = World(self.cluster, self.database)

    @rule(name=st.sampled_from(FAULTS))
    def fault(self, name: str) -> None:
        self.world.fault(name)

    @rule(seconds=st.sampled_from([0.05, 0.3]))
    def time_passes(self, seconds: float) -> None:
        self.world.let_time_pass(seconds)

    @rule(kill=st.booleans())
    def start_again(self, kill: bool) -> None:
        self.world.kill() if kill else self.world.restart()

    @rule(target=dialogues, text=texts)
    def add(self, text: str):
        return self.world.add(text)

    @rule(target=dialogues, text=texts, key=st.sampled_from([b"a" * 15, b"b" * 15]))
    def add_under_a_key(self, text: str, key: bytes):
        return self.world.add_under_key(text, key)

    @rule(log_id=dialogues, rating=ratings)
    def rate(self, log_id, rating: int) -> None:
        self.world.rate(log_id, rating)

    @rule(rating=ratings)
    def rate_one_that_has_not_arrived(self, rating: int) -> None:
        self.world.rate_orphan(rating)

    @rule(target=dialogues, place=st.integers(0, 3), text=texts)
    def it_arrives(self, place: int, text: str):
        return self.world.orphan_arrives(place, text) or multiple()

    @rule(
        adds=st.integers(0, 4),
        ratings=st.lists(st.tuples(dialogues, ratings), max_size=4),
        steps=st.integers(0, 6),
        end=st.sampled_from(["wait", "cancel", "kill"]),
    )
    def many_at_once(self, adds, ratings, steps: int, end: str) -> None:
        if adds or ratings:
            self.world.burst(adds, ratings, steps, end)

    @rule(name=st.sampled_from(["a.csv", "b.md"]), titles=st.lists(texts, max_size=2, unique=True))
    def replace_knowledge(self, name: str, titles: list[str]) -> None:
        self.world.replace_knowledge(name, titles)

    @rule(
        name=st.sampled_from([uuid.UUID(int=1), uuid.UUID(int=2)]),
        text=texts,
        log_ids=st.lists(dialogues, max_size=2, unique=True),
        withdrawn=st.booleans(),
    )
    def correct(self, name, text: str, log_ids, withdrawn: bool) -> None:
        self.world.correct(name, f"answer {text}", log_ids, withdrawn)

    @rule(log_ids=st.lists(dialogues, max_size=2, unique=True), dismissed=st.booleans())
    def dismiss(self, log_ids, dismissed: bool) -> None:
        self.world.dismiss(log_ids, dismissed)

    @rule()
    def read_corrections(self) -> None:
        self.world.read_corrections()

    @rule()
    def read_inbox(self) -> None:
        self.world.read_inbox()

    @rule(log_id=dialogues)
    def read(self, log_id) -> None:
        self.world.read(log_id)

    @rule()
    def read_totals(self) -> None:
        self.world.read_totals()

    @rule(least=ratings)
    def list_rated(self, least: int) -> None:
        self.world.list_rated(least)

    @rule()
    def read_knowledge(self) -> None:
        self.world.read_knowledge()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.verify()
            finally:
                self.world.close()


@pytest.fixture
def machine(cluster: Cluster) -> Iterator[type[StoreThroughFaults]]:
    with cluster.database(template_of(cluster, migrate)) as database, scaled_down():
        yield type("Machine", (StoreThroughFaults,), {"cluster": cluster, "database": database})


# A killed store closes nothing: what it had open is found by the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*Connection")
@pytest.mark.timeout(240)
def test_g08_whatever_happens_to_postgres_what_was_told_lies_in_it_once(machine) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
