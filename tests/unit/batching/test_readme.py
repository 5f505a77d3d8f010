"""The examples of the package's README run, and give what it says."""

import doctest
from pathlib import Path

import batching

README = Path(batching.__file__).with_name("README.md")


def test_the_examples_run() -> None:
    result = doctest.testfile(str(README), module_relative=False, optionflags=doctest.FAIL_FAST)
    assert result.failed == 0
    assert result.attempted > 15


def test_every_option_is_in_the_tables() -> None:
    text = README.read_text()
    for options in (batching.ProcessorOptions, batching.BatcherOptions):
        for name in options.__dataclass_fields__:
            assert f"`{name}`" in text, name
