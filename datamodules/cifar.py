"""CIFAR-10 and CIFAR-100 as their authors published them."""

from __future__ import annotations

from typing import ClassVar

from lightning_nas.datamodules.published_batches import PublishedBatches

_CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)


class CIFAR10DataModule(PublishedBatches):
    """CIFAR-10: 60,000 images of 10 classes, 32x32 RGB (Krizhevsky 2009), 10,000 of them for the test.

    The halves of a search have equal shares of every class; those of NAS-Bench-201 and DARTS are other draws.
    """

    kind = "cifar10"
    folder = "cifar-10-batches-py"
    archive = "cifar-10-python.tar.gz"
    archive_md5 = "c58f30108f718f92721af3b95e74349a"
    how_to_get = "get https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (170,498,071 bytes)"
    train_md5: ClassVar[dict[str, str]] = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    }
    test_md5: ClassVar[dict[str, str]] = {"test_batch": "40351d587109b95175f43aff81a1287e"}
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    image_shape = (3, 32, 32)
    mean, std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


class CIFAR100DataModule(PublishedBatches):
    """CIFAR-100: 60,000 images of 100 classes, 32x32 RGB (Krizhevsky 2009), 10,000 of them for the test."""

    kind = "cifar100"
    folder = "cifar-100-python"
    archive = "cifar-100-python.tar.gz"
    archive_md5 = "eb9058c3a382ffc7106e4002c42a8d85"
    how_to_get = "get https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz (169,001,437 bytes)"
    train_md5: ClassVar[dict[str, str]] = {"train": "16019d7e3df5f24257cddd939b257f8d"}
    test_md5: ClassVar[dict[str, str]] = {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}
    labels_key = "fine_labels"
    classes = tuple(_CIFAR100.split())
    image_shape = (3, 32, 32)
    mean, std = (129.3, 124.1, 112.4), (68.2, 65.4, 70.4)
