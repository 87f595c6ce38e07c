"""The local store against the model, through kills and restarts."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.conformance.store_machine import StoreAndModel

StoreAndModel.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class TestG06StoreAndModel(StoreAndModel.TestCase):
    """Bears the machine into the suite."""
