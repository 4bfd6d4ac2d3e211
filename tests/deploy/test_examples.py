"""The notebooks of examples/: their code cells, run in order in a process of their own, on tables of real searches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from searched import fill

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells(notebook: Path) -> list[str]:
    """The code cells as Python; IPython's %%writefile as what it does."""
    found = []
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        first, _, rest = text.partition("\n")
        if first.startswith("%%writefile "):
            text = f"__import__('pathlib').Path({first.split()[1]!r}).write_text({rest + chr(10)!r})"
        if cell["cell_type"] == "code":
            found.append(text)
    return found


def run(name: str, place: Path, *numbers: int, **environment: str) -> str:
    """What a notebook's code cells print: all of them, or those of these numbers."""
    script = place / f"{name}.py"
    code = cells(ROOT / "examples" / f"{name}.ipynb")
    script.write_text("\n\n".join([code[number] for number in numbers] or code), "utf-8")
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=place, env={**kept, "MPLBACKEND": "Agg", **environment},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_are_notebooks_and_each_is_clean():
    assert [path.stem for path in NOTEBOOKS] == ["asking", "your_own"]
    for path in NOTEBOOKS:
        content = json.loads(path.read_text("utf-8"))
        assert content["nbformat"] == 4
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in content["cells"])


@pytest.mark.slow
def test_asking_the_data(tmp_path):
    fill(tmp_path / "somewhere")
    said = run("asking", tmp_path, ASTRO_DATA=str(tmp_path / "somewhere"))
    assert said.startswith("-- The tables in ")
    for word in ("problems@1", "reflection", "search", "direct", "rows in 1 file(s)"):
        assert word in said, said
    assert (tmp_path / "searched-1" / "README.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("data", ["data", "examples/data"])
def test_the_data_is_found_beside_the_notebook_or_above_it_and_exported_twice(tmp_path, data):
    place = tmp_path / "examples"
    place.mkdir()
    fill(tmp_path / data)
    said = run("asking", place, 0, -1, -1)
    assert said.count("rows in 1 file(s)") == 2, said
    assert (place / "searched-1" / "README.md").is_file()
    assert (place / "searched-2" / "README.md").is_file()


@pytest.mark.slow
def test_your_own_source_and_grader(tmp_path):
    said = run("your_own", tmp_path)
    for word in (
        "later clock_problems:Later clock-parts 0.1 ok",
        "clock clock_grader:grade clock-parts 0.1 ok",
        "minutes later? ->",
        "is correct",
        "'25:00' is unparsable",
        "'noon' is unparsable",
        "problems.sources = [{'kind': 'later'",
    ):
        assert word in said, said
    for name in ("clock_problems.py", "clock_grader.py"):
        assert len((tmp_path / "clock-parts" / name).read_text().splitlines()) <= 35, "in about 30 lines each"
