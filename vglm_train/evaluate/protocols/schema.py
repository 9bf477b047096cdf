"""What a protocol's file holds, and reading it: as strictly as a run's configuration."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from vglm_train.config.language import Decoding
from vglm_train.config.load import load_section
from vglm_train.config.validation import NOT_EMPTY, NOT_NEGATIVE, POSITIVE, FieldError, check_limits, unique
from vglm_train.errors import UserError

FOLDER = Path(__file__).resolve().parent
Family = Literal["causal", "seq2seq"]
Task = Literal["answer", "caption", "retrieval"]
AnswerRule = Literal[
    "vqa", "vqa_lavis", "gqa", "gqa_lavis", "strict", "closed_strict", "open_exact", "llava_med_contains",
    "llava_med_recall",
]  # fmt: skip
CaptionRule = Literal["bleu4", "cider", "rouge_l", "meteor"]
RecallRule = Literal["i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"]
Rule = Literal[AnswerRule, CaptionRule, RecallRule]
RULES = {"answer": get_args(AnswerRule), "caption": get_args(CaptionRule), "retrieval": get_args(RecallRule)}
TOLD = ("source", "note", "about", "unlike", "published")  # what changes no score
PICTURE, ROW = "(picture)", "(row)"  # in place of the column of an id: the number in the picture's name, the row's


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """A text, and where it is from."""

    value: Annotated[str, "the text", NOT_EMPTY]
    source: Annotated[str, "where it is from", NOT_EMPTY]
    note: Annotated[str | None, "what else is to be said", NOT_EMPTY] = None

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """A whole number, and where it is from."""

    value: Annotated[int, "the number", NOT_NEGATIVE]
    source: Annotated[str, "where it is from", NOT_EMPTY]
    note: Annotated[str | None, "what else is to be said", NOT_EMPTY] = None

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A number, and where it is from."""

    value: Annotated[float, "the number"]
    source: Annotated[str, "where it is from", NOT_EMPTY]
    note: Annotated[str | None, "what else is to be said", NOT_EMPTY] = None

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionRule:
    """What is done to a question before it is asked."""

    value: Annotated[Literal["blip_question"], "blip_question: as LAVIS"]
    source: Annotated[str, "where it is from", NOT_EMPTY]
    note: Annotated[str | None, "what else is to be said", NOT_EMPTY] = None

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaning:
    """What is done to a text before it is matched, as model.text.processor."""

    value: Annotated[Literal["blip", "plain"], "the processor"]
    source: Annotated[str, "where it is from", NOT_EMPTY]
    note: Annotated[str | None, "what else is to be said", NOT_EMPTY] = None

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchScore:
    """What is added to the similarity of a candidate."""

    value: Annotated[Literal["match", "log_odds"], "as --rerank-score"]
    source: Annotated[str, "where it is from", NOT_EMPTY]
    note: Annotated[str | None, "what else is to be said", NOT_EMPTY] = None

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The file for the benchmark's server."""

    value: Annotated[Literal["vqa", "gqa", "caption"], "its form"]
    source: Annotated[str, "where it is from", NOT_EMPTY]
    note: Annotated[str | None, "what else is to be said", NOT_EMPTY] = None

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Rows that belong to the protocol: those whose column has one of some values, whatever the case."""

    column: Annotated[str, "a column; types.structural: within an object", NOT_EMPTY]
    values: Annotated[tuple[str, ...], "that it may have", NOT_EMPTY]

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One form in which the benchmark's files are given. Columns within an object or list are named with a dot."""

    main: Annotated[str, "the file, or a pattern, in the folder that is given as --data", NOT_EMPTY]
    join: Annotated[str | None, "the other file, with the answers", NOT_EMPTY] = None
    source: Annotated[str, "where such files are from", NOT_EMPTY]
    note: Annotated[str | None, "what else is to be said", NOT_EMPTY] = None
    id: Annotated[str, "column of the id; (picture): the number in the picture's name; (row): its number", NOT_EMPTY]
    image: Annotated[str, "name of the picture, made of columns: {image}, {image_id:012d}.jpg", NOT_EMPTY]
    question: Annotated[str | None, "column of the question; null: nothing is asked", NOT_EMPTY] = None
    answers: Annotated[
        str | None, "column of what is right: answers, captions; null: the benchmark's server alone has them", NOT_EMPTY
    ]
    type: Annotated[str | None, "column by which scores are also given apart", NOT_EMPTY] = None
    closed: Annotated[Kept | None, "which questions are closed; null: those whose answer is yes or no"] = None
    kept: Annotated[tuple[Kept, ...], "which rows belong to the split; empty: all"] = ()
    split: Annotated[Words | None, "where these files are of another split than the protocol's"] = None
    items: Annotated[Count | None, "rows of that split"] = None

    def __post_init__(self) -> None:
        check_limits(self)
        if (self.split is None) != (self.items is None):
            raise FieldError("items", "split", reason="belongs to another split; give both or neither")


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyPrompt:
    """The prompt for language models of one kind. Those of a kind without one are asked in the bundle's own form."""

    family: Annotated[Family, "causal: OPT and the like; seq2seq: T5 and the like"]
    text: Annotated[str, "{} stands for the question", NOT_EMPTY]
    source: Annotated[str, "where it is from", NOT_EMPTY]
    note: Annotated[str | None, "what else is to be said", NOT_EMPTY] = None

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How answers are decoded: beam search."""

    beams: Count
    min_new: Count
    max_new: Count
    length_penalty: Number

    def decoding(self) -> Decoding:
        """For the generator."""
        values = {name: getattr(self, name).value for name in ("beams", "min_new", "max_new", "length_penalty")}
        return Decoding(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """How pictures and texts are matched."""

    processor: Cleaning
    max_length: Count
    candidates: Count
    score: MatchScore


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A score of the result."""

    name: Annotated[str, "in the result", NOT_EMPTY]
    rule: Annotated[Rule, "how it is computed"]
    about: Annotated[str, "what it is", NOT_EMPTY]
    source: Annotated[str, "where the rule is from", NOT_EMPTY]

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A score that a paper gives. It is shown beside ours, as the paper's."""

    model: Annotated[str, "whose it is", NOT_EMPTY]
    score: Annotated[str, "the name of ours that is computed in the same way", NOT_EMPTY]
    value: Annotated[float, "in per cent; CIDEr: times 100", POSITIVE]
    source: Annotated[str, "paper and table", NOT_EMPTY]

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """A published protocol."""

    name: Annotated[str, "as --protocol takes it", NOT_EMPTY]
    version: Annotated[int, "raised when a value or a score changes", POSITIVE]
    about: Annotated[str, "what is measured", NOT_EMPTY]
    task: Annotated[Task, "what the model does"]
    split: Words
    items: Annotated[Count, "rows of the split: questions; of captions and retrieval pictures"]
    layouts: Annotated[tuple[Layout, ...], "forms of the files, the usual one first", NOT_EMPTY]
    image_size: Annotated[Count | None, "pixels; null: every model has its own"] = None
    prompts: Annotated[tuple[FamilyPrompt, ...], "by the kind of language model"] = ()
    question: Annotated[QuestionRule | None, "what is done to a question; null: nothing"] = None
    search: Annotated[Search | None, "decoding; null: the bundle's own"] = None
    matching: Annotated[Matching | None, "of task retrieval"] = None
    scores: Annotated[tuple[Score, ...], "the main one first", NOT_EMPTY]
    submission: Annotated[Form | None, "the file for the benchmark's server; null: there is none"] = None
    published: Annotated[tuple[Published, ...], "scores of papers"] = ()
    unlike: Annotated[tuple[str, ...], "what is done otherwise here than in the paper, and can change a score"] = ()

    def __post_init__(self) -> None:
        check_limits(self)
        unique("scores", (score.name for score in self.scores), "score")
        if (self.matching is not None) != (self.task == "retrieval"):
            raise FieldError("matching", "task", reason="belongs to task retrieval, which needs it")
        self._check_asked()
        self._check_scores()

    def _check_asked(self) -> None:
        """Questions have a place in the prompt and a column, and nothing else has."""
        asks = self.task == "answer"
        for number, prompt in enumerate(self.prompts):
            if ("{}" in prompt.text) != asks:
                wanted = "{} where the question goes" if asks else "no {}, because nothing is asked"
                raise FieldError(f"prompts.{number}.text", "task", reason=f"must hold {wanted}")
        for number, layout in enumerate(self.layouts):
            if layout.answers is None and self.submission is None:
                raise FieldError(f"layouts.{number}.answers", "submission", reason="is needed where no server has them")
            if (layout.question is not None) != asks:
                raise FieldError(f"layouts.{number}.question", "task", reason="belongs to task answer, which needs it")

    def _check_scores(self) -> None:
        """Rules are of the task, and what a paper gives is compared with a score that there is."""
        names = [score.name for score in self.scores]
        for number, score in enumerate(self.scores):
            if score.rule not in RULES[self.task]:
                raise FieldError(f"scores.{number}.rule", "task", reason=f"is not of task {self.task}")
        for number, each in enumerate(self.published):
            if each.score not in names:
                raise FieldError(f"published.{number}.score", reason=f"must be one of {', '.join(names)}")

    def prompt(self, family: str) -> FamilyPrompt | None:
        """That of a kind of language model; None where none is published."""
        return next((prompt for prompt in self.prompts if prompt.family == family), None)


def names() -> list[str]:
    """Every protocol that is shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_protocol(name: str) -> Protocol:
    """UserError for a name that is none."""
    path = FOLDER / f"{name}.yaml"
    if name not in names():
        raise UserError(f"--protocol {name}: the protocols are {', '.join(names())}.")
    protocol: Protocol = load_section(Protocol, path)
    return protocol


def fingerprint(name: str) -> str:
    """12 digits of the SHA-256 of a protocol's values, and not of the words about them (TOLD)."""
    text = json.dumps(_values(asdict(load_protocol(name))), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _values(tree: Any) -> Any:
    """The tree without the keys of TOLD."""
    if isinstance(tree, dict):
        return {key: _values(value) for key, value in tree.items() if key not in TOLD}
    return [_values(each) for each in tree] if isinstance(tree, list | tuple) else tree
