"""Golden vectors of the original implementation; run in an environment with torch and transformers.

Example: python tests/golden/make_minilm.py MODEL_FOLDER > tests/golden/minilm.json
"""

import json
import sys

TEXTS = [
    "Good.",
    "The quick brown fox jumps over the lazy dog.",
    "?",
    "...",
    "Ünïcödé naïve café, Straße, Łódź — résumé.",
    "今日はとても良い天気です。 日本語と中文混合",
    "مرحبا بالعالم! שלום עולם",
    "Emoji 😀👩‍👩‍👧 🇫🇷 and e\u0301 combining \u200d joiners",
    "x" * 150 + " too long a word",
    "embedding " * 600,
    "I loved every minute of it , though the sound was terrible and the seats worse ; would I go again ? Yes !",
]
# The first units of each vector are enough to tell, and keep the file small.
UNITS = 24


def main(folder: str) -> None:
    # Here, since pytest imports this file and our own environment has neither.
    import torch
    import transformers

    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    rows = []
    for text in TEXTS:
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
        with torch.no_grad():
            out = model(**batch, output_hidden_states=True)
        last = out.last_hidden_state[0]
        vectors = {f"layer.{k}": layer[0].mean(0) for k, layer in enumerate(out.hidden_states[1:])}
        vectors |= {"mean": last.mean(0), "cls": last[0], "pooled_output": out.pooler_output[0]}
        rows.append(
            {
                "text": text,
                "ids": batch["input_ids"][0].tolist(),
                "vectors": {tap: [round(float(x), 7) for x in vector[:UNITS]] for tap, vector in vectors.items()},
            }
        )
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    json.dump(versions | {"rows": rows}, sys.stdout, ensure_ascii=True, indent=0)


if __name__ == "__main__":
    main(sys.argv[1])
