"""What an exported ``network.py`` looks like; the names in braces are filled in by :mod:`lightning_nas.export`."""

TEMPLATE = '''\
"""An image classifier found by neural architecture search. Needs nothing but torch (and Pillow to read image files).

{space}: {architecture}

    python network.py image.png      prints the most probable classes of an image

    from network import load, predict
    network = load()
    probabilities = predict(images, network)      # uint8 pixels (B, {channels}, {height}, {width}) -> (B, classes)

The weights lie beside this file in weights.pt. Written by lightning-nas {version}.
"""

import sys
from pathlib import Path

import torch
from torch import nn
{imports}
IMAGE_SHAPE = ({channels}, {height}, {width})  # channels, height, width
MAX_PIXEL = {max_pixel}  # the brightest
# The network's input is (pixels - MEAN) / STD, for every channel.
MEAN = {mean}
STD = {std}
CLASSES = {classes}


{modules}


def load(weights=Path(__file__).with_name("weights.pt")):
    """The trained network, in evaluation mode, on the CPU."""
    network = {constructor}
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


@torch.no_grad()
def predict(images, network=None):
    """Probabilities of the classes: uint8 pixels (B, channels, height, width) -> (B, classes)."""
    mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (MEAN, STD))
    network = load().to(images.device) if network is None else network
    return network((images.float() - mean) / std).softmax(dim=1)


def read_image(path):
    """Pixels of an image file as in training, its central square resized: (channels, height, width) uint8."""
    from PIL import Image, ImageOps

    channels, height, width = IMAGE_SHAPE
    image = Image.open(path)
    if image.mode[0] in "IF":
        raise ValueError(f"{{path}} has more than 8 bits per channel (mode {{image.mode}}); convert it to 8")
    if image.info.get("exif"):  # photographs may lie on their side
        image = ImageOps.exif_transpose(image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, -1)
    return (pixels.permute(2, 0, 1).float() * MAX_PIXEL / 255).round().to(torch.uint8)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python network.py IMAGE")
    (shares,) = predict(read_image(sys.argv[1])[None])
    for share, place in zip(*shares.topk(min(3, len(CLASSES)))):
        print(f"{{CLASSES[place]}}  {{100 * share:.1f}} %")
'''
