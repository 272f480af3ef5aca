"""``export.py FOLDER SCRATCH``: the encoder as ONNX on padded batches, plain and as ONNX Runtime optimises it."""

import sys
from pathlib import Path

import torch
from onnxruntime.transformers import optimizer
from transformers import BertModel

folder, scratch = sys.argv[1], Path(sys.argv[2])
model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()


class Tokens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = model  # tracing finds the weights through it

    def forward(self, input_ids, attention_mask, token_type_ids):
        out = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return out.last_hidden_state


names = ["input_ids", "attention_mask", "token_type_ids"]
ids = torch.randint(1000, 2000, (2, 16))
torch.onnx.export(
    Tokens(),
    (ids, torch.ones_like(ids), torch.zeros_like(ids)),
    str(scratch / "bert.onnx"),
    input_names=names,
    output_names=["tokens"],
    dynamic_axes={name: {0: "rows", 1: "length"} for name in [*names, "tokens"]},
    opset_version=17,
    dynamo=False,
)
config = model.config
optimized = optimizer.optimize_model(
    str(scratch / "bert.onnx"),
    model_type="bert",
    num_heads=config.num_attention_heads,
    hidden_size=config.hidden_size,
    opt_level=1,
)
optimized.save_model_to_file(str(scratch / "bert.optimized.onnx"))
