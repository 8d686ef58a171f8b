import json
import re

import pytest
import yaml

from lightning_nas.errors import RunFolderError, SpaceError, UsageError
from lightning_nas.genotype import read_genotype
from lightning_nas.nascli import expand_genotype
from lightning_nas.spaces.config import make_space
from lightning_nas.spaces.nasbench201 import NASBench201
from tests.contract import TinySpace

CELL = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"


def write(path, **content):
    path.write_text(json.dumps({"space": "nasbench201", "architecture": CELL, **content}))
    return path


def test_what_a_search_leaves_is_understood(project):
    """The file of a real search, whose space is none of the shipped ones."""
    project.main("search", config=project.write("free.yaml", random_only, num_queries=4, num_runs=2))
    found = read_genotype(str(project.run_dir))
    content = json.loads((project.run_dir / "genotype.json").read_text())
    assert found == read_genotype(str(project.run_dir / "genotype.json"))
    assert make_space(found.space) == TinySpace()
    assert found.architecture == content["architecture"]
    score = f"valid {content['valid']:.2f} %"
    for fact in ("genotype.json", "random", "the best of all strategies and runs on validation", score):
        assert fact in found.origin
    assert f"lightning-nas retrain --genotype {project.run_dir}" in (project.run_dir / "summary.md").read_text()


def random_only(config):
    search = config["trainer"]["callbacks"][0]["init_args"]
    search["strategies"] = {"random": search["strategies"]["random"]}


def test_a_genotype_without_a_class_is_of_a_shipped_space(tmp_path):
    found = read_genotype(str(write(tmp_path / "old.json")))
    assert make_space(found.space) == NASBench201()
    assert found.architecture == CELL


def test_an_architecture_as_typed():
    found = read_genotype(CELL)
    assert make_space(found.space) == NASBench201()
    assert found.architecture == CELL


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "JSONDecodeError"), ("[]", "TypeError"), ("{}", "KeyError.*architecture"),
     ('{"architecture": "x", "space": "nasbench202"}', "KeyError.*nasbench202")],
)  # fmt: skip
def test_a_damaged_file(tmp_path, content, reason):
    path = tmp_path / "genotype.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=rf"genotype\.json: not a genotype .*{reason}.*expected"):
        read_genotype(str(tmp_path))


def test_an_architecture_that_is_not_of_the_space(tmp_path):
    with pytest.raises(SpaceError, match="sep_conv"):
        read_genotype(str(write(tmp_path / "wrong.json", architecture=CELL.replace("nor_conv_3x3", "sep_conv"))))


def test_a_folder_without_a_genotype_says_what_it_holds(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(RunFolderError, match=re.escape(f"{tmp_path}: holds no genotype.json, but config.yaml")):
        read_genotype(str(tmp_path))


def test_neither_file_nor_architecture():
    with pytest.raises(UsageError, match=r"gone\.json: there is no such file"):
        read_genotype("gone.json")
    with pytest.raises(SpaceError, match=r"neither a genotype.json.*got 1 nodes.*--model.space"):
        read_genotype("runs/gone")


def test_images_are_those_the_search_trained_on(tmp_path):
    path = write(tmp_path / "genotype.json")
    given = {"folder": "pictures", "purpose": "search", "num_train": 100, "batch_size": 7}
    data = {"class_path": "some.Images", "init_args": given}
    live = {"class_path": "C", "init_args": {"benchmark": {"class_path": "L", "init_args": {"data": data}}}}
    table = {"class_path": "C", "init_args": {"benchmark": {"class_path": "T", "init_args": {"table": "t"}}}}
    for callbacks, expected in (([{"class_path": "D"}, live], "pictures"), ([table], None)):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
        images = read_genotype(str(path)).images
        # All images, in batches of the recipe's own size.
        assert images == (expected and {**data, "init_args": {"folder": expected, "purpose": "evaluation"}})
    for text in ("{", "trainer: {}", "trainer: 3"):  # it is only a default
        (tmp_path / "config.yaml").write_text(text)
        assert read_genotype(str(path)).images is None


def test_images_are_those_the_supernet_trained_on(tmp_path):
    write(tmp_path / "genotype.json", benchmark={"data": {"data": "cifar10"}})
    images = {
        "class_path": "lightning_nas.datamodules.cifar.CIFAR10DataModule",
        "init_args": {"path": "x", "num_train": 9},
    }
    data = {"class_path": "lightning_nas.datamodules.bilevel.BilevelDataModule", "init_args": {"images": images}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": data, "trainer": {"callbacks": []}}))
    expected = {"class_path": images["class_path"], "init_args": {"path": "x", "purpose": "evaluation"}}
    assert read_genotype(str(tmp_path)).images == expected


def test_digits_keep_their_test_images(tmp_path):
    path = write(tmp_path / "genotype.json")
    data = {"class_path": "lightning_nas.datamodules.vision.DigitsDataModule", "init_args": {"num_train": 600}}
    live = {"init_args": {"benchmark": {"init_args": {"data": data}}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [live]}}))
    assert read_genotype(str(path)).images["init_args"] == {"num_train": 600, "purpose": "evaluation"}


def test_without_its_folder_a_genotype_asks_for_its_images(tmp_path):
    path = str(write(tmp_path / "genotype.json", benchmark={"data": {"data": "folder-1a2b"}}))
    assert read_genotype(path).trained_on == "folder-1a2b"
    with pytest.raises(UsageError, match=r"trained on the images 'folder-1a2b'.*--data"):
        expand_genotype(["--genotype", path])
    assert "--data" in expand_genotype(["--genotype", path, "--data", "DigitsDataModule"])
    table = str(write(tmp_path / "table.json", benchmark={"dataset": "cifar10"}))
    assert expand_genotype(["--genotype", table])[:2] == ["--config", "retrain"]
