"""Answers to exercises 03 that people really give; what `WRONG` holds must be caught.

A task's entries are (who, code for its solution region, words of the hint).
"""

WRONG = {
    "task1": [
        (
            "the majority, in votes",
            "return (wins - losses * (1 + copies)) / beta",
            "before you take a logarithm",
        ),
        (
            "log of the share",
            "return math.log(wins / (wins + losses * (1 + copies))) / beta",
            "ask for indifference",
        ),
        (
            "beta left out",
            """
            rows = losses * (1 + copies)
            return math.log(wins / rows) if rows else math.inf
            """,
            "the loss knows beta times h only",
        ),
        (
            "copies added once, not to each vote",
            """
            rows = losses + copies if losses else 0
            return math.log(wins / rows) / beta if rows else math.inf
            """,
            "two dissenting rows with 3 extra copies of each",
        ),
        (
            "no dissent as one vote",
            """
            rows = max(1, losses) * (1 + copies)
            return math.log(wins / rows) / beta
            """,
            "the loss falls for ever",
        ),
    ],
    "task2": [
        (
            "tokenised together and cut at the prompt's length",
            """
            start = len(tokenizer(prompt)["input_ids"])
            whole = tokenizer(prompt + response)["input_ids"] + [eos]
            pads = length - len(whole)
            if pads < 0:
                raise ValueError("too long")
            return {
                "input_ids": whole + [eos] * pads,
                "attention_mask": [1] * len(whole) + [0] * pads,
                "labels": [-100] * start + whole[start:] + [-100] * pads,
            }
            """,
            "spans the boundary",
        ),
        (
            "BOS of the template and of the tokenizer",
            """
            given = tokenizer(prompt)["input_ids"]
            answer = tokenizer(response, add_special_tokens=False)["input_ids"]
            answer = answer if answer[-1] == eos else answer + [eos]
            pads = length - len(given) - len(answer)
            if pads < 0:
                raise ValueError("too long")
            return {
                "input_ids": given + answer + [eos] * pads,
                "attention_mask": [1] * (length - pads) + [0] * pads,
                "labels": [-100] * len(given) + answer + [-100] * pads,
            }
            """,
            "BOS stands twice",
        ),
        (
            "BOS before the response",
            """
            given = tokenizer(prompt)["input_ids"]
            answer = tokenizer(response)["input_ids"] + [eos]
            pads = length - len(given) - len(answer)
            return {
                "input_ids": given + answer + [eos] * pads,
                "attention_mask": [1] * (length - pads) + [0] * pads,
                "labels": [-100] * len(given) + answer + [-100] * pads,
            }
            """,
            "also put one before the response",
        ),
        (
            "padding masked by its id, which is EOS",
            """
            given = tokenizer(prompt)["input_ids"]
            answer = tokenizer(response, add_special_tokens=False)["input_ids"]
            ids = given + answer + [eos]
            ids = ids + [eos] * (length - len(ids))
            labels = [-100] * len(given) + ids[len(given) :]
            return {
                "input_ids": ids,
                "attention_mask": [int(i != eos) for i in ids],
                "labels": [-100 if i == eos else i for i in labels],
            }
            """,
            "no EOS is scored",
        ),
        (
            "padding scored",
            """
            given = tokenizer(prompt)["input_ids"]
            answer = tokenizer(response, add_special_tokens=False)["input_ids"]
            ids = given + answer + [eos]
            pads = length - len(ids)
            ids = ids + [eos] * pads
            return {
                "input_ids": ids,
                "attention_mask": [1] * (length - pads) + [0] * pads,
                "labels": [-100] * len(given) + ids[len(given) :],
            }
            """,
            "is padding scored too",
        ),
        (
            "EOS twice where the text has one",
            """
            given = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            given = given if given[0] == bos else [bos] + given
            answer = tokenizer(response, add_special_tokens=False)["input_ids"]
            answer = answer + [eos]
            pads = length - len(given) - len(answer)
            if pads < 0:
                raise ValueError("too long")
            return {
                "input_ids": given + answer + [eos] * pads,
                "attention_mask": [1] * (length - pads) + [0] * pads,
                "labels": [-100] * len(given) + answer + [-100] * pads,
            }
            """,
            "EOS is scored twice",
        ),
        (
            "cut in silence",
            """
            given = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            given = given if given[0] == bos else [bos] + given
            answer = tokenizer(response, add_special_tokens=False)["input_ids"]
            answer = answer if answer[-1] == eos else answer + [eos]
            pads = max(0, length - len(given) - len(answer))
            row = {
                "input_ids": given + answer + [eos] * pads,
                "attention_mask": [1] * (len(given) + len(answer)) + [0] * pads,
                "labels": [-100] * len(given) + answer + [-100] * pads,
            }
            return {name: ids[:length] for name, ids in row.items()}
            """,
            "nothing was said",
        ),
    ],
    "task3": [
        (
            "no prediction",
            """
            cut = {"chosen": sum(a > limit for a, _ in lengths)}
            cut["rejected"] = sum(b > limit for _, b in lengths)
            conclusion = "c"
            """,
            "write your prediction first",
        ),
        (
            "counts pairs, not rows",
            """
            prediction = "c"
            long = sum(max(row) > limit for row in lengths)
            cut = {"chosen": long, "rejected": long}
            longer_before = longer_after = 0.5
            conclusion = "a"
            """,
            "long on one side only",
        ),
        (
            "a row that just fits counted as cut",
            """
            prediction = "c"
            cut["chosen"] = sum(a >= limit for a, _ in lengths)
            cut["rejected"] = sum(b >= limit for _, b in lengths)
            conclusion = "c"
            """,
            "still fits",
        ),
        (
            "the share with the rejected row longer",
            """
            prediction = "a"
            cut["chosen"] = sum(a > limit for a, _ in lengths)
            cut["rejected"] = sum(b > limit for _, b in lengths)
            kept = [(a, b) for a, b in lengths if max(a, b) <= limit]
            longer_before = sum(a < b for a, b in lengths) / len(lengths)
            longer_after = sum(a < b for a, b in kept) / len(kept)
            conclusion = "c"
            """,
            "the first number, is the longer one",
        ),
        (
            "divides by all pairs after dropping",
            """
            prediction = "a"
            cut["chosen"] = sum(a > limit for a, _ in lengths)
            cut["rejected"] = sum(b > limit for _, b in lengths)
            kept = [(a, b) for a, b in lengths if max(a, b) <= limit]
            longer_before = sum(a > b for a, b in lengths) / len(lengths)
            longer_after = sum(a > b for a, b in kept) / len(lengths)
            conclusion = "c"
            """,
            "longer_after should be",
        ),
        (
            "drops by the chosen side alone",
            """
            prediction = "a"
            cut["chosen"] = sum(a > limit for a, _ in lengths)
            cut["rejected"] = sum(b > limit for _, b in lengths)
            kept = [(a, b) for a, b in lengths if a <= limit]
            longer = [sum(a > b for a, b in x) / len(x) for x in (lengths, kept)]
            longer_before, longer_after = longer
            conclusion = "c"
            """,
            "a pair stays only if both its rows fit",
        ),
        (
            "keeps to the prediction against the counts",
            """
            prediction = conclusion = "a"
            cut["chosen"] = sum(a > limit for a, _ in lengths)
            cut["rejected"] = sum(b > limit for _, b in lengths)
            kept = [row for row in lengths if max(row) <= limit]
            longer = [sum(a > b for a, b in x) / len(x) for x in (lengths, kept)]
            longer_before, longer_after = longer
            """,
            "which of the three sentences",
        ),
    ],
    "task4": [
        (
            "drops all that is contradicted",
            """
            culprit = "monday"
            bad = set(report.rows("contradiction"))
            mended = [vote for i, vote in enumerate(votes) if i not in bad]
            """,
            "Nothing has to go",
        ),
        (
            "drops the sheet",
            """
            culprit = "monday"
            mended = [vote for vote in votes if vote["sheet"] != culprit]
            """,
            "a swap can be undone",
        ),
        (
            "swaps only the contradicted rows of the sheet",
            """
            culprit, bad = "monday", set(report.rows("contradiction"))
            mended = []
            for i, vote in enumerate(votes):
                texts = {"chosen": vote["rejected"], "rejected": vote["chosen"]}
                hit = i in bad and vote["sheet"] == culprit
                mended.append(vote | texts if hit else vote)
            """,
            "those that nobody contradicted",
        ),
        (
            "blames the rater who is contradicted most",
            """
            culprit, mended = "anna", []
            for vote in votes:
                texts = {"chosen": vote["rejected"], "rejected": vote["chosen"]}
                mended.append(vote | texts if vote["rater"] == culprit else vote)
            """,
            "Which name stands out",
        ),
        (
            "makes each second vote agree with the first",
            """
            culprit, first, mended = "monday", {}, []
            for vote in votes:
                texts = first.setdefault(vote["prompt"], vote)
                mended.append(
                    vote | {name: texts[name] for name in ("chosen", "rejected")}
                )
            """,
            "the honest disagreements",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "as a difference of logarithms",
            """
            if losses == 0:
                return float("inf")
            return (math.log(wins) - math.log(losses) - math.log1p(copies)) / beta
            """,
        ),
    ],
    "task2": [
        (
            "the package's functions, tensors",
            """
            from dpo_tutorial.data import pad_rows, tokenize_pair

            row = {"prompt": prompt, "chosen": response, "rejected": response}
            ids = tokenize_pair(row, tokenizer, max_length=length)
            parts = ids["prompt_ids"], ids["chosen_ids"]
            long = [eos] * (length - 1), [eos]
            batch = pad_rows([parts, long], tokenizer.pad_token_id)
            return {name: rows[0] for name, rows in batch.items()}
            """,
        ),
    ],
    "task3": [
        (
            "another prediction, in numpy",
            """
            import numpy as np

            prediction = "b"
            tokens = np.array(lengths)
            counts = (tokens > limit).sum(0)
            cut = {"chosen": counts[0], "rejected": counts[1]}
            gaps = tokens[:, 0] - tokens[:, 1]
            fit = (tokens <= limit).all(1)
            longer_before, longer_after = (gaps > 0).mean(), (gaps[fit] > 0).mean()
            conclusion = "c"
            """,
        ),
    ],
    "task4": [
        (
            "counts, and a comprehension",
            """
            from collections import Counter

            hits = Counter(votes[i]["sheet"] for i in report.rows("contradiction"))
            culprit = hits.most_common(1)[0][0]
            mended = [
                {**v, "chosen": v["rejected"], "rejected": v["chosen"]}
                if v["sheet"] == culprit
                else v
                for v in votes
            ]
            """,
        ),
    ],
}
