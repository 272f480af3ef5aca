"""Draw every figure of the explanation pages: ``python docs/figures texts.parquet``.

Pictures go to docs/images, the numbers that pages quote to docs/figures/numbers.json; a test holds pages to them. The
set is that of the example texts through the default model, all modes, 8 passes, seed 7, ids from the column id.
Without one, only the figures that need no model are drawn.
"""

import json
import sys
from pathlib import Path

import cka
import dropout
import maps
import overlap
import passes
import uncertainty

from embedsvc import EmbeddingSet

FOLDER = Path(__file__).parent
SIMULATED = {"dropout": dropout.draw, "similarity": cka.draw, "uncertainty": uncertainty.draw}
MEASURED = {"neighbours": overlap.draw, "passes": passes.draw, "maps": maps.draw}


def main(images: Path, set_path: str | None) -> dict[str, dict[str, str]]:
    """Draw, and give the numbers by page."""
    numbers = {page: draw(images) for page, draw in SIMULATED.items()}
    if set_path is not None:
        embeddings = EmbeddingSet.read(set_path)
        numbers |= {page: draw(images, embeddings) for page, draw in MEASURED.items()}
    return numbers


if __name__ == "__main__":
    file = FOLDER / "numbers.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known |= main(FOLDER.parent / "images", sys.argv[1] if len(sys.argv) > 1 else None)
    file.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
