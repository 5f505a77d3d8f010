"""The whole service, in processes of its own, on a database of its own."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.database import NewUrl, new_database
from tests.support.service import MakeService, Service, services


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is an acceptance test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.acceptance)


@pytest.fixture(scope="module", params=["express", "django"])
def lane(request: pytest.FixtureRequest) -> str:
    """Every test of the whole service runs on both lanes."""
    return str(request.param)


@pytest.fixture(scope="module")
def make_service(lane: str) -> Iterator[MakeService]:
    """Make services (not started), each on a new database; stopped and removed after the module."""
    with services(lane) as make:
        yield make


@pytest.fixture(scope="session")
def new_url() -> Iterator[NewUrl]:
    """Make databases for those who put something between them and a service; dropped after the run."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(new_database())


@pytest.fixture(scope="module")
def service(make_service: MakeService) -> Service:
    """A service of 100 items on two workers, shared by the tests of a module."""
    return make_service().start()
