"""Data of AVicuna: `import dataset_builders` registers its builders with `datasets.load_dataset`.

"pu_valor" curates pseudo-untrimmed videos from captioned clips; the others read published annotation files into the
same row schema (`schema.FEATURES`). Imports none of the project's other packages.
"""

from .features.feature_store import FeatureStore, FeatureWriter
from .pseudo_untrimmed.composing import compose_features
from .registration import register_builders


register_builders()

__all__ = ["FeatureStore", "FeatureWriter", "compose_features", "register_builders"]
