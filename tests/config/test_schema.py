"""The JSON schema marks what the loader refuses, with the field's own description."""

import dataclasses
import json
from typing import Any

import jsonschema_rs
import pytest
import yaml
from shipped import CONFIGS, YAMLS, Read, name, reader

from vglm_train.config.load import dump
from vglm_train.config.run import Config
from vglm_train.config.schema import fields_of, schema, without_none
from vglm_train.config.tuning import Rule
from vglm_train.config.validation import FieldError
from vglm_train.schema import main, schema_text

ROOT = CONFIGS.parent
FILE = CONFIGS / "schema.json"
HEADER = "# yaml-language-server: $schema="


@pytest.fixture(scope="module")
def checker() -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(schema())


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    return reader(tmp_path_factory.mktemp("bundles"))


def described(error: jsonschema_rs.ValidationError) -> str:
    """What an editor shows: the description nearest to what is wrong."""
    node: Any = schema()
    text = node["description"]
    for step in error.schema_path:
        node = node[step]
        text = node.get("description", text) if isinstance(node, dict) else text
    return text


def marked(checker: jsonschema_rs.Validator, text: str) -> list[tuple[str, str]]:
    """(dotted name, description) of what is marked in a YAML."""
    errors = checker.iter_errors(yaml.safe_load(text))
    return [(".".join(map(str, error.instance_path)), described(error)) for error in errors]


def test_the_file_is_up_to_date():
    assert FILE.read_text("utf-8") == schema_text(), "vglm schema --out configs/schema.json writes it anew"


@pytest.mark.parametrize("path", YAMLS, ids=name)
def test_every_shipped_yaml_passes_and_names_the_schema(checker, path, read):
    text = path.read_text("utf-8")
    first = text.splitlines()[0]
    assert first.startswith(HEADER)
    assert (path.parent / first.removeprefix(HEADER)).resolve() == FILE
    assert marked(checker, text) == []
    assert marked(checker, dump(read(path))) == []


def test_a_configuration_stands_in_configs_alone():
    """Elsewhere the test above would not see it."""
    folders = ("vglm_train", "data_tools", "examples", "benchmarks", "docs", "launch")
    found = [path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.y*ml")]
    tables = ("vglm_train/evaluate/protocols/", "vglm_train/evaluate/findings/")  # published protocols; findings
    others = [path for path in found if not path.startswith(tables)]
    assert others == ["docs/tables.yaml"]  # what tables of numbers hold, no configuration


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("optim: {learning_rate: 1.0}", "optim", "AdamW; linear warm-up"),
        ("optim: {lr: fast}", "optim.lr", "peak learning rate"),
        ("optim: {lr: 0}", "optim.lr", "peak learning rate"),
        ("optim: {betas: [0.9]}", "optim.betas", "AdamW's decay rates"),
        ("optim: {betas: [0.9, 1.0]}", "optim.betas.1", "AdamW's decay rates"),
        ("engine: {zero: 4}", "engine.zero", "DeepSpeed's ZeRO stage"),
        ("data: {languages: [fr]}", "data.languages.0", "captions that are used"),
        ("data: {languages: []}", "data.languages", "captions that are used"),
        ("data: {train: [{shards: a}]}", "data.train.0", "Where samples come from"),
        ("data: {balance: {en: 1, fr: 2}}", "data.balance", "shares of drawn captions"),
        ("model: {vision: {weights: ''}}", "model.vision.weights", "a file (safetensors"),
        ("run: {name: a, stage: aligned}", "run.stage", "align: the Q-Former alone"),
    ],
)
def test_a_mistake_is_marked_with_the_description(checker, text, field, says):
    whole = text if text.startswith("run:") else f"run: {{name: a}}\n{text}"
    ((where, description),) = marked(checker, whole)
    assert where == field
    assert says in description


def test_a_bundle_to_begin_with_is_a_key_of_model(checker):
    assert marked(checker, "run: {name: a}\nmodel: {bundle: runs/a/bundle}") == []


def test_null_is_allowed_where_the_loader_allows_it(checker):
    assert marked(checker, "run: {name: a}\ndata: {holdout: null, mix_rows: null}\noptim: {clip: null}") == []
    assert marked(checker, "run: {name: a}\ntuning: {lora: null, quantize: null}") == []


def sections(kind: type) -> set[type]:
    """The section `kind` and all below it."""
    found = {kind}
    for info in fields_of(kind):
        inner, _ = without_none(info.kind)
        for part in (inner, *getattr(inner, "__args__", ())):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                found |= sections(part)
    return found


def test_every_section_and_field_is_described():
    for section in sections(Config):
        assert section.__doc__
        assert not section.__doc__.startswith(f"{section.__name__}("), section
        assert all(info.text.strip() for info in fields_of(section))


def test_a_range_that_the_schema_shows_is_checked():
    with pytest.raises(FieldError, match="must be above 0"):
        Rule(match="a", lr=0)


def test_the_command(tmp_path, capsys):
    assert main([]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
    assert main(["--out", str(tmp_path / "s.json")]) == 0
    assert (tmp_path / "s.json").read_text("utf-8") == schema_text()
