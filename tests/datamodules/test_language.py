import gzip

import pytest
import torch

from lightning_nas.datamodules.language import END, UNKNOWN, LanguageModelDataModule, Pieces
from lightning_nas.errors import BenchmarkDataError, UsageError

LINES = ["the cat sat", "the dog sat", "a <unk> ran", ""]


def write_folder(folder, names):
    for name, part in zip(names, ("train", "valid", "test"), strict=True):
        text = "\n".join(LINES if part == "train" else ["the bird sat"])
        if name.endswith(".gz"):
            with gzip.open(folder / name, "wt") as file:
                file.write(text)
        else:
            (folder / name).write_text(text)
    return LanguageModelDataModule(str(folder))


@pytest.mark.parametrize("names", [
    ("train.txt", "valid.txt", "test.txt"), ("train.txt.gz", "valid.txt.gz", "test.txt.gz"),
    ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"), ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
], ids=str)  # fmt: skip
def test_folders_of_tokenised_text(tmp_path, names):
    data = write_folder(tmp_path, names)
    data.setup()
    words = list(data.vocabulary)
    assert [words[i] for i in data.train.tolist()] == [w for line in LINES[:3] for w in [*line.split(), END]]
    assert [words[i] for i in data.valid.tolist()] == ["the", UNKNOWN, "sat", END]
    assert data.num_tokens == len(set(words)) == 8


def test_rare_words_become_one(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(["one two one two three"] * 8 + ["one"] * 2))
    data = LanguageModelDataModule(str(tmp_path / "text.txt"), vocabulary_size=4)
    data.setup()
    assert list(data.vocabulary) == ["one", "two", "three", UNKNOWN]
    data = LanguageModelDataModule(str(tmp_path / "text.txt"), vocabulary_size=3)
    data.setup()
    assert set(data.vocabulary) == {"one", "two", UNKNOWN}
    assert (len(data.train), len(data.valid), len(data.test)) == (8 * 6, 2, 2)


def test_the_help_texts_are_there_offline():
    data = LanguageModelDataModule(vocabulary_size=500, num_train=3000, num_valid=400, num_test=300)
    data.setup()
    assert [len(part) for part in (data.train, data.valid, data.test)] == [3000, 400, 300]
    assert len(data.vocabulary) == 500
    assert data.train.max() < 500
    assert data.train.bincount()[:100].float().mean() > 5 * data.train.bincount()[100:].float().mean()
    same = LanguageModelDataModule(vocabulary_size=500, num_train=3000, num_valid=400, num_test=300)
    assert data.identity() == same.identity()
    assert data.identity() != LanguageModelDataModule(vocabulary_size=500, num_train=3001).identity()


def test_pieces_follow_each_other():
    pieces = Pieces(torch.arange(20).view(10, 2), 4)
    assert len(pieces) == 3
    read = [pieces[i] for i in range(3)]
    assert torch.cat([tokens for tokens, _ in read]).tolist() == torch.arange(18).view(9, 2).tolist()
    assert torch.cat([following for _, following in read]).tolist() == torch.arange(2, 20).view(9, 2).tolist()
    data = LanguageModelDataModule(vocabulary_size=50, num_train=500, num_valid=100, num_test=100, batch_size=5, bptt=7)
    data.setup()
    tokens, following = next(iter(data.train_dataloader()))
    assert tokens.shape == following.shape == (7, 5)
    assert torch.equal(tokens[1:], following[:-1])


def test_what_cannot_be_is_said(tmp_path):
    with pytest.raises(BenchmarkDataError, match="holds no train part"):
        LanguageModelDataModule(str(tmp_path)).setup()
    with pytest.raises(BenchmarkDataError, match="cannot be read as text"):
        LanguageModelDataModule(str(tmp_path / "absent.txt")).setup()
    (tmp_path / "short.txt").write_text("word")
    with pytest.raises(BenchmarkDataError, match="part has"):
        LanguageModelDataModule(str(tmp_path / "short.txt")).setup()
    with pytest.raises(UsageError, match="expected positive numbers"):
        LanguageModelDataModule(vocabulary_size=1)
