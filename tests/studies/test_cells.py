"""From a study to its cells, and what is refused before anything runs."""

import re
from dataclasses import replace

import pytest

import resnet_jax as rn
from resnet_jax.config_files import defined_in
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.studies.cells import cells_of, changed, chosen, scaled

from .tiny import BASE, NETWORKS, RATES, ROOT, cells, study_of, write_study


def test_each_combination_is_a_cell_with_an_ordinary_config():
    found = cells()
    assert [cell.name for cell in found] == ["plain/0.1", "plain/0.2", "residual/0.1", "residual/0.2"]
    assert found[1].values == {"network": "plain", "rate": "0.2"}
    model, optim = replace(BASE.model, shortcut="none"), replace(BASE.optim, base_lr=0.1)
    assert found[0].config == replace(BASE, model=model, optim=optim)
    assert found[3].config == BASE  # its values leave the config as it is
    assert found[3].seeded(7) == replace(BASE, seed=7)


def test_combinations_can_be_left_out():
    kept = cells(leave_out=lambda values: values["network"] == "plain" and float(values["rate"]) > 0.1)
    assert [cell.name for cell in kept] == ["plain/0.1", "residual/0.1", "residual/0.2"]
    with pytest.raises(ConfigError, match="leave_out leaves out every cell"):
        cells(leave_out=lambda values: True)


def test_axes_come_after_options_and_options_after_settings():
    found = cells(["--epochs", "3"], settings={"epochs": 2.0, "batch_size": 32})
    assert {(cell.config.epochs, cell.config.batch_size) for cell in found} == {(3.0, 32)}


def test_overrides_are_checked_together_and_not_one_by_one():
    """Each alone would not fit: the batch is no multiple of the groups."""
    config = changed(BASE, {"batch_size": 96, "model.bn_group_size": 48}, "settings")
    assert (config.batch_size, config.model.bn_group_size) == (96, 48)
    assert changed(BASE, {"model.stage_sizes": [2, 2, 2]}, "").model.stage_sizes == (2, 2, 2)


def test_a_scale_replaces_what_it_names():
    large = rn.Scale(
        settings={"data": rn.DataConfig(channels=1, mean=(0.5,), std=(0.5,)), "epochs": 9.0},
        axes={"rate": {"1": {"optim.base_lr": 1.0}, "2": {"optim.base_lr": 2.0}}},
        seeds=(5,),
    )
    study = study_of(settings={"data.image_size": 8, "batch_size": 16}, scales={"large": large})
    assert scaled(study, None) is study
    other = scaled(study, "large")
    (first, *_) = cells_of(other)
    assert (first.name, other.seeds, first.config.epochs, first.config.batch_size) == ("plain/1", (5,), 9.0, 16)
    assert first.config.data.image_size == 224  # that of the scale's data, not 8
    with pytest.raises(ConfigError, match="unknown scale 'larg'. Did you mean 'large'"):
        scaled(study, "larg")
    with pytest.raises(ConfigError, match="unknown scale 'large': the study has none; leave out --scale"):
        scaled(study_of(), "large")


def test_a_scale_says_nothing_of_cells_that_it_has_not():
    both = tuple(rn.Difference(of=f"plain/{rate}", minus=f"residual/{rate}") for rate in ("0.1", "0.2", "1"))
    slope, source = rn.Slope(along="rate"), {"source": "a paper"}
    larger = rn.Scale(axes={"rate": {"0.2": {"optim.base_lr": 0.2}, "1": {"optim.base_lr": 1.0}}})
    paper = {"plain/0.1": rn.Published(error=1.0, **source), "plain/1": rn.Published(error=2.0, **source)}
    other = scaled(study_of(compare=(slope, *both), paper=paper, scales={"large": larger}), "large")
    assert other.compare == (slope, *both[1:])
    assert list(other.paper) == ["plain/1"]
    assert len(cells_of(other)) == 4
    with pytest.raises(ConfigError, match="compare: unknown cell 'plain/3'"):
        scaled(study_of(compare=(rn.Difference(of="plain/3", minus="plain/1"),), scales={"large": larger}), "large")


def test_a_study_may_bring_networks_of_its_own():
    """The same config is another run where the network is another."""

    def network(config, cell):
        return create_model("cifar_resnet20", stage_sizes=(1,), num_classes=10, width=int(cell.values["width"]))

    found = cells(axes={"width": {"4": {}, "8": {}}}, network=network)
    assert [cell.network.width for cell in found] == [4, 8]
    with pytest.raises(ConfigError, match="the cells four/0.1 and 4/0.1 are the same run"):
        cells(axes={"width": {"four": {}, "4": {}}, "rate": RATES}, network=lambda config, cell: None)


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ((), {"axes": {}}, "the study has no axes, so it is one run"),
        ((), {"seeds": (1, 1)}, r"seeds = \(1, 1\) must be numbers, at least one, each once"),
        (
            (),
            {"axes": {"rate": {"low": {}, "high": {}}}},
            "axis 'rate' overrides nothing: it has the values low, high, and they leave the config as it is",
        ),
        ((), {"axes": {"rate": {"0.1": RATES["0.1"]}}}, "axis 'rate' overrides nothing: it has the values 0.1"),
        (
            (),
            {"axes": {"rate": {"a/b": RATES["0.1"], "c": {}}}},
            "axis 'rate': the value 'a/b' names a folder; it must consist of letters",
        ),
        ((), {"axes": {"rate": {"..": RATES["0.1"], "c": {}}}}, "the value '..' names a folder"),
        (
            (),
            {"axes": {"network": NETWORKS, "again": {"1": {"model.name": "cifar_resnet20"}, "2": {}}}},
            "the cells plain/1 and plain/2 are the same run: their configs do not differ in any field.*leave_out",
        ),
        (
            (),
            {"axes": {"depth": {"20": {"model.stage_size": (3, 3, 3)}, "8": {}}}},
            "cell 20: unknown field of ModelConfig 'stage_size'. Did you mean 'stage_sizes'",
        ),
        ((), {"settings": {"epocs": 3.0}}, "settings: unknown field of Config 'epocs'. Did you mean 'epochs'"),
        ((), {"settings": {"epochs.x": 3.0}}, "settings: unknown field of Config 'epochs'"),
        ((), {"settings": {"epochs": -1.0}}, "settings: Config.epochs = -1.0 is out of range; it must be > 0"),
        (
            (),
            {"axes": {"rate": RATES, "other": {"1": {"optim.base_lr": 1.0}, "2": {"optim.base_lr": 2.0}}}},
            "cell 0.1/1: the axis 'other' sets optim.base_lr to 1.0, and an axis before it to 0.1; let one axis set it",
        ),
        (
            ["--optim.base-lr", "0.5"],
            {},
            "--optim.base-lr: the axis 'rate' sets optim.base_lr in each cell, so the option would have no effect",
        ),
        (["--seed", "3"], {}, "--seed: each run of a study has a seed of its own; say which with --seeds 0 1 2"),
        (["--epocs", "3"], {}, "overrides .*--epocs.* were refused"),
        ((), {"paper": {"plane/0.1": rn.Published(error=1.0, source="a")}}, "paper: unknown cell 'plane/0.1'. Did you"),
        ((), {"compare": (rn.Slope(along="rates"),)}, "compare: unknown axis 'rates'. Did you mean 'rate'"),
        ((), {"compare": (rn.Slope(along="network"),)}, "needs values that are numbers, and 'plain' is none"),
        ((), {"compare": (rn.Difference(of="plain/0.1", minus="plain"),)}, "compare: unknown cell 'plain'"),
        ((), {"base": ROOT / "configs" / "digit.py"}, "config file .*digit.py does not exist.*digits.py"),
    ],
)
def test_what_cannot_be_a_study(options, fields, message):
    with pytest.raises(ConfigError, match=message):
        cells(options, **fields)


def test_a_figure_of_a_paper_is_an_error_or_an_accuracy():
    assert str(rn.Published(error=8.75, source="a")) == "error 8.75 %"
    assert str(rn.Published(accuracy=91.25, source="a")) == "accuracy 91.25 %"
    with pytest.raises(ConfigError, match=r"Published\(source='a'\) must have either error or accuracy, in percent"):
        rn.Published(source="a")


def test_some_cells_are_chosen_by_patterns():
    found = cells()
    assert [cell.name for cell in chosen(found, ["plain/*", "*/0.2"])] == ["plain/0.1", "plain/0.2", "residual/0.2"]
    assert chosen(found, []) == found
    with pytest.raises(ConfigError, match="--only: unknown cell 'plan/0.1'. Did you mean 'plain/0.1'"):
        chosen(found, ["plan/0.1"])


def test_a_file_that_is_no_study(tmp_path):
    with pytest.raises(ConfigError, match="study file .*plain.py does not exist; give the path.*defines `study`"):
        defined_in(tmp_path / "plain.py", "study", rn.Study)
    path = tmp_path / "a.py"
    path.write_text("study = 3\n")
    with pytest.raises(ConfigError, match=r"must define `study = resnet_jax.Study\(...\)`; it defines a int"):
        defined_in(path, "study", rn.Study)
    path = write_study(tmp_path / "b.py", "question='Why?'")
    assert defined_in(path, "study", rn.Study).question == "Why?"


def test_the_study_of_the_page_is_one(tmp_path):
    page = (ROOT / "docs" / "studies.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    path = tmp_path / "page.py"
    path.write_text(code.replace("Path(__file__).parents[1]", f"Path({str(ROOT)!r})"))
    study = defined_in(path, "study", rn.Study)
    assert [cell.name for cell in cells_of(study)] == ["plain/20", "plain/56", "residual/20", "residual/56"]
    for file in re.findall(r"python -m resnet_jax study (studies/\w+\.py)", page):
        assert (ROOT / file).is_file()
