"""`--protocol NAME` on the command line: its options, its report and what it prints."""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.errors import UserError
from vglm_train.evaluate.options import add_model_arguments, refuse
from vglm_train.evaluate.protocols.generate import Output, decoding_of, family_of, generate
from vglm_train.evaluate.protocols.measure import Measured, score_answers, score_captions, score_retrieval
from vglm_train.evaluate.protocols.official import OfficialFiles, OfficialItem, OfficialSet, read_official
from vglm_train.evaluate.protocols.schema import Protocol, fingerprint, load_protocol
from vglm_train.evaluate.protocols.submission import submission
from vglm_train.evaluate.result import Result
from vglm_train.evaluate.vqa.select import CAUSES

DECODING = ("--beams", "--max-new")
FIXED = (  # further options of the tasks that would change the number
    "--max-prompt", "--languages", "--fields", "--source", "--only", "--exclude", "--subset",
    "--train", "--train-source", "--rerank", "--rerank-score",
)  # fmt: skip
OF_TASKS = ("--blind", "--blind-questions", "--findings")


@dataclass(frozen=True, slots=True)
class ProtocolCommand:
    """A protocol as `python -m vglm_train.evaluate` runs it."""

    name: str

    @property
    def STAGES(self) -> tuple[str, ...]:  # noqa: N802  (as the tasks' modules have it)
        return ("align",) if load_protocol(self.name).task == "retrieval" else ("generate", "finetune")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that leave the number as it is."""
        parser.add_argument("--join", help="the benchmark's other file, where it is not beside the first by its name")
        parser.add_argument("--pictures", help="the benchmark's folder of pictures (default: that of --data)")
        if load_protocol(self.name).task != "retrieval":
            add_model_arguments(parser)
            parser.add_argument(
                "--batch", type=int, default=32, help="images at once, shared by the beams (default 32)"
            )
        instead = "leave it out, or give --task, whose number is not the protocol's"
        fixed = f"--protocol sets this itself; {instead}"
        own = f"--protocol {self.name} takes the bundle's own decoding, evaluate.decoding; {instead}"
        refuse(parser, FIXED, fixed)
        refuse(parser, DECODING, own if load_protocol(self.name).search is None else fixed)
        refuse(parser, OF_TASKS, "is of --task vqa and --task report, and not of --protocol; leave it out")

    def run(self, bundle: Bundle, args: argparse.Namespace, device: torch.device) -> Result:
        """Evaluate `bundle` on the files in `args.data`. UserError where they are not the benchmark's, or nothing can
        be scored."""
        protocol = load_protocol(self.name)
        if getattr(args, "batch", 1) < 1:
            raise UserError(f"--batch must be above 0, found {args.batch}.")
        files = read_official(protocol.layouts, args.data, args.join, args.pictures)
        config = bundle.config
        image = config.data.image
        items = OfficialSet(files, config.model.vision.image_size, args.images, image.decoder, image)
        outputs: list[Output] = []
        if protocol.task == "retrieval":
            measured = score_retrieval(protocol, bundle, items, args.workers, device)
        else:
            outputs = generate(protocol, bundle, items, args.batch, args.workers, device)
            if not outputs:
                raise UserError(f"{args.data}: none of {len(items)} pictures can be read; the log says why.")
            score = score_answers if protocol.task == "answer" else score_captions
            measured = score(protocol, outputs)
        report = _report(protocol, bundle, args, files, items, measured, outputs)
        for_server = None if protocol.submission is None else submission(protocol.submission.value, outputs)
        return Result(report, list(_lines(protocol, report)), submission=for_server)


def _report(
    protocol: Protocol, bundle: Bundle, args: argparse.Namespace, files: OfficialFiles, items: OfficialSet,
    measured: Measured, outputs: Sequence[Output],
) -> dict[str, Any]:  # fmt: skip
    """JSON values."""
    split, official = files.layout.split or protocol.split, (files.layout.items or protocol.items).value
    report: dict[str, Any] = {
        "protocol": protocol.name,
        "version": protocol.version,
        "fingerprint": fingerprint(protocol.name),
        "split": split.value,
        "complete": measured.items == official == files.rows,
        "items": {"scored": measured.items, "of_the_split_in_the_files": files.rows, "official": official},
        "left_out": _causes(items, files),
        "unlike": [*_unlike(protocol, bundle), *measured.notes, *protocol.unlike],
        "bundle": str(args.bundle),
        "adapters": list(getattr(args, "adapter", [])),
        "data": ", ".join(map(str, files.paths)),
        "image_size": bundle.config.model.vision.image_size,
        "scores": measured.scores,
        "by_type": measured.by_type,
        "published": [dataclasses.asdict(each) for each in protocol.published],
        "made_by": measured.made_by,
    }
    if protocol.task != "retrieval":
        prompt = protocol.prompt(family_of(bundle))
        report["prompt"] = prompt.text if prompt else "the bundle's own"
        report["decoding"] = dataclasses.asdict(decoding_of(protocol, bundle))
        marks = measured.marks or [{} for _ in outputs]
        report["answers"] = [_row(item, text, own) for (item, text), own in zip(outputs, marks)]
    else:
        report["queries"] = measured.queries
    return report


def _causes(items: OfficialSet, files: OfficialFiles) -> dict[str, int]:
    """Cause -> rows of the split that were not scored."""
    counts = dict(items.damaged)
    for each in files.broken:
        counts[each.cause] = counts.get(each.cause, 0) + 1
    return counts


def _row(item: OfficialItem, output: str, marks: Mapping[str, float]) -> dict[str, Any]:
    row = {
        "id": item.id, "picture": item.picture_name, "question": item.question, "type": item.type,
        "answers": list(item.answers), "output": output,
    }  # fmt: skip
    return {name: value for name, value in row.items() if value not in ("", None) or name == "output"} | {
        "marks": dict(marks)
    }


def _unlike(protocol: Protocol, bundle: Bundle) -> Iterator[str]:
    """What of this bundle is not as the paper's."""
    wanted, size = protocol.image_size, bundle.config.model.vision.image_size
    if wanted is not None and wanted.value != size:
        yield f"The bundle sees pictures of {size} pixels, the paper's models of {wanted.value}."
    if protocol.prompts and protocol.task != "retrieval" and protocol.prompt(family_of(bundle)) is None:
        yield (
            f"No prompt is published for a language model of family {family_of(bundle)}: it is asked in the bundle's "
            "own form."
        )


def _lines(protocol: Protocol, report: Mapping[str, Any]) -> Iterator[str]:
    """What is printed."""
    items, named = report["items"], f"{protocol.name}, version {protocol.version}, {report['fingerprint']}"
    yield f"protocol {named}: {report['split']}"
    counted = f"{items['scored']:,} of the official {items['official']:,} were scored"
    if report["complete"]:
        yield f"  complete: {counted}"
    else:
        causes = CAUSES if protocol.task == "answer" else CAUSES | {"caption": "without a caption"}
        left = "".join(f"; left out: {count} {causes[cause]}" for cause, count in report["left_out"].items())
        there = f"{items['of_the_split_in_the_files']:,} are in the files"
        yield f"  a part, which is not the benchmark's number: {counted}, {there}{left}"
    width = max(len(score.name) for score in protocol.scores) + 2
    for score in protocol.scores:
        if score.name in report["scores"]:
            yield f"  {score.name:{width}}{report['scores'][score.name]:7.2f}  {score.about}"
    if not report["scores"]:
        yield "  not scored: the benchmark's server alone has the answers; give it the file of the submission"
    for kind, scores in report["by_type"].items():
        main = protocol.scores[0].name
        if main in scores:
            yield f"    {kind}: {main} {scores[main]:.2f}"
    of_paper: dict[tuple[str, str], list[str]] = {}
    for each in protocol.published:
        of_paper.setdefault((each.model, each.source), []).append(f"{each.score} {each.value:.2f}")
    for (model, source), values in of_paper.items():
        yield f"  the paper's, not ours: {', '.join(values)}  {model} ({source})"
    yield from (f"  unlike the paper: {text}" for text in report["unlike"])
