"""Write a fetched data set as PNG files in class folders, as `data.name=folder` reads them.

    python benchmarks/image_folder.py cifar10 FOLDER

FOLDER then has `train/<class>/<index>.png` and `test/<class>/<index>.png` in the original size.
"""

import argparse
from pathlib import Path

from PIL import Image

from pipeline.data.datasets import SPLITS, load_stored, store_root


def write_folder(name: str, folder: Path) -> None:
    """Write both splits of the data set `name`; a class name's "/" becomes "-"."""
    for split in SPLITS:
        data = load_stored(name, store_root(), split)
        class_folders = [folder / split / c.replace("/", "-") for c in data.class_names]
        for class_folder in class_folders:
            class_folder.mkdir(parents=True, exist_ok=True)
        for i, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
            pixels = image.transpose(1, 2, 0)  # (H, W, C)
            pixels = pixels if pixels.shape[2] == 3 else pixels[:, :, 0]
            Image.fromarray(pixels).save(class_folders[label] / f"{i:05d}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="a fetched data set: mnist, fashion_mnist or cifar10")
    parser.add_argument("folder", type=Path, help="where the class folders go")
    args = parser.parse_args()
    write_folder(args.name, args.folder)
