"""Golden vectors of BERT's families by transformers, on the tiny models of the tests; needs torch and transformers.

In training mode transformers' own graph runs under our masks: whatever it drops, in the order in which it drops, takes
the mask of that site of that text. So the goldens hold the places, rates and order of its dropouts as well.

Example: python tests/golden/make_families.py > tests/golden/families.json
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from embedsvc import masks
from tests.models.tiny_families import TINY

TEXTS = [
    "good",
    "",
    "the film was very very good ! !",
    "films films very bad . café und Café ?",
    "日本 xyz \u200d e\u0301 [SEP] unsound",
    "was it good ? " * 40,
]
SEED, INDEX = 7, 3  # of the training pass


class Dropouts:
    """Stands in for torch's dropout: takes our masks, and remembers what went in and came out."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.key = 0
        self.n_sites = 0  # known after the first pass

    def __call__(self, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        self.rates.append(p)
        y = x
        if training:
            import torch

            number = len(self.rates) % self.n_sites  # the last is the head's, whose number is 0
            kept = masks.keep([self.key], seed=SEED, passes=[INDEX], site=number, units=x.numel(), rate=p)[0, 0]
            y = torch.where(torch.from_numpy(kept.reshape(x.shape)), x / (1 - p), torch.zeros(()))
        self.last = x, y
        return y


def main() -> None:
    # Here, since pytest imports this file and our own environment has neither.
    import torch
    import transformers

    found: dict[str, Any] = {"transformers": transformers.__version__, "torch": torch.__version__}
    for name, tiny in TINY.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = tiny.write(Path(scratch))
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, attn_implementation="eager", output_loading_info=True
            )
            assert not any(loading.values()), loading
        found[name] = family(tokenizer, model)
    json.dump(found, sys.stdout, ensure_ascii=True, indent=0)


def family(tokenizer: Any, model: Any) -> dict[str, Any]:
    """Rates of its dropouts, and for each text ids and vectors in both modes."""
    import torch

    rows = []
    dropouts = Dropouts()
    torch.nn.functional.dropout = dropouts
    for at, text in enumerate(TEXTS):
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=32)
        row = {"text": text, "ids": batch["input_ids"][0].tolist()}
        dropouts.key = masks.row_keys([f"row {at}"])[0]
        for mode in ("inference", "training"):
            dropouts.rates = []
            model.train(mode == "training")
            with torch.no_grad():
                out = model(**batch, output_hidden_states=True)
            dropouts.n_sites = len(dropouts.rates)
            pre, post = dropouts.last
            vectors = {f"layer.{k}": layer[0].mean(0) for k, layer in enumerate(out.hidden_states[1:])}
            last = out.hidden_states[-1][0]
            vectors |= {"mean": last.mean(0), "cls": last[0], "pooled_output": pre[0]}
            vectors |= {"pre_dropout": pre[0], "post_dropout": post[0], "logits": out.logits[0]}
            row[mode] = {tap: [round(float(x), 6) for x in vector] for tap, vector in vectors.items()}
        rows.append(row)
    return {"rates": dropouts.rates, "seed": SEED, "pass": INDEX, "rows": rows}


if __name__ == "__main__":
    main()
