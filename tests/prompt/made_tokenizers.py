"""Small tokenizers made here: a SentencePiece file with ChatGLM's layout, and folders as Hugging Face has them."""

import json
from collections.abc import Sequence
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from vglm_train.prompt.chatglm import BLANKS, FILE, NEWLINE, SPECIAL, TAB

FIRST = ("<unk>", "<s>", "</s>", "<pad>", NEWLINE, "▁")
NORMAL, UNKNOWN, CONTROL, DEFINED, UNUSED, BYTE = range(1, 7)
KINDS = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL, "<pad>": UNUSED, NEWLINE: DEFINED}


def ice_text(path: Path, text: dict[int, str] | Sequence[str], length: int | None = None) -> Path:
    """ChatGLM's layout with these text pieces, from id 6 on or at the ids given, `length` of them in all."""
    given = text if isinstance(text, dict) else dict(enumerate(text, len(FIRST)))
    length = length or max(given) + 1
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = 1  # unigram: the fewest pieces win, as all weigh the same
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    names = [*FIRST, *(given.get(number, f"filler{number}") for number in range(len(FIRST), length))]
    kinds = [KINDS.get(name, NORMAL) for name in names]
    for more, kind in ((SPECIAL, CONTROL), ((TAB, *BLANKS), DEFINED), ([f"<0x{n:02X}>" for n in range(256)], BYTE)):
        names += more
        kinds += [kind] * len(more)
    for name, kind in zip(names, kinds, strict=True):
        model.pieces.add(piece=name, score=-1.0 if kind == NORMAL else 0.0, type=kind)
    path.mkdir(parents=True, exist_ok=True)
    (path / FILE).write_bytes(model.SerializeToString())
    return path / FILE


def words_folder(path: Path, words: Sequence[str], front: str = "", behind: str = "", **special: str | None) -> Path:
    """A tokenizer folder: words with the blank before them, each Chinese character by itself; <unk> 0, <pad> 1, ..."""
    names = ["<unk>", "<pad>", "<s>", "</s>", *words]
    backend = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\\p{Han}|[：，。]|\n"), "isolated"),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never"),
        ]
    )
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="never")
    around = [(name, names.index(name)) for name in {front, behind} - {""}]
    if around:
        single = " ".join(part for part in (front, "$A", behind) if part)
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    given = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", **special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **{k: v for k, v in given.items() if v})
    tokenizer.save_pretrained(path)
    return path


def gpt2_folder(path: Path, files: Path, **config: object) -> Path:
    """A folder of vocab.json and merges.txt with the settings OPT gives its tokenizer."""
    path.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        (path / name).write_bytes((files / name).read_bytes())
    marks = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, **marks, **config}
    (path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return path
