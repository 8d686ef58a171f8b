"""What is exported works in a process of its own, where neither this package nor Lightning can be imported."""

import ast
import json
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lightning_nas import export
from lightning_nas.datamodules.decoding import decode
from lightning_nas.errors import NASError, UsageError
from lightning_nas.modules.classifier import ImageClassifier
from tests.contract import quiet_trainer
from tests.modules.test_classifier import Images, Plain, small

BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Trained a little, so that its scores depend on the image, with all that is for training alone."""
    module = small(auxiliary_weight=0.4, drop_path=0.2)
    quiet_trainer(tmp_path_factory.mktemp("training"), max_epochs=4).fit(module, Images())
    return module


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """Everything exported, and images with the scores and probabilities that the live network gives them."""
    folder = tmp_path_factory.mktemp("export")
    export.export_python(model, folder)
    export.export_program(model, folder)
    pixels = np.random.default_rng(0).integers(17, size=(5, 1, 6, 6), dtype=np.uint8)
    with torch.no_grad():
        scores = model.eval()(((torch.from_numpy(pixels) - 0.5) / 0.25).float())
    assert scores.std(dim=0).min() > 1e-2
    np.savez(folder / "expected.npz", pixels=pixels, scores=scores.numpy(), shares=scores.softmax(dim=1).numpy())
    return folder


def fresh(folder, code, *arguments, blocked=("lightning_nas", "pytorch_lightning")):
    """Runs code in a new process in a folder, some packages blocked."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code, *map(str, arguments)],
        capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_source_alone_and_the_class_of_an_image_file(folder):
    expected = np.load(folder / "expected.npz")
    Image.fromarray((expected["pixels"][2, 0] * 255.0 / 16).round().astype(np.uint8)).save(folder / "image.png")
    code = """
import numpy as np, runpy, torch
sys.path.insert(0, ".")
import network
expected = np.load("expected.npz")
shares = network.predict(torch.from_numpy(expected["pixels"]))
assert np.abs(shares.numpy() - expected["shares"]).max() < 1e-6
model = network.load()
assert not model.training
again = network.predict(torch.from_numpy(expected["pixels"][:1]), model)
assert np.abs(again.numpy() - expected["shares"][:1]).max() < 1e-6
print(network.CLASSES, network.IMAGE_SHAPE, network.MEAN, network.STD, network.MAX_PIXEL)
sys.argv = ["network.py", "image.png"]
runpy.run_path("network.py", run_name="__main__")
"""
    constants, *lines = fresh(folder, code).splitlines()
    assert constants == "('top', 'middle', 'bottom') (1, 6, 6) (0.5,) (0.25,) 16"
    shares, names = expected["shares"][2], ("top", "middle", "bottom")
    assert lines == [f"{names[place]}  {100 * shares[place]:.1f} %" for place in shares.argsort()[::-1]]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_image_files_are_read_as_in_training(tmp_path, mode):
    shape = (len(mode), 6, 8)
    export.export_python(ImageClassifier(Plain(), "tanh", 3, shape), tmp_path)
    read = runpy.run_path(str(tmp_path / "network.py"))["read_image"]
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    rng = np.random.default_rng(0)
    # Wide, tall, on its side, of the right size when turned, of the right size.
    for size, exif in (((15, 29), None), ((31, 14), None), ((13, 27), turned), ((8, 6), turned), ((6, 8), None)):
        pixels = rng.integers(256, size=(*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / "image.png", exif=exif or Image.Exif())
        expected = decode(["it"], [tmp_path / "image.png"], shape, resize=True)[0]
        assert torch.equal(read(tmp_path / "image.png"), expected)
    Image.fromarray(np.full((9, 9), 3000, dtype=np.uint16)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match="more than 8 bits per channel"):
        read(tmp_path / "image.png")


def test_the_program_takes_any_number_of_images(folder):
    code = """
import json, numpy as np, torch
files = {"metadata.json": ""}
network = torch.export.load("network.pt2", extra_files=files).module()
about = json.loads(files["metadata.json"])
expected = np.load("expected.npz")
x = (torch.from_numpy(expected["pixels"]).float() - torch.tensor(about["mean"]).view(-1, 1, 1))
x = x / torch.tensor(about["std"]).view(-1, 1, 1)
for n in (1, 3, 5):
    assert np.abs(network(x[:n]).detach().numpy() - expected["scores"][:n]).max() < 1e-5
print(about["classes"], "central square" in about["preprocessing"])
"""
    assert fresh(folder, code).strip() == "['top', 'middle', 'bottom'] True"


def test_onnx_without_torch(model, folder, capfd):
    pytest.importorskip("onnxscript")
    written = export.export_onnx(model, folder)
    assert capfd.readouterr() == ("", "")
    assert written.difference < 1e-5 < written.spread
    code = """
import json, numpy as np, onnxruntime
session = onnxruntime.InferenceSession("network.onnx")
about = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()
         if not name.startswith("pkg.")}
expected = np.load("expected.npz")
mean, std = (np.array(about[name], dtype=np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
x = ((expected["pixels"] - mean) / std).astype(np.float32)
for n in (1, 3, 5):
    (scores,) = session.run(["scores"], {"images": x[:n]})
    assert np.abs(scores - expected["scores"][:n]).max() < 1e-5
print(about["classes"], about["height"], about["width"], about["channels"], about["max_pixel"], about["space"])
"""
    said = fresh(folder, code, blocked=("lightning_nas", "pytorch_lightning", "torch"))
    assert said.strip() == "['top', 'middle', 'bottom'] 6 6 1 16 nasbench201"
    assert not list(folder.glob("*.data"))


def test_nothing_that_only_training_needs_is_exported(model, folder):
    weights = torch.load(folder / "weights.pt", weights_only=True)
    program = torch.export.load(folder / "network.pt2")
    assert weights.keys() == program.state_dict.keys()
    assert not [name for name in (*weights, *program.state_dict) if "auxiliary" in name]
    assert model.network.auxiliary is not None  # the live network keeps it


def test_the_same_network_is_the_same_source(model, folder, tmp_path):
    export.export_python(model, tmp_path)
    for name in ("network.py", "weights.pt"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    imported = {
        alias.name for node in ast.walk(ast.parse((folder / "network.py").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    assert imported == {"sys", "Path", "torch", "nn", "Image", "ImageOps"}


def test_the_live_network_is_left_as_it_was(folder, model):
    """Its memory layout included, which a training resumed from it would feel."""
    (weight,) = [w for name, w in model.network.named_parameters() if name == "stem.0.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_any_space_and_strange_names(tmp_path):
    module = ImageClassifier(Plain(), "tanh", 3, (1, 6, 6), classes=('a "b"', "c\\n", "d'{}"), mean=(1.0,), std=(2.0,))
    assert export.export_python(module, tmp_path).difference == 0.0
    scope = {"__name__": "exported", "__file__": str(tmp_path / "network.py")}
    exec((tmp_path / "network.py").read_text(), scope)
    assert scope["CLASSES"] == ('a "b"', "c\\n", "d'{}")
    assert export.metadata(module)["max_pixel"] == 255


def test_unknown_preprocessing_is_none():
    about = export.metadata(ImageClassifier(Plain(), "tanh", 3, (1, 6, 6)))
    assert (about["mean"], about["std"], about["classes"]) == ((0.0,), (1.0,), ("0", "1", "2"))
    assert json.loads(json.dumps(about))["architecture"] == "tanh"


@pytest.mark.parametrize("write", [export.export_python, export.export_program])
def test_a_wrong_result_is_an_error(model, tmp_path, monkeypatch, write):
    """The check compares with the live network, on scores that differ between images."""
    original = nn.Linear.forward
    calls = []

    def drifting(self, x):
        calls.append(x)
        return original(self, x) + 1e-2 * len(calls)

    monkeypatch.setattr(nn.Linear, "forward", drifting)
    with pytest.raises(NASError, match="scores differ from the network's by up to"):
        write(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_scores_are_compared_on_the_scale_of_their_spread(tmp_path):
    """A network of small scores is not followed by one that says the same of every image."""
    module = ImageClassifier(Plain(), "tanh", 3, (1, 6, 6))
    with torch.no_grad():
        module.network[-1].weight *= 1e-5
        module.network[-1].bias.zero_()
        scores = module.network(torch.randn(7, 1, 6, 6, generator=torch.Generator().manual_seed(0)))
    assert 0 < scores.abs().max() < 5e-5
    assert export._compare(module, tmp_path, export._plain(module)).difference == 0.0
    with pytest.raises(NASError, match="scores differ"):
        export._compare(module, tmp_path, lambda x: torch.zeros(len(x), 3))


class Counted(nn.Module):
    """What fx cannot see: the number of calls before."""

    calls = 0

    def forward(self, x):
        Counted.calls += 1
        return x + float(Counted.calls)


class Fragile(nn.Module):
    """Its source asks for a name that is not there."""

    def __init__(self):
        super().__init__()
        self.add_module("class", nn.ReLU())

    def forward(self, x):
        return self.get_submodule("class")(x)


@pytest.mark.parametrize(
    ("part", "reason"), [(Counted, r"follow 1\.0 \(Counted\) \(NASError: "), (Fragile, r"\(SyntaxError: ")]
)
def test_source_that_does_something_else_is_not_written(tmp_path, part, reason):
    (tmp_path / "network.py").write_text("old")
    module = ImageClassifier(Plain(), "tanh", 3, (1, 6, 6))
    module.network.insert(1, nn.Sequential(part()))
    with pytest.raises(UsageError, match=f"{reason}.*another --format: program, onnx"):
        export.export_python(module, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("network.py", "old")]


class Branching(nn.Sequential):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize("write", [export.export_python, export.export_program, export.export_onnx])
def test_a_network_that_cannot_be_followed(tmp_path, write):
    pytest.importorskip("onnxscript")
    module = ImageClassifier(Plain(), "tanh", 3, (1, 6, 6))
    module.network = Branching(*module.network)
    with pytest.raises(UsageError, match=r"branches on the values of tensors, or (choose )?another --format"):
        write(module, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "network.pt2"
    path.write_text("old")
    monkeypatch.setattr("lightning_nas.files.os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.export_program(model, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["network.pt2"]
    assert path.read_text() == "old"


def test_onnx_that_is_not_installed_names_the_extra(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "onnx_is_there", lambda: False)
    with pytest.raises(UsageError, match=r"pip install 'lightning-nas\[export\]'"):
        export.export_onnx(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
