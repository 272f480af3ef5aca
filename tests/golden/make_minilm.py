"""Golden vectors of the original implementation; run in an environment with torch and transformers.

    python tests/golden/make_minilm.py MODEL_FOLDER > tests/golden/minilm.json
"""
import json, sys
import torch
import transformers

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


def main(folder):
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    rows = []
    for text in TEXTS:
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
        with torch.no_grad():
            out = model(**batch, output_hidden_states=True)
        vectors = {f"layer.{k}": h[0].mean(0) for k, h in enumerate(out.hidden_states[1:])}
        vectors |= {"mean": out.last_hidden_state[0].mean(0), "cls": out.last_hidden_state[0, 0], "pooled_output": out.pooler_output[0]}
        rows.append({
            "text": text, "ids": batch["input_ids"][0].tolist(),
            # the first 24 units of each are enough to tell, and keep the file small
            "vectors": {name: [round(float(x), 7) for x in v[:24]] for name, v in vectors.items()},
        })
    json.dump({"transformers": transformers.__version__, "torch": torch.__version__, "rows": rows}, sys.stdout, ensure_ascii=True, indent=0)


main(sys.argv[1])
