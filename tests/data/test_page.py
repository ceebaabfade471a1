"""docs/data.md and docs/augmentation.md: what they print runs, on small data of the names that they use."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax import load_config
from resnet_jax.cli import main
from resnet_jax.config import AugmentConfig, DataConfig
from resnet_jax.data import load_source
from resnet_jax.data.sources import load

ROOT = Path(__file__).parent.parent.parent
TFDS = ROOT / "tests" / "data" / "fixtures" / "array_record"


def commands(page):
    found = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.M | re.S)
    return [shlex.split(line, comments=True) for line in "".join(found).splitlines() if line]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a person would stand, with `photos` in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    rng = np.random.default_rng(0)
    for i in range(6):
        path = tmp_path / "photos" / ("train", "test")[i % 2] / f"class{i // 2}" / f"{i}.jpg"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (300, 280 + i, 3), np.uint8)).save(path)
    return tmp_path


def test_preparing_data(folder, capsys):
    build, of_folder, of_tfds, train = (
        words for words in commands("data.md") if words[4:5] == ["prepare"] or words[1] == "train.py"
    )
    assert {tuple(words[:5]) for words in (build, of_folder, of_tfds)} == {
        ("python", "-m", "resnet_jax", "data", "prepare")
    }
    if find_spec("tensorflow") is None:
        with pytest.raises(SystemExit, match='needs TensorFlow, .* pip install -e ".\\[tfds\\]"'):
            main(build[3:])
    main(of_folder[3:])
    assert of_tfds[5] == "tfds:imagenet2012"
    main([word.replace("imagenet2012", "tiny_digits") for word in of_tfds[3:]] + ["--directory", str(TFDS)])
    out = [words[words.index("--out") + 1] for words in (of_folder, of_tfds)]
    assert [len(load_source(DataConfig(name=f"records:{name}"), "train")) for name in out] == [3, 20]
    config = load_config(train[2], train[3:])
    assert len(load_source(config.data, "train")) == 3
    assert "train: 3 images, 0 left out" in capsys.readouterr().out


def test_aligning_faces(folder, capsys):
    (align,) = (words for words in commands("data.md") if words[3:4] == ["align"])
    (form,) = re.findall(r"lines of the file are `(name,x1.*?)`", (ROOT / "docs" / "data.md").read_text())
    assert form == "name,x1,y1,...,x5,y5"
    points = "110,130,170,130,140,160,115,190,165,190"
    images = sorted(path.relative_to("photos").as_posix() for path in Path("photos").rglob("*.jpg"))
    Path("points.csv").write_text("".join(f"{name},{points}\n" for name in images))
    main(align[3:])
    assert "6 images of 112 x 112 pixels are in aligned" in capsys.readouterr().out
    source = load_source(DataConfig(name="folder:aligned"), "train")
    assert (len(source), source.class_names) == (3, ("class0", "class1", "class2"))


def test_looking_at_data(folder, capsys):
    shows = commands("augmentation.md")
    assert len(shows) == 2
    for words in shows:
        main(words[3:])
        with Image.open(folder / words[words.index("--out") + 1]) as picture:
            assert min(picture.size) > 200
    for name in ("digits", "synthetic", "folder:photos"):
        main(["data", "info", name])
    assert "class2" in capsys.readouterr().out


def test_the_table_of_augmentations_names_every_field():
    page = (ROOT / "docs" / "augmentation.md").read_text()
    assert not [name for name in AugmentConfig.__dataclass_fields__ if f"`{name}`" not in page]


def test_the_table_of_sources_names_every_kind():
    page = (ROOT / "docs" / "data.md").read_text()
    assert not [kind for kind in load._PLAIN if f"| `{kind}` |" not in page]
    assert not [kind for kind in load._WITH_PATH if f"| `{kind}:" not in page]
