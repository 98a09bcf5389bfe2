"""URLs of databases: checked before a driver sees them, and kept out of messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import peewee

from .._errors import ConfigurationError

SECRET_NAMES = ("password", "passwd", "sslpassword", "passphrase")


def _redacted(error: peewee.PeeweeException, database: Any) -> peewee.PeeweeException:
    """Return the error without the secrets; the driver's own error is left behind with its text."""
    text = str(error)
    secrets = [secret for secret in _secrets(database) if secret]
    if not any(secret in text for secret in secrets):
        return error
    for secret in secrets:
        text = text.replace(secret, "***")
    return type(error)(text)


def _secrets(database: Any) -> Iterator[str]:
    for name in SECRET_NAMES:
        yield str(database.connect_params.get(name) or "")
    target = str(database.database)
    if "://" in target:
        password = urlsplit(target).password or ""
        yield from (password, unquote(password))
    yield from re.findall(r"password\s*=\s*'?([^'\s&]+)", target)


def check_url(url: str, scheme: str) -> None:
    """Raise ConfigurationError for a URL that a driver would misread, quoting none of it.

    A driver's own message names the part that it stumbled over, which is often a piece of
    a password with a character that should have been percent-encoded.
    """
    problem = _problem_with(url, scheme)
    if problem:
        raise ConfigurationError(
            f"the database URL is not valid: {problem}. Write {scheme}://user:password@host:port/name, with "
            "special characters in the user and the password percent-encoded (urllib.parse.quote)"
        )


def _problem_with(url: str, scheme: str) -> str:
    rest = url.partition("://")[2]
    address, _, beyond = rest.partition("/")
    host = address.rpartition("@")[2]
    port = re.search(r":([^:\]]*)$", host)
    if not url.startswith(f"{scheme}://"):
        return f"it does not begin with {scheme}://"
    if re.search(r"%(?![0-9A-Fa-f]{2})", url):
        return "a % is not followed by two hexadecimal digits"
    if (
        address.count("@") > 1
        or "@" in beyond
        or re.search(r"[#?\s]", address.rpartition("@")[0])
        or "#" in url
    ):
        return "its user or password has a special character in it"
    if port and not re.fullmatch(r"[0-9]{0,5}", port[1]):
        return "its port is not a number"
    return ""
