"""Thumbnails of a folder of pictures, and one sheet of all of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image
from shoal import allow_failure, flow, task, unmapped

SIZE = 96  # of a thumbnail, in pixels


@task(task_run_name="thumbnail of {path.name}")
def thumbnail(path: Path, folder: Path) -> Path:
    """Makes a small copy of a picture. Returns where it is."""
    small = folder / f"{path.stem}.png"
    with Image.open(path) as picture:
        picture.thumbnail((SIZE, SIZE))
        picture.save(small)
    return small


@task
def sheet(small: list[Path | Exception], file: Path, columns: int) -> int:
    """Puts thumbnails side by side. Returns how many there were."""
    paths = [path for path in small if isinstance(path, Path)]
    rows = -(-len(paths) // columns)
    whole = Image.new("RGB", (columns * SIZE, rows * SIZE), "white")
    for number, path in enumerate(paths):
        row, column = divmod(number, columns)
        with Image.open(path) as picture:
            left = column * SIZE + (SIZE - picture.width) // 2
            top = row * SIZE + (SIZE - picture.height) // 2
            whole.paste(picture, (left, top))
    whole.save(file)
    return len(paths)


@flow(task_runner="threads")
def contact_sheet(pictures: Path, folder: Path) -> int:
    """Makes `sheet.png` of the pictures in a folder that can be read."""
    paths = sorted(pictures.glob("*.jpg"))
    small = allow_failure(thumbnail.map(paths, unmapped(folder)))
    return sheet.submit(small, folder / "sheet.png", columns=6).result()


def make_pictures(folder: Path, count: int) -> None:
    """Makes pictures of 1200 x 800 pixels, and a file that is none."""
    for number in range(count):
        colours = Image.linear_gradient("L").rotate(15 * number)
        picture = colours.resize((1200, 800)).convert("RGB")
        picture.save(folder / f"{number:02}.jpg")
    (folder / "broken.jpg").write_bytes(b"not a picture")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        pictures, small = Path(name, "pictures"), Path(name, "small")
        pictures.mkdir()
        small.mkdir()
        make_pictures(pictures, 24)
        count = contact_sheet(pictures, small)
        with Image.open(small / "sheet.png") as whole:
            size = whole.size

    print(count, "thumbnails,", size)  # prints: 24 thumbnails, (576, 384)
    assert size == (6 * SIZE, 4 * SIZE)
