"""What is in a model: its taps, every dropout site, and whether its loss fits its head.

What a site does is not only read from the model's configuration but seen: the model runs a text of a few words in
inference and in training mode, and each site is watched (see `models.observation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from embedsvc import plots
from embedsvc.losses import Ending, Fit, fit
from embedsvc.models.base import Encoder, LoadOptions
from embedsvc.models.observation import Observable, Observation, observe_head, observed_tokens
from embedsvc.results import Columns, Result
from embedsvc.types import DropoutSite, Mode, ModelSpec, Pass, Vectors

__all__ = ["InspectedSite", "Inspection", "inspect"]


@dataclass(frozen=True, slots=True)
class InspectedSite:
    """One dropout site, as declared and as seen.

    Attributes
    ----------
    path, kind, rate
        See `DropoutSite`. Kinds: unit, spatial (whole features), attention (its probabilities), input and recurrent (a
        recurrent cell's x_t and h_{t-1}), output (its h_t on the way out), update (its candidate), noise.
    modes : tuple of Mode
        In which it is live, as loaded: those in which it was seen to change something, where it could be watched.
    dropped : float or None
        Fraction of units seen to be dropped in training mode.
    shared : bool or None
        Whether every time step was seen to get the same mask; None where there are no steps, or nothing showed it.
    gates : int
        Masks drawn for a step: one for each gate of a recurrent cell, or 1.
    masks : {"keyed", "positional"}
        Whether embedsvc draws its masks by text or by place in the batch. The head's are keyed always.
    seen : str
        How it was watched; "" where only its declaration is known.
    """

    path: str
    kind: str
    rate: float
    modes: tuple[Mode, ...]
    dropped: float | None
    shared: bool | None
    gates: int
    masks: Literal["keyed", "positional"]
    seen: str


@dataclass(frozen=True, slots=True, repr=False)
class Inspection(Result):
    """What `inspect` found.

    Attributes
    ----------
    spec : ModelSpec
    sites : tuple of InspectedSite
        ``sites[0]`` is the head's dropout.
    ending : Ending
        Activation, width and loss.
    fit : Fit
        Whether they belong together.
    notes : tuple of str
        What the user should know besides.
    family : str
        Whose encoder it is (BERT, DistilBERT …), where the fast runner runs it; else "".
    """

    spec: ModelSpec
    sites: tuple[InspectedSite, ...]
    ending: Ending
    fit: Fit
    notes: tuple[str, ...]
    family: str = ""

    def _facts(self) -> dict[str, object]:
        spec, ending = self.spec, self.ending
        fits = {True: "yes", False: "NO", None: "cannot say"}[self.fit.fits]
        facts: dict[str, object] = {"model": spec.uri}
        if self.family:
            facts["family"] = self.family
        facts |= {"taps": len(spec.taps), "dropouts": len(self.sites)}
        facts |= {"reads tokens": spec.max_tokens, "masks": spec.masks, "classes": ending.units}
        return facts | {"loss fits the head": f"{fits}: {self.fit.what}"}

    def _table(self) -> Columns:
        """A row for each dropout site, the head's first."""
        sites = [asdict(site) | {"modes": ", ".join(site.modes)} for site in self.sites]
        return {name: [site[name] for site in sites] for name in asdict(self.sites[0])} if sites else {"path": []}

    def plot(self, *, figure: plots.MplFigure = None) -> plots.MplFigure:
        """Share of units that each dropout was seen to drop in training mode, beside its rate.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        figure = plots.canvas((7.0, 0.9 + 0.28 * len(self.sites)), figure)
        plots.beside(
            figure,
            {site.path: (float("nan") if site.dropped is None else site.dropped, site.rate) for site in self.sites},
            seen="seen to be dropped",
            told="rate",
            label="share of units, training mode",
        )
        return figure

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "model": self.spec.uri,
            "digest": self.spec.digest,
            "family": self.family,
            "max_tokens": self.spec.max_tokens,
            "masks": self.spec.masks,
            "taps": dict(self.spec.taps),
            "sites": [asdict(site) for site in self.sites],
            "head": asdict(self.ending),
            "fit": asdict(self.fit),
            "notes": list(self.notes),
        }


def inspect(model: str | Encoder, options: LoadOptions | None = None) -> Inspection:
    """Look into a model, and run it to see what its dropouts do.

    Parameters
    ----------
    model : str or Encoder
        As for `load_model`.
    options : LoadOptions, optional

    Raises
    ------
    ModelError
        As `load_model` does.
    """
    from embedsvc.models.load import load_model

    encoder = load_model(model, options) if isinstance(model, str) else model
    spec = encoder.spec
    observations = [observe_head(encoder), *(encoder.observe() if isinstance(encoder, Observable) else ())]
    seen = {observation.path: observation for observation in observations}
    sites = tuple(_site(site, seen.get(site.path), _masks(encoder, site)) for site in spec.sites)
    ending = getattr(encoder, "ending", Ending())
    notes = (*spec.notes, *getattr(encoder, "remarks", ()), *_surprises(spec.sites, sites), *_outputs(encoder, sites))
    return Inspection(spec, sites, ending, fit(ending), notes, getattr(encoder, "family", ""))


def _site(site: DropoutSite, seen: Observation | None, kind_of_masks: Literal["keyed", "positional"]) -> InspectedSite:
    if seen is None:
        return InspectedSite(site.path, site.kind, site.rate, site.modes, None, None, 1, kind_of_masks, "")
    return InspectedSite(
        site.path,
        site.kind,
        site.rate,
        seen.modes,
        seen.dropped,
        seen.shared,
        seen.gates,
        kind_of_masks,
        seen.how,
    )


def _masks(encoder: Encoder, site: DropoutSite) -> Literal["keyed", "positional"]:
    spec = encoder.spec
    if site is spec.sites[0] or spec.masks == "keyed":
        return "keyed"
    # Some loaders know which of their sites it is that cannot be keyed.
    keyed: frozenset[str] = getattr(encoder, "keyed_sites", frozenset())
    return "keyed" if site.path in keyed else "positional"


def _surprises(declared: Sequence[DropoutSite], sites: Sequence[InspectedSite]) -> list[str]:
    """Where what was seen is not what was declared."""
    notes = []
    for site, found in zip(declared, sites, strict=True):
        if not found.seen:
            continue
        if Mode.INFERENCE in found.modes:
            notes.append(
                f"{site.path} is live in inference mode too when the model is called by itself; embedsvc's inference "
                "mode switches it off."
            )
        if (Mode.TRAINING in site.modes) != (Mode.TRAINING in found.modes):
            was = "declared live in training mode, but nothing was seen to be dropped"
            now = "live in training mode, although it decides nothing that embedsvc taps"
            notes.append(f"{site.path} is {was if Mode.TRAINING in site.modes else now}.")
    return notes


def _outputs(encoder: Encoder, sites: Sequence[InspectedSite]) -> list[str]:
    """Whether the encoder as a whole moves when it should: for any loader, also one that cannot be watched."""
    observed = observed_tokens(encoder)

    def pre(pass_: Pass) -> Vectors:
        encoded = encoder.encode(observed.pieces, keys=observed.keys, taps=["pre_dropout"], pass_=pass_)
        return np.asarray(encoded["pre_dropout"])

    still = pre(Pass())
    if not np.array_equal(still, pre(Pass())):
        return ["Two inference passes over the same text differ: something in the model is random in every mode."]
    moves = any(not np.array_equal(still, pre(Pass(Mode.TRAINING, index, 0))) for index in range(8))
    live = any(Mode.TRAINING in site.modes for site in sites[1:])
    if moves == live:
        return [] if live else ["No dropout before the head is live in training mode: its pre_dropout is inference's."]
    if moves:
        return ["Training mode changes pre_dropout although no dropout site was seen to be live."]
    return ["No dropout site of the encoder changes pre_dropout, although some are live."]
