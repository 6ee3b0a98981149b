"""Control tokens that a text spells out, such as `</s>` on a page about tokenizers, stay text.

A tokenizer turns such characters into control tokens wherever they come from: a text could end
itself, or open a new turn. The tokenizer's own switch against this (`split_special_tokens`, which
MNTP's blocks use) applies to whole rows, including the control tokens of a template. Rows that
spell a control token therefore go to a second tokenizer, in which control tokens have other names:
these cannot be guessed, and only the template and the instruction are translated to them.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

_building = threading.Lock()


class ControlTokens:
    """Finds control tokens spelled out in rows, and tokenises such rows as plain text.

    Args:
        tokenizer: a fast one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        backend: Tokenizer = tokenizer.backend_tokenizer
        added = backend.get_added_tokens_decoder().values()
        special = [token for token in added if token.special and token.content]
        self._names = {token.content for token in special}
        self._sizes = sorted({len(name) for name in self._names}, reverse=True)
        first = "".join(sorted({re.escape(name[0]) for name in self._names}))
        self._first = re.compile(f"[{first}]" if first else "(?!)")
        self._normalizer = (
            backend.normalizer if any(token.normalized for token in special) else None
        )
        self._renamed: Renamed | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_renamed": None}  # built again when needed

    def spelled_in(self, row: str, start: int, end: int) -> bool:
        """Whether any of row[start:end] would become part of a control token."""
        around = max(self._sizes, default=1) - 1
        if any(last > start for _, last in self._find(row, max(0, start - around), end)):
            return True
        if self._normalizer is None:
            return False
        text = self._normalizer.normalize_str(row[start:end])
        return any(self._normalizer.normalize_str(name) in text for name in self._names)

    def encode(
        self, rows: Sequence[tuple[str, str, str]], add_special_tokens: bool
    ) -> tuple[list[Encoding], list[int]]:
        """Tokenises rows whose middle part is plain text.

        Args:
            rows: what comes before each text, the text, and what comes after it.
            add_special_tokens: whether the tokenizer adds its special tokens to each row.

        Returns:
            The tokens of each row, and the character at which each text begins.
        """
        with _building:
            if self._renamed is None:
                self._renamed = Renamed(self._tokenizer.backend_tokenizer, self._names)
        renamed = self._renamed
        translated = [
            (self._translate(before, renamed), text, self._translate(after, renamed))
            for before, text, after in rows
        ]
        joined = ["".join(row) for row in translated]
        encodings = renamed.tokenizer.encode_batch(joined, add_special_tokens=add_special_tokens)
        return encodings, [len(before) for before, _, _ in translated]

    def _translate(self, template: str, renamed: Renamed) -> str:
        parts, done = [], 0
        for first, last in self._find(template, 0, len(template)):
            parts += [template[done:first], renamed.names[template[first:last]]]
            done = last
        return "".join([*parts, template[done:]])

    def _find(self, row: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Start and end of the control tokens that begin in row[start:end]; they may end beyond."""
        done = start
        for match in self._first.finditer(row, start, end):
            first = match.start()
            if first < done:
                continue
            for size in self._sizes:  # the longest one counts
                if row[first : first + size] in self._names:
                    done = first + size
                    yield first, done
                    break


class Renamed:
    """A tokenizer whose control tokens have names that no text spells.

    Args:
        backend: the tokenizer.
        names: of its control tokens.
    """

    def __init__(self, backend: Tokenizer, names: set[str]) -> None:
        secret = secrets.token_hex(8)
        self.names = {name: f"\ue000{secret}{i}\ue001" for i, name in enumerate(sorted(names))}
        content = json.loads(backend.to_str())
        content["truncation"] = content["padding"] = None
        for token in content["added_tokens"]:
            if token["content"] in self.names:
                token.update(content=self.names[token["content"]], normalized=False)
        self._rename_in(content["model"])
        self.tokenizer: Tokenizer = Tokenizer.from_str(json.dumps(content))

    def _rename_in(self, model: dict[str, Any]) -> None:
        """Renames in the vocabulary too, where a model could still compose a control token."""
        vocabulary = model.get("vocab")
        if isinstance(vocabulary, dict):
            model["vocab"] = {self.names.get(name, name): i for name, i in vocabulary.items()}
        elif vocabulary:  # of a unigram model, with scores
            model["vocab"] = [[self.names.get(name, name), score] for name, score in vocabulary]
        if model.get("unk_token") in self.names:
            model["unk_token"] = self.names[model["unk_token"]]
        if model.get("merges"):
            pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
            model["merges"] = [
                pair for pair in pairs if not {*pair, "".join(pair)} & self.names.keys()
            ]
