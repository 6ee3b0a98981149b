"""A file for each that the commands on the pages name, with a few made-up rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

from conll_files import CONLLU, write_conll2000, write_conll2003
from gguf_files import few_tokens, write_gguf
from hub_cache import HubCache
from peft_adapters import train_lora
from shown_commands import PAGES, ROOT, fences
from transformers import AutoModelForCausalLM

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.2"
LLM2VEC = "McGill-NLP/LLM2Vec-Mistral-7B-Instruct-v2-mntp"


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))


def write_stand_ins(folder: Path) -> None:
    """Fills a folder that is to pass for the repository of somebody with data."""
    for name in ("recipes", "llm2vec_pl"):
        (folder / name).symlink_to(ROOT / name)
    texts = [f"Text number {i} is about {i} lakes and {'rivers ' * (i % 5)}" for i in range(120)]
    pairs = [{"query": f"where is {i}?", "positive": text} for i, text in enumerate(texts)]
    triplets = [{**pair, "negative": ["elsewhere", f"not {i}"]} for i, pair in enumerate(pairs)]
    write_rows(folder / "articles.jsonl", [{"body": f"{text} " * 8} for text in texts])
    write_rows(folder / "pairs.jsonl", pairs)
    write_rows(folder / "triplets.jsonl", triplets)
    alike = {
        "query": "The bat slept.",
        "positive": "The bat hung there.",
        "negative": "The bat is white.",
    }
    write_rows(folder / "my_triples.jsonl", [alike] * 3)
    for task in ("nq", "allnli"):
        write_rows(folder / "echo-data" / f"{task}.jsonl", triplets)
    for name in ("sentences.txt", "texts.txt"):
        (folder / name).write_text("\n".join(texts))
    (folder / "notes").mkdir()
    (folder / "notes" / "lakes.md").write_text("# Lakes\n\n" + "\n\n".join(texts[:20]))
    (folder / "instructions.yaml").write_text('allnli: ""\n')
    wikipedia = folder / ".." / "shared" / "data" / "wikipedia"
    write_rows(wikipedia / "train.jsonl", [{"text": " ".join(texts)}])
    write_rows(wikipedia / "valid.jsonl", [{"text": " ".join(texts[::-1])}])
    rows = [f"{pair['query']},{pair['positive']}" for pair in pairs]
    (folder / "pairs.csv").write_text("\n".join(["question,answer", *rows]))
    scored = [
        {"sentence1": one, "sentence2": other, "score": i % 6}
        for i, (one, other) in enumerate(zip(texts, texts[::-1], strict=True))
    ]
    for name in ("stsb_train.jsonl", "stsb_dev.jsonl", "stsb_test.jsonl"):
        write_rows(folder / name, scored)
    write_rows(folder / "my_data" / "sts" / "mine.jsonl", scored[:20])
    write_gguf(few_tokens(), folder / "model.gguf")
    few = [{"_id": str(i), "text": text} for i, text in enumerate(texts[:10])]
    write_rows(folder / "beir_folder" / "corpus.jsonl", few)
    write_rows(folder / "beir_folder" / "queries.jsonl", few)
    (folder / "beir_folder" / "qrels").mkdir()
    (folder / "beir_folder" / "qrels" / "test.tsv").write_text(
        "\n".join(f"{i}\t{i}\t1" for i in range(10))
    )
    labelled = [{"text": text, "label": text[12:13]} for text in texts]
    for split in ("train", "test"):
        write_rows(folder / "intents" / f"{split}.jsonl", labelled)
    for name in ("conll2003", "wnut17"):
        write_conll2003(folder / name, 12)
    write_conll2000(folder / "conll2000", 12)
    (folder / "UD_English-EWT").mkdir()
    for split in ("train", "dev", "test"):
        (folder / "UD_English-EWT" / f"en_ewt-ud-{split}.conllu").write_text(CONLLU)
    tagged = [{"tokens": ["to", "Oslo"], "entities": ["O", "B-LOC"]}] * 12
    write_rows(folder / "tagged.jsonl", tagged)
    for page in PAGES:  # a block that begins with a file's name is that file
        for block in fences(page, "python"):
            if match := re.match(r"# (\w+\.py)\n", block):
                (folder / match[1]).write_text(block)


def publish_llm2vec(hub: HubCache, decoder: str, root: Path) -> None:
    """Repositories like those of llm2vec for Mistral, for which a small decoder passes."""
    hub.publish(MISTRAL, decoder)
    for name in (LLM2VEC, f"{LLM2VEC}-supervised"):
        model = AutoModelForCausalLM.from_pretrained(decoder).get_decoder()
        folder = train_lora(model, MISTRAL, root / name)
        if name == LLM2VEC:
            code = {"AutoModel": "modeling_mistral_encoder.MistralEncoderModel"}
            config = {"model_type": "mistral", "auto_map": code}
            (folder / "config.json").write_text(json.dumps(config))
        hub.publish(name, folder)
