"""SAT neither seeds, sets nor starts anything in the process it is built in. Fresh processes: imports happen once."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[4]
COMMON = """
import random, sys
import numpy as np, torch
import torch.distributed as dist
from vglm_train.config.language import Language
CONFIG = Language(layers=2, width=32, heads=2, mlp_width=64, vocabulary=1200, tokenizer="none", dtype="{dtype}")
def state():
    flags = torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return flags, drawn, torch.backends.cuda.matmul.allow_tf32, torch.get_default_dtype()
def use(model):
    ids = torch.tensor([[0, 1, 2, model.sop_id, 4, 5]])
    embeds = model.embed(ids).detach().requires_grad_()
    from vglm_train.batch import PromptBatch
    real = torch.ones(1, 6, dtype=torch.bool)
    batch = PromptBatch(pixels=torch.zeros(1, 3, 2, 2), valid=real[:, 0], input_ids=ids,
                        attention_mask=real, visual_mask=~real, labels=torch.tensor([[-100] * 4 + [4, 5]]))
    logits, _ = model.score(embeds, batch)
    logits.sum().backward()
    assert embeds.grad.isfinite().all() and embeds.grad.abs().sum() > 0
"""


def run(code: str, dtype: str = "bf16") -> str:
    code = COMMON.format(dtype=dtype) + dedent(code)
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_the_process_is_as_it_was():
    said = run("""
        sys.modules["triton"] = None  # as if it were not installed
        random.seed(3), np.random.seed(4), torch.manual_seed(5)
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
        torch.backends.cuda.matmul.allow_tf32 = True
        before = state()
        from vglm_train.model.language.glm import sat as _sat
        assert state() == before, "import"
        _sat.build_network(CONFIG, torch.bfloat16)
        assert state() == before, "build"
        from vglm_train.model.language import build_language
        with torch.device("meta"):
            meta = build_language(CONFIG)
        assert {p.device.type for p in meta.parameters()} == {"meta"}
        torch.manual_seed(5)
        first, again = build_language(CONFIG), build_language(CONFIG)
        name = "network.transformer.word_embeddings.weight"
        assert not torch.equal(first.state_dict()[name], again.state_dict()[name]), "random weights are drawn as ever"
        torch.manual_seed(5)
        assert torch.equal(build_language(CONFIG).state_dict()[name], first.state_dict()[name])
        use(first)
        assert not dist.is_initialized()

        # process groups of one, and of two whose other member is silent: nothing is sent, no group is made
        from torch.testing._internal.distributed.fake_pg import FakeStore
        for backend, store, world in (("gloo", dist.HashStore(), 1), ("fake", FakeStore(), 2)):
            dist.init_process_group(backend, store=store, rank=world - 1, world_size=world)
            groups = dict(dist.distributed_c10d._world.pg_map)
            use(build_language(CONFIG))
            assert dist.get_world_size() == world
            assert dict(dist.distributed_c10d._world.pg_map) == groups
            dist.destroy_process_group()
    """)
    assert "[INFO]" not in said, "SAT's announcements are kept off the console"


def test_frequencies_are_fp32_in_a_bf16_engine():
    """DeepSpeed's bf16 block casts every parameter it is given, frozen ones too."""
    run(
        """
        import os
        import deepspeed
        from vglm_train import distributed
        distributed.start("gloo")
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or it is compiled
        from vglm_train.model.language import build_language
        model = torch.nn.ModuleDict({"projection": torch.nn.Linear(4, 32), "language": build_language(CONFIG)})
        optimizer = torch.optim.AdamW(model["projection"].parameters())
        config = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": 1}}
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        language = engine.module["language"]
        assert {p.dtype for p in language.parameters()} == {torch.bfloat16}
        frequencies = language.network.get_mixin("chatglm-attn").rotary_emb.inv_freq
        assert frequencies.dtype == torch.float32
        exact = 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
        torch.testing.assert_close(frequencies.double(), exact, rtol=1e-6, atol=0)
        """,
        dtype="fp32",
    )


SATS_OWN = """
import vglm_train.model.language.glm.sat  # where there is no triton, SAT cannot be imported without its stand-in
from sat.model.official import ChatGLMModel
def of_sat():
    shape = dict(num_layers=2, hidden_size=32, num_attention_heads=2, inner_hidden_size=64, vocab_size=1200,
                 max_sequence_length=16, layernorm_order="post", bos_token_id=1194, mask_token_id=1190,
                 gmask_token_id=1191, pad_token_id=3, hidden_dropout=0.0, attention_dropout=0.0, skip_init=False)
    return ChatGLMModel(ChatGLMModel.get_args(**shape)).eval()
def use_sats(model):
    ids = torch.tensor([[5, 6, 1191, 1194, 7, 8]])
    logits = model(ids)[0]
    logits.sum().backward()
    assert logits.shape == (1, 6, 1200) and logits.isfinite().all()
"""


def test_sats_own_models_live_beside_ours_whichever_is_built_first():
    for order in ("ours, theirs", "theirs, ours"):
        run(
            SATS_OWN
            + dedent(f"""
            from vglm_train.model.language import build_language
            ours, theirs = (lambda: build_language(CONFIG)), of_sat
            first, second = [build() for build in ({order})]
            from sat import mpu
            group = mpu.get_model_parallel_group()
            for model in (first, second, first):
                use(model) if hasattr(model, "sop_id") else use_sats(model)
            assert mpu.get_model_parallel_group() is group and dist.get_world_size(group) == 1
            use(build_language(CONFIG)), use_sats(of_sat())
            """),
            dtype="fp32",
        )


def test_a_model_is_whole_where_sat_cuts_its_own_in_two():
    run("""
        from torch.testing._internal.distributed.fake_pg import FakeStore
        from vglm_train.model.language import build_language
        alone = {name: value.shape for name, value in build_language(CONFIG).state_dict().items()}
        dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
        from sat import mpu
        mpu.initialize_model_parallel(2)
        ours = build_language(CONFIG)
        assert {name: value.shape for name, value in ours.state_dict().items()} == alone
        use(ours)
        assert mpu.get_model_parallel_world_size() == 2
    """)
