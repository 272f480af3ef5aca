"""The server that a user of sentence-transformers would write: FastAPI, and `encode` for each request."""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cpu")
app = FastAPI()


class Request(BaseModel):
    input: list[str]


@app.get("/ready")
def ready() -> dict[str, int]:
    return {"threads": torch.get_num_threads()}


@app.post("/v1/embeddings")
def embeddings(request: Request) -> dict[str, list[list[float]]]:
    return {"embeddings": model.encode(request.input, normalize_embeddings=True).tolist()}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
