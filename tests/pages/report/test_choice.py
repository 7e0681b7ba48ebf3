"""The words on what was chosen, for records as the search leaves them."""

from dataclasses import replace

from mekrr.pages.report.choice import choice_rows, is_close, screening, verdict
from mekrr.pages.report.surface import best_by, ridge_paths, score_maps
from mekrr.potential.search_record import SearchRecord, TrialRecord, at_one_stage, why_not


def trial(prior, score, rmse=1.0, layers=("a",), length_scale=1.0, species_weight=0.5):
    return TrialRecord(
        tuple(layers),
        prior,
        length_scale,
        species_weight,
        1e-6,
        score,
        rmse,
        rmse / 2,
        0.0,
        ridges=(1e-7, 1e-6),
        scores=(score - 1, score),
        loo_rmse_path=(rmse + 1, rmse),
    )


def search_of(trials, best=None, screened=()):
    best = best or max(trials, key=lambda t: t.score)
    return SearchRecord(best, None, tuple(screened), tuple(trials), len(trials), "loo-mae")


def fitted_with(example, trials, prior, best=None):
    record = replace(example.fitted.record, search=search_of(trials, best))
    return replace(example.fitted, record=record, prior=replace(example.fitted.prior, name=prior))


def test_different_priors_for_accuracy_and_safety_are_said(example):
    fitted = fitted_with(example, [trial("composition", 1.0, 10.0), trial("backbone", 0.5, 3.0)], "composition")
    text = " ".join(verdict(fitted))
    assert "point to different priors" in text
    assert "--prior backbone" in text
    assert "10.0 meV/atom with composition and 3.00 with backbone" in text


def test_a_close_prior_without_the_backbone_is_said_to_be_less_safe(example):
    text = " ".join(verdict(fitted_with(example, [trial("backbone", 1.0), trial("none", 0.99)], "backbone")))
    assert "the safer of two near equals" in text


def test_a_safe_prior_taken_before_a_better_one_is_said(example):
    fitted = fitted_with(example, [trial("backbone", 1.0), trial("none", 1.07)], "backbone", trial("backbone", 1.0))
    text = " ".join(verdict(fitted))
    assert (
        "it scores 1.070 against 1.000 of the choice, 0.070 ahead, and was passed over: a prior with the back" in text
    )
    assert "the prior none does slightly better (0.070 ahead)" in text
    assert "one and the same" not in text


def test_one_gap_is_one_number_although_the_solution_has_another_score(example):
    """The solution is of all structures and has the tangent kernel: its score is no rival of the search's."""
    solved = replace(trial("backbone", 3.0), tangent_share=0.6, species_weight=1.0)
    trials = [trial("backbone", 1.0), trial("none", 0.8), trial("none", 0.7, layers=("b",))]
    sentences = verdict(fitted_with(example, trials, "backbone", solved))
    assert "scores 0.8000 against 1.000 of the choice, 0.20 behind" in sentences[0]
    assert "by 0.20" in sentences[1]
    assert "3.0" not in " ".join(sentences)
    chosen, runner_up = at_one_stage(search_of(trials, solved))
    assert (chosen.score, runner_up.score) == (1.0, 0.8)
    assert why_not(chosen, runner_up) == ""
    assert "basis as large" in why_not(chosen, trial("backbone", 1.2, layers=("b",)))


def test_a_length_scale_taken_beside_the_tangent_kernel_is_no_gap_in_the_search():
    """Without one, the shorter length scale is the search's own choice, and its score is the choice's."""
    trials = [trial("backbone", 1.0), replace(trial("backbone", 0.7), length_scale=7.0), trial("none", 0.9)]
    short = replace(trial("backbone", 0.7), length_scale=7.0)
    assert at_one_stage(search_of(trials, short))[0].score == 0.7
    assert at_one_stage(search_of(trials, replace(short, tangent_share=0.6)))[0].score == 1.0


def test_a_clear_backbone_prior_is_said_to_be_both(example):
    text = " ".join(verdict(fitted_with(example, [trial("backbone", 1.0), trial("none", 0.0)], "backbone")))
    assert "point to the same prior" in text


def test_priors_that_are_one_and_the_same_are_not_called_rivals(example):
    trials = [trial("composition", 1.0), trial("none", 1.0), trial("backbone", 0.3)]
    sentences = verdict(fitted_with(example, trials, "composition"))
    assert "scores the same as composition" in sentences[0]
    assert sentences[1].startswith("Runner-up in the search, on features alone: prior backbone, with the same layers")


def test_no_backbone_energy(example):
    fitted = fitted_with(example, [trial("composition", 1.0), trial("none", 0.9)], "composition")
    assert "no energy of its own" in " ".join(verdict(replace(fitted, baseline=None)))


def test_everything_given_has_no_runner_up(example):
    sentences = verdict(fitted_with(example, [trial("backbone", 1.0)], "backbone"))
    assert "no runner-up" in sentences[0]
    assert "falls back on the foundation model" in sentences[1]


def test_what_counts_as_close():
    assert is_close(1.0, 0.96)
    assert not is_close(1.0, 0.9)


def test_given_and_chosen_settings_are_told_apart(example):
    rows = {row.name: row for row in choice_rows(example.fitted)}
    assert rows["Layers"].how == "given"
    assert rows["Kernel"].how == "default"
    assert rows["Prior"].how == "leave-one-out, 4 priors tried"


def test_screening_puts_layers_against_priors():
    pool = [trial("none", 0.1), trial("none", 0.4, layers=("a", "b")), trial("backbone", 0.3)]
    table = screening(search_of(pool, screened=pool))
    assert table.priors == ["none", "backbone"]
    assert [name for name, _ in table.rows] == ["a + b", "a"]
    assert table.rows[0][1] == [pool[1], None]
    assert screening(search_of(pool[:1])) is None


def test_best_by_keeps_the_best_of_each_group():
    trials = [trial("none", 0.1), trial("none", 0.2, length_scale=2.0), trial("backbone", 0.15)]
    assert best_by(trials, ("prior",)) == [trials[1], trials[2]]
    assert best_by(trials, ("prior",), length_scale=1.0) == [trials[2], trials[0]]


def test_scores_that_are_not_finite_do_not_reach_the_colours():
    trials = [trial("none", 0.1), trial("none", float("nan"), length_scale=2.0)]
    search = search_of(trials, trials[0])
    assert len(score_maps(search)) == 1
    assert len(ridge_paths(search)) == 2
