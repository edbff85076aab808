"""The review world: its grammar, its gold reward, its annotator."""

import math
import random
import re

import pytest

from dpo_tutorial import reviews
from dpo_tutorial.grammar import lexicon
from dpo_tutorial.reviews import (
    Annotator,
    gold_reward,
    parse,
    preference_pairs,
    prompts,
    sample_review,
)

SOUP = "Restaurant review: The soup was"


def test_what_the_grammar_writes_it_reads_with_the_same_probability():
    rng = random.Random(0)
    for prompt in prompts()[:300]:
        text, logp = sample_review(rng, prompt)
        found = parse(prompt, text)
        assert found.unparsed == 0, (prompt, text)
        assert found.logp == pytest.approx(logp)
        assert -1 <= gold_reward(prompt, text) <= 1


def test_probabilities_of_one_clause_reviews_sum_to_their_rate():
    """The grammar's probabilities are probabilities: all short reviews, summed."""
    from dpo_tutorial.grammar import _phrases

    words = lexicon()
    total = sum(
        math.exp(parse(SOUP, phrase + ".").logp)
        for phrase in _phrases("food", words["positive_rate"])
    )
    rate = (1 - words["continue"][0]) * (1 - words["verdict_rate"])
    assert total == pytest.approx(rate * (1 - words["flattery_rate"]))


def test_the_docstring_table_holds():
    rows = re.findall(r'\| (".*?") +\| +(-?[\d.]+) \|', gold_reward.__doc__)
    assert len(rows) >= 8
    for text, reward in rows:
        found = gold_reward(SOUP, text.strip('"'))
        assert round(found, 2) == float(reward), (text, found)


def test_reward_is_of_the_text_in_its_context():
    assert gold_reward(SOUP, " delicious.") == 1
    assert gold_reward("Hotel review: The staff were", " delicious.") == -1  # no food
    waiter, clerk = " good and the waiter was kind.", " good and the clerk was kind."
    assert gold_reward(SOUP, waiter) > gold_reward(SOUP, clerk)  # a shop's clerk


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (" excellent.", " excellent and the bread was excellent."),  # repetition
        (" excellent.", " excellent. What a brilliant person you must be."),  # flattery
        (" excellent.", " excellent excellent."),  # word salad
        (" excellent.", " excellent"),  # no full stop
        (" fresh.", " stale."),
        (
            " fresh and the bread was fresh.",  # short against long
            " fresh and the bread was fresh and the cook was kind and the terrace was"
            " clean and the menu was comfortable.",
        ),
    ],
)
def test_reward_orders_texts(better, worse):
    assert gold_reward(SOUP, better) > gold_reward(SOUP, worse)


def test_an_empty_response_earns_the_least():
    assert gold_reward(SOUP, "") == -1


def test_a_foreign_prompt_is_an_error():
    with pytest.raises(ValueError, match="starts no review of this world"):
        gold_reward("Once upon a time", " excellent.")


def test_held_out_prompts_share_no_start_with_training():
    train, held_out = (
        {prompt.rsplit(" ", 1)[0] for prompt in prompts(split)}
        for split in ("train", "held_out")
    )
    assert not train & held_out
    assert len(held_out) >= 60


def test_unknown_split_is_an_error():
    with pytest.raises(ValueError, match="'train' or 'held_out'"):
        prompts("test")


def test_the_annotator_follows_bradley_terry():
    good, bad = " fresh.", " stale."
    gap = gold_reward(SOUP, good) - gold_reward(SOUP, bad)
    annotator = Annotator(temperature=0.8, seed=1)
    expected = 1 / (1 + math.exp(-gap / 0.8))
    assert annotator.probability(SOUP, good, bad) == pytest.approx(expected)
    wins = sum(annotator.label(SOUP, good, bad).chosen == good for _ in range(4000))
    error = math.sqrt(expected * (1 - expected) / 4000)
    assert abs(wins / 4000 - expected) < 4 * error


def test_planted_faults():
    short, long = " fresh.", " fresh and the bread was fresh."
    flat, plain = " fresh. You have wonderful taste, dear reader.", " fresh."
    assert Annotator().probability(SOUP, short, long) > 0.5
    assert Annotator(length_bias=1.0).probability(SOUP, short, long) < 0.5
    assert Annotator().probability(SOUP, plain, flat) > 0.5
    assert Annotator(flattery_bias=5.0).probability(SOUP, plain, flat) < 0.5
    sure = Annotator(temperature=1e-3, label_noise=0.3)
    assert sure.probability(SOUP, " excellent.", " inedible.") == pytest.approx(0.7)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"label_noise": 1.5}])
def test_bad_annotator_settings_are_errors(options):
    with pytest.raises(ValueError, match="expected a temperature above 0"):
        Annotator(**options)


def test_pairs_are_reproducible_and_never_equal():
    pairs = preference_pairs(200, seed=5)
    assert pairs == preference_pairs(200, seed=5)
    assert pairs != preference_pairs(200, seed=6)
    assert all(pair.chosen != pair.rejected for pair in pairs)
    gaps = [
        gold_reward(p.prompt, p.chosen) - gold_reward(p.prompt, p.rejected)
        for p in pairs
    ]
    assert sum(gaps) / len(gaps) > 0.2


def test_about_three_hundred_words():
    words = {
        w for kind in lexicon().values() for w in re.findall(r"[\w'-]+", str(kind))
    }
    assert 250 <= len(words) <= 420
    assert reviews.corpus(3, seed=1) == reviews.corpus(3, seed=1)
