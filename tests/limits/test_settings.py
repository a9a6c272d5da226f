"""Where limits are kept, by the settings (SPEC 10.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shoal.exceptions import InvalidOption
from shoal.limits import settings as limits_settings
from shoal.limits.settings import (
    lease_seconds,
    limits_in_use,
    limits_path,
    limits_place,
    poll_seconds,
    postgres_url,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
# ---------------------------------------------------------------------- settings


def test_the_file_is_in_the_users_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_LIMITS_URL")
    monkeypatch.setenv("HOME", "/home/me")
    assert limits_path() == "/home/me/.local/state/shoal/limits.db"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert limits_path() == "/var/state/shoal/limits.db"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert limits_path() == "/home/me/.local/state/shoal/limits.db"


def test_the_file_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHOAL_LIMITS_URL", "~/my limits.db")
    assert limits_path() == f"{tmp_path}/my limits.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_LIMITS_URL", "here.db")
    assert limits_path() == f"{tmp_path}/here.db"
    monkeypatch.setenv("SHOAL_LIMITS_URL", "")
    assert limits_path().endswith("/.local/state/shoal/limits.db")


def test_an_address_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_LIMITS_URL", "mysql://host/limits")
    with pytest.raises(InvalidOption, match=r"SHOAL_LIMITS_URL.*path of an SQLite file"):
        limits_in_use()


@pytest.mark.parametrize("name", ["LEASE", "POLL"])
@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan", ""])
def test_seconds_have_to_be_seconds(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    variable = f"SHOAL_LIMITS_{name}_SECONDS"
    function: Callable[[], float] = getattr(limits_settings, f"{name.lower()}_seconds")
    monkeypatch.setenv(variable, "2.5")
    assert function() == 2.5
    monkeypatch.setenv(variable, text)
    with pytest.raises(InvalidOption, match=variable):
        function()


def test_seconds_by_default() -> None:
    assert (lease_seconds(), poll_seconds()) == (30.0, 0.05)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/limits.db", "/var/lib/limits.db"),
        ("sqlite:////var/lib/limits.db", "/var/lib/limits.db"),
        ("sqlite:///~/my%20limits.db", "/home/me/my limits.db"),
    ],
)
def test_a_file_may_be_given_as_an_address(
    monkeypatch: pytest.MonkeyPatch, url: str, path: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SHOAL_LIMITS_URL", url)
    assert limits_path() == limits_place() == path
    assert postgres_url() is None


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "http://me:x@h/"])
def test_what_is_no_place(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SHOAL_LIMITS_URL", url)
    for ask in (limits_path, limits_place, limits_in_use):
        with pytest.raises(InvalidOption, match="SHOAL_LIMITS_URL") as caught:
            ask()
        assert ":x@" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_database(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    url = f"{scheme}://me:geheim@host:5432/limits"
    monkeypatch.setenv("SHOAL_LIMITS_URL", url)
    assert postgres_url() == url
    assert limits_place() == f"{scheme}://me:***@host:5432/limits"
    assert limits_in_use()
