"""Whole stages of the method, ours and those of the authors' llm2vec 0.2.3, on the same work.

`ours.py` runs in this package's interpreter. `reference.py` runs in one that has llm2vec, and
imports nothing from this package. Each has `run(job, turns)`, which `turns.py` calls. A job is
JSON:

- `stage`: "mntp", "simcse" or "supervised";
- `model`: a folder with weights; `save`: the folder for what this stage leaves;
- `start`: what an earlier stage of the same side has saved, or null;
- `batches` and `held_out`: files of batches. For MNTP those are tensors: blocks of token ids,
  (B, L), and held-out batches with `labels`. Else JSON: lists of `queries`, `positives` and
  `negatives`;
- `texts`: a JSON file of texts to embed at the end; `embeddings`: the file for them;
- `steps`, `learning_rate`, `warmup_steps`, `mask_probability`, `temperature`, `seed`;
- `lora_rank`, `lora_dropout`, `attention_dropout`, `gradient_checkpointing`, `max_length`;
- `precision`: "32-true" or "bf16-mixed"; `device`: "cpu" or "cuda".
"""
