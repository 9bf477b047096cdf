"""VisualGLM as its own project (THUDM/VisualGLM-6B) builds it from SAT's classes, by the numbers of model_config.json.

Run by itself it builds one of our ChatGLMs, then opens a folder with SAT's own loader and computes:

    python sat_client.py FOLDER INPUTS.safetensors OUTPUTS.safetensors
"""

import sys
from argparse import Namespace

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vglm_train.config.language import Language
from vglm_train.model.language import build_language  # its module must be imported before SAT where there is no triton

OURS = Language(layers=1, width=16, heads=2, mlp_width=16, vocabulary=60, tokenizer="none", dtype="fp32")
FIRST = build_language(OURS)

from sat.model import BaseMixin, BaseModel, ViTModel  # noqa: E402
from sat.model.official import ChatGLMModel  # noqa: E402


class LastNorm(BaseMixin):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_vision = nn.LayerNorm(width)

    def final_forward(self, hidden: Tensor, **_: object) -> Tensor:
        return self.ln_vision(hidden)


class Eva(ViTModel):
    def __init__(self, args: Namespace, **options: object) -> None:
        super().__init__(args, **options)
        self.del_mixin("cls")
        self.add_mixin("cls", LastNorm(args.hidden_size))

    def forward(self, image: Tensor) -> Tensor:
        ids = torch.zeros(len(image), 1, dtype=torch.long)
        return super().forward(input_ids=ids, position_ids=None, attention_mask=torch.ones(1, 1), image=image)[0]


class Queries(BaseModel):
    def __init__(self, args: Namespace, **options: object) -> None:
        super().__init__(args, activation_func=nn.functional.gelu, **options)
        self.transformer.position_embeddings = None
        self.number = args.vocab_size

    def position_embedding_forward(self, position_ids: None, **_: object) -> None:
        return None

    def final_forward(self, hidden: Tensor, **_: object) -> Tensor:
        return hidden

    def forward(self, image: Tensor) -> Tensor:
        ids, everything = torch.arange(self.number).expand(len(image), -1), torch.ones(1, 1)
        return super().forward(input_ids=ids, position_ids=None, attention_mask=everything, encoder_outputs=image,
                               cross_attention_mask=everything)[0]  # fmt: skip


class ImageSide(nn.Module):
    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.vit = Eva(Eva.get_args(**args.eva_args))
        self.qformer = Queries(Queries.get_args(**args.qformer_args))
        self.glm_proj = nn.Linear(args.qformer_args["hidden_size"], args.hidden_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.glm_proj(self.qformer(self.vit(image)))


class ImageMixin(BaseMixin):
    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.model, self.length = ImageSide(args), args.image_length

    def word_embedding_forward(self, input_ids: Tensor, image: Tensor, pre_image: int, **_: object) -> Tensor:
        words = self.transformer.word_embeddings
        before, after = input_ids[:, :pre_image], input_ids[:, pre_image + self.length :]
        return torch.cat((words(before), self.model(image), words(after)), 1)


class VisualGLMModel(ChatGLMModel):
    def __init__(self, args: Namespace, **options: object) -> None:
        super().__init__(args, **options)
        self.add_mixin("eva", ImageMixin(args))


def main(folder: str, inputs: str, outputs: str) -> None:
    model, args = VisualGLMModel.from_pretrained_base(folder)
    stored = torch.load(f"{folder}/1/mp_rank_00_model_states.pt", weights_only=True)["module"]
    model.load_state_dict(stored, strict=True)
    computed = {name for name in model.state_dict() if name.endswith("rotary_emb.inv_freq")}
    assert set(stored) == set(model.state_dict()) - computed, "SAT neither reads nor needs its rotary table"
    given = load_file(inputs)
    ids, start = given["input_ids"], int(given["pre_image"])
    results = {}
    with torch.no_grad():
        results["logits"] = model(ids, image=given["image"], pre_image=start)[0]
        for _ in range(int(given["new"])):  # positions and mask by SAT's own reading of the ids
            newest = model(ids, image=given["image"], pre_image=start)[0][:, -1].argmax(-1)
            ids = torch.cat((ids, newest[:, None]), 1)
    results["written"] = ids[:, given["input_ids"].shape[1] :].contiguous()
    results["ids"] = torch.tensor([args.bos_token_id, args.mask_token_id, args.gmask_token_id, args.pad_token_id])
    save_file(results, outputs)
    assert FIRST.embed(torch.tensor([[1]])).shape == (1, 1, 16)


if __name__ == "__main__":
    main(*sys.argv[1:])
