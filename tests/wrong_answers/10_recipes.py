"""Wrong answers that people give to the exercises of chapter 10."""

_ROUNDS = """
def after_rounds(sft, reward, betas, moves):
    policy = sft
    for beta in betas:
        policy = best(policy if moves else sft, reward, beta)
    return policy

"""
_PICK = """
prediction = "b"

def gain(marks, own, n):
    kept = own[:, :n].argmax(1)
    return float((marks[range(len(kept)), kept] - marks[:, :n].mean(1)).mean())

"""

WRONG = {
    "task1": [
        (
            "three rounds hold three times as much (trap 1: beta's direction)",
            _ROUNDS + "def one_round_beta(betas):\n    return sum(betas)\n",
            "more or less than one",
        ),
        (
            "the mean beta",
            _ROUNDS
            + "def one_round_beta(betas):\n    return sum(betas) / len(betas)\n",
            "what divides r there",
        ),
        (
            "the harmonic mean",
            _ROUNDS
            + "def one_round_beta(betas):\n"
            + "    return len(betas) / sum(1 / b for b in betas)\n",
            "what divides r there",
        ),
        (
            "the rounds add up with a fixed reference too",
            """
def after_rounds(sft, reward, betas, moves):
    for beta in betas:
        sft = best(sft, reward, beta)
    return sft

def one_round_beta(betas):
    return 1 / sum(1 / beta for beta in betas)
""",
            "depend on the round before",
        ),
        (
            "the reference never moves",
            """
def after_rounds(sft, reward, betas, moves):
    for beta in betas:
        policy = best(sft, reward, beta)
    return policy

def one_round_beta(betas):
    return betas[-1]
""",
            "starts where the one before",
        ),
    ],
    "task2": [
        (
            "cut-off candidates stay in (trap 9: an EOS where none was)",
            """
rows = sorted(candidates, key=lambda row: row["score"])
if len(rows) < 2 or rows[-1]["score"] - rows[0]["score"] <= least:
    return None
return PreferencePair(prompt, rows[-1]["text"], rows[0]["text"])
""",
            "EOS behind half a",
        ),
        (
            "best and worst first, then the cut-off ones",
            """
rows = sorted(candidates, key=lambda row: row["score"])
if len(rows) < 2 or rows[-1]["score"] - rows[0]["score"] <= least:
    return None
if not (rows[-1]["ended"] and rows[0]["ended"]):
    return None
return PreferencePair(prompt, rows[-1]["text"], rows[0]["text"])
""",
            "when do you look at `ended`",
        ),
        (
            "ties become pairs",
            """
rows = sorted((r for r in candidates if r["ended"]), key=lambda row: row["score"])
if len(rows) < 2:
    return None
return PreferencePair(prompt, rows[-1]["text"], rows[0]["text"])
""",
            "up to the order of the list",
        ),
        (
            "the columns swapped",
            """
rows = sorted((r for r in candidates if r["ended"]), key=lambda row: row["score"])
if len(rows) < 2 or rows[-1]["score"] - rows[0]["score"] <= least:
    return None
return PreferencePair(prompt, rows[0]["text"], rows[-1]["text"])
""",
            "which of them is the better",
        ),
        (
            "a tie only where the scores are equal",
            """
rows = sorted((r for r in candidates if r["ended"]), key=lambda row: row["score"])
if len(rows) < 2 or rows[-1]["score"] == rows[0]["score"]:
    return None
return PreferencePair(prompt, rows[-1]["text"], rows[0]["text"])
""",
            "within `least` of each other",
        ),
    ],
    "task3": [
        (
            "each table chooses for itself",
            """
prediction = "a"

def gain(marks, own, n):
    return float((marks[:, :n].max(1) - marks[:, :n].mean(1)).mean())

gains = {"own": gain(own, own, 16), "fresh": gain(fresh, own, 16)}
gains["gold"] = gain(gold, own, 16)
conclusion = "a"
""",
            "which table does the choosing",
        ),
        (
            "the mean over all columns",
            """
prediction = "b"

def gain(marks, own, n):
    kept = own[:, :n].argmax(1)
    return float((marks[range(len(kept)), kept] - marks.mean(1)).mean())

gains = {"own": gain(own, own, 16), "fresh": gain(fresh, own, 16)}
gains["gold"] = gain(gold, own, 16)
conclusion = "b"
""",
            "in the choice and in the mean",
        ),
        (
            "fresh chooses anew",
            _PICK
            + """
gains = {"own": gain(own, own, 16), "fresh": gain(fresh, fresh, 16)}
gains["gold"] = gain(gold, own, 16)
conclusion = "a"
""",
            "of what `own` has chosen",
        ),
        (
            "new luck is fair, whatever was measured",
            _PICK
            + """
gains = {"own": gain(own, own, 16), "fresh": gain(fresh, own, 16)}
gains["gold"] = gain(gold, own, 16)
conclusion = "c"
""",
            "Which are close",
        ),
    ],
    "task4": [
        (
            "flushed, and the torn line left in the file",
            """
done = []
if path.exists():
    for line in path.read_text().splitlines():
        try:
            done.append(json.loads(line))
        except ValueError:
            pass
with path.open("a") as file:
    for question in questions[len(done):]:
        row = {"question": question, "answer": ask(question)}
        file.write(json.dumps(row) + "\\n")
        file.flush()
        done.append(row)
return done
""",
            "glued to what",
        ),
        (
            "a newline first, so that the torn line stands alone",
            """
done = []
if path.exists():
    for line in path.read_text().splitlines():
        try:
            done.append(json.loads(line))
        except ValueError:
            pass
with path.open("a") as file:
    if path.exists() and path.read_text() and not path.read_text().endswith("\\n"):
        file.write("\\n")
    for question in questions[len(done):]:
        row = {"question": question, "answer": ask(question)}
        file.write(json.dumps(row) + "\\n")
        file.flush()
        done.append(row)
return done
""",
            "left of a torn line",
        ),
        (
            "the torn line cut off, the rows left in the buffer",
            """
text = path.read_text() if path.exists() else ""
text = text[: text.rfind("\\n") + 1]
done = [json.loads(line) for line in text.splitlines()]
with path.open("w") as file:
    file.write(text)
    for question in questions[len(done):]:
        row = {"question": question, "answer": ask(question)}
        file.write(json.dumps(row) + "\\n")
        done.append(row)
return done
""",
            "dies with the process",
        ),
        (
            "everything asked again",
            """
done = []
with path.open("w") as file:
    for question in questions:
        row = {"question": question, "answer": ask(question)}
        file.write(json.dumps(row) + "\\n")
        file.flush()
        done.append(row)
return done
""",
            "what was whole is not asked again",
        ),
        (
            "the last line is always thrown away, to be safe",
            """
lines_there = path.read_text().splitlines()[:-1] if path.exists() else []
done = [json.loads(line) for line in lines_there]
path.write_text("".join(line + "\\n" for line in lines_there))
for question in questions[len(done):]:
    done.append({"question": question, "answer": ask(question)})
    with path.open("a") as file:
        file.write(json.dumps(done[-1]) + "\\n")
return done
""",
            "what was whole is not asked again",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "in closed form",
            """
def after_rounds(sft, reward, betas, moves):
    beta = one_round_beta(betas) if moves else betas[-1]
    weights = sft * torch.exp(reward / beta)
    return weights / weights.sum()

def one_round_beta(betas):
    return (1 / torch.tensor(betas, dtype=torch.float64)).sum().reciprocal().item()
""",
        )
    ],
    "task2": [
        (
            "by max and min",
            """
rows = [row for row in candidates if row["ended"]]
score = lambda row: row["score"]
if not rows:
    return None
top, low = max(rows, key=score), min(rows, key=score)
if score(top) - score(low) <= least:
    return None
return PreferencePair(prompt, top["text"], low["text"])
""",
        )
    ],
    "task3": [
        (
            "another prediction",
            _PICK.replace('"b"', '"a"')
            + """
gains = dict(own=gain(own, own, 16), fresh=gain(fresh, own, 16))
gains["gold"] = gain(gold, own, 16)
conclusion = "b"
""",
        )
    ],
    "task4": [
        (
            "by the package's way: open for each row, add, close",
            """
text = path.read_text() if path.exists() else ""
kept = [line for line in text.splitlines(keepends=True) if line.endswith("\\n")]
path.write_text("".join(kept))
done = [json.loads(line) for line in kept]
for question in questions[len(done):]:
    done.append({"question": question, "answer": ask(question)})
    with path.open("a") as file:
        file.write(json.dumps(done[-1]) + "\\n")
return done
""",
        )
    ],
}
