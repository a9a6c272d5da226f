"""Whether what is read from a folder can be trusted not to be somebody else's: a pickle runs code.

A folder is trusted that belongs to this user or to root, and that nobody else may write; so is a file. As each file is
looked at, the folders around do not matter: who may rename those cannot make files that are this user's. Access
control lists are not looked at; those that let others write show as permissions of the group. Windows' permissions are not
looked at.
"""

from __future__ import annotations

import os
import stat

__all__ = ["distrust_of"]

_HAS_OWNERS = hasattr(os, "geteuid")


def distrust_of(what: str, facts: os.stat_result) -> str | None:
    """Why a file or folder is not trusted; `None` if it is.

    Args:
        what: what it is called.
        facts: what the system says of it.
    """
    if not _HAS_OWNERS:
        return None
    if facts.st_uid not in (0, os.geteuid()):
        return f"{what} belongs to the user {_name_of_user(facts.st_uid)}"
    if facts.st_mode & stat.S_IWOTH:
        return f"{what} may be written by everybody"
    if facts.st_mode & stat.S_IWGRP and not _is_private(facts.st_gid):
        return f"{what} may be written by the group {_name_of_group(facts.st_gid)}"
    return None


def _is_private(group: int) -> bool:
    """Whether a group is that of this user alone, as many systems give one to each user."""
    import grp
    import pwd

    try:
        user = pwd.getpwuid(os.geteuid())
        facts = grp.getgrgid(group)
    except KeyError:
        return False
    return (
        group == user.pw_gid
        and set(facts.gr_mem) <= {user.pw_name}
        and facts.gr_name == user.pw_name
    )


def _name_of_user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _name_of_group(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
