"""Text -> tokens as llm2vec 0.2.3 does it, with all that its published numbers depend on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from llm2vec_pl.encoder.tokenizer import (
    TextTokenizer,
    TokenBatch,
    each_instruction,
    some_token,
    strings,
    well_formed,
)
from llm2vec_pl.errors import UserError

SEPARATOR = "!@#$%^&*()"
"""What it writes between instruction and text, and looks for again when it tokenises."""


class ReferenceTokenizer(TextTokenizer):
    """Turns texts into the tokens that llm2vec 0.2.3 turns them into, and pools the same ones.

    What it does otherwise than a `TextTokenizer`:

    - A text of more than `doc_max_length` tokens loses whole words from its end until it fits, and
      all of its line breaks and double blanks. One without blanks loses all of its characters.
    - The instruction loses its outer blanks, and one blank follows it. With a template, the text
      loses those at its end.
    - A row of more than `max_length` tokens is cut at its end, template included.
    - The text's tokens are counted by tokenising the text by itself, together with the end of the
      template, and that many tokens at the end of the row are pooled. In a row that was cut, these
      can be some of the instruction.
    - What follows a second separator in a text is read, but not counted.
    - Control tokens that a text spells out count as control tokens.

    Args:
        tokenizer: a fast tokenizer.
        max_length: most tokens in a row, including special tokens.
        template: what surrounds instruction and text, with {text} in it.
        doc_max_length: most tokens in a text, without its instruction.
        skip_instruction: pool the text's tokens only; otherwise all tokens of the row.

    Raises:
        UserError: if the tokenizer is slow, or the template does not have this form.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 512,
        template: str | None = None,
        doc_max_length: int = 400,
        skip_instruction: bool = True,
    ) -> None:
        if template == "chat":
            raise UserError(
                '`template="chat"` cannot be used with `reference_quirks=True`: llm2vec writes '
                "templates of its own. Leave one of the two out, or write the template with {text} "
                "in it."
            )
        super().__init__(tokenizer, max_length, template, control_tokens=True)
        self.doc_max_length = doc_max_length
        self.skip_instruction = skip_instruction

    @property
    def rules(self) -> dict[str, Any]:
        """Everything that decides the tokens of a text, apart from the tokenizer."""
        return {
            **super().rules,
            "reference_quirks": True,
            "doc_max_length": self.doc_max_length,
            "skip_instruction": self.skip_instruction,
        }

    def __call__(self, texts: Sequence[str], instruction: str | Sequence[str] = "") -> TokenBatch:
        """Tokenises texts, all with one instruction or each with its own.

        Args:
            texts: B strings.
            instruction: one for all or one each; a blank is written after it.

        Returns:
            `input_ids`, `attention_mask` and `pooling_mask`, each (B, L) and padded on the right.
            A text without tokens is pooled over its whole row. (llm2vec also pools the padding
            that its neighbours in the batch bring about, or for `weighted_mean` returns zeros.)

        Raises:
            UserError: if a text is not a string.
        """
        texts = strings(texts)
        instructions = each_instruction(instruction, len(texts))
        return self._pad(self._numbered(instructions, texts) if texts else [])

    def lengths(self, texts: Sequence[str], instruction: str = "") -> list[int]:
        """How many tokens each text has in a batch, without padding; at most `max_length`."""
        if not texts:
            return []
        return [len(ids) for ids, _ in self._numbered([instruction] * len(texts), texts)]

    def _numbered(
        self, instructions: Sequence[str], texts: Sequence[str]
    ) -> list[tuple[list[int], list[bool]]]:
        """The tokens of each row, and which of them are pooled."""
        pairs = zip(instructions, self._shortened(texts), strict=True)
        parts = [self._joined(each, text).split(SEPARATOR) for each, text in pairs]
        encodings = self._in_unicode(["".join(row) for row in parts], True)
        counts = self._counts([row[1] for row in parts])
        rows = []
        for encoding, count in zip(encodings, counts, strict=True):
            ids = self._cut_row(encoding)
            first = len(ids) - count if self.skip_instruction and 0 < count < len(ids) else 0
            rows.append((ids, [place >= first for place in range(len(ids))]))
        return rows

    def _joined(self, instruction: str, text: str) -> str:
        """`prepare_for_tokenization(_convert_to_str(instruction, text))`."""
        head = f"{instruction.strip()} " if instruction else ""
        row = head + SEPARATOR + text
        return row if self.template is None else self._before + row.strip() + self._after

    def _shortened(self, texts: Sequence[str]) -> list[str]:
        """The texts, with as many words taken from the long ones as `_convert_to_str` takes."""
        shortened = list(texts)
        counts = dict(enumerate(self._counts(texts)))
        while long := [i for i, count in counts.items() if count > self.doc_max_length]:
            for i in long:
                words = shortened[i].split()
                kept = int(len(words) * (self.doc_max_length / counts[i]))
                shortened[i] = " ".join(words[:kept])
            counts = dict(zip(long, self._counts([shortened[i] for i in long]), strict=True))
        return shortened

    def _counts(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has by itself, without special ones; at most `max_length`."""
        encodings = self._in_unicode(texts, False)
        return [min(len(encoding.ids), self.max_length) for encoding in encodings]

    def _in_unicode(self, rows: Sequence[str], add_special_tokens: bool) -> list[Encoding]:
        try:
            return self._tokens(list(rows), add_special_tokens)
        except (TypeError, UnicodeEncodeError):
            return self._tokens([well_formed(row) for row in rows], add_special_tokens)

    def _cut_row(self, encoding: Encoding) -> list[int]:
        """The tokens of a row, cut to `max_length` as transformers does: special ones stay."""
        ids: list[int] = encoding.ids
        surplus = len(ids) - self.max_length
        if surplus > 0:
            others = [
                i for i, is_special in enumerate(encoding.special_tokens_mask) if not is_special
            ]
            is_left = self.tokenizer.truncation_side == "left"
            lost = set(others[:surplus] if is_left else others[-surplus:])
            ids = [token for i, token in enumerate(ids) if i not in lost]
        return ids or [some_token(self.tokenizer)]
