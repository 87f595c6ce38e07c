"""The store over PostgreSQL against the same model, also one that grows up on its way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory, DialogueIds, KeySet
from audiobot.storage.dsn import parse_dsn
from audiobot.storage.schema import metadata
from tests.conformance.hybrid import wait_for_mode
from tests.conformance.store_machine import StoreAndModel
from tests.conftest import wait_until_left
from tests.postgres import Cluster

EVERY_TABLE = ", ".join(table.name for table in metadata.sorted_tables)


class HybridAndModel(StoreAndModel):
    def __init__(self, cluster: Cluster, database: str) -> None:
        super().__init__()
        self.cluster, self.database = cluster, database
        self.grown = True

    @initialize(limit=st.sampled_from([1, 3, 10_000]), grown=st.booleans())
    def open(self, limit: int, grown: bool) -> None:
        self.grown = grown
        super().open(limit)

    def _open(self, path: Path) -> None:
        self.directory = DataDirectory(path)
        keys = KeySet(path / "keys.json", None)
        self.store = StorageAdapter(
            self.directory,
            DialogueIds(keys.ids),
            dsn=parse_dsn(self.cluster.dsn(self.database)) if self.grown else None,
            keys=keys,
            max_conversations=self.limit,
        )
        self.store.open()

        async def begin() -> None:
            await self.store.start()
            await wait_for_mode(self.store, "postgres" if self.grown else "memory")

        self.runner.run(begin())

    def _close(self) -> None:
        if self.store._postgres is not None:
            self.runner.run(asyncio.sleep(0))  # a task that was woken gives its connection back
        super()._close()

    def _abandon(self) -> None:
        """Nothing is carried over or remembered any more."""

        async def die() -> None:
            switch, postgres = self.store._switch, self.store._postgres
            if switch is not None and postgres is not None:
                for task in switch._tasks:
                    task.cancel()
                await asyncio.wait(switch._tasks)
                self.store._switch = None
                await postgres.close()

        self.runner.run(die())
        super()._abandon()

    @precondition(lambda self: not self.grown)
    @rule()
    def grow_up(self) -> None:
        self._close()
        self.grown = True
        self._open(self.directory.path)

    def teardown(self) -> None:
        super().teardown()
        wait_until_left(self.cluster, self.database)
        self.cluster.execute(f"TRUNCATE {EVERY_TABLE}", self.database)


def test_g06_the_store_over_postgres_does_as_the_model_does(
    cluster: Cluster, database: str
) -> None:
    run_state_machine_as_test(
        lambda: HybridAndModel(cluster, database),
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            phases=(Phase.generate,),  # to shrink through restarts takes minutes
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
