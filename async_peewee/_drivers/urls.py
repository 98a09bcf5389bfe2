"""URLs of databases: taken apart and checked before a driver sees them, and kept out of messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import peewee

from .._errors import ConfigurationError

SECRET_NAMES = ("password", "passwd", "sslpassword", "passphrase")


# A name like those above, then what stands between it and its value: in a DSN, in the repr of a
# dict or of a call.
ASSIGNED = rf"(?:{'|'.join(SECRET_NAMES)})['\"]?\s*[=:]\s*['\"]?"


# A password may be a word of the message itself, such as "server" or 5432. Drivers quote what they
# were given, so outside of quotation marks such a word is the message's own.
ORDINARY = re.compile(r"[A-Za-z]+|[0-9]+")


def redacted(error: peewee.PeeweeException, database: Any) -> peewee.PeeweeException:
    """Return the error without the secrets; the driver's own error is left behind with its text."""
    secrets = sorted({secret for secret in _secrets(database) if secret}, key=len, reverse=True)
    args = tuple(_mask(part, secrets) if isinstance(part, str) else part for part in error.args)
    return error if args == error.args else type(error)(*args)


def _mask(text: str, secrets: list[str]) -> str:
    """Return a text with each secret hidden where it stands as one; not every equal word is it."""
    for secret in secrets:
        word = re.escape(secret)
        text = re.sub(rf"({ASSIGNED}){word}", r"\1***", text, flags=re.IGNORECASE)
        text = re.sub(rf"(?<=:){word}(?=@)", "***", text)
        if ORDINARY.fullmatch(secret):
            text = re.sub(rf"(['\"]){word}(?=\1)", r"\1***", text)
        else:
            text = re.sub(_alone(secret), "***", text)
    return text


def _alone(secret: str) -> str:
    """Return the pattern of a secret that is no part of a longer name, such as the role kit_10."""
    # A full stop belongs to a name if that goes on behind it.
    before = r"(?<![\w-])(?<!\w\.)" if re.match(r"\w", secret) else ""
    after = r"(?![\w-])(?!\.\w)" if re.search(r"\w\Z", secret) else ""
    return before + re.escape(secret) + after


def _secrets(database: Any) -> Iterator[str]:
    """Give each secret of a database, as it is and as URLs have it."""
    for secret in _given_secrets(database):
        yield from (secret, unquote(secret), quote(unquote(secret), safe=""))


def _given_secrets(database: Any) -> Iterator[str]:
    target = str(database.database)
    if "://" in target:
        yield credentials_of(target)[1]
    for name in SECRET_NAMES:
        yield str(database.connect_params.get(name) or "")
        yield from re.findall(rf"\b{name}\s*=\s*'?([^'\s&]+)", target)


def address_of(url: str) -> str:
    """Return what stands between the :// and the next slash or question mark of a URL."""
    return re.split("[/?]", url.partition("://")[2], maxsplit=1)[0]


def credentials_of(url: str) -> tuple[str, str]:
    """Return the user and the password of a URL, as they are written there."""
    user, _, password = address_of(url).rpartition("@")[0].partition(":")
    return user, password


def hosts_of(url: str) -> list[tuple[str, str]]:
    """Return the hosts of a URL, each with its port or "". Percent-decoded, IPv6 without brackets."""
    return [_host_and_port(part) for part in address_of(url).rpartition("@")[2].split(",")]


def _host_and_port(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", text)
    if found is None:
        return text, ""
    return unquote(found[1]).strip("[]"), found[2] or ""


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
    return _problem_with_hosts(url)


def _problem_with_hosts(url: str) -> str:
    for part in address_of(url).rpartition("@")[2].split(","):
        if part.count("[") != part.count("]") or (part.count(":") > 1 and not part.startswith("[")):
            return "an IPv6 address in it is not in brackets, as in [::1]:5432"
        if not re.fullmatch("[0-9]{0,5}", _host_and_port(part)[1]):
            return "its port is not a number"
    return ""
