"""The documents fit the repository: links lead somewhere, files that are named exist, settings are listed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from sales import metrics

PROJECT = Path(__file__).resolve().parents[2]
PLACES = (
    "*.md",
    ".github/*.md",
    "batching/**/*.md",
    "flashsale_project/**/*.md",
    "sales/**/*.md",
    "tests/**/*.md",
)
DOCUMENTS = sorted({path for place in PLACES for path in PROJECT.glob(place)})

TOP = {path.name for path in PROJECT.iterdir()} - {".git", ".flashsale", ".venv"}

FENCED = re.compile(r"^(`{3,}).*?^\1$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"[\w./-]+\.(?:py|md|lua|toml|yml|svg)")
PATH = re.compile(r"(?:[.\w-]+/)+[\w.-]*")

SETTING = re.compile(
    r"\b(FLASHSALE_[A-Z_]+|(?<=\")(?:DATABASE_URL|SECRET_KEY|DEBUG|ALLOWED_HOSTS|CSRF_TRUSTED_ORIGINS)(?=\"))"
)


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.fixture(params=DOCUMENTS, ids=name_of)
def document(request: pytest.FixtureRequest) -> Path:
    """Each of them in turn."""
    path: Path = request.param
    return path


def text_of(path: Path) -> str:
    """A document without its blocks of code."""
    return FENCED.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """The names by which its headings are linked, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in HEADING.findall(text_of(path))
    }


def links(path: Path) -> Iterator[tuple[Path, str]]:
    """The files, with what is meant in them, that a document links to."""
    for target in LINK.findall(text_of(path)):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            yield (path.parent / file).resolve() if file else path, anchor


def files_named(text: str) -> Iterator[str]:
    """What stands in back-ticks and is a file or a directory of ours by its form."""
    for code in CODE.findall(text):
        for part in code.split():
            if FILE.fullmatch(part) or (PATH.fullmatch(part) and part.split("/")[0] in TOP):
                yield part


def exists(named: str, document: Path) -> bool:
    """Whether there is such a file, from the top or beside the document; a bare name may be anywhere."""
    if (PROJECT / named).exists() or (document.parent / named).exists():
        return True
    return "/" not in named and any(
        named == path.name for top in TOP for path in (PROJECT / top).rglob(named) if "." in named
    )


def test_there_are_documents() -> None:
    names = {name_of(path) for path in DOCUMENTS}
    assert names >= {"README.md", "sales/README.md", "flashsale_project/README.md", ".github/CONTRIBUTING.md"}


def test_every_link_leads_somewhere(document: Path) -> None:
    broken = [
        f"{name_of(file)}#{anchor}" if anchor else str(file)
        for file, anchor in links(document)
        if not file.exists() or (anchor and anchor not in anchors(file))
    ]
    assert broken == []


def test_every_file_that_is_named_exists(document: Path) -> None:
    assert [named for named in files_named(text_of(document)) if not exists(named, document)] == []


@pytest.mark.parametrize("room", ["sales", "flashsale_project/benchmark"])
def test_every_module_is_in_the_map_of_its_room(room: str) -> None:
    modules = {path.name for path in (PROJECT / room).glob("*.py")} - {"__init__.py", "apps.py"}
    text = (PROJECT / room / "README.md").read_text()
    assert {name for name in modules if f"`{name}`" not in text} == set()


def test_every_setting_is_in_the_table() -> None:
    settings = set(SETTING.findall((PROJECT / "flashsale_project/settings.py").read_text()))
    assert "FLASHSALE_ITEMS" in settings
    table = set(
        re.findall(r"^\| `([A-Z_]+)` \|", (PROJECT / "flashsale_project/README.md").read_text(), re.MULTILINE)
    )
    assert settings - table == set()
    assert table - settings == set()


def test_every_metric_is_in_the_table() -> None:
    metrics.open_files()
    counted = {family.name for family in REGISTRY.collect() if family.name.startswith("flashsale_")}
    text = (PROJECT / "flashsale_project/README.md").read_text()
    assert [name for name in sorted(counted) if f"`{name}" not in text] == []


def test_the_first_page_is_short() -> None:
    lines = (PROJECT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert sum(len(line.split()) for line in lines) <= 1300
