"""What the server lets in, what it says of a directory it cannot show, and two of them at once."""

import json
import shutil
import subprocess
import sys

import httpx
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from deploy.cli import main
from deploy.studio import serve
from processors.dataset import Datasets
from schemas.load import BadSettings, load
from schemas.tables import TABLES


def settings_of(folder):
    return load(environment={}, flags=[f"factory.data={json.dumps(str(folder))}"])


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.168.0.7", "[::2]:80", "[::1"]
)
def test_another_name_is_refused(client, data, host):
    answer = client.get("/trees", headers={"Host": host})
    assert answer.status_code == 421
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert str(data) not in answer.text
    assert "tree1" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1"])
def test_this_machines_names_are_taken(client, host):
    assert client.get("/trees", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_another_sites_page_may_not_ask(client, data, headers):
    answer = client.get("/ask?sql=select+1", headers=headers)
    assert answer.status_code == 403
    assert answer.headers["content-type"].startswith("text/plain")
    assert str(data) not in answer.text


def test_names_that_are_allowed_are_taken_and_a_wildcard_is_no_name(data):
    site = serve.site(settings_of(data))
    with serve.open_to(site, "0.0.0.0", 0, ["Factory.lan"]) as (url, notes):
        assert url.startswith("http://127.0.0.1:")
        assert "factory.lan" in notes[-1]
        codes = [
            httpx.get(f"{url}/none", headers={"Host": host}, timeout=30).status_code
            for host in ("factory.lan:80", "localhost", "0.0.0.0", "other.lan")
        ]
    assert codes == [404, 404, 421, 421]


def test_an_address_of_ipv6_has_its_brackets(data):
    with serve.open_to(serve.site(settings_of(data)), "::1", 0) as (url, _):
        assert url.startswith("http://[::1]:")
        assert httpx.get(f"{url}/none", timeout=30).status_code == 404


def test_a_link_on_another_site_may_be_followed(client):
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/trees", headers=followed).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "POST"])
def test_pages_are_for_reading(client, method):
    origin = {"Origin": str(client.base_url).rstrip("/")}
    assert client.request(method, "/trees", headers=origin).status_code == 405


@pytest.mark.parametrize("path", ["/flow", "/static/studio.js", "/none", "/ask/answer.csv?sql=select+1"])
def test_every_answer_forbids_what_is_not_the_studios(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "same-origin"  # else a browser sends our own form with the origin null


def test_a_long_query_fits_into_an_address(client):
    assert "<td" in client.get("/ask", params={"sql": f"select 1 -- {'x' * 20_000}"}).text


def test_a_directory_without_tables_is_said_on_each_page(tmp_path):
    with serve.open_to(serve.site(settings_of(tmp_path)), "127.0.0.1", 0) as (url, _):
        assert "holds no tables yet" in httpx.get(f"{url}/flow").text
        answer = httpx.get(f"{url}/trees")
        assert answer.status_code == 503
        assert "holds no tables yet" in answer.text
        assert "holds no tables yet" in httpx.get(f"{url}/ledger").text
        Datasets(tmp_path / "datasets").create()
        assert httpx.get(f"{url}/trees", timeout=30).status_code == 200  # without a restart


def test_tables_of_an_older_version_are_named_and_the_rest_works(data, tmp_path):
    shutil.copytree(data, tmp_path / "old")
    folder = tmp_path / "old" / "datasets" / "rewards"
    rows = DeltaTable(str(folder)).to_pyarrow_table().drop_columns(["backtracks"])
    shutil.rmtree(folder)
    write_deltalake(str(folder), rows)
    shutil.rmtree(tmp_path / "old" / "datasets" / "answers")
    with serve.open_to(serve.site(settings_of(tmp_path / "old")), "127.0.0.1", 0) as (url, _):
        assert httpx.get(f"{url}/trees/tree1", timeout=30).status_code == 200
        answer = httpx.get(f"{url}/rollouts", timeout=30)
        assert answer.status_code == 400
        assert "another version of the factory" in answer.text
        assert "<code>rewards</code> has no backtracks" in answer.text
        assert httpx.get(f"{url}/rows/answers", timeout=30).status_code == 200
    assert not (set(TABLES["rewards"].names) - set(rows.column_names)) - {"backtracks"}


def test_rows_of_an_older_version_are_a_sentence(data, tmp_path):
    shutil.copytree(data, tmp_path / "old")
    folder = tmp_path / "old" / "datasets"
    for name, column in (("trees", "seconds"), ("dead_letters", "attempt"), ("training", "lag_mean")):
        rows = DeltaTable(str(folder / name)).to_pyarrow_table().drop_columns([column])
        shutil.rmtree(folder / name)
        write_deltalake(str(folder / name), rows)
    with serve.open_to(serve.site(settings_of(tmp_path / "old"), [data]), "127.0.0.1", 0) as (url, _):
        for path, lacks in (("/trees/tree1", "a row of trees has no seconds"), ("/letters/letter1", "has no attempt")):
            answer = httpx.get(url + path, timeout=30)
            assert (answer.status_code, lacks in answer.text) == (400, True)
        page = httpx.get(f"{url}/training?run=rl&run=data/rl", timeout=30)
        assert page.status_code == 200
        assert "this directory: these tables were written by another version" in page.text
        assert "data/rl: 1 values" in page.text


def test_new_rows_are_seen(data, tmp_path):
    from deploy.studio import tables as module

    shutil.copytree(data, tmp_path / "live")
    tables = module.Tables(tmp_path / "live")
    assert tables.one("SELECT count(*) AS n FROM problems")["n"] == 2
    held = tables.snapshot()
    row = TABLES["problems"].empty_table().to_pylist() or [dict.fromkeys(TABLES["problems"].names)]
    fresh = pa.Table.from_pylist([row[0] | {"id": "new", "question": "q", "answer": "a", "source": "s"}],
                                 schema=TABLES["problems"])  # fmt: skip
    Datasets(tmp_path / "live" / "datasets").append("problems", fresh, {})
    held.made -= module.OLD_S + 1  # as if nobody had asked for a while
    assert tables.one("SELECT count(*) AS n FROM problems")["n"] == 3


def test_two_studios_of_one_directory_and_the_second_says_so(data, tmp_path):
    shutil.copytree(data, tmp_path / "both", ignore=shutil.ignore_patterns("state"))
    command = [sys.executable, "-m", "deploy.cli", "studio", "--data", str(tmp_path / "both")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        url = first.stdout.readline().split()[1]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as second:
            other = second.stdout.readline().split()[1]
            assert httpx.get(f"{url}/trees", timeout=30).text == httpx.get(f"{other}/trees", timeout=30).text
            second.terminate()
            assert f"another one shows this directory at {url}; both only read it" in second.communicate(timeout=30)[1]
        first.terminate()
        assert first.wait(30) == second.returncode == 0
    assert not list((tmp_path / "both" / "state").glob("studio-*.json"))


def test_a_directory_that_is_not_there_and_a_port_in_use(client, data, tmp_path, monkeypatch, capsys):
    with pytest.raises(BadSettings, match="no such directory"):
        serve.site(settings_of(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "argv", ["factory", "studio", "--data", str(data), "--port", str(client.base_url.port)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "the port is in use" in capsys.readouterr().err


def test_runs_of_another_directory_lie_over_these(data, tmp_path):
    shutil.copytree(data, tmp_path / "second")
    site = serve.site(settings_of(data), [tmp_path / "second", tmp_path])
    with serve.open_to(site, "127.0.0.1", 0) as (url, _):
        page = httpx.get(f"{url}/training?run=rl&run=second/rl", timeout=30).text
    assert "rl: 1 values" in page
    assert "second/rl: 1 values" in page
    assert "holds no tables yet" in page  # of the directory that is no data directory
