"""What a file or folder of weights is."""

from pathlib import Path

from vglm_train.checkpoint.bundle.read import read_document
from vglm_train.checkpoint.convert.registry import FORMATS, can_become, raw_tensors, recognise
from vglm_train.checkpoint.convert.report import bytes_of, groups, size
from vglm_train.config.inherit import merge_first


def inspect(path: Path, kind: str = "auto") -> list[str]:
    """Format, files, sizes, dtypes, keys by group, what it can become. UserError if it cannot be read."""
    kind = recognise(path) if kind == "auto" else kind
    tensors = raw_tensors(path, kind)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    on_disk = bytes_of(sum(file.stat().st_size for file in files))
    lines = [f"{path}: {FORMATS[kind].what} ({kind})", f"  {len(files)} files, {on_disk} on disk", f"  {size(tensors)}"]
    document = read_document(path) if kind == "bundle" else {}
    stage = document.get("stage")
    if document:
        lines.append(f"  stage {stage}")
        lines += [f"  {tower} stands elsewhere: {reference['file']}"
                  for tower, reference in document["towers"].items() if "fingerprint" in reference]  # fmt: skip
    width = max(len(name) for name in groups(tensors))
    lines += [f"  {name:<{width}}  {size(group)}" for name, group in groups(tensors).items()]
    if stage == "finetune":
        return [*lines, f"  {merge_first(document, path)}"]
    return [*lines, f"  can become: {', '.join(can_become(kind, stage, set(tensors)))}"]
