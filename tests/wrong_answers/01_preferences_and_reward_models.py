"""Wrong answers to the exercises of chapter 01, and other right ones."""

WRONG = {
    "task1": [
        (
            "multiplies the probabilities, as for independent events",
            "return p_ab * p_bc",
            "equally good",
        ),
        (
            "takes the weakest link of the chain",
            "return min(p_ab, p_bc)",
            "equally good",
        ),
        (
            "takes the surer of the two",
            "return max(p_ab, p_bc)",
            "must be surer than either",
        ),
        (
            "adds probabilities as if they were rewards",
            "return 1 / (1 + np.exp(-(p_ab + p_bc)))",
            "equally good",
        ),
        (
            "subtracts the differences",
            """
            log_odds = np.log(p_ab / (1 - p_ab)) - np.log(p_bc / (1 - p_bc))
            return 1 / (1 + np.exp(-log_odds))
            """,
            "must be surer than either",
        ),
    ],
    "task2": [
        (
            "shares of wins in place of rewards",
            """
            share = wins.sum(1) / (wins + wins.T).sum(1)
            return share - share.mean()
            """,
            "Rewards are logits, not shares",
        ),
        (
            "log-odds of the shares, blind to who the opponents were",
            """
            share = wins.sum(1) / (wins + wins.T).sum(1)
            return share.logit() - share.logit().mean()
            """,
            "expected wins differ",
        ),
        (
            "a mean over pairs, so that a pair seen once counts like one seen often",
            """
            theta = torch.zeros(len(wins), dtype=torch.float64, requires_grad=True)
            solver = torch.optim.LBFGS([theta], max_iter=200)
            share = wins / (wins + wins.T).clamp(min=1)

            def closure():
                solver.zero_grad()
                gap = theta[:, None] - theta[None, :]
                loss = -(share * torch.nn.functional.logsigmoid(gap)).mean()
                loss.backward()
                return loss

            solver.step(closure)
            return (theta - theta.mean()).detach()
            """,
            "every label counts once",
        ),
        (
            "pins the first reward at zero and leaves it there",
            """
            theta = torch.zeros(len(wins), dtype=torch.float64, requires_grad=True)
            solver = torch.optim.LBFGS([theta], max_iter=200)

            def closure():
                solver.zero_grad()
                gap = theta[:, None] - theta[None, :]
                loss = -(wins * torch.nn.functional.logsigmoid(gap)).sum() / wins.sum()
                loss.backward()
                return loss

            solver.step(closure)
            return (theta - theta[0]).detach()
            """,
            "changes no probability",
        ),
        (
            "defeats for wins",
            """
            theta = torch.zeros(len(wins), dtype=torch.float64, requires_grad=True)
            solver = torch.optim.LBFGS([theta], max_iter=200)

            def closure():
                solver.zero_grad()
                gap = theta[None, :] - theta[:, None]
                loss = -(wins * torch.nn.functional.logsigmoid(gap)).sum() / wins.sum()
                loss.backward()
                return loss

            solver.step(closure)
            return (theta - theta.mean()).detach()
            """,
            "must rank first",
        ),
    ],
    "task3": [
        (
            "turns the ratio round and concludes from it",
            """
            prediction = "larger"
            ratio_without = truth.std() / fit(False).std()
            ratio_with = truth.std() / fit(True).std()
            conclusion = "larger"
            """,
            "divided by the true one",
        ),
        (
            "concludes what was predicted, whatever was measured",
            """
            prediction = conclusion = "larger"
            ratio_without = fit(False).std() / truth.std()
            ratio_with = fit(True).std() / truth.std()
            """,
            "something else than ratio_without",
        ),
        (
            "concludes from the fit with the intercept",
            """
            prediction = conclusion = "the same"
            ratio_without = fit(False).std() / truth.std()
            ratio_with = fit(True).std() / truth.std()
            """,
            "the fit without an intercept",
        ),
        (
            "compares the largest rewards, whose zero is a convention",
            """
            prediction, conclusion = "smaller", "smaller"
            ratio_without = (fit(False) + 3).max() / (truth + 3).max()
            ratio_with = (fit(True) + 3).max() / (truth + 3).max()
            """,
            "standard deviations of eight rewards",
        ),
        (
            "predicts nothing",
            """
            prediction = None
            ratio_without = fit(False).std() / truth.std()
            ratio_with = fit(True).std() / truth.std()
            conclusion = "smaller"
            """,
            "set prediction",
        ),
    ],
    "task4": [
        (
            "mends the ties alone",
            """
            accuracy = np.mean(chosen > rejected)
            ceiling = max(p_chosen.mean(), 1 - p_chosen.mean())
            return accuracy, ceiling
            """,
            "decides each pair by itself",
        ),
        (
            "mends the ceiling alone",
            """
            accuracy = np.mean(chosen >= rejected)
            ceiling = np.maximum(p_chosen, 1 - p_chosen).mean()
            return accuracy, ceiling
            """,
            "what does a tie count for",
        ),
        (
            "scores of the wrong sign",
            """
            accuracy = np.mean(rejected > chosen)
            ceiling = np.maximum(p_chosen, 1 - p_chosen).mean()
            return accuracy, ceiling
            """,
            "the right way round",
        ),
        (
            "takes the agreement of two annotators for the ceiling",
            """
            accuracy = np.mean(chosen > rejected)
            ceiling = (p_chosen**2 + (1 - p_chosen) ** 2).mean()
            return accuracy, ceiling
            """,
            "decides each pair by itself",
        ),
    ],
    "task5": [
        (
            "four models, all of them trained",
            """
            dpo = policy * (trained + frozen)
            ppo = (2 * policy + value + reward) * trained
            return ppo, dpo
            """,
            "does not train all four",
        ),
        (
            "four models for two: always twice",
            """
            dpo = policy * (trained + frozen)
            return 2 * dpo, dpo
            """,
            "the helpers are small here",
        ),
        (
            "a DPO that needs no reference",
            """
            dpo = policy * trained
            ppo = policy * (trained + frozen) + value * trained + reward * frozen
            return ppo, dpo
            """,
            "keeps a frozen one beside it",
        ),
        (
            "trains the reward model and freezes the value model",
            """
            dpo = policy * (trained + frozen)
            ppo = dpo + value * frozen + reward * trained
            return ppo, dpo
            """,
            "is the value model trained",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "odds multiply",
            """
            odds = p_ab / (1 - p_ab) * p_bc / (1 - p_bc)
            return odds / (1 + odds)
            """,
        ),
    ],
    "task2": [
        (
            "Zermelo's iteration, in numpy",
            """
            w = wins.numpy()
            games, strength = w + w.T, np.ones(len(w))
            for _ in range(2000):
                together = strength[:, None] + strength[None, :]
                strength = w.sum(1) / (games / together).sum(1)
                strength /= np.exp(np.log(strength).mean())
            return np.log(strength)
            """,
        ),
    ],
    "task3": [
        (
            "predicts otherwise, reads what was measured",
            """
            prediction, conclusion = "the same", "smaller"
            ratio_without = np.std(fit(False)) / np.std(truth)
            ratio_with = np.std(fit(True)) / np.std(truth)
            """,
        ),
    ],
    "task4": [
        (
            "half a point for a tie",
            """
            accuracy = np.mean((chosen > rejected) + 0.5 * (chosen == rejected))
            return accuracy, 0.5 + np.abs(p_chosen - 0.5).mean()
            """,
        ),
    ],
}
