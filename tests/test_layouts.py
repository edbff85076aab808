"""Each public layout on a row in its true field names, and rows that do not fit."""

import pytest

from dpo_tutorial.data import PreferencePair, load_preferences
from dpo_tutorial.layouts import LAYOUTS, to_fields


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


TALK = [user("Hi"), assistant("Hello."), user("2 + 2?")]
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 2 + 2?\n\nAssistant:"
RATED = [
    {"response": "4", "fine-grained_score": 4.75, "overall_score": 2.0},
    {"response": "Four or so", "fine-grained_score": 3.0, "overall_score": 9.0},
    {"response": "5", "fine-grained_score": 1.25, "overall_score": 10.0},
]
SHP = {
    "post_id": "qt3nxl",
    "history": "2 + 2?",
    "human_ref_A": "4",
    "human_ref_B": "5",
    "labels": 1,
    "score_A": 9,
    "score_B": 3,
}
ORCA = {"system": "", "question": "2 + 2?", "chosen": "4", "rejected": "5"}
ROWS = {
    "trl strings": (
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        ("2 + 2?", "4", "5", None),
    ),
    "trl messages": (
        {"prompt": TALK, "chosen": [assistant("4")], "rejected": [assistant("5")]},
        (TALK, [assistant("4")], [assistant("5")], None),
    ),
    "trl messages, implicit prompt": (
        {"chosen": [*TALK, assistant("4")], "rejected": [*TALK, assistant("5")]},
        (TALK, [assistant("4")], [assistant("5")], None),
    ),
    "ultrafeedback, binarized": (
        {
            "prompt": "2 + 2?",
            "prompt_id": "a1",
            "chosen": [user("2 + 2?"), assistant("4")],
            "rejected": [user("2 + 2?"), assistant("5")],
            "messages": [user("2 + 2?"), assistant("4")],
            "score_chosen": 8.5,
            "score_rejected": 2.0,
        },
        (
            [user("2 + 2?")],
            [assistant("4")],
            [assistant("5")],
            {"prompt_id": "a1", "score_chosen": 8.5, "score_rejected": 2.0},
        ),
    ),
    "ultrafeedback": (
        {"source": "flan", "instruction": "2 + 2?", "completions": RATED},
        ("2 + 2?", "4", "5", {"source": "flan"}),
    ),
    "hh-rlhf": (
        {"chosen": f"{HH} 4", "rejected": f"{HH} 5"},
        (TALK, [assistant("4")], [assistant("5")], None),
    ),
    "shp, A preferred": (
        SHP,
        (
            "2 + 2?",
            "4",
            "5",
            {"post_id": "qt3nxl", "labels": 1, "score_A": 9, "score_B": 3},
        ),
    ),
    "orca": (ORCA, ([user("2 + 2?")], [assistant("4")], [assistant("5")], None)),
    "orca, with a system": (
        ORCA | {"system": "Be brief."},
        (
            [{"role": "system", "content": "Be brief."}, user("2 + 2?")],
            [assistant("4")],
            [assistant("5")],
            None,
        ),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_each_layout_is_told_by_its_fields(name):
    row, expected = ROWS[name]
    assert to_fields(row) == expected
    assert load_preferences([row]) == [PreferencePair(*expected)]


def test_shp_label_zero_prefers_b():
    prompt, chosen, rejected, _ = to_fields(SHP | {"labels": 0})
    assert (prompt, chosen, rejected) == ("2 + 2?", "5", "4")


def test_ultrafeedback_ranks_by_overall_score_where_that_is_all():
    rated = [{"response": a, "overall_score": s} for a, s in [("4", 7), ("5", 2)]]
    row = {"instruction": "2 + 2?", "completions": rated}
    assert to_fields(row) == ("2 + 2?", "4", "5", None)


def test_a_string_that_holds_its_prompt_is_cut_in_front_of_a_word():
    row = {"chosen": "The sky is blue.", "rejected": "The sky is black."}
    assert to_fields(row, "implicit") == ("The sky is", " blue.", " black.", None)
    with pytest.raises(ValueError, match="no field 'prompt'"):
        to_fields(row)  # a forgotten prompt is likelier than this layout


def test_trl_extracts_the_same_implicit_prompt():
    from trl.data_utils import extract_prompt

    row, _ = ROWS["trl messages, implicit prompt"]
    prompt, chosen, rejected, _ = to_fields(row)
    theirs = extract_prompt(row)
    assert (prompt, chosen, rejected) == tuple(
        theirs[key] for key in ("prompt", "chosen", "rejected")
    )


# --- OASST --------------------------------------------------------------------------


def message(key, parent, role, text, rank=None):
    return {
        "message_id": key,
        "parent_id": parent,
        "message_tree_id": "t",
        "role": role,
        "text": text,
        "rank": rank,
    }


TABLE = [
    message("a", None, "prompter", "Hi"),
    message("b", "a", "assistant", "Hello.", 0),
    message("c", "a", "assistant", "What?", 2),
    message("d", "a", "assistant", "Hi.", 1),
    message("e", "b", "prompter", "2 + 2?"),
    message("f", "e", "assistant", "5", 1),
    message("g", "e", "assistant", "4", 0),
    message("h", "b", "prompter", "Bye", 1),
    message("i", "h", "assistant", "Bye."),
]
PAIRS = [
    PreferencePair([user("Hi")], [assistant("Hello.")], [assistant("What?")]),
    PreferencePair(TALK, [assistant("4")], [assistant("5")]),
]


def test_oasst_table_gives_a_pair_for_each_ranked_set_of_replies():
    assert load_preferences(TABLE) == PAIRS
    assert load_preferences(TABLE, layout="oasst") == PAIRS


def test_oasst_trees_give_the_same_pairs():
    def grow(node):
        below = [grow(m) for m in TABLE if m["parent_id"] == node["message_id"]]
        drop = ("parent_id", "message_tree_id")
        node = {k: v for k, v in node.items() if k not in drop}
        return node | {"replies": below}

    tree = {"message_tree_id": "t", "tree_state": "ready", "prompt": grow(TABLE[0])}
    assert load_preferences([tree]) == PAIRS


def test_oasst_replies_whose_prompt_is_missing_are_reported():
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 rows.*\n.*message e: prompt"):
        pairs = load_preferences([*TABLE[:4], *TABLE[5:]], on_error="skip")
    assert pairs == PAIRS[:1]


def test_oasst_equal_ranks_are_reported():
    table = [*TABLE[:1], TABLE[1], TABLE[2] | {"rank": 0}]
    with pytest.raises(ValueError, match=r"message a: scores are \[0, 0\], expected"):
        load_preferences(table)


# --- rows that do not fit -----------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "layout", "message"),
    [
        (
            {"chosen": f"{HH} 4", "rejected": "\n\nHuman: Bye\n\nAssistant: 5"},
            "auto",
            "part",
        ),
        ({"chosen": "4", "rejected": "5"}, "hh-rlhf", "part before the last answer"),
        ({"instruction": "x", "completions": []}, "auto", r"scores are \[\], expected"),
        ({"instruction": "x", "completions": RATED[:1]}, "auto", "expected two that"),
        (
            {"instruction": "x", "completions": [{"response": "4"}]},
            "auto",
            "no field 'ov",
        ),
        ({"instruction": "x", "completions": "4 or 5"}, "auto", "'str' object has no"),
        (SHP | {"labels": 2}, "auto", "labels is 2, expected 1"),
        ({"human_ref_A": "4"}, "auto", "no field 'labels' in a row"),
        ({"question": "x", "chosen": "4"}, "auto", "no field 'rejected'"),
        ({"text": "x"}, "auto", r"no field 'chosen' in a row of \['text'\]"),
        (ORCA, "shp", "no field 'labels' in .*expected layout 'shp'"),
        (5, "auto", "5 is a int, expected named fields"),
    ],
)
def test_a_row_that_does_not_fit_is_a_clear_error(row, layout, message):
    with pytest.raises(ValueError, match=message):
        to_fields(row, layout)


def test_the_named_layouts_read_what_auto_reads():
    assert set(LAYOUTS) >= {"trl", "hh-rlhf", "ultrafeedback", "shp", "oasst", "orca"}
    for name, (row, expected) in ROWS.items():
        layout = name.partition(",")[0].partition(" ")[0]
        if name != "ultrafeedback, binarized":
            assert to_fields(row, layout) == expected
