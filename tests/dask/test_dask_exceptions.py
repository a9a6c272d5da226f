"""The error that only the Dask runner has: its message, pickling (SPEC 1.6)."""

from __future__ import annotations

import pickle

from shoal.exceptions import MissingContextError
from shoal_dask.exceptions import MissingDaskClient


def test_a_missing_client_says_where_there_is_one() -> None:
    error = MissingDaskClient()
    assert isinstance(error, MissingContextError)
    assert "get_dask_client()" in str(error)
    assert "DaskTaskRunner" in str(error)


def test_it_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(MissingDaskClient()))
    assert type(again) is MissingDaskClient
    assert str(again) == str(MissingDaskClient())
