from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from llm2vec_pl.data import Mixture, PythonDocs, Wikipedia
from llm2vec_pl.errors import UserError


@pytest.fixture
def two_files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_text("\n".join(f"{path.stem} number {i}" for i in range(500)))
    return list(map(str, paths))


def test_an_epoch_holds_the_blocks_of_all_parts_shuffled(two_files: list[str], tokenizer) -> None:
    parts = [Wikipedia(path, max_length=16) for path in two_files]
    data = Mixture(parts, batch_size=8).attach(tokenizer)
    data.prepare_data()
    data.setup()
    rows = [row for batch in data.train_dataloader() for row in batch["input_ids"].tolist()]
    from_a = ["a number" in tokenizer.decode(row) for row in rows]
    assert len(rows) == sum(len(part.blocks["train"]) for part in parts)
    assert 0 < sum(from_a[: len(rows) // 2]) < len(rows) // 2
    validation = [row for batch in data.val_dataloader() for row in batch["input_ids"].tolist()]
    assert len(validation) == sum(len(part.blocks["validation"]) for part in parts)


def test_parts_of_different_lengths_are_padded(two_files: list[str], tokenizer) -> None:
    parts = [Wikipedia(two_files[0], max_length=8), Wikipedia(two_files[1], max_length=16)]
    data = Mixture(parts, batch_size=64).attach(tokenizer)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["input_ids"].shape == (64, 16)
    assert set(batch["attention_mask"].sum(1).tolist()) == {8, 16}


def test_no_parts_foreign_parts_and_streams_are_refused(two_files: list[str], tokenizer) -> None:
    with pytest.raises(UserError, match="`parts` expects at least one"):
        Mixture([])
    with pytest.raises(UserError, match="`parts` expects data modules of text blocks"):
        Mixture([LightningDataModule()])
    with pytest.raises(UserError, match="set `streaming=False`"):
        Mixture([Wikipedia(two_files[0], streaming=True)]).attach(tokenizer).setup()


def test_constructor_arguments_are_flags(two_files: list[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument("--data", type=LightningDataModule)
    wikipedia = ["--data=llm2vec_pl.data.Wikipedia", "--data.path", two_files[0]]
    flags = ["--data.streaming=true", "--data.max_rows=10", "--data.on_bad_row=skip"]
    data = parser.instantiate(parser.parse_args([*wikipedia, *flags])).data
    assert isinstance(data, Wikipedia)
    assert data.streaming is True


def test_a_yaml_may_nest_parts(two_files: list[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument("--data", type=LightningDataModule)
    config = parser.parse_string(f"""
data:
  class_path: llm2vec_pl.data.Mixture
  init_args:
    parts:
    - class_path: llm2vec_pl.data.Wikipedia
      init_args: {{path: {two_files[0]}, max_length: 64}}
    - class_path: llm2vec_pl.data.PythonDocs
      init_args: {{max_length: 64}}
    batch_size: 7
""")
    data = parser.instantiate(config).data
    assert isinstance(data, Mixture)
    assert [type(part) for part in data.parts] == [Wikipedia, PythonDocs]
    assert (data.batch_size, data.max_length) == (7, 64)
