"""A studio over the tables of hostile.py, served for all tests of this folder."""

import json

import httpx
import pytest
from hostile_rows import fill

from deploy.studio import serve
from schemas.load import load


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A data directory with rows in every table; no test writes to it."""
    made = tmp_path_factory.mktemp("studio") / "data"
    fill(made)
    return made


@pytest.fixture(scope="session")
def client(data):
    """An HTTP client of a studio over `data`."""
    site = serve.site(load(environment={}, flags=[f"factory.data={json.dumps(str(data))}"]))
    with serve.open_to(site, "127.0.0.1", 0) as (url, _), httpx.Client(base_url=url, timeout=60) as made:
        yield made
