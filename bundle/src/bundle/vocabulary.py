"""`vocabulary.json`: the words of a text dataset, in the order of their token numbers."""

import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from bundle import BundleError
from bundle.document import Storable, explain, sha256_of_json
from bundle.inputs.preprocessing import TextPreprocessing
from bundle.manifest import VOCABULARY_FILE
from bundle.verify import Bundle

Words = Annotated[list[str], Field(fail_fast=True), Storable]
WORDS: TypeAdapter[list[str]] = TypeAdapter(Words)


def encode_vocabulary(words: Sequence[str]) -> bytes:
    """Give the content of vocabulary.json."""
    return json.dumps(words, ensure_ascii=False).encode()


def read_vocabulary(bundle: Bundle) -> list[str]:
    """Read all words of a bundle; empty for a model without texts. Raises BundleError, also for other words."""
    how, path = bundle.manifest.preprocessing, bundle.path / VOCABULARY_FILE
    if not isinstance(how, TextPreprocessing):
        return []
    try:
        words = WORDS.validate_json(bundle.read(VOCABULARY_FILE))
    except ValidationError as error:
        raise BundleError(
            f"{path} is not a readable vocabulary ({explain(error)}); publish the bundle again"
        ) from error
    if len(words) != (how.known_words or how.n_words) or sha256_of_json(words) != how.vocabulary_sha256:
        raise BundleError(f"{path} is not the vocabulary that the manifest names; publish the bundle again")
    return words
