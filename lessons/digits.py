"""Handwritten digits: scikit-learn's 1,797 of 8 x 8 points, which need no network, or MNIST's 70,000 of 28 x 28."""

import gzip
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from miniglm.download import download_file
from miniglm.errors import UserError, refuse

ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist"  # PyTorch's own copy


def digits(mnist: str = "") -> list[torch.Tensor]:
    """[training images, test images, training labels, test labels]: images (N, points) float32 from 0 to 1.

    mnist: a folder with MNIST's four .gz files; those that are not there are fetched into it. "" for scikit-learn's.
    Raises UserError.
    """
    if mnist:
        images = [read_mnist(mnist, f"{part}-images-idx3-ubyte.gz", 784) / 255 for part in ("train", "t10k")]
        labels = [read_mnist(mnist, f"{part}-labels-idx1-ubyte.gz", 1)[:, 0] for part in ("train", "t10k")]
        parts = images + labels
    else:
        points, names = load_digits(return_X_y=True)
        parts = train_test_split(points / 16, names, test_size=360, random_state=0, stratify=names)
    kinds = [torch.float32] * 2 + [torch.int64] * 2
    return [torch.tensor(part, dtype=kind) for part, kind in zip(parts, kinds)]


def read_mnist(folder: str, name: str, width: int) -> np.ndarray:
    """The numbers in one of MNIST's files, (N, width) uint8. Raises UserError where it is damaged or not to be had."""
    path = Path(folder, name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        otherwise = f"; or put {name} into {folder}; or leave --mnist away"
        download_file(f"{ADDRESS}/{name}", path, 5, 30, otherwise).replace(path)
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise UserError(f"{path} is damaged", "delete it, it is fetched again") from error
    header = 16 if width > 1 else 8  # bytes: what the numbers are, and how many in each direction
    size = int.from_bytes(content[4:8], "big") * width
    refuse(len(content) != header + size, f"{path} is no file of MNIST's", "delete it, it is fetched again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(-1, width)
