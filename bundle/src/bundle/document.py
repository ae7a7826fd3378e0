"""Common parts of the project's JSON documents: a strict base class, names, hashes, error sentences."""

import hashlib
import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

# A name becomes part of a path: no separators, no leading dot.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Document(BaseModel):
    """A document or a part of one: immutable. An unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def sha256_of_json(value: object) -> str:
    """Hash a JSON value. The order of keys and white space do not change the hash."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def explain(error: ValidationError) -> str:
    """Say in one sentence where a document is wrong: the first problem, and the number of other problems."""
    first, *rest = error.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"]) or "the document"
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}{more}"
