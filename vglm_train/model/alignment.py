"""Stage one's model: frozen image encoder, trained norm, Q-Former and the heads of its three losses.

n images or pairs, b rows, p image tokens, c image width, q queries, t text tokens, d Q-Former width, e contrastive
width, v vocabulary.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.config.model import Model
from vglm_train.model.norm import LayerNorm
from vglm_train.model.qformer.layers import EPS
from vglm_train.model.qformer.qformer import Keys, QFormer
from vglm_train.model.vision import VisionEncoder, build_vision
from vglm_train.model.visual import VisualModel

TEMPERATURE = 0.07


class CaptionHead(nn.Module):
    """BERT's masked-language head; the decoder is tied to the word embeddings, which are passed in."""

    def __init__(self, width: int, vocabulary: int, spread: float) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.norm = LayerNorm(width, EPS)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.transform.weight, std=spread)
        nn.init.zeros_(self.transform.bias)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """[b,t,d] and word embeddings [v,d] -> logits [b,t,v]."""
        vocabulary = words.shape[0]
        odd = -vocabulary % 8  # matrix units are several times slower at sizes that 8 does not divide
        words, bias = F.pad(words, (0, 0, 0, odd)), F.pad(self.bias, (0, odd))
        return F.linear(self.norm(F.gelu(self.transform(hidden))), words, bias)[..., :vocabulary]


class Alignment(VisualModel):
    """The model of stage one, without losses and without other processes.

    `encode_image` and `image_keys` feed the Q-Former's passes; `image_embeds`, `text_embeds`, `match_logits` and
    `caption_logits` are the heads on what comes out.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        qformer: QFormer,
        contrastive_width: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(vision, qformer, mean, std)
        assert qformer.embeddings is not None
        vocabulary, width = qformer.embeddings.words.weight.shape
        self.image_projection = nn.Linear(width, contrastive_width)
        self.text_projection = nn.Linear(width, contrastive_width)
        self.matching_head = nn.Linear(width, 2)
        self.caption_head = CaptionHead(width, vocabulary, qformer.spread)
        self.temperature = nn.Parameter(torch.full((1,), TEMPERATURE))  # [1]: DeepSpeed refuses 0-d parameters

    def image_embeds(self, queries: Tensor) -> Tensor:
        """The Q-Former's queries [n,q,d] -> unit vectors [n,q,e], fp32."""
        return _unit(self.image_projection, queries)

    def text_embeds(self, text: Tensor) -> Tensor:
        """The Q-Former's text [b,t,d] -> unit vectors of the first token [b,e], fp32."""
        return _unit(self.text_projection, text[:, 0])

    def match_logits(self, keys: Keys, ids: Tensor, mask: Tensor) -> Tensor:
        """Images and sentences, ids [n,t] in the order of `keys` -> logits [n,2], mean over the queries, fp32.

        Column 1: the two belong together.
        """
        queries, _ = self.qformer.joint(keys, ids, mask, text=False)
        with torch.autocast(queries.device.type, enabled=False):
            # the head is linear: its mean is the mean's head
            logits: Tensor = self.matching_head(queries.float().mean(1))
            return logits

    def caption_logits(self, caption: Tensor) -> Tensor:
        """The Q-Former's captioning text [b,t,d], which starts with [DEC] -> logits of each next word [b,t,v]."""
        assert self.qformer.embeddings is not None
        logits: Tensor = self.caption_head(caption, self.qformer.embeddings.words.weight)
        return logits

    def embed_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """For evaluation: pixels [n,3,h,w] -> (frozen features [n,p,c], unit vectors [n,q,e])."""
        features = self.encode_image(pixels)
        return features, self.image_embeds(self.qformer.queries(self.image_keys(features))[0])

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """For evaluation: sentences, ids [b,t] and mask [b,t] bool -> unit vectors [b,e]."""
        return self.text_embeds(self.qformer.text(ids, mask))


def _unit(projection: nn.Linear, hidden: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return F.normalize(projection(hidden.float()), dim=-1)


def build_alignment(config: Model, vocabulary: int, mean: Sequence[float], std: Sequence[float]) -> Alignment:
    """The model of this configuration with random weights, on torch's current default device (meta included).

    `vocabulary`: the tokenizer's size, unless model.qformer.vocabulary says otherwise. Published weights are read
    afterwards, by `checkpoint.load.pretrained.load_pretrained`.
    """
    size = config.qformer.vocabulary or vocabulary
    qformer = QFormer(config.qformer, config.vision.width, size)
    return Alignment(build_vision(config.vision), qformer, config.contrastive_width, mean, std)
