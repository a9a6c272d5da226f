"""The file with the token of instances that are started here."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from shoal_ray.tokens import keep_private

setup = pytest.importorskip("ray._private.authentication.authentication_token_setup")


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the token of a user is, whose umask hides nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert setup._get_default_token_path() == tmp_path / ".ray" / "auth_token"
    return tmp_path / ".ray" / "auth_token"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_one(token: Path) -> None:
    before = os.umask(0)
    try:
        keep_private()
    finally:
        os.umask(before)
    assert mode(token) == 0o600
    assert len(bytes.fromhex(token.read_text())) == 32


def test_one_that_others_could_read_is_kept_and_closed_to_them(token: Path) -> None:
    token.parent.mkdir()
    token.write_text("mine")
    token.chmod(0o644)
    keep_private()
    assert (mode(token), token.read_text()) == (0o600, "mine")


def test_a_link_is_not_followed(token: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch(0o644)
    token.parent.mkdir()
    token.symlink_to(elsewhere)
    keep_private()
    assert mode(elsewhere) == 0o644


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "t"), ("RAY_AUTH_TOKEN_PATH", "/t")],
)
def test_where_ray_does_not_look_there_is_none(
    token: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    keep_private()
    assert not token.exists()


def test_the_error_names_the_file(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = token.parents[1] / "file"
    home.touch()
    monkeypatch.setenv("HOME", str(home / "none"))
    with pytest.raises(OSError, match=r"auth_token"):
        keep_private()
