"""Common parts of the project's JSON documents: a strict base class, names, hashes, bounded reads, error sentences.

A document of another person may hold anything. So the base class refuses what Postgres cannot store (NUL in a text,
NaN, infinity, numbers beyond 64 bits) and what would need much memory (objects with very many keys).
"""

import errno
import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from bundle.messages import MAX_CHARACTERS, printable, shorten
from bundle.regular_file import open_regular

MAX_KEYS = 100  # of one object; pydantic makes an error of about 1 KB for each wrong key
MAX_PLACE = 100  # characters of a key in an error


def check_storable(value: Any) -> Any:
    """Refuse a JSON value that Postgres cannot store: NUL, half of a character, NaN, a number beyond 64 bits."""
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise PydanticCustomError("number", "a whole number needs more than 64 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("finite", "a number is not finite")
    elif isinstance(value, dict):
        for key, held in value.items():
            check_storable(key)
            check_storable(held)
    elif isinstance(value, list | tuple):
        for held in value:
            check_storable(held)
    return value


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("unicode", "a text holds half of a character (a surrogate); remove it") from error
    if "\0" in text:
        raise PydanticCustomError("nul", "a text holds a NUL character; remove it")


def _check_keys(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_KEYS:
        raise PydanticCustomError("keys", f"it has {len(value)} keys, at most {MAX_KEYS} are read")
    return value


# A name becomes part of a path: no separators, no leading dot.
NAME_START = "^[A-Za-z0-9][A-Za-z0-9._-]"
Name = Annotated[str, StringConstraints(pattern=NAME_START + "{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Storable = AfterValidator(check_storable)
FewKeys = BeforeValidator(_check_keys)


class Document(BaseModel):
    """A document or a part of one: immutable. An unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:
        return _check_keys(value)

    @model_validator(mode="after")
    def _check_storable(self) -> Self:
        for name in type(self).model_fields:
            check_storable(getattr(self, name))
        return self


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Read a regular file, not a link, of at most max_bytes. Raises OSError, also for a larger file."""
    with open_regular(path, follow_links=False) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes} bytes", str(path))
    return content


def sha256_of_json(value: object) -> str:
    """Hash a JSON value. The order of keys and white space do not change the hash."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def explain(error: ValidationError, whole: str = "the document") -> str:
    """Say in one sentence where a document is wrong: the first problem, and the number of other problems.

    whole: the name of the checked value, for a problem that does not concern a single part.
    """
    first, *rest = error.errors(include_url=False)
    place = printable(".".join(str(part) for part in first["loc"])[:MAX_PLACE])
    problem = shorten(first["msg"], MAX_CHARACTERS)  # it may repeat a value of any length
    if (pattern := first.get("ctx", {}).get("pattern", "")).startswith(NAME_START):
        most = 1 + int(pattern.removeprefix(NAME_START + "{0,").removesuffix("}$"))
        problem = f"a name has 1 to {most} characters: letters from a to z, digits, and . _ - after the first one"
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{place or whole}: {problem[0].lower()}{problem[1:]}{more}"
