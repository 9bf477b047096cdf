"""The reference pages that are made of the code."""

import argparse

import pytest

from docs import generate


def test_the_pages_are_up_to_date():
    stale = [path.name for path, text in generate.pages().items() if path.read_text("utf-8") != text]
    assert stale == [], "make reference writes them anew"


def test_an_argument_without_a_help_text_is_refused():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quiet", action="store_true")
    with pytest.raises(AssertionError, match="quiet says nothing"):
        generate._arguments(parser)


def test_bars_do_not_cut_a_table():
    assert generate.table(("a", "b"), iter([("x|y", "z")])).splitlines()[-1] == "| x\\|y | z |"
