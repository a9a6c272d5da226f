"""Opens the storage that is meant.

May import `folder`, `remote` and what `settings` say.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.exceptions import InvalidOption
from shoal.results import settings
from shoal.results.storage.folder import FolderStorage

if TYPE_CHECKING:
    from shoal.results.storage.base import Storage

__all__ = ["open_storage"]

#: As `s3://bucket/folder`, or `simplecache::s3://bucket/folder`.
_URL = re.compile(r"[a-z][a-z0-9+.-]*(://|::)", re.IGNORECASE)


def open_storage(where: str | Path | None = None) -> Storage:
    """The storage of a place. Nothing is read, made or connected to until it is used.

    Args:
        where: the path of a folder, or a URL of fsspec, as `s3://bucket/folder`; by default that of the settings.

    Raises:
        InvalidOption: a setting has a value that makes no sense.
        MissingExtraError: what reaches such a URL is not installed.
    """
    place = settings.storage() if where is None else os.fspath(where)
    if place.startswith(("file://", "local://")):
        place = place.partition("://")[2]
    elif _URL.match(place):
        from shoal.results.storage.remote import RemoteStorage

        try:
            return RemoteStorage(place)
        except InvalidOption as error:
            if where is not None:
                raise
            raise settings.refused("SHOAL_RESULTS_STORAGE", place, error.problem) from error
    folder = os.path.abspath(os.path.expanduser(place))
    if folder == settings.default_folder():
        # Who names a folder wants to find there what was put there.
        return FolderStorage(folder, settings.max_bytes(), settings.max_age())
    return FolderStorage(folder)
