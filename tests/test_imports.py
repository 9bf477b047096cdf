"""The architecture as rules on imports, and the size of files. ARCHITECTURE.md says why; this makes it so."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 300  # lines of a product file

# A part of vglm_train imports only from lines above its own (and from itself).
LAYERS = [
    {"autograd", "errors", "file_kind", "shipped", "version"},
    {"files", "progress"},
    {"folders", "fingerprint"},
    {"weights"},
    {"signals", "config", "batch", "image", "distributed"},
    {"access", "command"},
    {"log"},
    {"prompt", "report", "env", "schema", "benchmark"},
    {"data", "model"},
    {"objective", "checkpoint"},
    {"evaluate"},
    {"engine", "chat"},
    {"serve"},
    {"web"},
    {"stages"},
    {"changes"},
    {"run", "describe"},
    {"train", "clinic"},
    {"elastic"},
    {"__main__"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

# Of what training needs, talking to a model does without.
TALKING_REFUSES = (
    "vglm_train.engine",
    "vglm_train.data.dataset",
    "vglm_train.data.loader",
    "deepspeed",
    "wandb",
    "datasets",
    "webdataset",
)

# What a file whose path begins with the first may not import, beyond the layers.
REFUSED = [
    ("vglm_train/data/", ("vglm_train.model",)),
    ("vglm_train/model/", ("vglm_train.data",)),
    ("vglm_train/evaluate/", ("vglm_train.engine", "vglm_train.data.dataset", "vglm_train.data.loader")),
    ("vglm_train/chat/", TALKING_REFUSES),
    ("vglm_train/serve/", TALKING_REFUSES),
    ("vglm_train/web/", TALKING_REFUSES),
    ("vglm_train/engine/", ("vglm_train.data", "vglm_train.model", "vglm_train.prompt")),
    ("vglm_train/objective/", ("vglm_train.engine",)),
    ("vglm_train/config/", ("torch", "numpy")),
    ("vglm_train/report/", ("torch",)),
    ("vglm_train/weights/", ("torch", "numpy")),
    ("vglm_train/", ("data_tools", "benchmarks", "examples", "train")),
    ("data_tools/", ("vglm_train.engine", "vglm_train.objective", "vglm_train.run", "benchmarks", "examples")),
    ("", ("torchvision",)),
]

# Of these packages, the engine knows only these modules.
ENGINE_MAY = {
    "vglm_train.objective": "vglm_train.objective.base",
    "vglm_train.checkpoint": "vglm_train.checkpoint.resume",
    "vglm_train.evaluate": "vglm_train.evaluate.base",
}

# A command of data_tools imports from its own folder and from common; these from one more.
COMMAND_MAY = {"small_language": {"chatglm_tokenizer"}}

# A library with opinions is imported in one place, so that replacing it is a change of one file.
FENCED = {
    "deepspeed": {"vglm_train/engine/deepspeed_engine.py"},
    "torch.distributed": {"vglm_train/distributed.py", "vglm_train/elastic.py"},
    "transformers": {
        "vglm_train/model/vision/hf.py",
        "vglm_train/weights/encoders.py",
        "vglm_train/model/language/hf/attention.py",
        "vglm_train/model/language/hf/build.py",
        "vglm_train/model/language/hf/decoder.py",
        "vglm_train/model/language/hf/prefix.py",
        "vglm_train/model/language/hf/published.py",
        "vglm_train/model/language/hf/causal.py",
        "vglm_train/model/language/hf/seq2seq.py",
        "vglm_train/prompt/qformer_text.py",
        "vglm_train/prompt/tokenizers.py",
    },
    "triton": {
        "vglm_train/model/language/glm/residual_triton.py",
        "vglm_train/model/language/glm/rope_triton.py",
        "vglm_train/model/language/hf/fused_triton.py",
        "vglm_train/model/language/integers_triton.py",
        "vglm_train/model/attention_triton.py",
        "vglm_train/model/random_triton.py",
        "vglm_train/model/qformer/residual_triton.py",
        "vglm_train/objective/contrastive_triton.py",
        "vglm_train/objective/cross_entropy_triton.py",
        "vglm_train/objective/matching_triton.py",
        "vglm_train/model/language/nf4_triton.py",
        "vglm_train/model/vision/add_norm_triton.py",
        "vglm_train/model/vision/attention_triton.py",
        "vglm_train/model/vision/fp8_triton.py",
    },
    "sentencepiece": {"vglm_train/prompt/chatglm.py", "data_tools/chatglm_tokenizer/train.py"},
    "webdataset": {"data_tools/pack_shards/write.py"},
    "datasets": {"vglm_train/data/tables/hf_dataset.py"},
    "requests": {"vglm_train/data/remote/transfer.py"},
    "urllib3": {"vglm_train/data/remote/transfer.py"},
    "boto3": {"vglm_train/data/remote/transfer.py"},
    "botocore": {"vglm_train/data/remote/transfer.py"},
    "httpcore": {"vglm_train/serve/fetch.py"},
    "wandb": {"vglm_train/log/wandb_run.py", "vglm_train/report/workspace.py"},
    "wandb_workspaces": {"vglm_train/report/workspace.py"},
    "psutil": {"vglm_train/log/wandb_run.py"},
    "yaml": {"vglm_train/config/yaml_tree.py", "vglm_train/config/load.py"},
    "matplotlib": {"vglm_train/report/curves.py", "data_tools/stats/page.py", "examples/demo/figure.py"},
    "pycocoevalcap": {
        "vglm_train/evaluate/metrics/coco.py",
        "vglm_train/evaluate/metrics/english.py",
        "vglm_train/evaluate/metrics/java.py",
    },
    "jieba": {"vglm_train/evaluate/metrics/chinese.py"},
    "rouge_chinese": {"vglm_train/evaluate/metrics/chinese.py"},
    "sacrebleu": {"vglm_train/evaluate/metrics/chinese.py"},
    "nltk": {"vglm_train/evaluate/metrics/chinese.py", "vglm_train/evaluate/metrics/english.py"},
    "fastapi": {
        "vglm_train/serve/answering.py",
        "vglm_train/serve/app.py",
        "vglm_train/serve/openai_routes.py",
        "vglm_train/serve/visualglm.py",
        "vglm_train/web/server.py",
    },
    "uvicorn": {"vglm_train/serve/server.py", "vglm_train/web/server.py"},
    "gradio": {"vglm_train/web/page.py"},
    "sse_starlette": {"vglm_train/serve/openai_routes.py", "vglm_train/serve/server.py"},
    "prometheus_client": {"vglm_train/serve/metrics.py"},
    "sat": {"vglm_train/model/language/glm/sat.py"},
    "pydicom": {
        "vglm_train/image/dicom/apart.py",
        "vglm_train/image/dicom/frames.py",
        "vglm_train/image/dicom/header.py",
        "vglm_train/image/dicom/named.py",
        "vglm_train/image/dicom/pixels.py",
        "vglm_train/image/dicom/private.py",
        "vglm_train/image/dicom/view.py",
        "data_tools/deidentify/write.py",
        "examples/clinic/make_data.py",
    },
    "simplejpeg": {"vglm_train/image/resize.py"},
    "torch.utils.tensorboard": {"vglm_train/log/tensorboard.py"},
    "tqdm": {"vglm_train/progress.py"},
}


def product() -> list[Path]:
    """Every Python file that is shipped, relative to the repository."""
    folders = [p for name in ("vglm_train", "data_tools", "examples") for p in (ROOT / name).rglob("*.py")]
    return sorted(p.relative_to(ROOT) for p in [ROOT / "train.py", *folders])


def imports(source: str) -> Iterator[str]:
    """Dotted names a module imports, wherever in it; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where things come from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
            yield "torch.distributed"


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def part_of(path: Path) -> str:
    """The part of the architecture a file belongs to: vglm_train/data/x.py -> data."""
    return path.with_suffix("").parts[1] if path.parts[0] == "vglm_train" else path.parts[0].removesuffix(".py")


def violations(path: Path, source: str) -> Iterator[str]:
    """Every broken rule in words."""
    for name in imports(source):
        yield from (f"{path} imports {name}: {why}" for why in _reasons(path, name))


def _reasons(path: Path, name: str) -> Iterator[str]:
    file = path.as_posix()
    part, other = part_of(path), name.split(".")[1] if name.startswith("vglm_train.") else None
    if other in LEVEL and part in LEVEL and other != part and LEVEL[other] >= LEVEL[part]:
        yield f"{other} does not stand above {part}"
    for start, refused in REFUSED:
        if file.startswith(start):
            yield from (f"{start or 'the project'} does without {module}" for module in refused if within(name, module))
    if part == "engine":
        for package, allowed in ENGINE_MAY.items():
            if within(name, package) and not within(name, allowed):
                yield f"of {package} the engine knows {allowed} only"
    yield from _command_reasons(path, name)
    for library, files in FENCED.items():
        if within(name, library) and file not in files:
            yield f"{library} belongs in {', '.join(sorted(files)) or 'no file yet'}"


def _command_reasons(path: Path, name: str) -> Iterator[str]:
    if len(path.parts) > 2 and path.parts[0] == "data_tools" and name.startswith("data_tools."):
        command, imported = path.parts[1], name.split(".")[1]
        if imported not in {command, "common", *COMMAND_MAY.get(command, ())}:
            yield f"{command} does without the folder of another command; what both need goes to data_tools/common"


@pytest.mark.parametrize("path", product(), ids=str)
def test_imports_follow_the_architecture(path):
    assert list(violations(path, (ROOT / path).read_text("utf-8"))) == []


def test_every_part_has_its_place():
    parts = {part_of(path) for path in product() if path.parts[0] in ("vglm_train", "train.py")}
    assert parts - {"__init__"} == set(LEVEL)


def test_fences_stand_around_files_that_use_them():
    for library, files in FENCED.items():
        for file in files:
            names = imports((ROOT / file).read_text("utf-8"))
            assert any(within(name, library) for name in names), f"{file} does not import {library}: mend the table"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vglm_train/config/x.py", "import torch"),
        ("vglm_train/config/x.py", "from vglm_train.data.record import Record"),
        ("vglm_train/data/x.py", "def f():\n    from vglm_train.model.alignment import Alignment"),
        ("vglm_train/data/x.py", "from vglm_train import model"),
        ("vglm_train/model/x.py", "import vglm_train.data.dataset as s"),
        ("vglm_train/model/x.py", "import torch.distributed as dist"),
        ("vglm_train/model/x.py", "from torch import distributed"),
        ("vglm_train/model/x.py", "import torch\ntorch.distributed.barrier()"),
        ("vglm_train/objective/x.py", "from vglm_train.engine.trainer import Trainer"),
        ("vglm_train/objective/x.py", "from vglm_train.checkpoint.resume import Checkpoints"),
        ("vglm_train/evaluate/x.py", "from vglm_train.data.loader import Loader"),
        ("vglm_train/engine/x.py", "from vglm_train.objective.alignment import AlignmentObjective"),
        ("vglm_train/engine/x.py", "from vglm_train.checkpoint.bundle.read import save_bundle"),
        ("vglm_train/engine/x.py", "from vglm_train.evaluate.retrieval.evaluator import recall"),
        ("vglm_train/log/x.py", "import wandb"),
        ("vglm_train/engine/hooks.py", "import deepspeed.comm"),
        ("vglm_train/run.py", "import train"),
        ("vglm_train/image.py", "from torchvision.transforms import v2"),
        ("data_tools/x.py", "import webdataset"),
        ("data_tools/stats/x.py", "from data_tools.dedupe.match import compare"),
        ("data_tools/common/x.py", "from data_tools.filter import rules"),
    ],
)
def test_a_broken_rule_is_found(path, source):
    assert list(violations(Path(path), source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vglm_train/engine/x.py", "from vglm_train.objective.base import Objective"),
        ("vglm_train/engine/x.py", "from vglm_train.checkpoint.resume import Checkpoints"),
        ("vglm_train/evaluate/x.py", "from vglm_train.data.eval_captions import EvalSet"),
        ("vglm_train/model/x.py", "from torch import Tensor, nn"),
        ("train.py", "from vglm_train.run import run"),
        ("data_tools/stats/x.py", "from data_tools.common.jobs import JobStage"),
        ("data_tools/stats/x.py", "from data_tools.stats.count import Counts"),
        ("data_tools/small_language/x.py", "from data_tools.chatglm_tokenizer.train import train"),
    ],
)
def test_what_is_allowed_passes(path, source):
    assert list(violations(Path(path), source)) == []


def imported_modules(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module -> those of the others that it imports, wherever in it. `sources`: text by dotted name."""
    found = {}
    for module, source in sources.items():
        names = {name if name in sources else name.rpartition(".")[0] for name in imports(source)}
        found[module] = names & sources.keys() - {module}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, in order; empty where there is none."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        found = next((each for name in sorted(graph[module]) if (each := walk(name, [*way, module]))), [])
        done.add(module)
        return found

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


def test_no_circles():
    sources = {}
    for path in product():
        parts = path.with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = (ROOT / path).read_text("utf-8")
    assert circle(imported_modules(sources)) == []


def test_a_circle_is_found():
    sources = {"p.a": "import p.b", "p.b": "from p import c", "p.c": "def f():\n    from p.a import x", "p": ""}
    assert circle(imported_modules(sources)) == ["p.a", "p.b", "p.c", "p.a"]
    assert circle(imported_modules({**sources, "p.c": "import p"})) == []


def exceptions() -> dict[str, str]:
    """ARCHITECTURE.md, section "Files over 300 lines": a list of `path`: reason."""
    file = ROOT / "ARCHITECTURE.md"
    text = file.read_text("utf-8") if file.exists() else ""
    section = re.search(rf"^#+ Files over {LONGEST} lines\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^[-*] `([^`]+)`: (\S.+)$", section[1], re.MULTILINE)) if section else {}


def too_long(paths: Iterable[Path]) -> set[str]:
    return {path.as_posix() for path in paths if len((ROOT / path).read_text("utf-8").splitlines()) > LONGEST}


def test_files_stay_short_or_give_a_reason():
    launchers = [p.relative_to(ROOT) for folder in ("launch", "benchmarks") for p in (ROOT / folder).rglob("*.*")]
    long = too_long([*product(), *(p for p in launchers if p.suffix in (".py", ".sh"))])
    assert long == set(exceptions())
