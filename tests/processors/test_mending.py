"""What a power cut leaves of a table, and the way back: by itself at a start, or by the command that is named."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_dataset import APP, problem, rows

from processors.dataset import Damaged, Datasets
from processors.owning import owned

COMMITS = 4


@pytest.fixture
def made(tmp_path):
    datasets = Datasets(tmp_path / "data" / "datasets")
    datasets.create()
    for at in range(COMMITS):
        datasets.append("problems", rows(problem(at), first=at), {APP: at})
    return datasets


def log(made):
    return made.root / "problems" / "_delta_log"


def newest(made):
    return max(log(made).glob("0*.json"))


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_log_entry_that_is_cut_off_is_set_aside_and_its_rows_come_again(made, share, capsys):
    torn = newest(made)
    cut(torn, share)
    again = Datasets(made.root)
    if share:
        with pytest.raises(Damaged, match=r"factory compact problems --data .*data"):
            again.ids("problems")
    again.create()
    assert "table problems: back to version 3: its log entry is cut off" in capsys.readouterr().err
    assert torn.with_name(f"{torn.name}.damaged").exists()
    assert again.offsets("problems") == {APP: COMMITS - 2}, "the sink reads on from here"
    assert again.append("problems", rows(problem(COMMITS - 1), first=COMMITS - 1), {APP: COMMITS - 1}) == 1
    assert again.ids("problems") == {f"p{at}" for at in range(COMMITS)}
    again.create()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("gone", [True, False])
def test_a_file_of_rows_that_is_cut_off_or_gone_takes_the_commits_since_then_with_it(made, gone, capsys):
    before = {file.name for file in made.root.glob("problems/*.parquet")}
    made.append("problems", rows(problem(4), first=4), {APP: 4})
    (lost,) = (file for file in made.root.glob("problems/*.parquet") if file.name not in before)
    made.append("problems", rows(problem(5), first=5), {APP: 5})
    if gone:
        lost.unlink()
    else:
        cut(lost, 0.5)
    with pytest.raises(Damaged, match="factory compact problems"):
        made.ids("problems")
    Datasets(made.root).create()
    assert f"its file {lost.name} is cut off or gone" in capsys.readouterr().err
    assert Datasets(made.root).offsets("problems") == {APP: 3}
    assert Datasets(made.root).ids("problems") == {f"p{at}" for at in range(4)}


def test_a_merge_that_is_cut_off_loses_no_row(made):
    assert made.compact("problems", files=1)
    (merged,) = Datasets(made.root).table("problems").file_uris()
    cut(made.root / "problems" / merged.rpartition("/")[2], 0.3)
    Datasets(made.root).create()
    assert Datasets(made.root).ids("problems") == {f"p{at}" for at in range(COMMITS)}
    assert Datasets(made.root).offsets("problems") == {APP: COMMITS - 1}


def test_a_checkpoint_of_the_log_that_is_cut_off_loses_no_row(made, capsys):
    made.table("problems").create_checkpoint()
    made.append("problems", rows(problem(4), first=4), {APP: 4})
    cut(next(log(made).glob("*.checkpoint.parquet")), 0.5)
    (log(made) / "_last_checkpoint").write_text('{"vers')
    Datasets(made.root).create()
    assert "no row is lost" in capsys.readouterr().err
    assert Datasets(made.root).ids("problems") == {f"p{at}" for at in range(5)}
    assert Datasets(made.root).offsets("problems") == {APP: 4}


def test_a_checkpoint_of_the_log_that_is_gone_loses_no_row(made, capsys):
    made.table("problems").create_checkpoint()
    made.append("problems", rows(problem(4), first=4), {APP: 4})
    next(log(made).glob("*.checkpoint.parquet")).unlink()
    Datasets(made.root).create()
    assert "no row is lost" in capsys.readouterr().err
    assert Datasets(made.root).ids("problems") == {f"p{at}" for at in range(5)}
    Datasets(made.root).create()
    assert capsys.readouterr().err == ""


def test_a_mending_that_was_interrupted_is_taken_up_again(made, monkeypatch):
    """It stops after each of its renames in turn; whatever is left then is mended to the same table."""
    more(made, 3)
    lost = file_of(made, "p4")
    saved = made.root.parent / "state" / "offsets.json"
    saved.parent.mkdir()
    saved.write_text("{}")
    made.table("problems").create_checkpoint()
    lost.unlink()
    rename, done = Path.rename, []

    def once(path, target):
        if done:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    for _ in range(20):
        done.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", once)
            try:
                Datasets(made.root).create()
                break
            except KeyboardInterrupt:
                assert not saved.exists(), "the broker's offsets would be ahead of the table"
    assert Datasets(made.root).offsets("problems") == {APP: 3}
    assert Datasets(made.root).ids("problems") == {f"p{at}" for at in range(4)}
    assert len(list(log(made).glob("*.damaged"))) == 3 + 1


def test_rows_without_a_commit_and_leftover_temporaries_are_no_rows_and_are_cleared_away(made):
    stray = made.root / "problems" / "part-00000-0-c000.zstd.parquet"
    stray.write_bytes(next(made.root.glob("problems/*.parquet")).read_bytes())
    temporary = log(made) / "00000000000000000009.json#1"
    temporary.write_text("{")
    assert made.append("problems", rows(problem(4), first=4), {APP: 4}) == 1
    assert len(list(made.rows("problems"))) == COMMITS + 1
    merging = made.root / "problems" / "part-00001-0-c000.zstd.parquet#2"
    merging.write_bytes(b"PAR1")
    made.create()
    assert made.vacuum("problems", 0.0) == [], "somebody may be about to commit it"
    for path in (stray, temporary, merging):
        os.utime(path, (0, 0))
    assert set(made.vacuum("problems", 0.0)) == {stray, temporary, merging}
    assert made.ids("problems") == {f"p{at}" for at in range(COMMITS + 1)}


def test_a_table_whose_creation_was_interrupted_is_created(tmp_path):
    begun = tmp_path / "problems" / "_delta_log"
    begun.mkdir(parents=True)
    (begun / "00000000000000000000.json#1").write_text("{")
    made = Datasets(tmp_path)
    made.create()
    assert made.append("problems", rows(problem(0)), {APP: 0}) == 1


def more(made, count):
    """Commits of now."""
    for at in range(COMMITS, COMMITS + count):
        made.append("problems", rows(problem(at), first=at), {APP: at})


def aged(made, last):
    """The commits up to `last` as if they were made ten minutes ago."""
    for entry in sorted(log(made).glob("0*.json"))[: last + 1]:
        first, *others = entry.read_text().splitlines()
        action = json.loads(first)
        action["commitInfo"]["timestamp"] -= 600_000
        entry.write_text("\n".join([json.dumps(action), *others]) + "\n")


def test_many_commits_of_the_last_minutes_may_be_set_aside(made, capsys):
    more(made, 30)
    lost = file_of(made, "p5")
    cut(lost, 0.5)
    Datasets(made.root).create()
    assert f"back to version {COMMITS + 1}: its file {lost.name}" in capsys.readouterr().err
    assert Datasets(made.root).ids("problems") == {f"p{at}" for at in range(COMMITS + 1)}


def file_of(made, key):
    files = made.root.glob("problems/*.parquet")
    return next(file for file in files if key in pq.read_table(file).column("id").to_pylist())


def test_a_torn_entry_that_a_checkpoint_holds_hides_no_later_damage(made, capsys):
    more(made, 4)
    made.table("problems").create_checkpoint()
    cut(log(made) / f"{COMMITS + 1:020}.json", 0.5)  # nobody reads it any more
    made.create()
    assert capsys.readouterr().err == ""
    made.append("problems", rows(problem(8), first=8), {APP: 8})
    made.append("problems", rows(problem(9), first=9), {APP: 9})
    lost = [file_of(made, "p8"), file_of(made, "p6")]
    cut(newest(made), 0.5)
    Datasets(made.root).create()
    assert Datasets(made.root).offsets("problems") == {APP: 8}
    lost[0].unlink()
    Datasets(made.root).create()
    assert Datasets(made.root).offsets("problems") == {APP: 7}
    capsys.readouterr()
    lost[1].unlink()
    Datasets(made.root).create()
    said = capsys.readouterr().err.splitlines()
    assert f"its file {lost[1].name} is cut off or gone" in said[0]
    assert f"back to version {COMMITS}: its log entry" in said[1], "without the checkpoint somebody reads it"
    assert Datasets(made.root).offsets("problems") == {APP: COMMITS - 1}


def test_an_entry_that_is_gone_takes_what_came_after_it_with_it(made):
    (log(made) / f"{COMMITS - 1:020}.json").unlink()
    Datasets(made.root).create()
    assert Datasets(made.root).offsets("problems") == {APP: COMMITS - 3}


def test_a_log_that_was_damaged_long_ago_is_told_with_the_command_that_looks_at_it_again(made):
    more(made, 40)
    aged(made, 15)
    for path in (*log(made).glob("*.checkpoint.parquet"), log(made) / "_last_checkpoint"):
        path.unlink()
    torn = log(made) / f"{3:020}.json"
    whole = torn.read_bytes()
    cut(torn, 0.5)
    with pytest.raises(Damaged, match=r"problems cannot be read .* copy \(`factory compact problems --data .*data`"):
        Datasets(made.root).create()
    torn.write_bytes(whole)
    Datasets(made.root).create()
    assert len(Datasets(made.root).ids("problems")) == COMMITS + 40


def test_damage_that_no_power_cut_does_is_told_and_nothing_is_touched(made):
    lost = next(made.root.glob("problems/*.parquet"))
    more(made, 21)
    aged(made, COMMITS)
    cut(lost, 0.5)
    entries = sorted(log(made).iterdir())
    with pytest.raises(Damaged, match=rf"{lost.name}: this file is cut off or gone, .* put it back from a copy"):
        Datasets(made.root).create()
    assert sorted(log(made).iterdir()) == entries


def test_a_table_that_a_sink_of_this_machine_writes_is_left_alone(made):
    cut(newest(made), 0.5)
    with owned(made.root, "problems", wait_s=0.0):
        assert Datasets(made.root).mend("problems") == []
    assert Datasets(made.root).mend("problems")


def test_saved_offsets_are_ahead_of_a_table_that_was_put_back_and_go(made):
    saved = made.root.parent / "state" / "offsets.json"
    saved.parent.mkdir()
    saved.write_text("{}")
    Datasets(made.root).create()
    assert saved.exists(), "nothing was mended"
    cut(newest(made), 0.5)
    Datasets(made.root).create()
    assert not saved.exists()
