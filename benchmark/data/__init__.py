"""Data sets: found, decoded once to uint8, and batched on the device.

A new data set is one new file and one line here, or a file of the user's own given with ``--plugin``.
"""

from benchmark.data.base import DatasetBuilder, DecodedImages, split_by_class
from benchmark.data.medical_mnist import MedicalMNIST
from benchmark.data.mnist5k import MNIST5k
from benchmark.data.torchvision import CIFAR10, CIFAR100, MNIST, FashionMNIST
from defenses.support.registry import Registry

registry: Registry[DatasetBuilder] = Registry(
    "dataset", DatasetBuilder, MNIST5k, MNIST, FashionMNIST, CIFAR10, CIFAR100, MedicalMNIST)

__all__ = ["DatasetBuilder", "DecodedImages", "registry", "split_by_class"]
