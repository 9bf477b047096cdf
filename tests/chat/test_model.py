"""Talking to a model from Python."""

import gc
import math
import subprocess
import sys
import weakref
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from PIL import Image
from run import speaking

import vglm_train
from vglm_train.chat.history import ChatTurn
from vglm_train.chat.model import load
from vglm_train.chat.request import Limits
from vglm_train.chat.sampling import read_sampling
from vglm_train.checkpoint.bundle.adapter import base_of, save_adapter
from vglm_train.checkpoint.bundle.format import read_document
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.config.language import CHAT
from vglm_train.config.tuning import Lora, Rule, Tuning
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError
from vglm_train.evaluate.generator import Generator
from vglm_train.image import eval_pixels, open_image
from vglm_train.model.tuning import apply_tuning
from vglm_train.prompt.dialogue import Dialogue, Turn

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("family", speaking.FAMILIES)
@pytest.mark.parametrize("sample", [False, True])
def test_an_answer_is_that_of_evaluation(models, pictures, family, sample):
    """The same prompt, pixels and seed give the same text as the code that evaluates."""
    model = models[family]
    bundle = model.bundle
    decoding = read_sampling({"max_new": 10, "sample": sample, "seed": 3})
    size = bundle.config.model.vision.image_size
    template = bundle.template.with_max_prompt(100)
    generator = Generator(bundle.model, template, bundle.config.prompt.questions, torch.device("cpu"))
    history, seen = [], set()
    for picture in pictures:
        pixels = eval_pixels(open_image(picture.read_bytes()), size)[None]
        (wanted,) = generator.answers([Dialogue("what number", None)], pixels, decoding)
        text, history = model.chat(picture, "what number", max_new=10, sample=sample, seed=3)
        assert text == wanted
        assert history == [ChatTurn("what number", text, (picture,))]
        (second,) = generator.answers([Dialogue("which number", None, (Turn("what number", text),))], pixels, decoding)
        again, _ = model.chat(picture, "which number", history, max_new=10, sample=sample, seed=3)
        assert again == second
        seen.add(text)
    assert len(seen) > 1 or (family, sample) == ("seq2seq", False), (
        "a model that answers the same about all pictures shows nothing"
    )


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_streamed_generated_and_asked_are_one(models, pictures, family):
    model = models[family]
    questions = ["what number", "which", "", "this is number", "no"]
    together = model.generate(pictures, questions, max_new=12, seed=5)
    for picture, question, text in zip(pictures, questions, together, strict=True):
        assert model.chat(picture, question, max_new=12, seed=5)[0] == text
        pieces = list(model.stream(picture, question, max_new=12, seed=5))
        assert "".join(pieces) == text
    assert any(len(list(model.stream(p, "what number", max_new=12))) > 1 for p in pictures)


def test_pictures_of_every_kind_are_one(models, pictures, tmp_path, monkeypatch):
    model, path = models["causal"], pictures[0]
    (tmp_path / "folder").mkdir()
    copy = tmp_path / "folder" / "a picture.png"
    copy.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    image = Image.open(path)
    windows = r"folder\a picture.png"
    kinds = [path, str(path), path.read_bytes(), image, np.asarray(image), copy, PureWindowsPath(windows), windows,
             image.convert("RGBA")]  # fmt: skip
    answers = {model.chat(kind, "what number", max_new=8)[0] for kind in kinds}
    assert len(answers) == 1
    assert answers != {model.chat(pictures[1], "what number", max_new=8)[0]}


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        ("nowhere.png", ["nowhere.png", "no such picture"]),
        (b"not a picture", ["13 bytes", "undecodable", "JPEG"]),
        (np.zeros((4, 4), np.uint8), ["[4, 4]", "height x width x 3"]),
        (np.zeros((4, 4, 3), np.float32), ["float32"]),
        (np.zeros((0, 4, 3), np.uint8), ["[0, 4, 3]"]),
        (3, ["int"]),
        (Image.new("L", (10_000, 10_000)), ["10000 x 10000", "bomb", "smaller"]),
    ],
    ids=["path", "bytes", "grey", "float", "empty", "number", "bomb"],
)
def test_a_picture_that_cannot_be_used_is_named(models, picture, words):
    with pytest.raises(UserError) as error:
        models["causal"].chat(picture, "what")
    assert all(word in str(error.value) for word in words), error.value


def test_a_folder_is_no_picture(models, tmp_path):
    with pytest.raises(UserError, match="a folder, not a picture"):
        models["causal"].chat(tmp_path, "what")


def test_pictures_come_with_their_turns(models, pictures):
    model = models["chatglm"]
    _, history = model.chat([pictures[0], pictures[1]], "what", max_new=6)
    later = model.ask(pictures[2], "which", history)
    assert [len(turn.images) for turn in later.turns] == [2]
    assert later.images == (pictures[2],)
    assert len(later.request.prompt.image_starts) == 3
    assert later.request.prompt.image_starts[2] > later.request.prompt.image_starts[1] + model.template.image_length
    again = model.ask(pictures[0], "which", history)
    assert again.images == ()
    assert len(again.request.prompt.image_starts) == 2, "a picture of an earlier turn is not shown twice"
    nothing = model.ask(None, "which", [])
    assert nothing.request.prompt.image_starts == ()
    assert isinstance(model.answer(nothing).text, str)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_picture_after_turns_without_one_stays_with_its_question(models, pictures, as_json):
    model = models["chatglm"]
    _, history = model.chat(None, "what", max_new=4)
    later = model.ask(pictures[0], "which", [turn.as_json() for turn in history] if as_json else history)
    assert [turn.images for turn in later.turns] == [()]
    assert later.images == (pictures[0],)
    earlier = model.ask(pictures[0], "which", [(turn.question, turn.answer) for turn in history])
    assert [turn.images for turn in earlier.turns] == [(pictures[0],)]
    assert later.request.prompt.image_starts > earlier.request.prompt.image_starts


def test_history_of_pairs_and_of_json_is_the_same(models, pictures):
    model = models["chatglm"]
    turn = ChatTurn("what", "number 3", (str(pictures[0]),))
    asked = [
        model.ask(None, "which", [turn]),
        model.ask(None, "which", [turn.as_json()]),
        model.ask(str(pictures[0]), "which", [("what", "number 3")]),
    ]
    assert len({(tuple(each.request.prompt.input_ids), each.request.names) for each in asked}) == 1
    assert asked[2].history("red") == [turn, ChatTurn("which", "red")]
    with pytest.raises(TypeError, match="no path"):
        ChatTurn("a", "b", (b"123",)).as_json()
    for wrong in (["text"], [("a",)], [{"question": "a"}], [("a", 3)], [None]):
        with pytest.raises(UserError, match="history, turn 1"):
            model.ask(None, "which", wrong)


def test_a_mark_that_is_typed_is_text(models, pictures):
    asked = models["chatglm"].ask(pictures[0], "is <image> a mark?")
    assert len(asked.request.prompt.image_starts) == 1


@pytest.mark.parametrize("family", ["chatglm", "causal"])
def test_oldest_turns_go_where_all_is_too_long_and_their_pictures_stay(models, pictures, family):
    model, history = models[family], []
    dropped, turns = 0, 8 if family == "causal" else 16
    for number in range(turns):
        asked = model.ask(pictures[0] if number == 0 else None, f"what is this number {number}", history, max_new=16)
        assert len(asked.request.prompt.input_ids) + asked.request.decoding.max_new <= model.positions
        assert len(asked.request.prompt.image_starts) == 1
        history = asked.history(model.answer(asked).text)
        dropped += asked.dropped
        assert history[0].images == (pictures[0],)
    assert dropped > 2
    assert len(history) == turns - dropped
    with pytest.raises(UserError, match=r"ids long.*together they may have.*new conversation"):
        model.ask(pictures[0], "what is this number " * 60, max_new=16)


def test_an_answer_has_the_room_that_is_left(models, pictures):
    asked = models["causal"].ask(pictures[0], "what is this", max_new=500)
    assert asked.request.decoding.max_new == 64 - len(asked.request.prompt.input_ids)
    assert models["causal"].answer(asked).reason in ("end", "length")


def test_the_language_is_that_of_the_question(models, pictures):
    model = models["chatglm"]
    texts = [
        model.template.tokenizer.decode(model.ask(pictures[0], q).request.prompt.input_ids) for q in ("第几张", "what")
    ]
    assert "问" in texts[0]
    assert "Q:" in texts[1]


def test_sampling_is_visualglms_unless_told():
    assert read_sampling({}) == CHAT
    assert not read_sampling({"temperature": 0}).sample
    with pytest.raises(FieldError, match="top_p"):
        read_sampling({"top_p": 1.5})


def test_sampling_that_would_leave_no_token_the_likeliest():
    """Logits divided by next to nothing are infinite, and their softmax is no number."""
    assert not read_sampling({"temperature": 1e-45}).sample
    wrong = {"temperature": (-1, math.nan, math.inf), "top_p": (math.nan,), "seed": (-1, 2**63)}
    for name, values in (wrong | {"repetition_penalty": (1e-40, math.nan, 1e9)}).items():
        for value in values:
            with pytest.raises(FieldError, match=name):
                read_sampling({name: value})


@pytest.mark.parametrize("device", ["banana", "meta", "cuda:99", "hpu"])
def test_a_device_that_is_not_there_is_named(bundles, device):
    with pytest.raises(UserError, match=f"there is no device '{device}' here.*there is cpu"):
        vglm_train.load(bundles["causal"], device=device)


def test_a_bundle_without_a_language_model_is_refused(bundles):
    with pytest.raises(UserError, match="stage align and has no language model to talk to"):
        vglm_train.load(bundles["align"])
    with pytest.raises(UserError, match=r"a folder without weights.*or a bundle"):
        vglm_train.load(bundles["align"].parent)


def test_a_fine_tuning_is_on_and_a_further_adapter_too(bundles, pictures, tmp_path):
    """A stage finetune bundle names the bundle it began with, which may have moved."""
    folder, base = bundles["causal"], open_bundle(bundles["causal"], torch.device("cpu"))
    tuning = Tuning(rules=(Rule(match="*", train=False),), lora=Lora(rank=2, alpha=4.0))
    apply_tuning(base.model, tuning, 0)
    with torch.no_grad():
        for _, parameter in base.model.trained_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    parts = base_of(folder, read_document(folder))
    save_adapter(tmp_path / "adapter", base.model.trained_parameters(), tuning, parts, {})
    with load(folder, device="cpu") as plain, load(folder, [str(tmp_path / "adapter")], device="cpu") as tuned:
        asked = [model.chat(pictures[0], "what number", max_new=10, sample=False)[0] for model in (plain, tuned)]
        assert asked[0] != asked[1]
    with load(folder, [f"{tmp_path / 'adapter'}:0"], device="cpu") as off:
        assert off.chat(pictures[0], "what number", max_new=10, sample=False)[0] == asked[0]


def test_a_q_former_that_reads_gets_the_question_of_its_row(reading, pictures):
    """Image tokens depend on the question then, also those that are kept."""
    with load(reading, device="cpu") as model:
        questions = ["photo number", "第几张照片", "photo number"]
        alone = [model.chat(pictures[0], question, max_new=6)[0] for question in questions]
        assert len(model.features) == 2
        assert model.generate([pictures[0]] * 3, questions, max_new=6) == alone
        one, other = (model.features._kept[name] for name in model.features._kept)
        assert not torch.equal(one, other)


def test_a_dtype_is_of_the_language_model(bundles, pictures):
    with load(bundles["causal"], device="cpu", dtype="bf16") as model:
        assert {p.dtype for p in model.bundle.model.language.parameters()} == {torch.bfloat16}
        assert isinstance(model.chat(pictures[0], "what", max_new=4)[0], str)


def test_image_tokens_are_kept_between_turns_within_their_bound(bundles, pictures):
    with load(bundles["causal"], device="cpu", features=3 * 4 * 32 * 4 / 2**20) as model:  # 4 tokens of 32 floats
        encoded = []
        encode = model.bundle.model.encode_image
        model.bundle.model.encode_image = lambda pixels: (encoded.append(len(pixels)), encode(pixels))[1]
        _, history = model.chat(pictures[:2], "what", max_new=2)
        model.chat(None, "which", history, max_new=2)
        assert encoded == [2]
        model.generate(pictures[2:], ["what"] * 3, max_new=2)
        assert len(model.features) == 3
        assert model.features.bytes <= model.features.limit
        model.chat(pictures[0], "what", max_new=2)
        assert sum(encoded) == 6
        model.forget(model.ask(pictures[0], "what"))
        assert len(model.features) == 2


def test_limits_are_told(bundles, pictures):
    with load(bundles["causal"], device="cpu", limits=Limits(new=8, prompt=20)) as model:
        with pytest.raises(UserError, match="answer may have 8 tokens here, and this one has 9"):
            model.chat(pictures[0], "what", max_new=9)
        with pytest.raises(UserError, match="together they may have 20"):
            model.chat(pictures[0], "what is this number " * 6, max_new=4)


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_nothing_of_training_is_imported(bundles, pictures, family):
    """Opening a bundle and answering, in a fresh process."""
    code = (
        "import sys, vglm_train\n"
        "assert 'torch' not in sys.modules\n"
        "model = vglm_train.load(sys.argv[1], device='cpu')\n"
        "print(model.chat(sys.argv[2], 'what', max_new=3)[0])\n"
        "import vglm_train.chat.batch, vglm_train.chat.terminal, vglm_train.chat.visualglm\n"
        "refused = ('deepspeed', 'wandb', 'datasets', 'webdataset', 'boto3', 'matplotlib', 'vglm_train.engine',\n"
        "           'vglm_train.data.dataset', 'vglm_train.data.loader', 'vglm_train.stages')\n"
        "print([name for name in refused if name in sys.modules])\n"
        "print('sat' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundles[family]), str(pictures[0])],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["[]", str(family == "chatglm")]


def test_a_model_that_nobody_holds_gives_its_memory_back(bundles, pictures):
    model = load(bundles["causal"], device="cpu")
    model.chat(pictures[0], "what", max_new=3)
    weights = weakref.ref(model.bundle.model.language)
    thread = model.scheduler._thread
    stream = model.stream(pictures[0], "what")
    next(stream)
    del model, stream
    gc.collect()
    assert not thread.is_alive()
    assert weights() is None


def test_a_program_may_end_within_an_answer(bundles, pictures):
    """Without a crash: torch's threads must not run while Python is taken down."""
    code = (
        "import sys, vglm_train\n"
        "model = vglm_train.load(sys.argv[1], device='cpu')\n"
        "streams = [model.stream(sys.argv[2], 'what', max_new=50) for _ in range(8)]\n"
        "print(next(streams[0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundles["causal"]), str(pictures[0])],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
