"""One rank of test_divided_by_two.py, with torchrun's environment variables: python divided_ranks.py FOLDER."""

import contextlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from tuning import families

from vglm_train import distributed
from vglm_train.config.language import Decoding
from vglm_train.config.tuning import Lora
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.model.frozen_blocks import FrozenBlocks
from vglm_train.model.language.base import LanguageModel
from vglm_train.model.language.linears import quantize_blocks
from vglm_train.model.tuning.lora import attach_lora

CASES = [("chatglm", None, False), ("causal", None, False), ("seq2seq", None, True), ("causal", "nf4", False)]


def found(model: LanguageModel, family: str) -> dict[str, Tensor]:
    """Loss and gradients of a batch."""
    batch = families.prompts(family)
    model.zero_grad()
    embeds = model.embed(batch.input_ids).detach().requires_grad_()
    logits, targets = model.score(embeds, batch)
    loss = nn.functional.cross_entropy(logits.float(), targets)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert embeds.grad is not None
    return {"loss": loss.detach(), "embeds": embeds.grad, **gradients}


def answers(model: LanguageModel, family: str, length: int) -> Tensor:
    prompt = families.without_answers(family, families.prompts(family))
    return model.generate(model.embed(prompt.input_ids), prompt, Decoding(max_new=length), end_id=1)


def case(family: str, form: str | None, offload: bool, folder: Path, ranks: Ranks) -> dict[str, Tensor]:
    """whole/... and divided/... of this rank, and how many bytes it keeps of how many."""
    for turn in range(ranks.world):  # transformers writes a folder in the first process only
        if turn == ranks.rank:
            model = families.language(family, folder / f"{family}{form}")
        ranks.barrier()
    if form == "nf4":
        quantize_blocks(model, "nf4")
    attach_lora(model, Lora(rank=2, alpha=8), seed=0)
    length = 3 + 4 * ranks.rank  # of this rank's answers
    whole = {**found(model, family), "answers": answers(model, family, length)}
    ranks.shared.clear()
    frozen = FrozenBlocks(ranks, offload)
    frozen.add(model, model.blocks())
    model.whole = False
    divided = found(model, family)
    with ranks.together():
        if ranks.main:
            answers(model, family, length)  # more work than the other has
        divided["answers"] = answers(model, family, length)
    with contextlib.suppress(UserError), ranks.together():
        answers(model, family, length)
        if not ranks.main:
            raise UserError("one rank fails, and the other still wants blocks")
        answers(model, family, length)
    again = found(model, family)
    frozen.restore(keep=ranks.main)
    sizes = torch.tensor([[block.piece.numel(), block.size] for block in frozen.blocks]).sum(0)
    results = {f"whole/{name}": value for name, value in whole.items()}
    results |= {f"divided/{name}": value for name, value in divided.items()}
    results |= {f"again/{name}": value for name, value in again.items()}
    if ranks.main:
        results |= {f"restored/{name}": value for name, value in found(model, family).items()}
    return results | {"sizes": sizes}


if __name__ == "__main__":
    torch.set_num_threads(1)
    group = distributed.start("gloo")
    place = Path(sys.argv[1])
    everything = {
        f"{family}-{form}/{name}": value.contiguous()
        for family, form, offload in CASES
        for name, value in case(family, form, offload, place, group).items()
    }
    save_file(everything, place / f"{group.rank}.safetensors")
    distributed.stop()
