"""Masks secrets in texts before they are shown or stored: users, passwords, keys and tokens.

A URI keeps its scheme, host and path. Of its query only the values of `HARMLESS` names stay, since
every driver has its own names for passwords. Percent-encoded forms are decoded before the check.
Outside of URIs the value of a name such as `AccountKey=` or `PWD=` is masked.
"""

import re
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
MARKS = ".,:;)]>"  # which end a part of the sentence around an address
HARMLESS = {"region", "scheme", "endpoint_override", "allow_bucket_creation"}  # S3 and GCS
HARMLESS |= {"allow_bucket_deletion", "force_virtual_addressing", "retry_limit_seconds"}
HARMLESS |= {"blob_storage_authority", "dfs_storage_authority", "enable_tls"}  # Azure
HARMLESS |= {"replication", "buffer_size", "default_block_size", "use_mmap"}  # HDFS, files
HARMLESS |= {"charset", "driver", "sslmode", "timeout", "connect_timeout"}  # databases
HARMLESS |= {"application_name", "check_same_thread", "isolation_level", "client_encoding"}
HARMLESS |= {"workflowtype"}  # MLflow's page of a run

_WORD = r"(?:\\(?![\"'])|[^\s\"'\\])"  # a backslash before a quote belongs to the text around it
_URI = re.compile(rf"((?::|%(?:25)*3a)(?:/|%(?:25)*2f){{2}})({_WORD}+)", re.IGNORECASE)
_QUERY = re.compile(r"[?#]|;(?=[\w.%-]+=)")  # where a URI's query begins
_USER = re.compile(r"(://|^)(?:[^/:]*:.*|[^/]+)@")  # databases allow / and @ in a password
_NAME = re.compile(r"[\w.-]+")
_PLAIN = re.compile(r"[\w.,:/+ -]*")
_SECRET = r"passw(?:or)?d|pwd|passphrase|secret|token|credential|signature"
_SECRET += r"|(?:api|account|access|shared|private|noise)[_-]?key"
_IS = r"\s?(?:=|%3d)\s?"
_VALUE = rf"((?:'[^'\"\\]*'|\{{[^}}\"\\]*\}})(?:(?![&;]){_WORD})*|(?:(?![&;]){_WORD})+)"
_NAMED = re.compile(
    rf"((?<![\w.-])(?=[\w.-]++{_IS})(?:[\w.-]*(?:{_SECRET})[\w.-]*|(?<=[?&;])sig){_IS}){_VALUE}"
    rf"|(authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic)\s+)({_WORD}+)",
    re.IGNORECASE,
)


def error_line(error: BaseException) -> str:
    """Return an error's message as one line, without secrets."""
    return mask(" ".join(str(error).split()) or repr(error))[:300]


def mask(text: str) -> str:
    """Return a text with `***` in place of the secrets of its URIs and of named secrets.

    The mask of a masked text is the same text.
    """
    return _NAMED.sub(_masked_named, _URI.sub(_masked_uri, text))


def masked(values: Any) -> Any:
    """Return nested dictionaries, lists and tuples with all texts masked."""
    if isinstance(values, dict):
        return {key: masked(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [masked(value) for value in values]
    return mask(values) if isinstance(values, str) else values


def _masked_named(match: re.Match[str]) -> str:
    name, value = match[1] or match[3], match[2] or match[4]
    return f"{name}{HIDDEN}{value[len(value.rstrip(MARKS)) :]}"


def _masked_uri(match: re.Match[str]) -> str:
    rest = match[2].rstrip(MARKS)
    return f"{match[1]}{_decoded_and_masked(rest)}{match[2][len(rest) :]}"


def _decoded_and_masked(rest: str) -> str:
    """Return the part of a URI after `://` masked; decoded, if only then a secret is seen."""
    shown = plain = _masked_rest(rest)
    while (decoded := unquote(plain)) != plain:
        if (plain := _masked_rest(decoded)) != decoded:
            return _decoded_and_masked(plain)
    return shown


def _masked_rest(rest: str) -> str:
    match = _QUERY.search(rest)
    place, query = (rest, "") if match is None else (rest[: match.start()], rest[match.start() :])
    if "@" in query and "@" not in place and ":" in place.partition("/")[0]:
        return HIDDEN  # the mark is one of a password's characters
    parts = re.findall(r"([?#&;])([^?#&;]*)", query)
    shown = [f"{mark}{_masked_part(mark, part)}" for mark, part in parts]
    user, mark, host = place.rpartition("@")
    return _USER.sub(rf"\1{HIDDEN}@", user + mark) + host + "".join(shown)


def _masked_part(mark: str, part: str) -> str:
    """Return `name=value` of a query, or the word of a fragment, unless it may be a secret."""
    name, sep, value = part.partition("=")
    if not sep:
        return part if not part or (mark == "#" and _PLAIN.fullmatch(part)) else HIDDEN
    if not _NAME.fullmatch(name):
        return HIDDEN
    plain = name.lower() in HARMLESS and _PLAIN.fullmatch(unquote(value))
    return part if plain else f"{name}={HIDDEN}"
