"""The studio that `factory up` starts: it says where it is, answers, and ends with the factory."""

import threading

import httpx
import psutil

from deploy.studio.alongside import alongside


def test_it_says_its_address_answers_and_ends(make_settings, tmp_path):
    settings = make_settings()
    (tmp_path / "data" / "state").mkdir(parents=True)
    said, heard = [], threading.Event()
    with alongside(settings, lambda line: (said.append(line), heard.set())):
        assert heard.wait(60)
        url = said[0].removeprefix("studio: ")
        assert "holds no tables yet" in httpx.get(f"{url}/flow", timeout=30).text
        (child,) = [one for one in psutil.Process().children() if "studio" in one.cmdline()]
    assert not child.is_running()
    assert not list((tmp_path / "data" / "state").iterdir())


def test_a_studio_that_cannot_start_harms_nothing(make_settings, tmp_path):
    (tmp_path / "data" / "state").mkdir(parents=True)
    settings = make_settings()
    with alongside(settings, lambda line: None):
        (tmp_path / "data" / "state" / "studio.json").write_text("{not json")
    assert (tmp_path / "data" / "logs" / "studio.log").exists()
