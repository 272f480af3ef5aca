"""Models by uri: ``load_model("minilm-l6")``, ``load_model("hf:/path")``, or a plain path.

A loader is a function ``load(location, *, trust, rate, …) -> Encoder``; `LOADERS` is the one place that names them.
"""

from __future__ import annotations

from embedsvc.models.base import Encoder, forward
from embedsvc.models.load import LOADERS, load_model

__all__ = ["LOADERS", "Encoder", "forward", "load_model"]
