"""Rows of a decoder that come and go get the answers that they get alone, token for token."""

from typing import NamedTuple

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from small_chatglm import GMASK, SOP, chatglm

from vglm_train.batch import PromptBatch
from vglm_train.config.language import Language
from vglm_train.model.language.base import LanguageModel
from vglm_train.model.language.cache import CHUNK, KeyValues
from vglm_train.model.language.hf.causal import CausalLanguage
from vglm_train.model.language.hf.seq2seq import Seq2SeqLanguage

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLOSE = 1e-4  # two logits nearer than this may change places with the order of a sum
WORDS = {"vocab_size": 64}
HIDDEN = {**WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
SHAPES = {
    "opt": transformers.OPTConfig(**HIDDEN, ffn_dim=48),
    "llama": transformers.LlamaConfig(**HIDDEN, intermediate_size=48, num_key_value_heads=2),
    "bloom": transformers.BloomConfig(**WORDS, hidden_size=32, n_layer=2, n_head=4),
    "sliding": transformers.Gemma2Config(
        **HIDDEN, intermediate_size=48, num_key_value_heads=2, head_dim=8, sliding_window=6
    ),
    "t5": transformers.T5Config(
        **WORDS, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4, decoder_start_token_id=0
    ),
    "bart": transformers.BartConfig(
        **WORDS, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
    ),
    "gpt": transformers.OpenAIGPTConfig(**WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "mamba": transformers.MambaConfig(**WORDS, hidden_size=32, state_size=4, num_hidden_layers=2),
}  # fmt: skip
JOINING = ["chatglm", "opt", "llama", "bloom", "sliding", "gpt", "t5"]


class Arrival(NamedTuple):
    """A prompt of `length` tokens that comes before step `step` and leaves after `new` tokens."""

    step: int
    length: int
    new: int


ARRIVALS = st.lists(
    st.builds(Arrival, st.integers(0, 12), st.integers(1, 14), st.integers(1, 12)), min_size=2, max_size=6
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, LanguageModel]:
    made: dict[str, LanguageModel] = {"chatglm": chatglm()}
    for name, shape in SHAPES.items():
        folder = tmp_path_factory.mktemp(name)
        shape.save_pretrained(folder)
        torch.manual_seed(0)
        family = "seq2seq" if shape.is_encoder_decoder else "causal"
        kind = Seq2SeqLanguage if family == "seq2seq" else CausalLanguage
        made[name] = kind(Language(family=family, config=str(folder), tokenizer="t", dtype="fp32"))
        if name == "mamba":
            continue  # its recurrence would overflow
        for parameter in made[name].parameters():  # far enough from zero that ties are rare
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.2)
    return {name: model.to(DEVICE) for name, model in made.items()}


def batch(model: LanguageModel, lengths: list[int]) -> PromptBatch:
    """Prompts that are a function of their length alone, padded on the right."""
    ids = torch.full((len(lengths), max(lengths) + 2), 3)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, length in enumerate(lengths):
        words = torch.randint(4, 60, (length,), generator=torch.Generator().manual_seed(length))
        if model.vocabulary == 120:  # ChatGLM's
            words = torch.cat((words, torch.tensor([GMASK, SOP])))
        ids[row, : len(words)], mask[row, : len(words)] = words, True
    return PromptBatch(
        pixels=torch.empty(0), valid=torch.ones(len(lengths), dtype=torch.bool), input_ids=ids, attention_mask=mask,
        visual_mask=torch.zeros_like(mask), labels=ids,
    ).to(DEVICE)  # fmt: skip


def begin(model: LanguageModel, lengths: list[int]):
    prompts = batch(model, lengths)
    decoder = model.decoder(model.embed(prompts.input_ids), prompts, 16)
    return decoder, decoder.start()


def alone(model: LanguageModel, arrival: Arrival) -> tuple[list[int], list[float]]:
    """Its ids, and by how much each was the likeliest."""
    decoder, logits = begin(model, [arrival.length])
    ids, margins = [], []
    for number in range(arrival.new):
        if number:
            logits = decoder.step(torch.tensor(ids[-1:], device=DEVICE))
        best = logits[0].topk(2).values
        ids.append(int(logits[0].argmax()))
        margins.append(float(best[0] - best[1]))
    return ids, margins


def together(model: LanguageModel, arrivals: list[Arrival]) -> list[list[int]]:
    """Every prompt joins at its step and leaves when it is done."""
    ids: list[list[int]] = [[] for _ in arrivals]
    running, rows, step = None, [], 0
    while step <= max(arrival.step for arrival in arrivals) or rows:
        if rows:
            logits = running.step(torch.tensor([ids[row][-1] for row in rows], device=DEVICE))
            for row, chosen in zip(rows, logits.argmax(-1).tolist(), strict=True):
                ids[row].append(chosen)
        come = [row for row, arrival in enumerate(arrivals) if arrival.step == step]
        if come:
            new, logits = begin(model, [arrivals[row].length for row in come])
            for row, chosen in zip(come, logits.argmax(-1).tolist(), strict=True):
                ids[row].append(chosen)
            if rows:
                running.join(new)
            else:
                running = new
            rows += come
        staying = [place for place, row in enumerate(rows) if len(ids[row]) < arrivals[row].new]
        if len(staying) < len(rows):
            running.select(torch.tensor(staying, dtype=torch.int64, device=DEVICE))
            rows = [rows[place] for place in staying]
        step += 1
    return ids


@pytest.mark.parametrize("family", JOINING)
def test_answers_are_those_of_one_at_a_time(models, family):
    model, close, ids_seen = models[family], [], set()

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(ARRIVALS)
    def check(arrivals: list[Arrival]) -> None:
        for found, arrival in zip(together(model, arrivals), arrivals, strict=True):
            wanted, margins = alone(model, arrival)
            unsure = [place for place, margin in enumerate(margins) if margin < CLOSE]
            end = unsure[0] if unsure else len(wanted)  # after another choice there the answers may go apart
            close.extend(unsure)
            assert found[:end] == wanted[:end]
            ids_seen.update(wanted)

    with torch.no_grad():
        check()
    print(f"{family}: {len(close)} places of two equally likely ids")
    assert len(ids_seen) > 5, "answers of one id show nothing"


@pytest.mark.parametrize("family", [name for name in SHAPES if name not in ("bart", "gpt")])
def test_greedy_ids_are_those_of_transformers(models, family):
    model = models[family]
    for length in (1, 5, 14):
        prompts, cache = batch(model, [length]), {}
        if family == "t5":  # transformers' default cache has as many blocks as the encoder
            cache = {"past_key_values": transformers.EncoderDecoderCache(*(transformers.DynamicCache() for _ in "ab"))}
        theirs = model.model.generate(
            inputs_embeds=model.embed(prompts.input_ids[:, :length]), max_new_tokens=12, do_sample=False,
            eos_token_id=None, pad_token_id=0, **cache,
        )  # fmt: skip
        wanted, _ = alone(model, Arrival(0, length, 12))
        assert theirs[0, -12:].tolist() == wanted


@pytest.mark.parametrize("family", JOINING)
def test_memory_follows_the_rows_that_are_there(models, family):
    """An endless server: a row always stays while others come and go, for many times the longest answer."""
    model = models[family]
    decoder, logits = begin(model, [3])
    for _ in range(60):
        new, more = begin(model, [4])
        decoder.join(new)
        decoder.select(torch.tensor([1], device=DEVICE))  # the older one goes
        logits = decoder.step(more.argmax(-1))
    if hasattr(decoder, "slots"):  # ChatGLM's on a GPU
        assert len(decoder.rows) == 1
    else:
        columns = {"chatglm": lambda: decoder.cache.columns, "gpt": lambda: decoder.embeds.shape[1]}
        assert columns.get(family, lambda: decoder.columns)() < 10
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("family", ["bart", "mamba"])
def test_a_model_that_cannot_join_says_so_and_its_rows_can_leave(models, family):
    model = models[family]
    decoder, logits = begin(model, [5, 9, 7])
    assert not decoder.joins
    ids = [logits.argmax(-1)]
    ids.append(decoder.step(ids[-1]).argmax(-1))
    decoder.select(torch.tensor([2, 0], device=DEVICE))
    last = decoder.step(ids[-1][[2, 0]]).argmax(-1)
    for place, row in enumerate([2, 0]):
        wanted, _ = alone(model, Arrival(0, [5, 9, 7][row], 3))
        assert [int(ids[0][row]), int(ids[1][row]), int(last[place])] == wanted


def test_memory_grows_by_chunks_and_shrinks():
    held = KeyValues()
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(3, 2, 3 * CHUNK, 4, generator=draw)
    held.append(whole[:, :, :5], -whole[:, :, :5])
    assert held._memory[0].shape[2] == CHUNK
    for column in range(5, 2 * CHUNK + 1):
        keys, values = held.append(whole[:, :, column : column + 1], -whole[:, :, column : column + 1])
    assert torch.equal(keys, whole[:, :, : 2 * CHUNK + 1])
    assert torch.equal(values, -keys)
    assert held._memory[0].shape[2] == 3 * CHUNK
    held.select(torch.tensor([2, 0, 2]), 2 * CHUNK - 3)
    assert torch.equal(held.views[0], whole[[2, 0, 2], :, 2 * CHUNK - 3 : 2 * CHUNK + 1])
    assert held._memory[0].shape[2] == CHUNK + 3
