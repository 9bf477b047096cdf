"""What a person may get wrong in a YAML file or an override, and what the one message must then say."""

import subprocess
import sys
from pathlib import Path

import pytest

from vglm_train.config.load import dump, errors_with_location, load
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError

SMALL = """\
run:
  name: small
  seed: 7
model:
  vision:
    image_size: 112
    patch: 16
data:
  train:
    - name: photos
      shards: shards/photos
  languages: [en, zh]
optim:
  lr: 1e-4
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write text as run.yaml in the working directory, so that messages begin with "run.yaml:"."""
    monkeypatch.chdir(tmp_path)

    def _write(text: str) -> Path:
        Path("run.yaml").write_text(text, encoding="utf-8")
        return Path("run.yaml")

    return _write


def mistake(path: Path, *overrides: str) -> str:
    """The message of loading `path`; a failure if it loads."""
    with pytest.raises(UserError) as caught:
        load(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_reach_their_fields_and_the_rest_keeps_its_default(write):
    config = load(write(SMALL))
    assert (config.run.name, config.run.seed, config.run.length.epochs) == ("small", 7, 10)
    assert config.model.vision.patch == 16
    assert config.model.vision.width == 1408
    assert config.data.languages == ("en", "zh")
    assert [(s.name, s.shards) for s in config.data.train] == [("photos", "shards/photos")]


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4", "1.e-4", "+1e-4"])
def test_a_number_needs_no_dot(write, text):
    assert load(write(f"run: {{name: a}}\noptim: {{lr: {text}}}")).optim.lr == 1e-4
    assert load(write("run: {name: a}"), [f"optim.lr={text}"]).optim.lr == 1e-4


def test_whole_numbers_serve_as_floats_and_become_floats(write):
    clip = load(write("run: {name: a}\noptim: {clip: 1}")).optim.clip
    assert clip == 1.0
    assert isinstance(clip, float)


def test_text_that_looks_like_a_number_to_nobody_but_python_is_text(write):
    assert load(write("run: {name: 1e-4}")).run.name == "1e-4"
    assert load(write("run: {name: 2026-11-22}")).run.name == "2026-11-22"
    assert load(write("run: {name: a, seed: 1_000}")).run.seed == 1000


@pytest.mark.parametrize(
    ("text", "line", "key", "near"),
    [
        ("run: {name: a}\noptm: {}\n", 2, "optm", "optim"),
        ("run:\n  name: a\n  sed: 3\n", 3, "run.sed", "run.seed"),
        ("run: {name: a}\nlog:\n  wandb:\n    projct: x\n", 4, "log.wandb.projct", "log.wandb.project"),
        (
            "run: {name: a}\ndata:\n  train:\n  - name: b\n    shard: c\n",
            5,
            "data.train.0.shard",
            "data.train.0.shards",
        ),
        ("run: {name: a}\ndata: {global-batch: 4}\n", 2, "data.global-batch", "data.global_batch"),
        ("run:\n  name: a\n  zero: 1\n", 3, "run.zero", "engine.zero"),
    ],
)
def test_an_unknown_key_at_any_depth_names_the_nearest(write, text, line, key, near):
    message = mistake(write(text))
    assert message.startswith(f"run.yaml:{line}: {key}: unknown key.")
    assert f"Did you mean {near}?" in message


def test_an_unknown_key_lists_what_is_valid(write):
    assert mistake(write("run: {name: a, xyzzy: 1}")).endswith("Valid here: name, folder, stage, seed, length")


@pytest.mark.parametrize(
    ("text", "again", "first", "key"),
    [
        ("run:\n  name: a\n  seed: 1\n  seed: 1\n", 4, 3, "run.seed"),
        ("run:\n  name: a\noptim: {}\nrun:\n  name: b\n", 4, 1, "run"),
        ("run: {name: a}\ndata:\n  train:\n  - name: b\n    name: c\n", 5, 4, "data.train.0.name"),
    ],
)
def test_a_duplicate_key_names_both_lines(write, text, again, first, key):
    assert mistake(write(text)) == f"run.yaml:{again}: {key}: given twice, first at run.yaml:{first}; keep one"


def test_tab_indentation(write):
    assert mistake(write("run:\n\tname: a\n")).startswith("run.yaml:2: a tab in the indentation")
    assert mistake(write("run:\n  name: a\n  \tseed: 1\n")).startswith("run.yaml:3: a tab in the indentation")
    assert "found character '\\t'" in mistake(write("run:\n  name: a\n  x:\t{a: 1}\n"))
    assert mistake(write("run:\n  name: a\n\t# a comment\n")).startswith("run.yaml:3: a tab in the indentation")


@pytest.mark.parametrize(
    ("line", "key", "expected", "found"),
    [
        ("seed: 1.5", "seed", "a whole number", "the number 1.5"),
        ("seed: '1'", "seed", "a whole number", "the text '1'"),
        ("seed: true", "seed", "a whole number", "true (yes or no)"),
        ("seed: 1e3", "seed", "a whole number", "the text '1e3'; write 1000"),
        ("seed: 010", "seed", "a whole number", "the text '010'; write 10"),
        ("seed: 1:30", "seed", "a whole number", "the text '1:30'"),
        ("seed: null", "seed", "a whole number", "nothing (null)"),
        ("seed:", "seed", "a whole number", "nothing (null)"),
        ("seed: [1]", "seed", "a whole number", "a list of 1"),
        ("seed: {a: 1}", "seed", "a whole number", "a mapping"),
        ("folder: 12", "folder", "text", "the number 12; put it in quotes if it is meant"),
        ("folder: off", "folder", "text", "false (yes or no); put it in quotes if it is meant"),
        ("length: 10", "length", "a mapping with keys such as epochs, steps, samples;", "the number 10"),
        ("length: {epochs: ten}", "length.epochs", "a number", "the text 'ten'"),
        ("length: {epochs: .inf}", "length.epochs", "a number", "the text '.inf'"),
        ("length: {epochs: '1e-4'}", "length.epochs", "a number", "the text '1e-4'"),
        ("stage: aline", "stage", "one of align, generate, finetune;", "the text 'aline' (did you mean align?)"),
    ],
)
def test_a_wrong_type_says_what_was_expected_and_found(write, line, key, expected, found):
    message = mistake(write(f"run:\n  name: a\n  {line}\n"))
    assert message.startswith(f"run.yaml:3: run.{key}: expected {expected}")
    assert message.endswith(f" found {found}")


@pytest.mark.parametrize(
    ("override", "key", "reason"),
    [
        ("data.image.flip=1", "data.image.flip", "expected true or false, found the number 1"),
        ("data.train={name: a}", "data.train", "expected a list such as [..., ...], found a mapping"),
        (
            "data.train=[a]",
            "data.train.0",
            "expected a mapping with keys such as name, shards, table; found the text 'a'",
        ),
        (
            "data.train=[{name: a, shards: b, split: test}]",
            "data.train.0.split",
            "is of a table; these are shards",
        ),
        ("data.train=[{name: a}]", "data.train.0.shards", "give one of shards (a folder of them) and table (a file)"),
        ("data.languages=[english]", "data.languages.0", "expected one of en, zh; found the text 'english'"),
        ("optim.betas=[0.9]", "optim.betas", "expected a list of exactly 2, found a list of 1"),
        ("log.wandb.mode=ofline", "log.wandb.mode", "did you mean offline?"),
        ("model.vision.dtype=bfloat16", "model.vision.dtype", "did you mean bf16?"),
        ("model.vision.dtype=half", "model.vision.dtype", "did you mean fp16?"),
        ("model.vision.dtype=torch.float32", "model.vision.dtype", "did you mean fp32?"),
        ("model.vision.dtype=auto", "model.vision.dtype", "inspect FOLDER` says which one the files have"),
        ("log=null", "log", "expected a mapping with keys such as every, wandb, tensorboard; found nothing (null)"),
        ("run.seed=", "run.seed", "expected a whole number, found nothing (null)"),
        ("run.sead=1", "run.sead", "Did you mean run.seed?"),
        ("run.seed.x=1", "run.seed", "has no keys below it; it is the number 7 at run.yaml:3"),
        ("data.train.x.name=b", "data.train", "no entry 'x'; it has entries 0 to 0, and 1 adds one"),
        ("data.train.2.name=b", "data.train", "no entry '2'; it has entries 0 to 0, and 1 adds one"),
        ("run.seed={a: [", None, "not valid YAML"),
        ("run={seed: 1, seed: 2}", "run.seed", "given twice"),
        ("run.seed", None, "write it as section.key=value"),
        ("run..seed=1", None, "write it as section.key=value"),
        ("=1", None, "write it as section.key=value"),
    ],
)
def test_a_wrong_override_is_named_itself(write, override, key, reason):
    message = mistake(write(SMALL), override)
    assert message.startswith(f"override {override}: {key}: " if key else f"override {override}: ")
    assert reason in message


def test_overrides_set_replace_extend_and_the_last_one_wins(write):
    overrides = ["run.seed=1", "data.train.0.shards=照片", "data.train.1={name: more, shards: b}", "run.seed=2"]
    config = load(
        write(SMALL), [*overrides, "checkpoint.best=null", "log.wandb={mode: offline}", "model.vision.patch=8"]
    )
    assert config.run.seed == 2
    assert [(s.name, s.shards) for s in config.data.train] == [("photos", "照片"), ("more", "b")]
    assert config.log.wandb.mode == "offline"
    assert config.model.vision.patch == 8
    whole = load(write(SMALL), ["data.train=[{name: a, shards: b}]"])
    assert [s.name for s in whole.data.train] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "run.yaml: the file is empty"),
        ("# only a comment\n", "run.yaml: the file is empty"),
        ("- a\n- b\n", "run.yaml:1: expected keys with values, found a list of 2"),
        ("optim: {}\n", "run.yaml:1: run: is missing and has no default"),
        ("\nrun:\n  seed: 1\n", "run.yaml:2: run.name: is missing and has no default"),
        (
            "a: b: c\n",
            "run.yaml:1: not valid YAML: mapping values are not allowed here",
        ),
        ("run: {name: a}\n---\nrun: {name: b}\n", "run.yaml:2: not valid YAML"),
        ("run: &x {name: a, length: *x}\n", "run.yaml:1: nested too deeply"),
        ("run: {name: !!python/name:os.system a}\n", "run.yaml:1: run.name: the YAML tag"),
        ("run: {name: a\x00}\n", "run.yaml: not valid YAML"),
        ("? [a]\n: b\n", "run.yaml:1: the file: a key must be a name"),
    ],
)
def test_what_is_not_a_run_at_all(write, text, message):
    assert mistake(write(text)).startswith(message)


def test_bytes_that_are_not_utf8(write):
    path = write("")
    path.write_bytes("run: {name: 照片}".encode("gb18030"))
    assert mistake(path).startswith("run.yaml: not UTF-8 text")


def test_a_missing_file_names_the_nearest_or_what_is_there(write):
    write(SMALL)
    assert mistake(Path("runs.yaml")) == "runs.yaml: no such file. Did you mean run.yaml?"
    assert mistake(Path("zzz")).startswith("zzz: no such file. YAML files in ")
    assert mistake(Path("zzz")).endswith(": run.yaml")
    assert "Its folder nowhere is not there either" in mistake(Path("nowhere/run.yaml"))
    assert mistake(Path(".")).startswith(". is a folder; give one YAML file.")


def test_a_broken_rule_blames_the_field_and_its_line(write):
    assert mistake(write("run: {name: a}\noptim:\n  lr: 1\n  weight_decay: -1\n")).startswith(
        "run.yaml:4: optim.weight_decay: must not be negative"
    )


def test_a_broken_combination_blames_what_was_given_last(write):
    path = write(SMALL)
    assert mistake(path, "model.vision.image_size=225").startswith(
        "override model.vision.image_size=225: model.vision.im"
    )
    assert mistake(path, "model.vision.patch=15").startswith(
        "override model.vision.patch=15: model.vision.image_size: "
    )
    message = mistake(write("run: {name: a}\nmodel:\n  qformer:\n    positions: 16\n"))
    assert message.startswith("run.yaml:4: model.text.max_length: 32 is longer than qformer.positions 16")


def test_located_gives_later_rules_their_line(write):
    path = write(SMALL)
    with pytest.raises(UserError) as caught, errors_with_location(path):
        raise FieldError("data.train.0.shards", reason="no such folder")
    assert str(caught.value) == "run.yaml:11: data.train.0.shards: no such folder"
    with pytest.raises(UserError) as caught, errors_with_location(path, ["run.seed=3"]):
        raise FieldError("run.seed", reason="unlucky")
    assert str(caught.value) == "override run.seed=3: run.seed: unlucky"
    with pytest.raises(UserError) as caught, errors_with_location(path):
        raise FieldError("data.global_batch", reason="a default")
    assert str(caught.value) == "run.yaml:8: data.global_batch: a default"


def test_dump_loads_back_to_an_equal_run(write):
    overrides = ["run.name='1e-4'", "run.folder='null'", "data.train.0.name='1:30'", "checkpoint.best=eval/r_mean"]
    config = load(write(SMALL), [*overrides, "optim.eps=1e-12", "optim.clip=null", "run.length={samples: 3}"])
    text = dump(config)
    assert load(write(text)) == config
    assert dump(load(write(text))) == text
    assert config.run.folder == "null"
    assert "照片" in dump(load(write(SMALL), ["data.train.0.shards=照片"]))


def test_shares_by_language(write):
    config = load(write(SMALL), ["data.languages=[zh, en]", "data.balance={zh: 1, en: 2.5}"])
    assert config.data.balance == {"zh": 1.0, "en": 2.5}
    assert load(write(dump(config))) == config
    path = write(SMALL)
    assert "data.balance.de: expected one of en, zh; found the text 'de'" in mistake(path, "data.balance={de: 1}")
    assert "data.balance.en: expected a number, found the text 'x'" in mistake(path, "data.balance={en: x}")
    assert "data.balance: expected a mapping such as {en: ...}" in mistake(path, "data.balance=[en]")


def test_loading_takes_no_torch():
    code = "import sys, vglm_train.config.load, vglm_train.config.check; print(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert not loaded & {"torch", "numpy", "transformers", "deepspeed", "PIL"}
