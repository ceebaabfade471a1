"""Writing to disks and to object stores. `test_remote.py` does it with the stores' own clients."""

import io

import pytest
from etils import epath
from etils.epath import gpath

from resnet_jax import files
from resnet_jax.config import Config
from resnet_jax.config_files import saved_config
from resnet_jax.errors import ConfigError, StorageError
from resnet_jax.files import open_folder, open_growing, write_atomically
from resnet_jax.logs.run_log import RunLog, read_metrics

FOLDER = "gs://bucket/run"


class Store:
    """An object store, as far as etils asks one: objects are put and read as a whole, folders are but names."""

    def __init__(self):
        self.objects, self.puts = {}, {}

    def open(self, path, mode):
        if mode in ("r", "rb"):
            return io.BytesIO(self.objects[path])
        assert mode == "wb", "an object cannot be appended to"
        store = self

        class Upload(io.BytesIO):
            def close(self):
                store.objects[path] = self.getvalue()
                store.puts.setdefault(path, []).append(self.getvalue())
                super().close()

        return Upload()

    def exists(self, path):
        return path in self.objects or self.isdir(path)

    def isdir(self, path):
        return any(name.startswith(f"{path}/") for name in self.objects)

    def makedirs(self, path, **_):
        pass


@pytest.fixture
def store(monkeypatch):
    """What was put under `gs://`: `{path: the contents, the newest last}`."""
    store = Store()
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", store)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: True)
    return store.puts


@pytest.mark.parametrize("given", [FOLDER, "gs:/bucket/run", epath.Path(FOLDER)])
def test_a_remote_folder_stays_one(store, given):
    """pathlib drops a slash, and a run would silently go to a local folder named `gs:`."""
    assert str(open_folder(given) / "a") == f"{FOLDER}/a"


def test_a_local_folder_stays_as_it_is(tmp_path):
    assert str(open_folder("runs/a")) == "runs/a"
    assert str(open_folder(tmp_path)) == str(tmp_path)


def test_what_gs_needs_is_said(monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gs://bucket/run needs the package gcsfs; install it with: pip install"):
        saved_config(FOLDER)


def test_an_object_is_put_as_a_whole_when_it_has_to_be_there(store, monkeypatch):
    path = epath.Path(FOLDER) / "log"
    log = open_growing(path, b"a")
    log.write(b"b")
    log.write(b"c")
    assert store[f"{FOLDER}/log"] == [b"a"]
    log.sync()
    log.sync()
    assert store[f"{FOLDER}/log"] == [b"a", b"abc"]
    monkeypatch.setattr(files, "PUT_SECONDS", 0)
    log.write(b"d")
    assert path.read_bytes() == b"abcd"
    monkeypatch.setattr(files, "PUT_SECONDS", 1000)
    log.write(b"e")
    log.close()
    assert path.read_bytes() == b"abcde"


def test_what_an_object_store_refuses_is_said_and_kept(store, monkeypatch):
    path = epath.Path(FOLDER) / "log"
    log = open_growing(path, b"a")
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "write_bytes", lambda *_: (_ for _ in ()).throw(RuntimeError("the quota is used up")))
        log.write(b"b")
        with pytest.raises(StorageError, match=r"gs://bucket/run/log could not be written: the quota is used up"):
            log.sync()
        log.close()
    assert path.read_bytes() == b"a"
    log.write(b"c")
    log.sync()
    assert path.read_bytes() == b"abc"


def test_a_mistake_of_ours_is_no_failed_write(tmp_path):
    with pytest.raises(ZeroDivisionError, match="by zero"), files.explain_failed_write(tmp_path):
        raise ZeroDivisionError("division by zero")


def test_the_log_and_the_config_of_a_run_in_an_object_store(store, tmp_path):
    def write(workdir, steps, start_step=0):
        log = RunLog(
            *(workdir,),
            total_steps=4,
            start_step=start_step,
            images_per_step=1,
            steps_per_epoch=1,
            learning_rate=float,
        )
        for step in steps:
            log.write_eval(step, {"top1": step / 8})
        log.get_state()
        log.write_eval(steps[-1] + 1, {"top1": 1.0})
        log.close()
        return [(record["step"], record["top1"]) for record in read_metrics(workdir)]

    for workdir in (tmp_path, FOLDER):
        assert write(workdir, [1, 2]) == [(1, 1 / 8), (2, 2 / 8), (3, 1.0)]
        assert write(workdir, [3], start_step=2) == [(1, 1 / 8), (2, 2 / 8), (3, 3 / 8), (4, 1.0)]
    contents = store[f"{FOLDER}/metrics.jsonl"]
    assert all(content.endswith(b"\n") for content in contents if content), "no line is ever torn"
    tensorboard = [path for path in store if "/tensorboard/events.out.tfevents." in path]
    assert len(tensorboard) == 2
    write_atomically(f"{FOLDER}/config.json", "{}")
    assert saved_config(FOLDER) == Config()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (r"runs/a\b", r"must not hold '\\\\'"),
        ("runs/a\0b", r"must not hold '\\x00'"),
        ("runs/\udcff", "must be valid UTF-8"),
        ("http://host/run", "it must be a folder of this machine, or on gs or s3"),
        ("gs://bucket/lr[0.1]", r"must not hold '\[' or '\]'"),
    ],
)
def test_a_folder_whose_checkpoints_could_not_be_read_is_refused(name, reason):
    with pytest.raises(ConfigError, match=f"cannot be the folder of a run: .*{reason}.*Choose another --workdir"):
        open_folder(name)


def test_what_is_looked_for_in_a_folder_is_looked_for_there_alone(tmp_path):
    for name in ("a[b]", "ab", "a*"):
        (tmp_path / name / "x").mkdir(parents=True)
        (tmp_path / name / "x" / f"of {name}").touch()
    for name in ("a[b]", "a*"):
        assert [path.name for path in (open_folder(tmp_path / name) / "x").glob("of *")] == [f"of {name}"]
