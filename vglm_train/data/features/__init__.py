"""The frozen encoder's outputs on disk: made once before training, read instead of pictures.

n pictures, p image tokens, c image width.
"""

from vglm_train.data.features.encode import prepare
from vglm_train.data.features.store import FeatureStore

__all__ = ["FeatureStore", "prepare"]
