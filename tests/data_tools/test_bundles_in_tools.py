"""Every tool on a bundle of every stage, with and without adapters: it works, or one line says what it needs."""

from importlib import import_module
from pathlib import Path

import made_records
import pytest
import torch
from made_bundles import built
from run import runs, speaking

from vglm_train.checkpoint.__main__ import main as checkpoint
from vglm_train.checkpoint.bundle.adapter import base_of, save_adapter
from vglm_train.checkpoint.bundle.format import read_document
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.checkpoint.bundle.write import save_finetuned
from vglm_train.command import run_command
from vglm_train.config.tuning import Lora, Rule, Tuning
from vglm_train.evaluate.__main__ import main as evaluate
from vglm_train.model.tuning import apply_tuning

LORA = Tuning(rules=(Rule(match="*", train=False),), lora=Lora(rank=2, alpha=4.0))
MERGE = "is what a fine-tuning added to another bundle: merge it first, vglm checkpoint merge"

CASES: list[tuple[str, str, str | None]] = [  # tool, bundle, what it says if it does not work
    ("evaluate retrieval", "align", None),
    ("evaluate retrieval", "generate", "is of stage 'generate': give --task caption or vqa or report, not --task "),
    ("evaluate retrieval", "finetune", "is of stage 'finetune': give --task caption or vqa or report, not --task "),
    ("evaluate caption", "align", "is of stage 'align': give --task retrieval, not --task caption."),
    ("evaluate caption", "generate", None),
    ("evaluate caption", "generate + adapter", None),
    ("evaluate caption", "finetune", None),
    ("evaluate caption", "finetune + adapter", None),
    ("evaluate caption", "finetune elsewhere", "which is not there. Give its path with --base."),
    ("evaluate caption", "finetune elsewhere + base", None),
    ("caption", "align", "a bundle of stage one; give one of stage two or a fine-tuning"),
    ("caption", "generate", None),
    ("caption", "generate + adapter", None),
    ("caption", "finetune", None),
    ("caption", "finetune + adapter", None),
    ("caption", "finetune elsewhere", "which is not there. Give its path with --base."),
    ("caption", "finetune elsewhere + base", None),
    ("caption ranked", "align", None),
    ("caption ranked", "generate", "a bundle of stage two; give one of stage one"),
    ("caption ranked", "finetune", "a bundle of a fine-tuning; give one of stage one"),
    ("filter", "align", None),
    ("filter", "generate", "a bundle of stage two; give one of stage one"),
    ("filter", "finetune", "a bundle of a fine-tuning; give one of stage one"),
    ("preview config", "align", None),
    ("preview config", "generate", None),
    ("preview config", "finetune", None),
    ("preview from", "align", None),
    ("preview from", "generate", None),
    ("preview from", "finetune", MERGE),
    ("export lavis", "align", None),
    ("export hf-blip2-retrieval", "align", None),
    ("export hf-blip2", "align", "is of stage align; hf-blip2 holds models of stage generate."),
    ("export lavis", "generate", None),
    ("export hf-blip2", "generate", None),
    ("export visualglm-sat", "generate", "is no VisualGLM: its language model is not ChatGLM"),
    ("export hf-blip2", "finetune", MERGE),
    ("merge", "align + adapter", "is of stage align and has no language model that adapters belong to."),
    ("merge", "generate", "has nothing to merge; give --adapter."),
    ("merge", "generate + adapter", None),
    ("merge", "finetune + adapter", MERGE),
    ("inspect", "align", None),
    ("inspect", "generate", None),
    ("inspect", "finetune", None),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bundles of each stage, an adapter, shards and records."""
    folder = tmp_path_factory.mktemp("made")
    run = runs.write_run(folder)
    config = speaking.write_run(run, speaking.write_bundle(run, folder / "align"), folder / "spoken", "causal")
    stage, model = built(config)
    base = folder / "generate"
    stage.save(base, model, {})
    bundle = open_bundle(base, torch.device("cpu"))
    apply_tuning(bundle.model, LORA, 0)
    save_adapter(folder / "adapter", bundle.model.trained_parameters(), LORA, base_of(base, read_document(base)), {})
    words = ["run.stage=finetune", f"model.qformer.weights={base}", "tuning.rules=[{match: '*', train: false}]"]
    tuned, _ = built(config, *words, "tuning.lora={rank: 2, alpha: 4}")
    for name, began in (("finetune", base), ("elsewhere", folder / "gone")):
        save_finetuned(folder / name, tuned.config, base, bundle.model, bundle.template.tokenizer, {})
        document = folder / name / "bundle.json"
        document.write_text(document.read_text().replace(str(base), str(began)))
    made_records.records(folder / "records", 2)
    return folder


def words_of(tool: str, bundle: str, made: Path, out: Path) -> list[str]:
    """The command line, from the tool's name on."""
    stage, *more = bundle.split(" + ")
    folder = made / stage.split()[-1]
    name, _, what = tool.partition(" ")
    extra = [word for each in more for word in ("--" + each, str(made / {"base": "generate"}.get(each, each)))]
    line = {
        "evaluate": f"evaluate {folder} --task {what} --data {made}/val --workers 0 --images 2 --out {out}/scores.json",
        "caption": f"caption {made}/records/records.jsonl --out {out}/more.jsonl --language en --samples 1 --max-new 4 "
        + (f"--bundle {made}/generate --rank-bundle {folder}" if what else f"--bundle {folder}"),
        "filter": f"filter {made}/records/records.jsonl --out {out}/kept.jsonl --min-similarity -1 --bundle {folder}",
        "preview": f"preview {folder}/config.yaml data.workers=0 --rows 2 --out {out}/sheet.html",
        "export": f"export {folder} --format {what} --out {out}/exported",
        "merge": f"merge {folder} --out {out}/merged",
        "inspect": f"inspect {folder}",
    }[name]
    if what == "from":
        overrides = f"model.bundle={folder} run.stage={'align' if stage == 'align' else 'generate'}"
        line = f"preview {made}/run.yaml {overrides} data.workers=0 --rows 2 --out {out}/sheet.html"
    return [*line.split(), *extra]


@pytest.mark.parametrize(("tool", "bundle", "message"), CASES)
def test_it_works_or_says_what_it_needs(
    made: Path,
    tmp_path: Path,
    tool: str,
    bundle: str,
    message: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "no_java"))  # METEOR takes half a minute, and is tested elsewhere
    name, *words = words_of(tool, bundle, made, tmp_path)
    if name == "evaluate":
        status = evaluate(words)
    elif name in ("export", "merge", "inspect"):
        status = checkpoint([name, *words])
    else:
        monkeypatch.setattr("sys.argv", [name, *words])
        status = run_command(import_module(f"data_tools.{name}.__main__").main)
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    if message is None:
        assert (status, errors) == (0, [])
        assert name == "inspect" or list(tmp_path.iterdir())
    else:
        assert status == 2
        assert len(errors) == 1
        assert message in errors[0]
        assert list(tmp_path.iterdir()) == []
