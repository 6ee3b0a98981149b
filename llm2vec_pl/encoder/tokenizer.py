"""Text -> tokens: instruction and text in, input_ids, attention_mask and pooling_mask out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from llm2vec_pl.encoder.control_tokens import ControlTokens
from llm2vec_pl.encoder.lengths import send
from llm2vec_pl.errors import Faults, UserError

TokenBatch = dict[str, Any]
"""B texts as tokens: `input_ids`, `attention_mask` and `pooling_mask`, tensors (B, L).

In a trainer also `text_lengths`: how many tokens each text has, a tuple of B numbers that stays on
the host when the tensors go to a device.
"""
TEXT = "{text}"
# Stands for the text while a chat template is rendered; templates strip and escape odd characters.
PLACEHOLDER = "llm2vec-text-goes-here"

_settling = threading.Lock()


class TextTokenizer:
    """Turns texts into token batches, and knows which tokens are the text itself.

    Instruction, template and text are joined as strings and tokenised in one call, so that the
    tokens are those that the model was trained on; the tokenizer's character offsets then tell the
    text's own tokens from the rest. A token that straddles the border belongs to the text.

    Args:
        tokenizer: a fast tokenizer (one that gives offsets).
        max_length: most tokens in a row, including special tokens. If a row is longer, the end of
            the text is cut, never the instruction or the template.
        template: what surrounds instruction and text, such as `"[INST] {text} [/INST]"`; `"chat"`
            is the tokenizer's own chat template with the text as the user's turn.
        control_tokens: whether control tokens that a text spells out, such as `</s>`, count as
            control tokens; otherwise they are plain characters. In the template and in
            instructions, which do not come from the authors of the texts, they always count.
        rendered: the chat template as rendered earlier, with {text} in place of the text; some
            templates print the day's date.

    Raises:
        UserError: if the tokenizer is slow, or the template does not have this form.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 512,
        template: str | None = None,
        control_tokens: bool = False,
        rendered: str | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise UserError(
                f"The tokenizer {type(tokenizer).__name__} gives no character offsets, which are "
                "needed to tell the text from its instruction. Use a model with a tokenizer.json."
            )
        faults = Faults()
        with faults.noted():
            if max_length < 1:
                raise UserError(f"`max_length` is at least 1 token, but got {max_length}.")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.template = template
        self.control_tokens = control_tokens
        # A rendered chat template already holds BOS and the like.
        self._adds_special_tokens = template != "chat"
        self._control = ControlTokens(tokenizer)
        with faults.noted():
            self.freeze(rendered or self._chat_template() if template == "chat" else None)
        faults.raise_all()

    def freeze(self, rendered: str | None) -> None:
        """Sets the chat template to an earlier rendering; None leaves it as it is."""
        if rendered is not None or self.template != "chat":
            self.rendered = rendered
            self._before, self._after = _surroundings(rendered or self.template)

    @property
    def rules(self) -> dict[str, Any]:
        """Everything that decides the tokens of a text, apart from the tokenizer."""
        return {
            "max_length": self.max_length,
            "template": self.template,
            "rendered_template": self.rendered,
            "control_tokens": self.control_tokens,
        }

    def __call__(self, texts: Sequence[str], instruction: str | Sequence[str] = "") -> TokenBatch:
        """Tokenises texts, all with one instruction or each with its own.

        Args:
            texts: B strings.
            instruction: one for all or one each; written right before the text, so it should end
                with its own separator, as in `"Retrieve the answer: "`.

        Returns:
            `input_ids`, `attention_mask` and `pooling_mask`, each (B, L) and padded on the right.
            The pooling mask is 1 on the text's own tokens; an empty text, which has none, is pooled
            over the whole row.

        Raises:
            UserError: if a text is not a string, or an instruction leaves no room for the text.
        """
        texts = strings(texts)
        instructions = each_instruction(instruction, len(texts))
        if not texts:
            return self._pad([])
        rows = self._rows(instructions, texts)
        return self._pad([self._cut(row.encoding.ids, _inside(row)) for row in rows])

    def lengths(self, texts: Sequence[str], instruction: str = "") -> list[int]:
        """How many tokens each text has in a batch, without padding; at most `max_length`."""
        rows = self._rows([instruction] * len(texts), texts) if texts else []
        return [min(max(1, len(row.encoding.ids)), self.max_length) for row in rows]

    def located(self, texts: Sequence[str], max_length: int | None = None) -> list[LocatedTokens]:
        """The tokens of texts without an instruction, and the characters that each one holds.

        Args:
            texts: B strings that UTF-8 can encode; others shift the characters.
            max_length: most tokens in a row, in place of the tokenizer's own.

        Raises:
            UserError: if the template leaves no room for the text.
        """
        limit = max_length or self.max_length
        located = []
        for row in self._rows([""] * len(texts), texts) if texts else []:
            own = _inside(row)
            kept = self._kept(own, limit)
            spans = [
                (max(first, row.start) - row.start, min(last, row.end) - row.start)
                for first, last in row.encoding.offsets
            ]
            ids = [row.encoding.ids[i] for i in kept] or [some_token(self.tokenizer)]
            located.append(
                LocatedTokens(
                    ids, [spans[i] if own[i] else None for i in kept] or [None], len(own) > limit
                )
            )
        return located

    def _rows(self, instructions: Sequence[str], texts: Sequence[str]) -> list[Row]:
        """The tokens of each row, before cutting."""
        try:
            return self._encode([self._before + each for each in instructions], texts)
        except (TypeError, UnicodeEncodeError):
            whole = [well_formed(text) for text in texts]
            heads = [self._before + well_formed(each) for each in instructions]
            return self._encode(heads, whole)

    def _encode(self, heads: Sequence[str], texts: Sequence[str]) -> list[Row]:
        joined = [head + text + self._after for head, text in zip(heads, texts, strict=True)]
        spelled = [
            i
            for i, (row, head) in enumerate(zip(joined, heads, strict=True))
            if not self.control_tokens
            and self._control.spelled_in(row, len(head), len(row) - len(self._after))
        ]
        others = sorted(set(range(len(texts))).difference(spelled))
        rows: dict[int, Row] = {}
        if others:
            encodings = self._tokens([joined[i] for i in others], self._adds_special_tokens)
            for i, encoding in zip(others, encodings, strict=True):
                rows[i] = Row(encoding, len(heads[i]), len(heads[i]) + len(texts[i]))
        if spelled:
            parts = [(heads[i], texts[i], self._after) for i in spelled]
            encodings, starts = self._control.encode(parts, self._adds_special_tokens)
            for i, encoding, start in zip(spelled, encodings, starts, strict=True):
                rows[i] = Row(encoding, start, start + len(texts[i]))
        return [rows[i] for i in range(len(texts))]

    def _tokens(self, rows: list[str], add_special_tokens: bool) -> list[Encoding]:
        backend = self.tokenizer.backend_tokenizer
        with _settling:
            # Other calls leave these settings behind. To change one while another thread tokenises
            # is an error, so they are changed only if they must be.
            if backend.padding is not None:
                backend.no_padding()
            if backend.truncation is not None:
                backend.no_truncation()
            if backend.encode_special_tokens != self.tokenizer.split_special_tokens:
                backend.encode_special_tokens = self.tokenizer.split_special_tokens
        encodings: list[Encoding] | None = self.tokenizer(
            rows,
            add_special_tokens=add_special_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # rows longer than the model's maximum are cut later
        ).encodings
        assert encodings is not None  # the tokenizer is fast
        return encodings

    def _chat_template(self) -> str:
        if not self.tokenizer.chat_template:
            raise UserError(
                '`template="chat"` needs a tokenizer that has a chat template, but '
                f"{self.tokenizer.name_or_path} has none. Write one, such as "
                f"'[INST] {TEXT} [/INST]'."
            )
        turn = [{"role": "user", "content": PLACEHOLDER}]
        rendered: Any = self.tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True
        )
        return str(rendered).replace(PLACEHOLDER, TEXT)

    def _cut(self, ids: list[int], pooled: list[bool]) -> tuple[list[int], list[bool]]:
        kept = self._kept(pooled, self.max_length)
        if len(kept) < len(ids):
            ids, pooled = [ids[i] for i in kept], [pooled[i] for i in kept]
        if not ids:  # an empty text, and a tokenizer that adds no special tokens
            ids, pooled = [some_token(self.tokenizer)], [True]
        return ids, pooled if any(pooled) else [True] * len(ids)

    def _kept(self, own: list[bool], max_length: int) -> Sequence[int]:
        """The places of a row's tokens without those that are cut from the end of its text."""
        surplus = len(own) - max_length
        if surplus <= 0:
            return range(len(own))
        text = [i for i, is_text in enumerate(own) if is_text]
        if len(text) <= surplus:
            raise UserError(
                f"The instruction, template and special tokens take {len(own) - len(text)} "
                f"tokens, which leaves no room for the text in `max_length={max_length}`. "
                "Shorten the instruction or raise `max_length`."
            )
        return [*range(text[-surplus]), *range(text[-1] + 1, len(own))]

    def _pad(self, rows: list[tuple[list[int], list[bool]]]) -> TokenBatch:
        length = max((len(ids) for ids, _ in rows), default=0)
        fill = self.tokenizer.pad_token_id or 0  # attention never looks at it
        batch = {
            "input_ids": torch.full((len(rows), length), fill),
            "attention_mask": torch.zeros(len(rows), length, dtype=torch.long),
            "pooling_mask": torch.zeros(len(rows), length, dtype=torch.long),
        }
        for i, (ids, pooled) in enumerate(rows):
            batch["input_ids"][i, : len(ids)] = torch.tensor(ids)
            batch["attention_mask"][i, : len(ids)] = 1
            batch["pooling_mask"][i, : len(ids)] = torch.tensor(pooled).long()
        return batch


class Row(NamedTuple):
    """The tokens of a row, and the characters at which its text starts and ends."""

    encoding: Encoding
    start: int
    end: int


class LocatedTokens(NamedTuple):
    """The tokens of a row, and where in its text each of them is."""

    ids: list[int]
    spans: list[tuple[int, int] | None]
    """First character and the one after the last; None for what is not part of the text."""
    is_cut: bool


def well_formed(text: str) -> str:
    r"""The text with U+FFFD in place of lone surrogates, which UTF-8 cannot encode.

    They come from strings that were cut between UTF-16 units, as JavaScript does; two halves that
    belong together become their character.

    >>> well_formed("cut \ud83d, whole \ud83d\ude00") == "cut \ufffd, whole \U0001f600"
    True
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _surroundings(template: str | None) -> tuple[str, str]:
    """What comes before instruction and text, and what comes after the text."""
    if template is None:
        return "", ""
    template = well_formed(template)
    if template.count(TEXT) != 1:
        raise UserError(
            f"`template` holds {TEXT} once, as in '[INST] {TEXT} [/INST]', or is 'chat', but got "
            f"{template!r}. Write {TEXT} where the text goes."
        )
    before, after = template.split(TEXT)
    return before, after


def strings(texts: Sequence[str], kind: str = "text") -> list[str]:
    """The texts as a list.

    Raises:
        UserError: if one of them is not a string, or `texts` is a single string.
    """
    if isinstance(texts, str):
        raise UserError("Expected a list of texts, but got one string. Put it in a list.")
    if not isinstance(texts, Iterable):
        raise UserError(f"Expected a list of {kind}s, but got {texts!r}.")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(
                f"{kind.capitalize()}s are strings, but {kind} {i} is {text!r} "
                f"({type(text).__name__}). Convert it, or leave it out."
            )
    return texts


def each_instruction(instruction: str | Sequence[str], count: int) -> list[str]:
    """The instruction of each of `count` texts.

    Raises:
        UserError: if there are several, but not one for each text.
    """
    if isinstance(instruction, str):
        return [instruction] * count
    instructions = strings(instruction, "instruction")
    if len(instructions) != count:
        raise UserError(
            f"Expected one instruction for all texts or one for each, but got "
            f"{len(instructions)} instructions for {count} texts."
        )
    return instructions


def _inside(row: Row) -> list[bool]:
    """Which tokens hold a character of the text, given each token's span of characters.

    Some byte-level tokenizers trim blanks from the spans: a blank alone has an empty span, at its
    end.
    """
    start, end = row.start, row.end
    spans, special = row.encoding.offsets, row.encoding.special_tokens_mask
    return [
        not is_special
        and ((first < end and last > start) or (first == last and start < last <= end))
        for (first, last), is_special in zip(spans, special, strict=True)
    ]


def some_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token for a row that would otherwise have none."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
    return next(token for token in known if token is not None)


def join(batches: Sequence[TokenBatch]) -> TokenBatch:
    """Joins the rows of several token batches into one, padded to the longest.

    It has `text_lengths` if all of them do.

    >>> short, long = ({"input_ids": torch.ones(1, n)} for n in (1, 2))
    >>> join([short, long])["input_ids"].tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    length = max(batch["input_ids"].shape[1] for batch in batches)
    joined: TokenBatch = {
        key: torch.cat([F.pad(b[key], (0, length - b[key].shape[1])) for b in batches])
        for key in batches[0]
        if key != "text_lengths"
    }
    if all("text_lengths" in batch for batch in batches):
        joined["text_lengths"] = tuple(n for batch in batches for n in batch["text_lengths"])
    return joined


def take(batch: TokenBatch, rows: Sequence[int], length: int) -> TokenBatch:
    """Some rows of a right-padded batch, cut to a length: (R, length) each."""
    index = send(rows, batch["input_ids"].device)
    taken = {key: value[index, :length] for key, value in batch.items() if key != "text_lengths"}
    if "text_lengths" in batch:
        taken["text_lengths"] = tuple(min(batch["text_lengths"][i], length) for i in rows)
    return taken
