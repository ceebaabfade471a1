"""Whatever a config is made of, it is built or refused with an error of ours."""

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_jax.config import Config
from resnet_jax.config.checked import from_dict
from resnet_jax.config_files import override, saved_config
from resnet_jax.errors import ConfigError

SECTIONS = {
    section.name: [field.name for field in dataclasses.fields(section.default_factory)]
    for section in dataclasses.fields(Config)
    if section.default_factory is not dataclasses.MISSING
}
OWN = [field.name for field in dataclasses.fields(Config) if field.name not in SECTIONS]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = scalars | st.lists(scalars, max_size=4) | st.dictionaries(st.text(max_size=8), scalars, max_size=3)
sections = {
    name: st.dictionaries(st.sampled_from(names) | st.text(max_size=8), values, max_size=4) | values
    for name, names in SECTIONS.items()
}
dictionaries = st.fixed_dictionaries({}, optional={**sections, **dict.fromkeys(OWN, values), "": values})
quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def built_or_refused(build):
    try:
        config = build()
    except ConfigError:
        return None
    assert isinstance(config, Config)
    return config


@quick
@given(dictionaries)
def test_dictionaries(values):
    config = built_or_refused(lambda: from_dict(Config, values))
    if config is not None:
        assert built_or_refused(lambda: from_dict(Config, json.loads(json.dumps(dataclasses.asdict(config))))) == config


@quick
@given(st.text() | st.recursive(values, lambda inner: st.dictionaries(st.text(), inner)).map(json.dumps) | st.binary())
def test_config_json(tmp_path, text):
    content = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    (tmp_path / "config.json").write_bytes(content)
    built_or_refused(lambda: saved_config(tmp_path))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"seed": ' + "9" * 10_000 + "}", '{"epochs": 1e999}', '{"epochs": NaN}']
)
def test_config_json_made_to_hurt(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert built_or_refused(lambda: saved_config(tmp_path)) is None


def test_a_kind_that_is_no_name():
    with pytest.raises(ConfigError, match=r"unknown kind '\[\]'. Known: .*classify"):
        from_dict(Config, {"task": {"kind": []}})


options = st.sampled_from([f"--{name}" for name in OWN] + [f"--{s}.{name}" for s in SECTIONS for name in SECTIONS[s]])
words = options | st.text(max_size=10) | st.integers().map(str) | st.floats().map(str) | st.just("--help")


@settings(quick, max_examples=40)
@given(st.lists(words, max_size=3))
def test_command_lines(arguments):
    built_or_refused(lambda: override(Config(), arguments))
