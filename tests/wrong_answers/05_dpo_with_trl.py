"""Answers to exercises 05 that people really give; what `WRONG` holds must be caught.

A task's entries are (who, code for its solution region, words of the hint).
"""

BILL = """
base = sum(n_in * n_out for n_in, n_out in shapes) + other
if r is None:
    return base, 4 * (base + base + 2 * base + base)
added = sum(r * (n_in + n_out) for n_in, n_out in shapes)
return added, 4 * (base + added + added + 2 * added)
"""
LOST = """
stayed = [dict(row) for row in trainer.train_dataset]
batch = trainer.data_collator(stayed)
is_eos = batch["input_ids"] == tokenizer.eos_token_id
ends = (is_eos & batch["completion_mask"].bool()).any(1)
return len(rows) - len(stayed), int((~ends).sum())
"""
MEASURED = """
prediction = "c"
from math import log

with torch.no_grad():
    base = compute_log_probs(reference, **batch)
    for name, trainer in runs.items():
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        learnt[name] = log(2) - sum(losses[-4:]) / 4
        now = compute_log_probs(trainer.model.eval(), **batch)
        moved[name] = (now - base).abs().mean().item()
conclusion = "b"
"""


def changed(text: str, old: str, new: str) -> str:
    """A sound answer with one place changed."""
    assert text.count(old) == 1, old
    return text.replace(old, new)


WRONG = {
    "task1": [
        (
            "one average for Adam",
            changed(BILL, "base + base + 2 * base + base", "base + base + base + base"),
            "one of its five parts is missing",
        ),
        (
            "no reference in the full run",
            changed(BILL, "base + base + 2 * base + base", "base + base + 2 * base"),
            "one of its five parts is missing",
        ),
        (
            "rank times the matrix",
            changed(BILL, "r * (n_in + n_out)", "r * n_in * n_out"),
            "more than the matrix itself",
        ),
        (
            "one matrix, not two",
            changed(BILL, "r * (n_in + n_out)", "r * n_in"),
            "A and B are both trained",
        ),
        (
            "a second model under LoRA",
            changed(BILL, "base + added + added + 2 * added", "2 * base + 4 * added"),
            "Is a second model counted",
        ),
        (
            "the base's weights left out under LoRA",
            changed(BILL, "base + added + added + 2 * added", "4 * added"),
            "base's weights stay",
        ),
        (
            "gradients for the frozen base too",
            changed(BILL, "base + added + added", "base + added + base + added"),
            "gradients for what is not trained",
        ),
    ],
    "task2": [
        (
            "EOS of the padding counted",
            changed(LOST, '(is_eos & batch["completion_mask"].bool())', "is_eos"),
            "pads with EOS",
        ),
        (
            "looks at the last column",
            changed(LOST, ".any(1)", "[:, -1]"),
            "end at different places",
        ),
        (
            "counts pairs",
            changed(LOST, "(~ends).sum()", "(~ends).view(2, -1).any(0).sum()"),
            "count two for each pair",
        ),
        (
            "chosen responses alone",
            changed(LOST, ".any(1)", ".any(1)[: len(stayed)]"),
            "count two for each pair",
        ),
        (
            "reads rows, not the trainer's data",
            changed(LOST, "len(rows) - len(stayed)", "0"),
            "trainer.train_dataset",
        ),
        (
            "counts dropped responses, not pairs",
            changed(LOST, "len(rows) - len(stayed)", "2 * (len(rows) - len(stayed))"),
            "pairs were dropped",
        ),
    ],
    "task3": [
        (
            "no prediction",
            changed(MEASURED, 'prediction = "c"', ""),
            "prediction first",
        ),
        (
            "signed mean",
            changed(MEASURED, ".abs()", ""),
            "ups and downs cancel",
        ),
        (
            "the last row of the log taken for a loss",
            changed(
                MEASURED,
                "sum(losses[-4:]) / 4",
                'trainer.state.log_history[-1]["train_loss"]',
            ),
            "summary without a loss",
        ),
        (
            "compared with a trained model",
            changed(
                MEASURED,
                "compute_log_probs(reference, **batch)",
                'compute_log_probs(runs["all, 1e-6"].model.eval(), **batch)',
            ),
            "not with a model that has been trained",
        ),
        (
            "keeps to the guess that one rate fits both",
            changed(MEASURED, 'conclusion = "b"', 'conclusion = "a"'),
            "which letter is that",
        ),
    ],
    "task4": [
        (
            "the colleague's own",
            "return colleagues_reference(model)",
            "still the model before stage 1",
        ),
        (
            "adapters left on, the live model",
            """
            def log_probs(batch):
                with torch.no_grad():
                    return compute_log_probs(model, **batch)

            return log_probs
            """,
            "the reference moved with it",
        ),
        (
            "copied anew at each call",
            """
            def log_probs(batch):
                frozen = copy.deepcopy(model).eval()
                with torch.no_grad():
                    return compute_log_probs(frozen, **batch)

            return log_probs
            """,
            "the reference moved with it",
        ),
        (
            "merges the policy itself",
            """
            frozen = model.merge_and_unload()

            def log_probs(batch):
                with torch.no_grad():
                    return compute_log_probs(frozen, **batch)

            return log_probs
            """,
            "lost its trainable adapters",
        ),
        (
            "freezes the policy itself",
            """
            frozen = model.eval().requires_grad_(False)

            def log_probs(batch):
                with torch.no_grad():
                    return compute_log_probs(frozen, **batch)

            return log_probs
            """,
            "lost its trainable adapters",
        ),
        (
            "the SFT model from disk, without the adapters",
            """
            def log_probs(batch):
                with torch.no_grad():
                    return compute_log_probs(reference, **batch)

            return log_probs
            """,
            "still the model before stage 1",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "in numpy",
            """
            import numpy as np

            pairs = np.array(shapes)
            base = int(pairs.prod(1).sum()) + other
            trained = base if r is None else r * int(pairs.sum())
            extra = base if r is None else trained
            return trained, 4 * (base + extra + 3 * trained)
            """,
        ),
    ],
    "task2": [
        (
            "row by row",
            """
            left = trainer.train_dataset
            batch, missing = trainer.data_collator([dict(row) for row in left]), 0
            pairs = zip(batch["input_ids"], batch["completion_mask"], strict=True)
            for ids, mask in pairs:
                missing += tokenizer.eos_token_id not in ids[mask == 1].tolist()
            return len(rows) - len(left), missing
            """,
        ),
    ],
    "task3": [
        (
            "the right prediction",
            changed(MEASURED, 'prediction = "c"', 'prediction = "b"'),
        ),
    ],
    "task4": [
        (
            "a merged copy",
            """
            frozen = copy.deepcopy(model).merge_and_unload()

            def log_probs(batch):
                with torch.no_grad():
                    return compute_log_probs(frozen, **batch)

            return log_probs
            """,
        ),
        (
            "the adapters' numbers, put in for the call",
            """
            kept = {n: p.detach().clone() for n, p in model.named_parameters()}

            @torch.no_grad()
            def log_probs(batch):
                now = {n: p.detach().clone() for n, p in model.named_parameters()}
                model.load_state_dict(kept, strict=False)
                found = compute_log_probs(model, **batch)
                model.load_state_dict(now, strict=False)
                return found

            return log_probs
            """,
        ),
    ],
}
