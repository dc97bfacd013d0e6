"""Profiles: which control plane to talk to, and with which token.

Owns reading `profiles.toml`. Must not write it (`towline login` does) and never shows a token.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from towline._errors import ClusterError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

__all__ = ["Profile", "load", "path"]

_LOGIN = "Run `towline login URL`, or `towline demo` to try Towline on this machine."
_KNOWN = {"url", "ca_file", "token", "workspace"}


@dataclass(frozen=True)
class Profile:
    """How to reach one control plane.

    Attributes
    ----------
    name : str
        The profile's name.
    url : str
        Where its people listener is, without a slash at the end.
    token : str
        The bearer token. Not part of the representation.
    workspace : str or None
        The workspace the token is for.
    ca_file : Path or None
        The only certificate authority to trust; None means the system's.
    """

    name: str
    url: str
    token: str = field(repr=False)
    workspace: str | None = None
    ca_file: Path | None = None


def path(environ: Mapping[str, str] | None = None) -> Path:
    """Where profiles are: the file that `TOWLINE_CONFIG` names, else the user's configuration folder."""
    environ = os.environ if environ is None else environ
    named = environ.get("TOWLINE_CONFIG")
    if named:
        return Path(named).expanduser()
    base = environ.get("XDG_CONFIG_HOME")
    folder = Path(base) if base else Path("~/.config").expanduser()
    return folder / "towline" / "profiles.toml"


def load(name: str | None = None, environ: Mapping[str, str] | None = None) -> Profile:
    """Read one profile.

    Parameters
    ----------
    name : str, optional
        Which one; by default `TOWLINE_PROFILE`, else the file's ``default``.

    Raises
    ------
    ClusterError
        ``profile_missing`` or ``profile_invalid``, naming the file and what is wrong with it.
    """
    environ = os.environ if environ is None else environ
    file = path(environ)
    document = _read(file)
    name = name or environ.get("TOWLINE_PROFILE") or document.get("default")
    profiles = document.get("profile", {})
    if not isinstance(profiles, dict):
        raise ClusterError("profile_invalid", f"{file}: `profile` must be a table", _LOGIN)
    if name is None and len(profiles) == 1:
        name = next(iter(profiles))
    if not isinstance(name, str) or name not in profiles:
        have = ", ".join(sorted(profiles)) or "none"
        asked = f"no profile {name!r}" if name else "no default profile"
        raise ClusterError("profile_missing", f"{file} has {asked}; it has: {have}", _LOGIN)
    return _profile(file, name, profiles[name])


def _read(file: Path) -> dict[str, Any]:
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            # Before its mode: `chmod` on a folder or a device would break somebody else's things.
            raise ClusterError(
                "profile_invalid", f"{file} is not a file", "Set TOWLINE_CONFIG to a profile file, or unset it."
            )
        data = file.read_bytes()
    except FileNotFoundError:
        raise ClusterError("profile_missing", f"there is no profile: {file} does not exist", _LOGIN) from None
    except OSError as error:
        raise ClusterError("profile_invalid", f"{file} cannot be read: {error}", _LOGIN) from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ClusterError("profile_open", f"{file} holds a token and others may read it", f"Run `chmod 600 {file}`.")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except ValueError as error:
        raise ClusterError("profile_invalid", f"{file} is not valid TOML: {error}", _LOGIN) from error


def _profile(file: Path, name: str, table: object) -> Profile:
    where = f"{file}, profile {name!r}"
    if not isinstance(table, dict):
        raise ClusterError("profile_invalid", f"{where}: it must be a table", _LOGIN)
    unknown = sorted(set(table) - _KNOWN)
    if unknown:
        raise ClusterError("profile_invalid", f"{where}: unknown entry {unknown[0]!r}", "Remove it.")
    for key in ("url", "token"):
        if not isinstance(table.get(key), str) or not table[key]:
            raise ClusterError("profile_invalid", f"{where}: `{key}` is missing", _LOGIN)
    for key in ("ca_file", "workspace"):
        if not isinstance(table.get(key, ""), str):
            raise ClusterError("profile_invalid", f"{where}: `{key}` must be text", _LOGIN)
    parts = urlsplit(table["url"])
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.password:
        raise ClusterError(
            "profile_invalid", f"{where}: `url` must look like https://host:port, without a user", _LOGIN
        )
    ca_file = Path(table["ca_file"]) if table.get("ca_file") else None
    if ca_file is not None and not ca_file.is_file():
        raise ClusterError("profile_invalid", f"{where}: the CA file {ca_file} does not exist", _LOGIN)
    if any(character.isspace() or not character.isprintable() for character in table["token"]):
        # It would end up in a header as it is.
        raise ClusterError("profile_invalid", f"{where}: `token` is not a token", _LOGIN)
    return Profile(name, table["url"].rstrip("/"), table["token"], table.get("workspace") or None, ca_file)
