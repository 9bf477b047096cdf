"""`vglm evaluate BUNDLE --protocol NAME`: bundles on benchmarks in their own layouts, against other computations."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_benchmarks as made
import pytest
import torch
from run import runs, speaking

from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.config.language import Decoding
from vglm_train.evaluate import to_wandb
from vglm_train.evaluate.__main__ import main
from vglm_train.evaluate.compare.__main__ import main as compare
from vglm_train.evaluate.generator import Generator
from vglm_train.evaluate.metrics import vqav2
from vglm_train.evaluate.protocols import schema
from vglm_train.image import whole_pixels
from vglm_train.prompt.dialogue import Dialogue

PEOPLE = [["red"] * 10, ["one"] * 5 + ["two"] * 5, ["none"] * 10, ["red"] * 9 + ["nan"]]
NO_JAVA = "there is no `java` in PATH"


def evaluate(bundle: Path, name: str, data: Path, out: Path, *words: str) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    own = [str(bundle), "--protocol", name, "--data", str(data), "--workers", "0", "--out", str(out), *words]
    assert main(own) == 0
    (path,) = [path for path in out.iterdir() if ".submission." not in path.name]
    return made.read_json(path)


def differences(first: Path, second: Path) -> dict[str, dict[str, Any]]:
    """What `vglm compare` says of the results in two folders: of each score of all items."""
    results = [next(path for path in out.iterdir() if ".submission." not in path.name) for out in (first, second)]
    out = second.parent / "compared.json"
    assert compare([*map(str, results), "--out", str(out)]) == 0
    return {each["metric"]: each for each in made.read_json(out)["parts"][0]["differences"]}


def submission(out: Path) -> Any:
    (path,) = out.glob("*.submission.json")
    return made.read_json(path)


@pytest.fixture(scope="module")
def vqa_data(tmp_path_factory) -> Path:
    return made.vqav2(tmp_path_factory.mktemp("vqav2"), PEOPLE)


@pytest.mark.parametrize(
    ("family", "prompt"), [("causal", "Question: {} Answer:"), ("seq2seq", "Question: {} Short answer:")]
)
def test_answers_are_those_of_the_papers_prompt_and_search(bundles, vqa_data, tmp_path, family, prompt):
    """The same answers from a generator that is told each value by hand."""
    report = evaluate(bundles[family], "vqav2", vqa_data, tmp_path / "out", "--pictures", str(vqa_data / "val2014"))
    bundle = open_bundle(bundles[family], torch.device("cpu"))
    old = bundle.template
    words = replace(old.prompt, asked=prompt, max_prompt=60)
    template = type(old)(words, old.tokenizer, old.image_length, old.text)
    generator = Generator(bundle.model, template, words.questions, torch.device("cpu"))
    asked = ["what is this?", "is it a photo?", "which number a is it?", "what colour is that red?"]
    decoding, decoder = Decoding(beams=5, max_new=10, min_new=1, length_penalty=-1), bundle.config.data.image.decoder
    pictures = [vqa_data / "val2014" / f"COCO_val2014_{number:012d}.jpg" for number in (42, 42, 43, 43)]
    pixels = torch.stack([whole_pixels(path.read_bytes(), 16, decoder) for path in pictures])
    expected = generator.answers([Dialogue(text, None) for text in asked], pixels, decoding)
    assert [row["output"] for row in report["answers"]] == expected
    assert len(set(expected)) > 1
    assert submission(tmp_path / "out") == [
        {"question_id": number, "answer": text} for number, text in zip((420, 421, 430, 431), expected)
    ]
    assert report["prompt"] == prompt
    assert report["decoding"] == report["decoding"] | {"beams": 5, "max_new": 10, "min_new": 1, "length_penalty": -1.0}


def test_vqav2_from_files_to_number(bundles, tmp_path, monkeypatch, capsys):
    """People who agree with the model's own answers: 3 of 10 (0.9), all (1), 2 of 10 (0.6), none."""
    outputs = tmp_path / "first"
    data = made.vqav2(tmp_path / "data", PEOPLE)
    words = ("--pictures", str(data / "val2014"))
    evaluate(bundles["causal"], "vqav2", data, outputs, *words)
    said = [row["answer"] for row in submission(outputs)]
    plain = [vqav2.normalised(text) for text in said]
    people = [[plain[0]] * 3 + ["x"] * 7, [said[1]] * 10, ["x"] * 8 + [plain[2]] * 2, ["x"] * 10]
    made.vqav2(tmp_path / "data", people)
    protocol_of_four(tmp_path, monkeypatch)
    report = evaluate(bundles["causal"], "vqav2", data, tmp_path / "second", *words)
    assert round(report["scores"]["accuracy"], 2) == 62.5
    assert {kind: own["accuracy"] for kind, own in report["by_type"].items()} == pytest.approx(
        {"other": 50, "yes/no": 75}
    )
    assert [row["marks"]["accuracy"] for row in report["answers"]] == pytest.approx([0.9, 1, 0.6, 0])
    assert [row["marks"]["accuracy_lavis"] for row in report["answers"]][::2] == pytest.approx([0.9, 0.6])
    assert report["complete"]
    assert report["items"] == {"scored": 4, "of_the_split_in_the_files": 4, "official": 4}
    assert (report["version"], len(report["fingerprint"])) == (1, 12)
    assert report["published"][0]["model"] == "BLIP-2 ViT-L OPT2.7B"
    printed = capsys.readouterr().out
    for line in (
        "  complete: 4 of the official 4 were scored",
        "  the paper's, not ours: accuracy_lavis 53.50  BLIP-2 ViT-g OPT2.7B (arXiv:2301.12597, table 2, VQAv2 val)",
        "  unlike the paper: The bundle sees pictures of 16 pixels, the paper's models of 224.",
    ):
        assert line in printed
    assert re.search(r"^  accuracy +62\.50  accuracy by the official program", printed, re.MULTILINE)


def protocol_of_four(folder: Path, monkeypatch) -> None:
    """Protocols whose benchmark has four questions."""
    copied = folder / "protocols"
    copied.mkdir()
    for file in schema.FOLDER.glob("*.yaml"):
        (copied / file.name).write_text(file.read_text("utf-8").replace("value: 214354", "value: 4"), "utf-8")
    monkeypatch.setattr(schema, "FOLDER", copied)


def test_two_models_are_compared(bundles, vqa_data, tmp_path):
    """In each score by as much as the two results tell."""
    pictures = ("--pictures", str(vqa_data / "val2014"))
    scores = [
        evaluate(bundles[family], "vqav2", vqa_data, tmp_path / family, *pictures)["scores"]
        for family in ("causal", "seq2seq")
    ]
    found = differences(tmp_path / "causal", tmp_path / "seq2seq")
    assert found.keys() == scores[0].keys()
    for name, each in found.items():
        assert (each["first"], each["second"]) == pytest.approx((scores[0][name], scores[1][name]))


def test_a_part_is_told_as_a_part(bundles, tmp_path, capsys, monkeypatch):
    protocol_of_four(tmp_path, monkeypatch)
    data = made.vqav2(tmp_path / "data", PEOPLE)
    words = ("--pictures", str(data / "val2014"))
    part = evaluate(bundles["causal"], "vqav2", data, tmp_path / "part", "--images", "2", *words)
    assert (part["complete"], part["items"]["scored"]) == (False, 2)
    assert (
        "a part, which is not the benchmark's number: 2 of the official 4 were scored, 4 are" in capsys.readouterr().out
    )
    (data / "val2014" / "COCO_val2014_000000000043.jpg").unlink()
    less = evaluate(bundles["causal"], "vqav2", data, tmp_path / "less", *words)
    assert (less["complete"], less["left_out"]) == (False, {"image": 2})
    assert "4 are in the files; left out: 2 whose picture is missing or damaged" in capsys.readouterr().out


def test_answers_for_the_server(bundles, tmp_path, capsys):
    file = made.server_questions(tmp_path, 3)
    words = ("--pictures", str(tmp_path / "test2015"))
    report = evaluate(bundles["seq2seq"], "vqav2", file, tmp_path / "out", *words)
    assert (report["scores"], report["split"], report["items"]["official"]) == ({}, "test-dev2015", 107394)
    assert [row["question_id"] for row in submission(tmp_path / "out")] == [10, 20, 30]
    assert "not scored: the benchmark's server alone has the answers" in capsys.readouterr().out


def test_scores_have_the_protocols_name_in_w_and_b():
    assert to_wandb.metrics("vqav2", {"accuracy": 62.5}) == {"vqav2/accuracy": 62.5}


def test_gqa_submission_and_a_family_without_a_prompt(bundles, tmp_path):
    folder = made.gqa(tmp_path / "gqa", ["yes", "red", "no", "blue"])
    report = evaluate(bundles["chatglm"], "gqa", folder, tmp_path / "out", "--pictures", str(folder / "images"))
    assert [(row["questionId"], list(row)) for row in submission(tmp_path / "out")] == [
        (number, ["questionId", "prediction"]) for number in ("200", "201", "202")
    ]
    assert report["prompt"] == "the bundle's own"
    assert any("No prompt is published for a language model of family chatglm" in line for line in report["unlike"])


def test_okvqa_says_that_the_paper_lemmatises(bundles, tmp_path, capsys):
    folder = made.okvqa(tmp_path / "okvqa", PEOPLE[:2])
    report = evaluate(bundles["seq2seq"], "okvqa", folder, tmp_path / "out", "--pictures", str(folder / "val2014"))
    assert any("apply_lemmatizer" in line for line in report["unlike"])
    assert "unlike the paper: Answers are scored as the model gives them." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["vqa-rad", "slake", "pathvqa"])
def test_medical_questions_are_asked_in_the_bundles_own_form(bundles, tmp_path, name):
    rows = [("What is this?", "Lung", "OPEN"), ("Is it red?", "No", "CLOSED")]
    if name == "pathvqa":
        folder, pictures = made.pathvqa(tmp_path / name, [row[:2] for row in rows], True), tmp_path
    elif name == "slake":
        folder, pictures = made.slake(tmp_path / name, rows), tmp_path / name / "imgs"
    else:
        folder, pictures = made.vqa_rad(tmp_path / name, rows), tmp_path / name / "VQA_RAD Image Folder"
    report = evaluate(bundles["causal"], name, folder, tmp_path / "out", "--pictures", str(pictures))
    bundle = open_bundle(bundles["causal"], torch.device("cpu"))
    assert report["decoding"]["max_new"] == bundle.config.evaluate.decoding.max_new
    assert [row["question"] for row in report["answers"]] == ["What is this?", "Is it red?"]
    assert report["scores"].keys() == {
        "accuracy", "closed_accuracy", "open_exact", "closed_contains_llava_med", "open_recall_llava_med",
    }  # fmt: skip
    assert not list((tmp_path / "out").glob("*.submission.json"))


CAPTIONS = [
    ["A photo of a red dog.", "Number 47, a photo!", "The number 96 is here."],
    ["Two cats (96 and 47) on a mat", "a photo 96", "47 96"],
    ["96 96 96", "It's number 5", "a"],
]


def test_captions_without_java_are_not_the_protocols(bundles, tmp_path, no_java, capsys):
    report = evaluate(bundles["causal"], "coco-caption", made.karpathy(tmp_path / "coco", CAPTIONS), tmp_path / "out")
    assert report["scores"].keys() == {"cider", "bleu4", "rouge_l"}
    assert f"unlike the paper: {NO_JAVA}" in capsys.readouterr().out
    assert [row["image_id"] for row in submission(tmp_path / "out")] == [100, 101, 102]
    assert report["prompt"] == "a photo of"


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("java") is None, reason="there is no Java, which the official tokenizer and METEOR need"
)
def test_captions_are_scored_as_pycocoevalcap_does(bundles, tmp_path):
    """Its own classes, called as its COCOEvalCap calls them, but for SPICE, on people who say much of what it says."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    folder = made.karpathy(tmp_path / "coco", CAPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))  # without Java, which takes half a minute
        evaluate(bundles["causal"], "coco-caption", folder, tmp_path / "first")
    said = [row["caption"] for row in submission(tmp_path / "first")]
    captions = [[f"A photo: {text}.", text.replace("96", "(a)"), "a photo"] for text in said]
    report = evaluate(bundles["causal"], "coco-caption", made.karpathy(folder, captions), tmp_path / "second")
    references = {100 + n: [{"caption": text} for text in texts] for n, texts in enumerate(captions)}
    true = PTBTokenizer().tokenize(references)
    mine = PTBTokenizer().tokenize({100 + n: [{"caption": text}] for n, text in enumerate(said)})
    expected = {"bleu4": Bleu(4).compute_score(true, mine, 0)[0][3]}
    for name, scorer in (("cider", Cider()), ("rouge_l", Rouge()), ("meteor", Meteor())):
        expected[name] = scorer.compute_score(true, mine)[0]
    assert report["scores"] == pytest.approx({name: 100 * value for name, value in expected.items()}, abs=1e-9)
    assert min(report["scores"].values()) > 10
    assert [line[:30] for line in report["unlike"]] == [
        "The bundle sees pictures of 16",
        "SPICE is not computed, because",
    ]


@pytest.mark.parametrize("name", ["coco-retrieval", "flickr30k-retrieval"])
def test_retrieval_is_that_of_every_pair_computed_alone(bundles, tmp_path, name):
    """Eight pictures: the score of each pair, then LAVIS' ranks.

    In one case the last picture is the first again: texts of the one are wrong for the other all the same. Of two equal
    pictures any may come first, so there pictures are not looked for.
    """
    captions = [[f"A photo, number {n}.", f"photo ({n})", f"a {n} photo"][: 2 + n % 2] for n in range(8)]
    folder = made.karpathy(tmp_path / "data", captions, schema.load_protocol(name).layouts[0].main)
    pictures = sorted((folder / "val2014").iterdir())
    twins = name == "flickr30k-retrieval"
    if twins:
        pictures[7].write_bytes(pictures[0].read_bytes())
    report = evaluate(bundles["align"], name, folder, tmp_path / "out")
    by_image, by_text = pair_scores(bundles["align"], pictures, [text for texts in captions for text in texts])
    owner = [n for n, texts in enumerate(captions) for _ in texts]
    expected = {}
    for k in (1, 5, 10):
        found = [any(owner[t] == n for t in row.argsort(descending=True)[:k]) for n, row in enumerate(by_image)]
        expected[f"tr_r{k}"] = 100 * sum(found) / len(found)
        found = [owner[t] in column.argsort(descending=True)[:k] for t, column in enumerate(by_text)]
        expected[f"ir_r{k}"] = 100 * sum(found) / len(found)
    asked = [score for score in expected if not (twins and score.startswith("ir"))]
    assert {score: report["scores"][score] for score in asked} == pytest.approx(
        {each: expected[each] for each in asked}
    )
    assert 0 < expected["tr_r5"] < 100
    assert report["published"][0]["score"] == "tr_r1"
    for score, value in report["scores"].items():  # each query's own marks are what the score is of
        marks = [row["marks"][score] for row in report["queries"] if score in row["marks"]]
        assert 100 * sum(marks) / len(marks) == pytest.approx(value)
    assert differences(tmp_path / "out", tmp_path / "out").keys() == report["scores"].keys()


def pair_scores(folder: Path, pictures: list[Path], texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """ITM's logit of a match plus the similarity, [n,m] and [m,n]; a pair at a time."""
    bundle = open_bundle(folder, torch.device("cpu"))
    model, tokenizer, decoder = bundle.model, bundle.text.tokenizer, bundle.config.data.image.decoder
    scores = torch.zeros(len(pictures), len(texts))
    for n, path in enumerate(pictures):
        raw, image = model.embed_images(whole_pixels(path.read_bytes(), 16, decoder)[None])
        for m, text in enumerate(texts):
            cleaned = " ".join("".join(" " if sign in '.!"()*#:;~' else sign for sign in text.lower()).split())
            words = tokenizer(cleaned, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[tokenizer.cls_token_id, *language(bundle), *words, tokenizer.sep_token_id]])
            mask = torch.ones_like(ids, dtype=torch.bool)
            with torch.no_grad():
                similarity = (image[0] @ model.embed_texts(ids, mask)[0]).max()
                match = model.match_logits(model.image_keys(raw), ids, mask)[0, 1]
            scores[n, m] = similarity + match
    return scores, scores.T


def language(bundle) -> list[int]:
    return [bundle.text.language_ids["en"]] if bundle.text.language_ids else []


def test_a_q_former_that_is_too_short(tmp_path, capsys):
    short = speaking.write_bundle(runs.write_run(tmp_path / "run"), tmp_path / "short")
    folder = made.karpathy(tmp_path / "data", [["a"], ["photo"]])
    assert main([str(short), "--protocol", "coco-retrieval", "--data", str(folder)]) == 2
    assert "texts have 35 tokens at most, and the bundle's Q-Former has 16 positions" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--beams", "--max-new", "--languages", "--only", "--max-prompt", "--train"])
def test_options_that_would_change_the_number(vqa_data, capsys, option):
    with pytest.raises(SystemExit) as end:
        main(["BUNDLE", "--protocol", "vqav2", "--data", str(vqa_data), option, "3"])
    assert end.value.code == 2
    assert f"{option}: --protocol sets this itself; leave it out, or give --task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "vqa-rad", "--beams", "3"], "--beams: --protocol vqa-rad takes the bundle's own decoding"),
        (["--protocol", "vqa-rad", "--blind"], "--blind: is of --task vqa and --task report, and not of --protocol"),
        (["--task", "vqa", "--findings", "a.yaml"], "--findings: is of --task report; leave it out, or give --task"),
    ],
)
def test_options_of_others(capsys, words, message):
    with pytest.raises(SystemExit) as end:
        main(["BUNDLE", "--data", "none", *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_rows_without_an_answer(bundles, tmp_path, capsys):
    folder = made.vqa_rad(tmp_path / "rad", [("Is it red?", "yes", "CLOSED"), ("What is it?", None, "OPEN")])
    evaluate(bundles["causal"], "vqa-rad", folder, tmp_path / "out", "--pictures", str(folder / "VQA_RAD Image Folder"))
    assert "2 are in the files; left out: 1 without an answer" in capsys.readouterr().out


def test_mistakes(bundles, vqa_data, tmp_path, capsys):
    assert main([str(bundles["align"]), "--protocol", "vqav2", "--data", str(vqa_data)]) == 2
    assert "is of stage 'align': --protocol vqav2 is for generate or finetune." in capsys.readouterr().err
    assert main([str(bundles["causal"]), "--protocol", "coco-retrieval", "--data", str(vqa_data)]) == 2
    assert "is of stage 'generate': --protocol coco-retrieval is for align." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["BUNDLE", "--protocol", "vqav3", "--data", str(vqa_data)])
    assert "invalid choice: 'vqav3' (choose from" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["BUNDLE", "--protocol", "vqav2", "--task", "vqa", "--data", str(vqa_data)])
    assert "not allowed with argument" in capsys.readouterr().err
    assert main([str(bundles["causal"]), "--protocol", "vqav2", "--data", str(tmp_path)]) == 2
    assert "v2_OpenEnded_mscoco_val2014_questions.json" in capsys.readouterr().err
