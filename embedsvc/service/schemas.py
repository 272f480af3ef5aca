"""The shapes of requests and answers, as FastAPI checks and documents them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from embedsvc.batching import OnLong

__all__ = [
    "CompareRequest",
    "CosinesRequest",
    "EmbedRequest",
    "EmbeddingsAnswer",
    "EmbeddingsRequest",
    "ErrorAnswer",
    "NeighborsRequest",
    "SimilarityRequest",
    "Truncation",
    "VariantsAnswer",
    "VariantsRequest",
]

Count = Annotated[StrictInt, Field(ge=0)]
Words = Annotated[StrictStr, Field(min_length=1)]
TokenIds = Annotated[list[Annotated[StrictInt, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Encoding = Literal["float", "base64"]

_ID = "A model's name, or name/tap. The first model and its default tap where it is left out."


class Request(BaseModel):
    """Unknown fields are errors: what is not done must not be thought done."""

    model_config = ConfigDict(extra="forbid")


Input = Annotated[
    Words | Annotated[list[Words], Field(min_length=1)] | TokenIds | Annotated[list[TokenIds], Field(min_length=1)],
    Field(
        union_mode="left_to_right",
        description="A text, texts, the token ids of one, or those of several (without special tokens).",
    ),
]


class EmbeddingsRequest(Request):
    """OpenAI's request, and two fields of ours."""

    input: Input
    model: StrictStr | None = Field(None, description=_ID)
    encoding_format: Encoding = Field("float", description="base64 is of little-endian float32.")
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description="Refused unless it is the width of the tap: these vectors cannot be cut short."
    )
    user: StrictStr | None = Field(None, description="Accepted for OpenAI's clients; neither used nor logged.")
    normalize: bool = Field(True, description="Whether vectors have length 1, as OpenAI's do.")
    truncate: bool | None = Field(None, description="Cut long texts and say so, or answer 422. Default: --on-long.")


class Truncation(Request):
    """What text-embeddings-inference's requests have in common."""

    truncate: bool | None = Field(None, description="Cut long texts, or answer 422, which is the default.")
    truncation_direction: Literal["left", "Left", "right", "Right"] = Field(
        "right", description="The side that is cut: right keeps a text's beginning, left its end."
    )
    prompt_name: None = Field(None, description="No prompts are kept here: put them before the texts.")

    @property
    def on_long(self) -> OnLong:
        """What becomes of a long text."""
        return OnLong.TRUNCATE if self.truncate else OnLong.FAIL

    @property
    def keep_end(self) -> bool:
        """Whether truncation keeps the last tokens."""
        return self.truncation_direction.lower() == "left"


class EmbedRequest(Truncation):
    """text-embeddings-inference's request."""

    inputs: Input
    normalize: bool = True
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = Field(None, description="See /v1/embeddings.")
    encoding_format: Literal["float"] | None = Field(None, description="/v1/embeddings has base64.")


class Sentences(Request):
    """A text, and those that it is compared with."""

    source_sentence: Words
    sentences: Annotated[list[Words], Field(min_length=1)]


class SimilarityRequest(Request):
    """text-embeddings-inference's request."""

    inputs: Sentences
    parameters: Truncation | None = None


class TextIn(Request):
    """A text, and the id that its masks belong to."""

    id: Annotated[StrictStr, Field(min_length=1, max_length=1024)]
    text: Words


Texts = Annotated[list[Annotated[Words | TextIn, Field(union_mode="left_to_right")]], Field(min_length=1)]


class VariantsRequest(Request):
    """Texts and the variants wanted of them."""

    texts: Texts = Field(
        description="A plain string gets an id made of its content, so the same text gets the same masks everywhere."
    )
    model: StrictStr | None = Field(None, description="A model's name.")
    taps: list[StrictStr] = Field([], max_length=64, description="Default: pre_dropout, post_dropout, logits if any.")
    modes: list[Literal["inference", "training", "head"]] = Field(["inference", "head"], min_length=1, max_length=3)
    passes: Count | None = Field(None, description="Of each stochastic mode. Default: 1 where one is asked for.")
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] | None = Field(
        None, description="Of the masks; required where a stochastic mode is asked for."
    )
    returns: Literal["vectors", "moments"] = Field(
        "vectors", description="Every vector, or mean and variance over the passes of each stochastic tap and mode."
    )
    encoding_format: Encoding = "float"
    truncate: bool | None = None


class CompareRequest(Request):
    """What `embedsvc compare` takes: a stored set, or texts to make one of."""

    set: StrictStr | None = Field(None, description="Name of a set that the service was started with.")
    texts: Texts | None = Field(None, description="Texts to extract and compare, in place of a set.")
    model: StrictStr | None = Field(None, description="With texts: a model's name.")
    taps: list[StrictStr] = Field([], max_length=64)
    modes: list[Literal["inference", "training", "head"]] = Field(
        ["inference", "training", "head"], min_length=1, max_length=3
    )
    passes: Annotated[StrictInt, Field(ge=0, le=64)] = 2
    mask_seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = Field(0, description="With texts: of their masks.")
    variants: list[StrictStr] | None = Field(None, max_length=32)
    metrics: list[StrictStr] | None = Field(None, min_length=1, max_length=16)
    ks: list[Annotated[StrictInt, Field(ge=1)]] | None = Field(None, min_length=1, max_length=4)
    permutations: Annotated[StrictInt, Field(ge=20, le=1000)] = 100
    bootstrap: Annotated[StrictInt, Field(ge=20, le=1000)] = 200
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = Field(0, description="Of the draws of the comparison.")


class CosinesRequest(Request):
    """Texts whose vectors are compared with themselves, and with each other, before and after dropout."""

    texts: Texts
    model: StrictStr | None = None
    passes: Annotated[StrictInt, Field(ge=1, le=64)] = 8
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = 0


class NeighborsRequest(Request):
    """A text, or the id of one of the set, whose neighbours are wanted."""

    set: StrictStr | None = Field(None, description="Name of a set; the first where it is left out.")
    text: Words | None = None
    id: StrictStr | None = None
    k: Annotated[StrictInt, Field(ge=1, le=1000)] = 10
    variants: list[StrictStr] | None = Field(None, min_length=1, max_length=16)


class EmbeddingItem(BaseModel):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float | None] | str
    n_tokens: int = Field(description="Tokens read, special ones included; -1 where the model cannot tell.")
    truncated: bool


class Usage(BaseModel):
    """Tokens read in all."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """OpenAI's answer; each item says besides how much of its text was read."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: Usage


class TextOut(BaseModel):
    """What became of one text."""

    id: str
    n_tokens: int
    truncated: bool


class MomentsOut(BaseModel):
    """Over the passes, one entry a text; the variance is unbiased."""

    mean: list[list[float | None] | str]
    variance: list[list[float | None] | str]
    passes: int


class VariantsAnswer(BaseModel):
    """Vectors by variant, or moments by tap and mode."""

    object: Literal["variants"]
    model: str
    digest: str
    seed: int | None
    passes: int
    masks: Literal["keyed", "positional"]
    rate: float = Field(description="Of the head's dropout.")
    texts: list[TextOut]
    identical: dict[str, str] = Field(description="Variants that are another one bit for bit.")
    vectors: dict[str, list[list[float | None] | str]]
    moments: dict[str, MomentsOut]


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """Every error of every route."""

    error: ErrorBody


class Model(BaseModel):
    """A model; everything beyond `state` once it is loaded."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    uri: str | None = None
    state: str | None = None


class ModelList(BaseModel):
    """OpenAI's list: each model, and each of its taps as name/tap."""

    object: Literal["list"]
    data: list[Model]
