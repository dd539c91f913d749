"""Splits that options name are opened once, with what is wrong with them found first."""

import dataclasses

import pytest

from hf_ddpm.data.open_splits import open_early, open_sources
from hf_ddpm.data.options import DataConfig

DATA = DataConfig(source="digits", test_split="test", labels=["3", "7"])


def test_what_was_opened_early_is_used_once():
    open_early(DATA)
    first, second = open_sources(DATA), open_sources(DATA)
    assert [source.split for source in first] == ["train", "test"]
    assert first[0] is not second[0]
    assert first[0].dataset["label"] == second[0].dataset["label"]


def test_other_options_open_other_splits():
    open_early(DATA)
    sources = open_sources(dataclasses.replace(DATA, labels=["7"], test_split=None))
    assert [source.class_names for source in sources] == [["7"]]


def test_a_mistake_is_found_early_and_nothing_of_it_is_kept():
    open_early(DATA)
    wrong = dataclasses.replace(DATA, train_split="trian")
    for look in (open_early, open_sources):
        with pytest.raises(ValueError, match="split 'trian'"):
            look(wrong)
