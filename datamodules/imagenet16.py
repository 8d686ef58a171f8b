"""ImageNet16-120 as its authors published it."""

from __future__ import annotations

from typing import ClassVar

from lightning_nas.datamodules.published_batches import PublishedBatches


class ImageNet16DataModule(PublishedBatches):
    """ImageNet16-120: the first 120 classes of ImageNet at 16x16 pixels (arXiv 1707.08819, 2001.00326).

    The official 6,000 validation images are the test; a search holds training images out. (NAS-Bench-201 selects by
    one half of the 6,000 and tests on the other.)
    """

    kind = "imagenet16"
    folder = "ImageNet16"
    archive, archive_md5 = None, None
    how_to_get = (
        "get the 16x16 images (11 files, 1.0 GB) from https://image-net.org/download-images, or the folder ImageNet16 "
        "from https://github.com/D-X-Y/NAS-Bench-201"
    )
    train_md5: ClassVar[dict[str, str]] = {
        "train_data_batch_1": "27846dcaa50de8e21a7d1a35f30f0e91",
        "train_data_batch_2": "c7254a054e0e795c69120a5727050e3f",
        "train_data_batch_3": "4333d3df2e5ffb114b05d2ffc19b1e87",
        "train_data_batch_4": "1620cdf193304f4a92677b695d70d10f",
        "train_data_batch_5": "348b3c2fdbb3940c4e9e834affd3b18d",
        "train_data_batch_6": "6e765307c242a1b3d7d5ef9139b48945",
        "train_data_batch_7": "564926d8cbf8fc4818ba23d2faac7564",
        "train_data_batch_8": "f4755871f718ccb653440b9dd0ebac66",
        "train_data_batch_9": "bb6dd660c38c58552125b1a92f86b5d4",
        "train_data_batch_10": "8f03f34ac4b42271a294f91bf480f29b",
    }
    test_md5: ClassVar[dict[str, str]] = {"val_data": "3410e3017fdaefba8d5073aaa65e4bd6"}
    first_label = 1
    valid_share = 0.2
    classes = tuple(str(label) for label in range(1, 121))
    image_shape = (3, 16, 16)
    mean, std = (122.68, 116.66, 104.01), (63.22, 61.26, 65.09)
