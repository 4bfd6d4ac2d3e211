"""What the tests of pages share: one warm process behind their commands."""

import pytest
from documented import ROOT
from warm import serving


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Runs a page's commands (warm.Warm)."""
    with serving(tmp_path_factory.mktemp("warm"), ROOT) as made:
        yield made
