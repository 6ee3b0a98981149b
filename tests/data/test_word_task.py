import json
import warnings

import pytest
import torch
from conll_files import (
    CONLL2003_IOB1,
    CONLL2003_IOB2,
    CONLLU,
    write_conll2000,
    write_conll2003,
)

from llm2vec_pl.data import WordTask
from llm2vec_pl.data.word_task import read_splits
from llm2vec_pl.data.words import Layout
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError

ROWS = [
    {
        "tokens": ["Marta", "flew", "to", "Oslo"],
        "ner": ["B-PER", "O", "O", "B-LOC"],
        "upos": ["X"] * 4,
    },
    {"tokens": ["It", "rained"], "ner": ["O", "O"], "upos": ["PRON", "VERB"]},
]
NAMES = ["O", "B-PER", "B-LOC"]


@pytest.fixture(scope="module")
def encoder():
    return Encoder("tiny", lora_rank=0)


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) if isinstance(row, dict) else row for row in rows))
    return str(path)


def words_and_tags(found, split="train"):
    return [(s.words, s.tags) for s in found[split]]


def test_the_files_of_conll2003_are_splits(tmp_path, encoder, capsys):
    data = WordTask(str(write_conll2003(tmp_path / "conll2003")), "ner").attach(encoder)
    data.setup()
    assert {split: len(rows) for split, rows in data.sentences.items()} == {
        "train": 60,
        "validation": 20,
        "test": 20,
    }
    assert data.labels == ["O", "B-LOC"]  # the file is IOB1


def test_a_part_of_conll2000_is_held_out_by_its_words(tmp_path):
    folder = str(write_conll2000(tmp_path / "conll2000", 200))
    found, notes = read_splits(folder, Layout("chunk"))
    again, _ = read_splits(folder, Layout("chunk"))
    assert words_and_tags(found, "validation") == words_and_tags(again, "validation")
    assert len(found["train"]) + len(found["validation"]) == 200
    assert 5 <= len(found["validation"]) <= 40
    assert not {tuple(s.words) for s in found["train"]} & {
        tuple(s.words) for s in found["validation"]
    }
    assert f"{len(found['validation'])} sentences of train are held out" in notes[-1]


def test_columns_jsonl_parquet_and_a_data_set_read_the_same(tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

    columns = tmp_path / "columns"
    columns.mkdir()
    lines = [
        "\n".join(f"{w} {t}" for w, t in zip(r["tokens"], r["ner"], strict=True)) for r in ROWS
    ]
    (columns / "train.txt").write_text("\n\n".join(lines))
    write_jsonl(tmp_path / "jsonl" / "train.jsonl", ROWS)
    numbers = [
        {"tokens": row["tokens"], "ner_tags": [NAMES.index(tag) for tag in row["ner"]]}
        for row in ROWS
    ]
    write_jsonl(tmp_path / "numbers" / "train.jsonl", numbers)
    features = Features(
        {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=NAMES))}
    )
    dataset = Dataset.from_list(numbers, features=features)
    (tmp_path / "parquet").mkdir()
    dataset.to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "disk")
    expected = words_and_tags(read_splits(str(columns / "train.txt"), Layout("ner"))[0])
    for kind in ("jsonl", "numbers", "parquet", "disk"):
        names = tuple(NAMES) if kind == "numbers" else ()
        found, _ = read_splits(str(tmp_path / kind), Layout("ner", names=names))
        assert words_and_tags(found) == expected, kind


def test_a_data_set_of_the_hub_that_is_a_script_is_read_from_its_copy_in_parquet(monkeypatch):
    import datasets

    asked = []

    def load_dataset(path, subset, revision=None):
        asked.append(revision)
        if revision is None:
            raise RuntimeError(f"Dataset scripts are no longer supported, but found {path}.py")
        rows = datasets.Dataset.from_list(ROWS)
        return datasets.DatasetDict({"train": rows, "validation": rows, "test": rows})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found, _ = read_splits("org/conll2003", Layout("ner"))
    assert asked == [None, "refs/convert/parquet"]
    assert words_and_tags(found, "test") == [(row["tokens"], row["ner"]) for row in ROWS]
    assert found["test"][1].place == "org/conll2003 (test) row 2"
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(UserError, match=r"'org/conll2003'` is not a local file or folder, and"):
        read_splits("org/conll2003", Layout("ner"))


def test_universal_dependencies_come_with_texts_that_are_left_out(tmp_path):
    (tmp_path / "en-ud-train.conllu").write_text(CONLLU)
    (tmp_path / "en-ud-train.txt").write_text("We don't know.")
    (tmp_path / "README.md").write_text("# A treebank")
    found, notes = read_splits(str(tmp_path), Layout("pos"))
    assert sum(map(len, found.values())) == 2
    assert "en-ud-train.txt" in " ".join(notes)
    assert "README.md" in " ".join(notes)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"tokens": ["a"', r"a.jsonl line 3: expected words and tags, but got broken JSON"),
        ({"tokens": ["a", "b"], "ner": ["O"]}, r"a.jsonl line 3: .* got 2 words .* and 1 tags"),
        ({"tokens": "a b", "ner": ["O", "O"]}, r"a.jsonl line 3: expected a list in 'tokens'"),
        ({"tokens": ["a"], "ner": [None]}, r"a.jsonl line 3: expected strings in 'ner'"),
        ({"tokens": ["a"], "ner": [1]}, r"a.jsonl line 3: 'ner' holds the number 1.*Set `names`"),
        ({"tokens": ["a"], "ner": ["PER"]}, r"a.jsonl line 3: expected tags of spans.*'PER'"),
        ({"tokens": ["a"]}, r"a.jsonl line 3: expected a list in 'ner', but got 'None'"),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, message):
    path = write_jsonl(tmp_path / "a.jsonl", [*ROWS, row])
    with pytest.raises(UserError, match=message):
        read_splits(path, Layout("ner"))


def test_mistaken_columns_and_tasks_are_errors(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(UserError, match="no column 'nerr'; its columns are: tokens, ner, upos"):
        read_splits(path, Layout("ner", "nerr"))
    with pytest.raises(UserError, match="no column of chunk tags"):
        read_splits(path, Layout("chunk"))
    with pytest.raises(UserError, match='expected parts of speech for `task="pos"`, but got'):
        read_splits(path, Layout("pos", "ner"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": None}, "`path` is missing"),
        ({"path": "a/b", "task": "ned"}, "`task` is one of pos, chunk, ner"),
        ({"path": "a/b", "batch_size": 0}, "`batch_size` expects at least 1"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        WordTask(**arguments)


def test_a_path_without_training_files_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"does not exist"):
        read_splits("/no/such/folder", Layout("pos"))
    (tmp_path / "eng.testa").write_text(CONLL2003_IOB1)
    with pytest.raises(
        UserError, match=r"holds no file with train in its name.*there is: eng.testa"
    ):
        read_splits(str(tmp_path), Layout("ner"))
    (tmp_path / "train.txt").write_text(CONLL2003_IOB2)
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(UserError, match=r"train files of several kinds: train.jsonl, train.txt"):
        read_splits(str(tmp_path), Layout("ner"))


def test_a_batch_holds_the_class_of_each_word_that_has_a_token(tmp_path, encoder):
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"tokens": ["a", "", "b"], "upos": ["X", "Y", "X"]}] * 4
    )
    data = WordTask(path, "pos", batch_size=2).attach(encoder)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["labels"].tolist() == [0, 0, 0, 0]
    assert batch["word_places"].tolist() == [[0, 0], [0, 2], [1, 0], [1, 2]]
    assert batch["tags"] == [["X", "Y", "X"]] * 2


def test_words_beyond_the_maximum_length_and_unknown_tags_are_said_once(tmp_path):
    encoder = Encoder("tiny", lora_rank=0, max_length=16)
    rows = [{"tokens": ["word"] * 40, "upos": ["X", "Y"] * 20}] * 3
    write_jsonl(tmp_path / "d" / "train.jsonl", rows)
    write_jsonl(tmp_path / "d" / "test.jsonl", [{"tokens": ["", "a"], "upos": ["NEW", "X"]}])
    data = WordTask(str(tmp_path / "d"), "pos").attach(encoder)
    with pytest.warns(UserWarning, match="WordTask") as said:
        data.setup()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.setup()  # as for a further stage of the trainer
    lines = [str(each.message) for each in said if "WordTask" in str(each.message)]
    assert len(lines) == 4
    cut = [line for line in lines if "beyond the encoder's maximum length" in line]
    assert len(cut) == 2
    assert "Raise --encoder.max_length" in cut[0]
    assert any("1 of 2 words of test have no token" in line for line in lines)
    assert any("NEW (1)" in line for line in lines)
    batch = next(iter(data.test_dataloader()))
    assert batch["labels"].tolist() == [0]


def test_each_sentence_comes_once_an_epoch_in_another_order(tmp_path, encoder):
    rows = [{"tokens": [str(i)], "upos": ["EVEN" if i % 2 == 0 else "ODD"]} for i in range(40)]
    data = WordTask(write_jsonl(tmp_path / "a.jsonl", rows), batch_size=8).attach(encoder)
    data.setup()
    loader = data.train_dataloader()
    epochs = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        ids = torch.cat([batch["input_ids"].sum(dim=1) for batch in loader])
        epochs.append(ids.tolist())
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    assert len(epochs[0]) == len(data.sentences["train"])


@pytest.mark.parametrize(("folder", "task"), [("ud_english_ewt", "pos"), ("wnut17", "ner")])
def test_real_data_is_read(shared_data, folder, task):
    found, _ = read_splits(str(shared_data / "wordlevel" / folder), Layout(task))
    sizes = {"ud_english_ewt": (12544, 2001, 2077), "wnut17": (3394, 1009, 1287)}[folder]
    assert tuple(len(found[s]) for s in ("train", "validation", "test")) == sizes
