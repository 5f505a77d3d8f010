"""A run of its own for every test."""

import pytest

from tests.unit.history.story import Story


@pytest.fixture
def story() -> Story:
    return Story()
