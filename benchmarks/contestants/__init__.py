"""What is measured, one file each: `build(job)` returns a function that does the work once.

`ours.py` runs in this package's interpreter. The others run in one that has what they measure, and
import nothing from this package. A job is JSON:

- `work`: "mntp", "simcse", "supervised" or "encode";
- `model`: a folder with weights; `old_model`: the same for transformers 4.44;
- `encoder`: further arguments of `Encoder`;
- `precision`: "32-true" or "bf16-mixed"; `device`: "cpu" or "cuda";
- `batch`: a file with `input_ids` and `labels`, (B, L) each, for MNTP;
- `queries`, `positives`, `negatives`: texts to compare; `texts`: texts to embed;
- `batch_size`: for encoding; `embeddings`: the file to save them in; `lora_rank`, `lora_dropout`.
"""
