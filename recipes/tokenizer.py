"""Trains the embedded decoder's tokenizer: byte-level BPE on Wikipedia and Python documentation.

python recipes/tokenizer.py --wikipedia wikipedia --output my-tokenizer
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llm2vec_pl.data import PythonDocs, Wikipedia

BOS, EOS, PAD, MASK = SPECIAL_TOKENS = ["<s>", "</s>", "<pad>", "<mask>"]


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer that puts `<s>` before each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        mask_token=MASK,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--wikipedia", required=True, help="folder or data set with Wikipedia's text"
    )
    parser.add_argument("--articles", type=int, default=6000, help="articles to learn from")
    parser.add_argument("--docs", type=int, default=20000, help="docstrings to learn from")
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--output", required=True, help="folder to write the tokenizer to")
    args = parser.parse_args()

    def texts() -> Iterator[str]:
        yield from Wikipedia(args.wikipedia, max_rows=args.articles).texts("train")
        docs = list(PythonDocs().texts("train"))
        yield from docs[:: max(1, len(docs) // args.docs)]  # some of every package

    tokenizer = train_tokenizer(texts(), args.vocab_size)
    tokenizer.save_pretrained(args.output)
    print(f"Wrote {len(tokenizer):,} tokens to {args.output}")


if __name__ == "__main__":
    main()
