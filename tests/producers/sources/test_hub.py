import pytest

from producers.sources import hub
from producers.sources.items import BadSource
from producers.sources.mapping import Fields


def test_the_files_of_one_split_and_config_are_chosen(tmp_path):
    names = ["main/train-0.parquet", "main/test-0.parquet", "socratic/train-0.parquet", "train.jsonl", "train.py"]
    paths = [tmp_path / name for name in names]
    relative = [path.relative_to(tmp_path) for path in paths]

    def chosen(**wanted):
        return [str(path) for path in relative if hub._wanted(path, Fields(**wanted))]

    assert chosen() == ["main/train-0.parquet", "socratic/train-0.parquet", "train.jsonl"]
    assert chosen(config="main") == ["main/train-0.parquet"]
    assert chosen(config="main", split="test") == ["main/test-0.parquet"]


def test_a_dataset_that_cannot_be_fetched_is_one_sentence():
    with pytest.raises(BadSource, match="cannot be fetched") as caught:
        hub.hub_source("not a / valid name", Fields(), 1000)
    assert "\n" not in str(caught.value)
