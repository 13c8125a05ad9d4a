"""Images of the ``datasets`` library: a dataset in memory, or a folder that ``save_to_disk`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from qpass.data.decode import image_bytes
from qpass.data.image_source import Decodes, ImageSource
from qpass.errors import DataError
from qpass.runtime.extras import from_extra


def is_saved_dataset(path: Path) -> bool:
    """Returns whether a folder holds a dataset, or several by the name of their split."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def is_dataset(source: object) -> bool:
    """Returns whether an object is a ``datasets.Dataset``; the library is not imported for it."""
    return any(f"{kind.__module__}.{kind.__name__}" == "datasets.arrow_dataset.Dataset" for kind in type(source).__mro__)


def open_saved_dataset(path: Path, transform: Decodes) -> ImageSource:
    """Opens a folder that ``Dataset.save_to_disk`` wrote.

    Raises:
        DataError: If datasets is missing, the folder holds several splits or is damaged, or see
            ``dataset_images``.
    """
    if not (path / "state.json").is_file():
        splits = sorted(folder.name for folder in path.iterdir() if (folder / "state.json").is_file())
        raise DataError(f"holds the splits {', '.join(splits)}", where=str(path), hint="give the folder of one of them")
    with from_extra("datasets", str(path)):
        import datasets  # slow to import
    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets and pyarrow raise their own kinds
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"cannot be opened: {first[:200]}", where=str(path), expected="a saved dataset") from error
    return dataset_images(dataset, transform, str(path))


def dataset_images(dataset: Any, transform: Decodes, where: str) -> ImageSource:
    """Returns the images of a dataset, with the labels of its only ``ClassLabel`` column.

    Args:
        dataset: A ``datasets.Dataset`` with one column of images.
        transform: Decodes an image file.
        where: Name of the dataset in messages.

    Raises:
        DataError: If it has no column of images, or several.
    """
    kinds = {name: type(feature).__name__ for name, feature in dataset.features.items()}
    columns = [name for name, kind in kinds.items() if kind == "Image"]
    if len(columns) != 1:
        raise DataError(f"has {len(columns)} columns of images among {list(kinds)}", where=where, expected="one")
    (column,) = columns
    encoded = dataset.cast_column(column, type(dataset.features[column])(decode=False))
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    labels = [int(label) for label in dataset.select_columns(classes)[:][classes[0]]] if len(classes) == 1 else None

    def load(index: int) -> Tensor:
        image, name = encoded[index][column], f"{where}[{index}]"
        if image is None:
            raise DataError("holds no image", where=name)
        return transform.decode(image_bytes(Path(image["path"])) if image["bytes"] is None else image["bytes"], name)

    return ImageSource(where, [f"[{index}]" for index in range(len(dataset))], labels, load)
