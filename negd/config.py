"""A TOML file and the command line's options, made into :class:`negd.settings.Settings`.

Every wrong key or value is a :class:`negd.errors.ConfigError` of one line, which names where it
stands, the key, the value and what was expected.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec

from negd.control.address import Address
from negd.errors import ConfigError
from negd.nostr import filter as filters
from negd.nostr.event import is_lower_hex
from negd.peers.urls import canonical, target
from negd.settings import LEAST_RATE, PeerSettings, Section, Settings
from negd.websocket.socks import FORM, Proxy

_TYPES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "float | null": "a number",
    "int": "a whole number",
    "object": "a table",
    "str": "a string",
}
_LONGEST_VALUE = 80


def load(path: str) -> Settings:
    """The settings that a TOML file makes; keys that it leaves out have their defaults.

    :raises ConfigError: the file cannot be read, is not TOML, or holds a wrong key or value.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    return parse(text, path)


def parse(text: str, source: str) -> Settings:
    """The settings in TOML ``text``; ``source`` is how errors name where it stands.

    :raises ConfigError: as :func:`load`.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {_printable(str(error))}") from None
    return from_table(raw, source)


def from_table(raw: dict[str, Any], source: str) -> Settings:
    """The settings in decoded TOML.

    :raises ConfigError: a wrong key or value.
    """
    try:
        settings = msgspec.convert(raw, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_printable(_complaint(str(error), raw))}") from None
    _check(settings, source)
    return settings


def override(
    settings: Settings,
    *,
    store: str | None = None,
    listen: Sequence[str] = (),
    control: str | None = None,
    peers: Sequence[str] = (),
) -> Settings:
    """The settings with what the command line gives in the place of what the file gave.

    ``peers`` are URLs; one that the file lists keeps what the file says of it.

    :raises ConfigError: a value is not what its key expects.
    """
    replace = msgspec.structs.replace
    if store is not None:
        settings = replace(settings, store=store)
    if listen:
        settings = replace(settings, websocket=replace(settings.websocket, listen=tuple(listen)))
    if control is not None:
        settings = replace(settings, control=replace(settings.control, address=control))
    if peers:
        settings = replace(settings, peer=_chosen(settings.peer, peers))
    _check(settings, "command line")
    return settings


def _chosen(listed: Sequence[PeerSettings], urls: Sequence[str]) -> tuple[PeerSettings, ...]:
    """A peer for each of ``urls``; one that is listed as it is listed."""
    known = {_canonical(peer.url): peer for peer in listed}
    return tuple(known.get(_canonical(url)) or PeerSettings(url=url) for url in dict.fromkeys(urls))


def _canonical(url: str) -> str | None:
    """The one form of a relay's URL; None where it is no such URL."""
    try:
        return canonical(url)
    except ConfigError:
        return None


def wrong(source: str, key: str, value: object, expected: str) -> ConfigError:
    """The error that says of a key's value what was expected instead."""
    return mistake(source, key, value, f"expected {expected}")


def mistake(source: str, key: str, value: object, what: str) -> ConfigError:
    """The error that says what is the matter with a key's value."""
    return ConfigError(f"{source}: {key} = {_shown(value)}: {what}")


# --- values that TOML's types do not tell --------------------------------------------------------


def _check(settings: Settings, source: str) -> None:
    for key, value, expected in _mistakes(settings):
        raise wrong(source, key, value, expected)


def _mistakes(settings: Settings) -> Iterator[tuple[str, object, str]]:
    """(key, value, what was expected) of each value that cannot be meant."""
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*:.*", settings.store):
        yield "store", settings.store, "KIND:ARGUMENT, as in lmdb:/var/lib/negd (--help-stores)"
    contact = settings.relay.contact
    if contact and not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+", contact):
        yield "relay.contact", contact, "a URI, as in mailto:me@example.com, or nothing"
    pubkey = settings.relay.pubkey
    if pubkey and not (len(pubkey) == 64 and is_lower_hex(pubkey)):
        yield "relay.pubkey", pubkey, "64 lower-case hex digits, or nothing"
    if not _is_address(settings.control.address):
        yield "control.address", settings.control.address, "HOST:PORT or unix:PATH"
    for index, standing in enumerate(settings.storage.standing):
        if complaint := _no_filter(standing):
            yield f"storage.standing[{index}]", standing, complaint
    yield from _peer_mistakes(settings)


def _peer_mistakes(settings: Settings) -> Iterator[tuple[str, object, str]]:
    urls = [_canonical(peer.url) for peer in settings.peer]
    for index, peer in enumerate(settings.peer):
        if urls[index] is None:
            expected = "ws://HOST[:PORT][/PATH], wss://... or a bare host, taken as wss"
            yield f"peer[{index}].url", peer.url, expected
        elif urls[index] in urls[:index]:
            yield f"peer[{index}].url", peer.url, "each peer once"
        elif not _may_be_dialed(peer.url, settings):
            expected = "a public address, as sync.private_targets is false"
            yield f"peer[{index}].url", peer.url, expected
        elif not peer.proxy and _is_onion(peer.url):
            expected = "a proxy for this peer, as it is reached through Tor only"
            yield f"peer[{index}].url", peer.url, expected
        if complaint := _no_filter(peer.filter):
            yield f"peer[{index}].filter", peer.filter, complaint
        if peer.proxy and not _is_proxy(peer.proxy):
            yield f"peer[{index}].proxy", re.sub(r"//.*@", "//...@", peer.proxy), FORM
        if 0 < peer.max_rate < LEAST_RATE:
            yield f"peer[{index}].max_rate", peer.max_rate, f"0 for no limit, or >= {LEAST_RATE}"


def _no_filter(value: dict[str, Any]) -> str | None:
    """What was expected instead of something that is no filter."""
    try:
        filters.from_json(value)
    except filters.InvalidFilter as error:
        return f"a NIP-01 filter ({error.text})"
    return None


def _is_address(text: str) -> bool:
    try:
        Address.parse(text)
    except ConfigError:
        return False
    return True


def _is_onion(url: str) -> bool:
    return (urlsplit(canonical(url)).hostname or "").endswith(".onion")


def _may_be_dialed(url: str, settings: Settings) -> bool:
    try:
        target(url, settings.sync.private_targets)
    except ConfigError:
        return False
    return True


def _is_proxy(text: str) -> bool:
    try:
        Proxy.parse(text)
    except ConfigError:
        return False
    return True


# --- what the converter says, in words for the file's author -------------------------------------


def _complaint(message: str, raw: dict[str, Any]) -> str:
    """msgspec's complaint on ``raw`` as key, value and what was expected."""
    found = re.fullmatch(r"(?s)(.*?)(?: - at `\$\.?(.*)`)?", message)
    assert found is not None  # both parts may be anything
    what, key = found[1], found[2] or ""
    if unknown := re.fullmatch(r"(?s)Object contains unknown field `(.*)`", what):
        name = f"{key}.{unknown[1]}" if key else unknown[1]
        value = _shown(_look_up(raw, key)[unknown[1]])
        return f"{name} = {value}: no such key, expected one of: {', '.join(_keys_of(key))}"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"{key}.{missing[1]} is missing: expected a value"
    if what.startswith("Invalid enum value"):
        return f"{key} = {_shown(_look_up(raw, key))}: expected one of: {_choices(key)}"
    expected = re.sub(r", got `.*`$", "", what).removeprefix("Expected ")
    expected = re.sub(r"`(.*?)`", lambda match: _TYPES.get(match[1], match[1]), expected)
    return f"{key} = {_shown(_look_up(raw, key))}: expected {expected}"


def _choices(key: str) -> str:
    """The words that a key may have."""
    section, _, name = key.rpartition(".")
    fields = msgspec.structs.fields(_section(section))
    return ", ".join(next(get_args(field.type) for field in fields if field.name == name))


def _look_up(raw: Any, key: str) -> Any:
    """The value at a key such as ``peer[0].url``; the whole for an empty one."""
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", key):
        raw = raw[name] if name else raw[int(index)]
    return raw


def _keys_of(key: str) -> tuple[str, ...]:
    """The keys that the section at ``key`` has."""
    return _section(key).__struct_fields__


def _section(key: str) -> type[Section]:
    return sections()[re.sub(r"\[\d+\]$", "", key)]


def sections() -> dict[str, type[Section]]:
    """Every section by its name; the top of the file has the empty name."""
    found: dict[str, type[Section]] = {"": Settings}
    for name, hint in get_type_hints(Settings).items():
        section = (get_args(hint) or (hint,))[0]
        if isinstance(section, type) and issubclass(section, Section):
            found[name] = section
    return found


def _shown(value: object) -> str:
    """The value on one line of bounded length."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _printable(text: str) -> str:
    """The text with line breaks and other controls escaped: TOML allows them in quoted keys."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
