"""The example that makes a data set of tree crowns."""

import importlib.util
import io
import zipfile
from pathlib import Path

from PIL import Image

from resnet_jax.config import DataConfig
from resnet_jax.data import load_source
from resnet_jax.data.sources import read_objects

ROOT = Path(__file__).parent.parent.parent


def test_trees_become_a_data_set(tmp_path, capsys):
    """examples/trees.py, on a package with made-up photographs of the names and sizes that deepforest ships."""
    spec = importlib.util.spec_from_file_location("trees", ROOT / "examples" / "trees.py")
    trees = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trees)
    crowns = {name: [[10, 20, 60, 80], [300, 100, 330, 130]] for name in trees.NAMES}
    crowns[trees.LARGEST] = [[10, 20, 60, 80], [300, 100, 330, 130], [1950, 100, 1990, 150], [600, 310, 700, 350]]
    sizes = dict(zip(trees.NAMES, ((2299, 2472), (1249, 1035), (400, 400), (400, 400)), strict=True))
    with zipfile.ZipFile(tmp_path / "deepforest.whl", "w") as wheel:
        for name, boxes in crowns.items():
            content = io.BytesIO()
            Image.new("RGBA", sizes[name], (1, 200, 3, 255)).save(content, "PNG")
            wheel.writestr(f"{trees.FOLDER}/{name}.png", content.getvalue())
            xml = "".join(
                f"<object><name>Tree</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
                "</bndbox></object>"
                for a, b, c, d in boxes
            )
            wheel.writestr(f"{trees.FOLDER}/{name}.xml", f"<annotation>{xml}</annotation>")
    counts = trees.main(tmp_path / "trees", tmp_path / "deepforest.whl")
    assert counts == {"train": 54, "test": 16}, "as of the real package"
    assert "54 squares for training and 16 for the test" in capsys.readouterr().out
    splits = {name: load_source(DataConfig(name=f"boxes:{tmp_path / 'trees'}"), name) for name in ("train", "test")}
    boxes = {name: [read_objects(one, i).boxes.tolist() for i in range(len(one))] for name, one in splits.items()}
    assert splits["train"].class_names == ("background", "tree")
    assert boxes["train"][0] == [[10, 20, 60, 80], [300, 100, 320, 130]], "cut off at the border"
    right = next(found for i, found in enumerate(boxes["train"]) if "0000_0320" in splits["train"][i]["name"])
    assert right == [], "a third of the box, and nine tenths of another one's part, are not enough"
    assert sum(map(len, boxes["test"])) == 1
