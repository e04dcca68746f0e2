"""One folder for all that is built once, where the user's environment says."""

from pathlib import Path

from nebula.cache_folder import cache_folder


def test_the_cache_folder_follows_the_environment():
    assert cache_folder({"NEBULA_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_folder({"XDG_CACHE_HOME": "/b"}) == Path("/b/nebula")
    assert cache_folder({}) == Path.home() / ".cache" / "nebula"


def test_a_tilde_is_the_home():
    assert cache_folder({"NEBULA_CACHE": "~/mine"}) == Path.home() / "mine"
