"""Wrong answers to the exercises of chapter 12, and other right ones."""

WRONG = {
    "task1": [
        (
            "forgets the reference",
            """
            whole = {1: 4, 2: 2, 3: 0}[stage]
            free = card - whole * parameters
            if free <= 0:
                return None
            return int(-(-(16 - whole) * parameters // free))
            """,
            "does not fit on so few",
        ),
        (
            "divides everything at every stage",
            "return int(-(-18 * parameters // card))",
            "what does this stage leave whole",
        ),
        (
            "a formula that turns negative and nobody looks",
            """
            whole = {1: 6, 2: 4, 3: 0}[stage]
            return int(-(-(18 - whole) * parameters // (card - whole * parameters)))
            """,
            "A billion cards would not be enough",
        ),
        (
            "rounds down",
            """
            whole = {1: 6, 2: 4, 3: 0}[stage]
            free = card - whole * parameters
            return int((18 - whole) * parameters // free) if free > 0 else None
            """,
            "A part of a card is bought as a card",
        ),
        (
            "leaves a fraction of a card",
            """
            whole = {1: 6, 2: 4, 3: 0}[stage]
            free = card - whole * parameters
            return (18 - whole) * parameters / free if free > 0 else None
            """,
            "Cards are counted",
        ),
        (
            "keeps the reference whole under ZeRO 3",
            """
            whole = {1: 6, 2: 4, 3: 2}[stage]
            free = card - whole * parameters
            if free <= 0:
                return None
            return int(-(-(18 - whole) * parameters // free))
            """,
            "One card fewer is enough",
        ),
        (
            "divides the gradients from ZeRO 1 on",
            """
            whole = {1: 4, 2: 2, 3: 0}[stage]
            free = card - whole * parameters
            if free <= 0:
                return None
            return int(-(-(18 - whole) * parameters // free))
            """,
            "what does this stage leave whole",
        ),
    ],
    "task2": [
        (
            "a plain causal mask: responses see those before them",
            """
            p = len(prompt)
            ids, position, sources = list(prompt), list(range(p)), []
            for response in responses:
                start, r = len(ids), len(response)
                sources.append([p - 1, *range(start, start + r - 1)])
                ids += response
                position += range(p, p + r)
            sees = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
            return torch.tensor(ids), sees, torch.tensor(position), sources
            """,
            "see a response that stands before them",
        ),
        (
            "positions run on through the row",
            """
            p = len(prompt)
            ids, part, sources = list(prompt), [0] * p, []
            for k, response in enumerate(responses, 1):
                start, r = len(ids), len(response)
                sources.append([p - 1, *range(start, start + r - 1)])
                ids += response
                part += [k] * r
            part = torch.tensor(part)
            sees = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
            sees &= (part[None] == 0) | (part[None] == part[:, None])
            return torch.tensor(ids), sees, torch.arange(len(ids)), sources
            """,
            "how many tokens would stand before it",
        ),
        (
            "first token predicted by the last token of the response before",
            """
            p = len(prompt)
            ids, part, position, sources = list(prompt), [0] * p, list(range(p)), []
            for k, response in enumerate(responses, 1):
                start, r = len(ids), len(response)
                sources.append(list(range(start - 1, start + r - 1)))
                ids += response
                part += [k] * r
                position += range(p, p + r)
            part = torch.tensor(part)
            sees = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
            sees &= (part[None] == 0) | (part[None] == part[:, None])
            return torch.tensor(ids), sees, torch.tensor(position), sources
            """,
            "before it writes its first token",
        ),
        (
            "leaves the first token unscored",
            """
            p = len(prompt)
            ids, part, position, sources = list(prompt), [0] * p, list(range(p)), []
            for k, response in enumerate(responses, 1):
                start, r = len(ids), len(response)
                sources.append(list(range(start, start + r - 1)))
                ids += response
                part += [k] * r
                position += range(p, p + r)
            part = torch.tensor(part)
            sees = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
            sees &= (part[None] == 0) | (part[None] == part[:, None])
            return torch.tensor(ids), sees, torch.tensor(position), sources
            """,
            "one place for each token",
        ),
        (
            "logits taken at the token itself",
            """
            p = len(prompt)
            ids, part, position, sources = list(prompt), [0] * p, list(range(p)), []
            for k, response in enumerate(responses, 1):
                start, r = len(ids), len(response)
                sources.append([p - 1, *range(start + 1, start + r)])
                ids += response
                part += [k] * r
                position += range(p, p + r)
            part = torch.tensor(part)
            sees = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
            sees &= (part[None] == 0) | (part[None] == part[:, None])
            return torch.tensor(ids), sees, torch.tensor(position), sources
            """,
            "predict the token after it",
        ),
        (
            "a block for each response, the prompt unseen",
            """
            p = len(prompt)
            ids, part, position, sources = list(prompt), [0] * p, list(range(p)), []
            for k, response in enumerate(responses, 1):
                start, r = len(ids), len(response)
                sources.append([p - 1, *range(start, start + r - 1)])
                ids += response
                part += [k] * r
                position += range(p, p + r)
            part = torch.tensor(part)
            sees = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
            sees &= part[None] == part[:, None]
            return torch.tensor(ids), sees, torch.tensor(position), sources
            """,
            "see all of the prompt",
        ),
        (
            "positions begin at the prompt's last token",
            """
            p = len(prompt)
            ids, part, position, sources = list(prompt), [0] * p, list(range(p)), []
            for k, response in enumerate(responses, 1):
                start, r = len(ids), len(response)
                sources.append([p - 1, *range(start, start + r - 1)])
                ids += response
                part += [k] * r
                position += range(p - 1, p + r - 1)
            part = torch.tensor(part)
            sees = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
            sees &= (part[None] == 0) | (part[None] == part[:, None])
            return torch.tensor(ids), sees, torch.tensor(position), sources
            """,
            "how many tokens would stand before it",
        ),
    ],
    "task3": [
        (
            "share of the sorted positions, not of the random",
            """
            prediction = "depends"
            def positions(values, size):
                cuts = range(0, len(values), size)
                return sum(size * max(values[i : i + size]) for i in cuts)
            saved = {
                (k, s): positions(v, s) / positions(sorted(v), s) - 1
                for k, v in lengths.items()
                for s in (8, 32)
            }
            conclusion = "depends"
            """,
            "share of the random positions",
        ),
        (
            "takes sorting to leave no padding at all",
            """
            prediction = "depends"
            def positions(values, size):
                cuts = range(0, len(values), size)
                return sum(size * max(values[i : i + size]) for i in cuts)
            saved = {
                (k, s): 1 - sum(v) / positions(v, s)
                for k, v in lengths.items()
                for s in (8, 32)
            }
            conclusion = "depends"
            """,
            "sorted as well as random",
        ),
        (
            "sorts, and compares the sorted with itself",
            """
            prediction = "spread"
            values = {k: sorted(v) for k, v in lengths.items()}
            def positions(values, size):
                cuts = range(0, len(values), size)
                return sum(size * max(values[i : i + size]) for i in cuts)
            saved = {
                (k, s): 1 - positions(sorted(v), s) / positions(v, s)
                for k, v in values.items()
                for s in (8, 32)
            }
            conclusion = "spread"
            """,
            "is one order compared with the other",
        ),
        (
            "concludes from batches of 8 alone",
            """
            prediction = "spread"
            def positions(values, size):
                cuts = range(0, len(values), size)
                return sum(size * max(values[i : i + size]) for i in cuts)
            saved = {
                (k, s): 1 - positions(sorted(v), s) / positions(v, s)
                for k, v in lengths.items()
                for s in (8, 32)
            }
            conclusion = max(lengths, key=lambda k: saved[k, 8])
            """,
            "Is it the same one",
        ),
        (
            "concludes what was predicted",
            """
            prediction = conclusion = "tail"
            def positions(values, size):
                cuts = range(0, len(values), size)
                return sum(size * max(values[i : i + size]) for i in cuts)
            saved = {
                (k, s): 1 - positions(sorted(v), s) / positions(v, s)
                for k, v in lengths.items()
                for s in (8, 32)
            }
            """,
            "which data set saves more at 8",
        ),
        (
            "predicts nothing",
            """
            prediction = None
            def positions(values, size):
                cuts = range(0, len(values), size)
                return sum(size * max(values[i : i + size]) for i in cuts)
            saved = {
                (k, s): 1 - positions(sorted(v), s) / positions(v, s)
                for k, v in lengths.items()
                for s in (8, 32)
            }
            conclusion = "depends"
            """,
            "set prediction",
        ),
    ],
    "task4": [
        (
            "mends the clipping, trusts WORLD_SIZE (trap 22)",
            """
            ranks = int(rank.environ["WORLD_SIZE"])
            if ranks != expected:
                raise RuntimeError(f"{ranks} ranks")
            g = rank.sum(gradient(weights, pairs)) / ranks
            return weights - g / max(1.0, g.norm().item())
            """,
            "Who set WORLD_SIZE",
        ),
        (
            "mends the count, clips each rank's own gradient",
            """
            ranks = int(rank.sum(torch.ones(1)).item())
            if ranks != expected:
                raise RuntimeError(f"{ranks} ranks")
            g = gradient(weights, pairs)
            g = g / max(1.0, g.norm().item())
            return weights - rank.sum(g) / ranks
            """,
            "of what is the norm taken",
        ),
        (
            "lets rank 0 alone count: it waits for ever",
            """
            if rank.number == 0:
                ranks = int(rank.sum(torch.ones(1)).item())
                if ranks != expected:
                    raise RuntimeError(f"{ranks} ranks")
            g = rank.sum(gradient(weights, pairs)) / expected
            return weights - g / max(1.0, g.norm().item())
            """,
            "make the same sums",
        ),
        (
            "counts in every rank, complains in rank 0 alone",
            """
            ranks = int(rank.sum(torch.ones(1)).item())
            if rank.number == 0 and ranks != expected:
                raise RuntimeError(f"{ranks} ranks")
            g = rank.sum(gradient(weights, pairs)) / ranks
            return weights - g / max(1.0, g.norm().item())
            """,
            "or rank 0 alone",
        ),
        (
            "counts, and goes on with those who came",
            """
            ranks = int(rank.sum(torch.ones(1)).item())
            g = rank.sum(gradient(weights, pairs)) / ranks
            return weights - g / max(1.0, g.norm().item())
            """,
            "took a step",
        ),
        (
            "sums gradients and does not average them",
            """
            ranks = int(rank.sum(torch.ones(1)).item())
            if ranks != expected:
                raise RuntimeError(f"{ranks} ranks")
            g = rank.sum(gradient(weights, pairs))
            return weights - g / max(1.0, g.norm().item())
            """,
            "what is averaged",
        ),
        (
            "drops the clipping",
            """
            ranks = int(rank.sum(torch.ones(1)).item())
            if ranks != expected:
                raise RuntimeError(f"{ranks} ranks")
            return weights - rank.sum(gradient(weights, pairs)) / ranks
            """,
            "of what is the norm taken",
        ),
        (
            "clips the mean by the mean of the ranks' norms",
            """
            ranks = int(rank.sum(torch.ones(1)).item())
            if ranks != expected:
                raise RuntimeError(f"{ranks} ranks")
            own = gradient(weights, pairs)
            norm = rank.sum(own.norm()[None]).item() / ranks
            return weights - rank.sum(own) / ranks / max(1.0, norm)
            """,
            "of what is the norm taken",
        ),
        (
            "waits with the gradient first, so that nothing is refused in time",
            """
            g = rank.sum(gradient(weights, pairs)) / expected
            if int(rank.environ["WORLD_SIZE"]) != expected:
                raise RuntimeError("ranks")
            return weights - g / max(1.0, g.norm().item())
            """,
            "Who set WORLD_SIZE",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "tries one number after another",
            """
            parts = {"weights": 2, "gradients": 2, "optimizer": 12, "reference": 2}
            divided = ["optimizer", "gradients", "weights", "reference"]
            divided = divided[: {1: 1, 2: 2, 3: 4}[stage]]
            fixed = sum(v for k, v in parts.items() if k not in divided)
            if fixed * parameters >= card:
                return None
            n = 1
            while (fixed + (18 - fixed) / n) * parameters > card:
                n += 1
            return n
            """,
        ),
    ],
    "task2": [
        (
            "lists and loops",
            """
            p, ids, sources = len(prompt), list(prompt), []
            position = list(range(p))
            sees = [[j <= i for j in range(p)] for i in range(p)]
            for response in responses:
                first = len(ids)
                sources.append([])
                for i, token in enumerate(response):
                    sources[-1].append(first + i - 1 if i else p - 1)
                    position.append(p + i)
                    own = [first <= j <= first + i for j in range(p, first + i + 1)]
                    sees.append([True] * p + own)
                    ids.append(token)
            sees = [line + [False] * (len(ids) - len(line)) for line in sees]
            return ids, sees, position, sources
            """,
        ),
    ],
    "task3": [
        (
            "another prediction, in numpy",
            """
            prediction, saved = "spread", {}
            for name in lengths:
                for size in (8, 32):
                    a = np.array(lengths[name])
                    before = a.reshape(-1, size).max(1).sum() * size
                    after = np.sort(a).reshape(-1, size).max(1).sum() * size
                    saved[name, size] = (before - after) / before
            conclusion = "depends"
            """,
        ),
    ],
    "task4": [
        (
            "gathers the count and the gradient in one sum",
            """
            own = torch.cat([gradient(weights, pairs), torch.ones(1).double()])
            *g, ranks = rank.sum(own)
            if ranks != expected:
                raise RuntimeError(f"{int(ranks)} ranks, expected {expected}")
            g = torch.stack(g) / ranks
            return weights - g / g.norm().clamp(min=1)
            """,
        ),
    ],
}
