from dataclasses import replace

import pytest

from embedsvc.reporting.findings import Beside, Clusters, Effect, Evidence, Map, Reading
from embedsvc.reporting.verdict import verdict

REFERENCE = "pre_dropout.inference"
PLAIN = f"{REFERENCE} (before the dropout, with every dropout off)"  # in the headline
HEAD = Beside("post_dropout.head.0", 0.72, 0.70, 0.74, expected=0.71, chance=0.04, encoder=False)
TRAINING = Beside("post_dropout.training.0", 0.48, 0.46, 0.50, expected=0.70, chance=0.04, encoder=True)
NO_LABELS = {"classification": "no text has a label", "clustering": "too few texts", "visualisation": "no map"}
EVIDENCE = Evidence(n=400, k=10, reference=REFERENCE, overlaps=[HEAD], absent=NO_LABELS)


def reading(trained, difference, low, high, *, tested=None):
    return Reading(trained, tested or trained, 0.7 + difference, difference, low, high)


def finding(evidence, purpose):
    return next(each for each in verdict(evidence).findings if each.purpose == purpose)


def said(evidence, purpose):
    return " ".join(finding(evidence, purpose).sentences)


def test_identical_variants_are_said_to_be_the_same_vectors():
    evidence = replace(EVIDENCE, identical={"post_dropout.inference": REFERENCE})
    assert f"post_dropout.inference is the same vectors as {REFERENCE}, bit for bit." in said(evidence, "similarity")
    assert verdict(evidence).headline.startswith(
        f"Take {PLAIN.removesuffix(')')}; post_dropout.inference is the same, bit for bit)."
    )


def test_without_any_difference_the_effect_is_none():
    evidence = replace(EVIDENCE, overlaps=[], identical={"post_dropout.inference": REFERENCE})
    found = finding(evidence, "similarity")
    assert found.take == REFERENCE
    assert found.effect is Effect.NONE
    assert "No other variant differs from it." in found.sentences


def test_a_mask_that_changes_nothing_hardly_matters():
    evidence = replace(EVIDENCE, overlaps=[replace(HEAD, observed=0.99, low=0.985, high=0.995, expected=0.99)])
    assert "hardly matters" in verdict(evidence).headline


def test_what_the_mask_explains_is_called_the_mask():
    text = said(EVIDENCE, "similarity")
    assert "keeps 72% (70% to 74%) of the 10 nearest neighbours, where the mask alone predicts 71%" in text
    assert "the mask explains it, and nothing else shows" in text


def test_what_goes_beyond_the_mask_is_the_encoders():
    evidence = replace(EVIDENCE, overlaps=[TRAINING])
    assert "the encoder's dropout takes another 22 points." in said(evidence, "similarity")
    assert finding(evidence, "similarity").effect is Effect.LARGE


def test_a_training_pass_that_loses_no_more_than_the_mask_says_so():
    evidence = replace(EVIDENCE, overlaps=[replace(TRAINING, expected=0.49)])
    assert "adds nothing that shows beside the mask" in said(evidence, "similarity")


def test_a_head_pass_that_loses_more_than_its_mask_is_suspicious():
    evidence = replace(EVIDENCE, overlaps=[replace(HEAD, expected=0.9)])
    assert "18 points less than the mask explains; look at these vectors" in said(evidence, "similarity")


def test_more_kept_than_the_mask_would_leave_is_said():
    evidence = replace(EVIDENCE, overlaps=[replace(HEAD, expected=0.6)])
    assert "12 points more than the mask alone would leave" in said(evidence, "similarity")


def test_a_wide_interval_keeps_a_difference_from_being_claimed():
    evidence = replace(EVIDENCE, overlaps=[replace(TRAINING, low=0.2, high=0.76)])
    assert "adds nothing that shows" in said(evidence, "similarity")


def test_an_overlap_at_chance_is_called_chance():
    evidence = replace(EVIDENCE, overlaps=[replace(TRAINING, observed=0.03, low=0.02, high=0.04)])
    assert "no more than chance" in said(evidence, "similarity")


def test_another_tap_is_no_effect_of_dropout():
    other = Beside("mean.inference", 0.2, 0.18, 0.22, expected=None, chance=0.04, encoder=False)
    evidence = replace(EVIDENCE, overlaps=[other])
    assert "another place in the model" in said(evidence, "similarity")
    assert finding(evidence, "similarity").effect is Effect.NONE


def test_no_mask_between_two_encoder_passes_blames_the_encoder():
    pre = Beside("pre_dropout.training.0", 0.56, 0.55, 0.57, expected=1.0, chance=0.04, encoder=True)
    assert "all of it is the encoder's dropout" in said(replace(EVIDENCE, overlaps=[pre]), "similarity")


def test_too_few_texts_for_their_neighbours_answer_nothing():
    evidence = replace(EVIDENCE, n=9)
    found = finding(evidence, "similarity")
    assert found.take is None
    assert found.effect is Effect.UNKNOWN
    assert "9 texts are too few" in found.sentences[0]


def test_few_texts_make_the_verdict_a_hint():
    assert "30 texts are few: take this as a hint." in verdict(replace(EVIDENCE, n=30)).headline


def test_an_absent_analysis_is_not_answered_and_says_why():
    assert said(EVIDENCE, "classification") == "Not answered: no text has a label."
    assert said(EVIDENCE, "clustering") == "Not answered: too few texts."
    evidence = Evidence(n=400, k=10, reference=REFERENCE, absent={**NO_LABELS, "similarity": "one variant"})
    assert verdict(evidence).headline == "These texts do not say which variant to take."


def test_class_flips_are_told_without_labels():
    text = said(replace(EVIDENCE, flips=(100, 0.031, 0.08)), "classification")
    assert "3.1% of 100 head passes change the class of a text, and 8.0% of the texts" in text


def test_no_head_means_no_word_of_flips():
    assert "pass" not in said(EVIDENCE, "classification")


SAME = Beside("post_dropout.training.0", 0.9, 0.9, 0.9, 0.95, 0.02, encoder=True, expected_low=0.92)


@pytest.mark.parametrize(
    ("agreement", "restarts", "words"),
    [
        (replace(SAME, observed=0.99), (1.0, 1.0), "The same clusters"),
        (replace(SAME, observed=0.01), (1.0, 1.0), "No more alike than chance"),
        (replace(SAME, observed=0.9), (0.95, 0.88), "No further apart than two starts"),
        (replace(SAME, observed=0.91), (0.99, 0.98), "No further apart than the mask alone"),
        (replace(SAME, observed=0.6), (0.99, 0.98), "Further apart than starts of the method or the mask"),
        (replace(SAME, observed=0.6, expected=None, expected_low=None), None, "Further apart than starts"),
    ],
)
def test_an_agreement_of_clusters_is_read_beside_starts_mask_and_chance(agreement, restarts, words):
    evidence = replace(EVIDENCE, clusters=Clusters("kmeans", 0.9, restarts, [agreement]))
    assert finding(evidence, "clustering").take == REFERENCE
    assert finding(evidence, "clustering").sentences[1].startswith(words)


def test_clusters_that_starts_of_the_method_move_as_far_say_nothing_of_dropout():
    evidence = replace(EVIDENCE, clusters=Clusters("kmeans", 0.9, (0.9, 0.7), [replace(SAME, observed=0.75)]))
    assert finding(evidence, "clustering").effect is Effect.UNKNOWN
    further = replace(EVIDENCE, clusters=Clusters("kmeans", 0.9, (0.9, 0.7), [replace(SAME, observed=0.6)]))
    assert finding(further, "clustering").effect is Effect.LARGE


@pytest.mark.parametrize(
    ("stability", "restarts"), [(0.5, (1.0, 1.0)), (0.9, (0.4, 0.2)), (0.5, None), (None, (0.3, 0.3))]
)
def test_clusters_that_do_not_hold_are_not_recommended(stability, restarts):
    found = finding(replace(EVIDENCE, clusters=Clusters("kmeans", stability, restarts, [SAME])), "clustering")
    assert found.take is None
    assert found.effect is Effect.UNKNOWN
    assert "Do not build on these clusters" in found.sentences[0]


def test_a_map_counts_what_moves_beyond_the_five_in_a_hundred_of_its_control():
    shown = Map("UMAP", REFERENCE, 0.9, {"post_dropout.training.0": 0.25}, "texts that had not changed")
    found = finding(replace(EVIDENCE, maps=[shown]), "visualisation")
    assert found.effect is Effect.MODERATE
    assert "25% of the texts of post_dropout.training.0 lie further off" in found.sentences[1]
    still = replace(shown, moved={"post_dropout.training.0": 0.05})
    assert finding(replace(EVIDENCE, maps=[still]), "visualisation").effect is Effect.NONE


def test_a_few_texts_that_moved_by_chance_are_no_effect():
    shown = Map("UMAP", REFERENCE, 0.9, {"post_dropout.training.0": 0.09}, "texts that had not changed")
    assert finding(replace(EVIDENCE, n=100, maps=[shown]), "visualisation").effect is Effect.NONE
    found = finding(replace(EVIDENCE, n=10_000, maps=[shown]), "visualisation")
    assert found.effect is Effect.SMALL
    assert "without a difference 5% to 5% would" in found.sentences[1]


def test_a_map_that_is_not_trustworthy_says_so():
    shown = Map("UMAP", REFERENCE, 0.7, {}, "texts that had not changed")
    assert "trustworthiness 0.70" in said(replace(EVIDENCE, maps=[shown]), "visualisation")


BASE = reading(REFERENCE, 0.0, 0.0, 0.0)


def test_intervals_that_hold_zero_make_no_difference():
    other = reading("post_dropout.training.0", -0.01, -0.02, 0.01)
    crossed = reading(REFERENCE, -0.01, -0.02, 0.01, tested="post_dropout.training.0")
    evidence = replace(EVIDENCE, readings=[BASE, other, crossed], majority=0.3, classifier="a model")
    found = finding(evidence, "classification")
    assert found.take == REFERENCE
    assert found.effect is Effect.NONE
    assert "no measurable difference" in found.sentences[1]
    assert "post_dropout.training.0 (-1)" in found.sentences[1]


def test_a_difference_that_so_few_labels_could_hide_is_unsettled_not_none():
    other = reading("post_dropout.training.0", -0.01, -0.08, 0.06)
    evidence = replace(EVIDENCE, readings=[BASE, other], majority=0.3, classifier="a model")
    found = finding(evidence, "classification")
    assert found.take == REFERENCE
    assert found.effect is Effect.UNKNOWN
    assert "So few labels could hide a difference of up to 8 points." in found.sentences


def test_no_difference_in_few_texts_is_unsettled_by_the_rule_of_three():
    """Hanley & Lippman-Hand 1983: what none of n texts shows may yet befall 3 of n."""
    same = [BASE, reading("post_dropout.training.0", 0.0, 0.0, 0.0)]
    evidence = replace(EVIDENCE, readings=same, majority=0.3, classifier="a model", n_labelled=30)
    found = finding(evidence, "classification")
    assert found.effect is Effect.UNKNOWN
    assert "So few labels could hide a difference of up to 10 points." in found.sentences
    assert finding(replace(evidence, n_labelled=300), "classification").effect is Effect.NONE
    assert finding(replace(evidence, readings=[BASE]), "classification").effect is Effect.NONE


@pytest.mark.parametrize(("high", "effect"), [(0.0249, Effect.NONE), (0.0251, Effect.UNKNOWN)])
def test_what_rounds_to_the_tolerance_is_not_told_from_it(high, effect):
    readings = [BASE, reading("post_dropout.training.0", 0.0, -0.01, high)]
    found = finding(replace(EVIDENCE, readings=readings, majority=0.3, classifier="a model"), "classification")
    assert found.effect is effect


def test_a_measurably_worse_variant_is_told_with_its_interval():
    other = reading("post_dropout.training.0", -0.12, -0.2, -0.04)
    evidence = replace(EVIDENCE, readings=[BASE, other], majority=0.3, classifier="a model")
    assert "worse by 12 points (-20 to -4)" in said(evidence, "classification")
    assert finding(evidence, "classification").effect is Effect.MODERATE


def test_a_measurably_better_tap_is_taken_but_a_lucky_pass_is_not():
    tap, luck = reading("mean.inference", 0.13, 0.05, 0.2), reading("mean.training.0", 0.15, 0.07, 0.22)
    evidence = replace(EVIDENCE, readings=[BASE, tap, luck], majority=0.3, classifier="a model")
    found = finding(evidence, "classification")
    assert found.take == "mean.inference"
    assert found.sentences[0].endswith(
        "with 83%, 13 points more than off pre_dropout.inference (always the most frequent class: 30%)."
    )
    assert verdict(evidence).headline.startswith(f"Take mean.inference for classification; {PLAIN} for similarity.")


def test_labels_that_cannot_be_read_recommend_nothing():
    evidence = replace(EVIDENCE, readings=[BASE], majority=0.69, classifier="a model")
    found = finding(evidence, "classification")
    assert found.take is None
    assert "The labels cannot be read off any variant" in found.sentences[0]


def test_neighbours_that_share_labels_decide_which_tap_searches_best():
    evidence = replace(EVIDENCE, near=[BASE, reading("mean.inference", 0.24, 0.15, 0.3)])
    assert finding(evidence, "similarity").take == "mean.inference"
    unsure = replace(EVIDENCE, near=[BASE, reading("mean.inference", 0.24, -0.15, 0.6)])
    assert finding(unsure, "similarity").take == REFERENCE


def test_the_headline_names_the_largest_effect_and_what_the_mask_makes_of_it():
    found = verdict(replace(EVIDENCE, overlaps=[HEAD, TRAINING])).headline
    assert found == (
        f"Take {PLAIN}. What live dropout changes is large for "
        "similarity: post_dropout.training.0 loses 52% of the 10 nearest neighbours, where the head's mask alone would "
        "lose 30%; the encoder's dropout takes the other 22 points."
    )
    explained = verdict(replace(EVIDENCE, overlaps=[HEAD, replace(TRAINING, expected=0.49)])).headline
    assert explained.endswith("loses 52% of the 10 nearest neighbours, where the head's mask alone would lose 51%.")
    labelled = replace(
        EVIDENCE,
        overlaps=[replace(HEAD, observed=0.99, low=0.98, high=1.0, expected=0.99)],
        readings=[BASE, reading("post_dropout.training.0", -0.2, -0.3, -0.1)],
        majority=0.3,
    )
    assert verdict(labelled).headline.endswith("What live dropout changes is moderate for classification.")


def test_what_is_doubtful_is_named_in_the_headline():
    evidence = replace(EVIDENCE, clusters=Clusters("kmeans", 0.5, None, [SAME]), absent={"visualisation": "no map"})
    evidence = replace(evidence, readings=[BASE], majority=0.3)
    assert verdict(evidence).headline.startswith(
        f"Take {PLAIN} for similarity and classification. Nothing is recommended for clustering. "
        "What live dropout changes is moderate"
    )


def test_hardly_matters_is_said_only_of_what_was_measured():
    kept = replace(HEAD, observed=0.99, low=0.985, high=0.995, expected=0.99)
    wide = reading("post_dropout.training.0", -0.01, -0.08, 0.06)
    evidence = replace(EVIDENCE, overlaps=[kept], readings=[BASE, wide], majority=0.3)
    assert "it changes nothing by more than two points in similarity." in verdict(evidence).headline


def test_sets_of_two_models_are_told_from_dropout():
    other = Beside("other:pre_dropout.inference", 0.4, 0.38, 0.42, expected=None, chance=0.04, encoder=False)
    headline = verdict(replace(EVIDENCE, overlaps=[other])).headline
    assert "The other model keeps 40% of the 10 nearest neighbours (other:pre_dropout.inference)." in headline
    assert "What live dropout changes" not in headline
    text = said(replace(EVIDENCE, overlaps=[other]), "similarity")
    assert "keeps 40% (38% to 42%) of the 10 nearest neighbours: it is another model" in text


def test_the_verdict_is_json():
    data = verdict(EVIDENCE).to_json()
    assert data["headline"].startswith("Take")
    assert [each["purpose"] for each in data["findings"]] == [
        "similarity",
        "clustering",
        "visualisation",
        "classification",
    ]
    assert all(type(each["effect"]) is str for each in data["findings"])
