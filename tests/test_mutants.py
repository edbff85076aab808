"""Each trap that tutorials fall into, put back on purpose: some test must fail.

A mutant is the package with some text replaced; the tests named beside it run on a
copy. The numbers are those of the course's list of traps, given in words as well.
"""

import json
import os
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# (trap, module, text, put in its place), tests that must notice
MUTANTS = [
    (
        "1: beta the wrong way round",
        "losses",
        [("-F.logsigmoid(beta * h)", "-F.logsigmoid(h / beta)")],
        "test_losses.py",
    ),
    (
        "2: log-probs averaged over tokens",
        "losses",
        [
            (
                "return -token_losses.sum(dim=1)",
                "return -token_losses.sum(dim=1) / scored.sum(dim=1)",
            )
        ],
        "test_losses.py",
    ),
    (
        "2: rewards without beta",
        "losses",
        [("(beta * rho_w).detach()", "rho_w.detach()")],
        "test_losses.py",
    ),
    (
        "3: IPO multiplies by beta before it squares",
        "losses",
        [("(h - 1 / (2 * tau)) ** 2", "(tau * h - 1 / (2 * tau)) ** 2")],
        "test_losses.py",
    ),
    (
        "3: log-probs averaged where the sums were asked for",
        "training",
        [("if self.average_log_probs:", "if True:")],
        "test_variants_training.py",
    ),
    (
        "4: Psi is the identity in DPO's place",
        "losses",
        [
            (
                "right, wrong = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)",
                "right, wrong = -beta * h, beta * h",
            )
        ],
        "test_losses.py",
    ),
    (
        "4: Psi is the log odds in IPO's place",
        "losses",
        [("losses = ipo_loss(h, tau=beta)", "losses = right")],
        "test_losses.py",
    ),
    (
        "5: KTO's reference point is not clamped",
        "losses",
        [(".mean().detach().clamp(min=0)", ".mean().detach()")],
        "test_losses.py",
    ),
    (
        "5: KTO's reference point is not detached",
        "losses",
        [(".mean().detach().clamp(min=0)", ".mean().clamp(min=0)")],
        "test_losses.py",
    ),
    (
        "5: KTO's reference point is the mean of the batch's own log-ratios",
        "losses",
        [
            (
                "gain = beta * (policy_logps - reference_logps - reference_point)",
                "rho = policy_logps - reference_logps\n"
                "    gain = beta * (rho - rho.mean().detach())",
            )
        ],
        "test_losses.py",
    ),
    (
        "5: KTO takes a batch of one",
        "losses",
        [("if len(policy_logps) < 2:", "if False:")],
        "test_losses.py",
    ),
    (
        "6: ORPO subtracts log-probs, not log odds",
        "losses",
        [
            (
                "_log_odds(chosen_logps) - _log_odds(rejected_logps)",
                "chosen_logps - rejected_logps",
            )
        ],
        "test_losses.py",
    ),
    (
        "6: ORPO's log(1 - p) is not stable",
        "losses",
        [
            (
                "torch.log(-torch.expm1(logps.clamp(max=-1e-6)))",
                "torch.log(1 - logps.exp())",
            )
        ],
        "test_losses.py",
    ),
    (
        "7: SimPO's gamma times beta",
        "losses",
        [
            (
                "(chosen_logps - rejected_logps) - gamma)",
                "(chosen_logps - rejected_logps - gamma))",
            )
        ],
        "test_losses.py",
    ),
    (
        "8: prompt and response tokenised together",
        "data",
        [
            (
                "prompt, *answers = (_ids(text, tokenizer) for text in texts.values())",
                "prompt = _ids(texts['prompt'], tokenizer)\n"
                "    whole = [texts['prompt'] + t for t in list(texts.values())[1:]]\n"
                "    answers = [_ids(t, tokenizer)[len(prompt) :] for t in whole]",
            )
        ],
        "test_data.py",
    ),
    (
        "9: no EOS",
        "data",
        [("([*ids, eos] for ids in answers)", "(ids for ids in answers)")],
        "test_data.py",
    ),
    (
        "9: EOS twice",
        "data",
        [("while ids[-1:] == [eos]:", "while False:")],
        "test_data.py",
    ),
    (
        "9: the mask goes by token id, so that with pad = EOS the EOS is lost",
        "data",
        [
            (
                "labels[i, start:end] = torch.tensor(response)",
                "labels[i, start:end] = torch.tensor("
                "[-100 if t == pad_token_id else t for t in response])",
            )
        ],
        "test_data.py",
    ),
    (
        "9: preflight passes an EOS that is there and not scored",
        "findings",
        [("_eos(ids, mask & scored, tokenizer)", "_eos(ids, mask, tokenizer)")],
        "test_preflight.py::test_eos_missing_twice_or_lost_to_the_mask",
    ),
    (
        "9: preflight passes EOS twice",
        "findings",
        [("int((counts > 1).sum())", "0")],
        "test_preflight.py::test_eos_missing_twice_or_lost_to_the_mask",
    ),
    (
        "10: BOS twice",
        "data",
        [(" and prompt[:1] != [bos]:", ":")],
        "test_data.py",
    ),
    (
        "10: preflight passes BOS twice",
        "findings",
        [("sum(start == [bos, bos] for start in starts)", "0")],
        "test_preflight.py::test_bos_twice",
    ),
    (
        "11: dropout on",
        "training",
        [("self.model.eval()", "self.model.train()")],
        "test_training.py",
    ),
    (
        "11: preflight takes the first loss with dropout off",
        "preflight",
        [("(noisy, quiet) if trains else (quiet, noisy)", "(quiet, noisy)")],
        "test_preflight.py::test_dropout",
    ),
    (
        "11: preflight forgets that TRL puts the policy in train mode",
        "preflight",
        [('model.training or "completion_mask" in given', "model.training")],
        "test_preflight.py::test_dropout",
    ),
    (
        "12: padding scored",
        "data",
        [
            (
                "labels[i, start:end] = torch.tensor(response)",
                "labels[i, start:] = pad_token_id\n"
                "        labels[i, start:end] = torch.tensor(response)",
            )
        ],
        "test_data.py",
    ),
    (
        "12: preflight passes padding that is scored",
        "findings",
        [("pads, todo = int((scored & ~mask).sum()),", "pads, todo = 0,")],
        "test_preflight.py::test_padding_scored",
    ),
    (
        "12: left padding without position ids",
        "losses",
        [("if not attention_mask[:, 0].all():", "if False:")],
        "test_losses.py",
    ),
    (
        "13: prompt scored",
        "data",
        [
            (
                "labels[i, start:end] = torch.tensor(response)",
                "labels[i, :end] = torch.tensor(prompt + response)",
            )
        ],
        "test_data.py",
    ),
    (
        "14: an empty response passes",
        "losses",
        [("if not scored.any(dim=1).all():", "if False:")],
        "test_losses.py",
    ),
    (
        "14: truncated without a word",
        "data",
        [
            (
                "if max_length is not None and len(prompt) + longest > max_length:",
                "room = (max_length or 10**9) - len(prompt)\n"
                "    answers = [a[:room] for a in answers]\n"
                "    if False:",
            )
        ],
        "test_data.py",
    ),
    (
        "13: averages count the prompt's tokens",
        "training",
        [('(batch["labels"] != IGNORE).sum(1)', 'batch["attention_mask"].sum(1)')],
        "test_variants_training.py",
    ),
    (
        "15: preflight's reference has the adapters on",
        "preflight",
        [
            (
                "with nullcontext() if frozen else model.disable_adapter():",
                "with nullcontext():",
            )
        ],
        "test_preflight.py::test_lora",
    ),
    (
        "15: preflight passes a trained adapter that the reference is without",
        "preflight",
        [("bare = moved and", "bare = False and")],
        "test_preflight.py::test_lora",
    ),
    (
        "15: preflight passes adapters put on twice",
        "preflight",
        [("(isinstance(inner, PeftModel), ", "(False, ")],
        "test_preflight.py::test_lora_put_on_twice",
    ),
    (
        "15: preflight passes adapters put over one that is lost by it",
        "preflight",
        [("over = (loaded, ", "over = (False, ")],
        "test_preflight.py::test_lora_put_over_an_adapter_that_was_loaded",
    ),
    (
        "15: preflight passes the adapters' own base as the reference",
        "preflight",
        [
            (
                "any(p.data_ptr() in moving for p in reference.parameters())",
                "reference is model",
            )
        ],
        "test_preflight.py::test_the_base_of_a_lora_model_is_no_reference",
    ),
    (
        "16: preflight passes a model with no path and no reference",
        "preflight",
        [("not (path or peft or trl)", "False")],
        "test_preflight.py::test_reference_without_a_path",
    ),
    (
        "16: stage 1 comes back under the name of the model before it",
        "reviews",
        [("return load_model(str(folder))", "return model, tokenizer")],
        "test_trl_behaviour.py::test_stage_1_comes_back_under_a_name_that_leads_to_it",
    ),
    (
        "17: label smoothing is ignored by sigmoid",
        "losses",
        [("losses = (1 - eps) * right + eps * wrong", "losses = right")],
        "test_losses.py",
    ),
    (
        "17: label smoothing is ignored by the other losses, without a word",
        "losses",
        [
            (
                'if label_smoothing and loss_type not in ("sigmoid", "robust"):',
                "if False:",
            )
        ],
        "test_losses.py",
    ),
    (
        "18: logged log-probs are averages",
        "training",
        [('"logps/chosen": chosen,', '"logps/chosen": logps[0],')],
        "test_variants_training.py",
    ),
    (
        "19: a margin that grows excuses any fall of the chosen",
        "diagnosis",
        [
            (
                'return confidence * (s["margins"] > 0)',
                'return confidence * (s["margins"] < 0)',
            )
        ],
        "test_monitoring.py::test_displacement_is_named_only_past_a_threshold",
    ),
    (
        "19: every fall of the chosen is called displacement",
        "diagnosis",
        [('max(9.0, 0.25 * s["start"]), 1, 2)', 'max(9.0, 0.25 * s["start"]), 0, 1)')],
        "test_monitoring.py::test_displacement_is_named_only_past_a_threshold",
    ),
    (
        "20: rows are split, not prompts",
        "data",
        [("keys = [", "keys = [str(i) for i, _ in enumerate(texts)]\n    _ = [")],
        "test_data.py",
    ),
    (
        "21: preflight counts emulated bf16",
        "preflight",
        [("is_bf16_supported(including_emulation=False)", "is_bf16_supported()")],
        "test_preflight.py::test_bf16_by_imitation",
    ),
    (
        "21: preflight passes bf16 weights that are trained",
        "preflight",
        [('(half, "warning", f"trained', '(False, "warning", f"trained')],
        "test_preflight.py::test_dtypes",
    ),
    (
        "21: stage 1 leaves bf16 as TRL has it, on",
        "reviews",
        [("            bf16=False,\n", "")],
        "test_trl_behaviour.py::test_stage_1_computes_in_32_bits",
    ),
    (
        "23: both questions have the same order",
        "judges",
        [("judge(prompt, response_b, response_a)", "judge(*pair)")],
        "test_judges.py::test_outcomes_of_two_answers",
    ),
    (
        "23: no swap unless asked for",
        "judges",
        [("swap: bool = True", "swap: bool = False")],
        "test_judges.py::test_outcomes_of_two_answers",
    ),
    (
        "23: the evaluator does not swap",
        "evaluator",
        [("swap: bool = True", "swap: bool = False")],
        "test_evaluator.py::test_a_row_a_pair_in_order_with_all_that_was_said",
    ),
    (
        "23: the swapped verdict is not turned back",
        "judges",
        [('{"A": "B", "B": "A"}.get(found[1], found[1])', "found[1]")],
        "test_judges.py::test_outcomes_of_two_answers",
    ),
    (
        "23: unparseable is a silent tie",
        "judges",
        [('return "unparseable"', 'return "tie"')],
        "test_judges.py::test_outcomes_of_two_answers",
    ),
    (
        "23: a verdict is fished out of prose",
        "judges",
        [
            (
                "    except (ValueError, RecursionError):\n        return None",
                "    except (ValueError, RecursionError):\n"
                '        return text.partition(\'"winner": "\')[2][:1] or None',
            )
        ],
        "test_judges.py::test_all_else_is_unparseable",
    ),
    (
        "23: of two winners the last counts",
        "judges",
        [
            (
                "return named[0] if len(named) == 1 and named[0] in",
                "return named[-1] if named and named[-1] in",
            )
        ],
        "test_judges.py::test_all_else_is_unparseable",
    ),
    (
        "23: disagreement counts as the first verdict",
        "judges",
        [('if len(set(verdicts)) == 1 else "tie"', 'if verdicts else "tie"')],
        "test_judges.py::test_outcomes_of_two_answers",
    ),
    (
        "23: a pair that failed counts as a tie",
        "judges",
        [('Judgement(*pair, "failed",', 'Judgement(*pair, "tie",')],
        "test_judges.py::test_no_answer_is_a_failed_pair_that_keeps_what_was_said",
    ),
    (
        "23: a response can close its fence",
        "judges",
        [("hexdigest()[:16]", "hexdigest()[:0]")],
        "test_judges.py::test_a_response_that_holds_the_tag_gets_another",
    ),
    (
        "23: what was not judged lowers the win rate",
        "winrates",
        [
            (
                '_SCORE = {"A": 1.0, "tie": 0.5, "B": 0.0}',
                '_SCORE = {"A": 1.0, "tie": 0.5, "B": 0.0, "unparseable": 0.0}',
            )
        ],
        "test_evaluator.py::test_the_summary_counts_ties_half_and_leaves_out_what_was_not_judged",
    ),
    (
        "23: length is not held equal in the controlled rate",
        "winrates",
        [("features * [0, 1]", "features * [1, 1]")],
        "test_winrates.py::test_length_control_recovers_a_planted_truth",
    ),
    (
        "speed: the rejected response sees the chosen one",
        "sharing",
        [("((k == 0) | (k == q))", "(k >= 0)")],
        "test_speed.py",
    ),
    (
        "speed: positions run on over both responses",
        "sharing",
        [("*range(p, p + c), *range(p, p + r)]", "*range(p, p + c + r)]")],
        "test_speed.py",
    ),
    (
        "speed: the chosen's last token predicts the rejected's first",
        "sharing",
        [("[last, *range(p + c, p + c + r)]", "[*range(p + c - 1, p + c + r)]")],
        "test_speed.py",
    ),
    (
        "speed: padding is scored",
        "speed",
        [('"labels": IGNORE}', '"labels": 0}')],
        "test_speed.py",
    ),
    (
        "22: too few ranks are let pass",
        "launch",
        [
            (
                "if (seen := count_ranks()) != expected:",
                "if (seen := count_ranks()) > expected:",
            )
        ],
        "test_processes.py::test_too_few_ranks_are_an_error_in_each",
    ),
    (
        "22: the ranks are those that were asked for",
        "launch",
        [
            (
                "        return 1\n    one = ",
                '        return int(os.environ.get("WORLD_SIZE", 1))\n    one = ',
            )
        ],
        "test_processes.py::test_ranks_are_counted_from_inside",
    ),
    (
        "22: each rank counts itself alone",
        "launch",
        [("    distributed.all_reduce(one)\n", "")],
        "test_processes.py::test_ranks_are_counted_from_inside",
    ),
]


def mutated(folder: Path, module: str, replacements: list) -> Path:
    """A copy of the package in `folder`, with its texts replaced."""
    shutil.copytree(ROOT / "dpo_tutorial", folder / "dpo_tutorial")
    (folder / "data").symlink_to(ROOT / "data")
    path = folder / "dpo_tutorial" / f"{module}.py"
    text = path.read_text()
    for old, new in replacements:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        text = text.replace(old, new)
    path.write_text(text)
    return folder


# One process imports what is slow once, then forks for each copy; prints pytest's
# statuses. Plugins are left out: to look for them takes longer than most tests.
RUNNER = """
import gc, json, os, sys
import matplotlib.pyplot, pandas, pytest, rapidfuzz, scipy.stats, torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, GPT2LMHeadModel
from transformers import PreTrainedTokenizerFast, get_linear_schedule_with_warmup
from trl import DPOTrainer, SFTTrainer
gc.freeze()  # pytest collects garbage at its end, and this is a lot to look through
for folder, tests in json.loads(sys.stdin.read()):
    child = os.fork()
    if child == 0:
        sys.path.insert(0, folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(pytest.main(["-x", "-q", "--assert=plain", *tests.split()]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@pytest.mark.slow
def test_every_mutant_is_killed_and_the_unchanged_package_is_not(tmp_path):
    runs = [(name, *rest, 1) for name, *rest in MUTANTS]  # 1: some test failed
    named = sorted({mutant[3] for mutant in MUTANTS})
    for file, tests in groupby(named, key=lambda test: test.partition("::")[0]):
        runs.append((f"unchanged: {file}", "losses", [], " ".join(tests), 0))
    jobs = [
        (str(mutated(tmp_path / str(i), *run[1:3])), run[3])
        for i, run in enumerate(runs)
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(jobs),
        env={**os.environ, **ENVIRONMENT},
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=True,
    )
    found = [int(line) for line in done.stdout.split()]
    survivors = [
        run[0] for run, status in zip(runs, found, strict=True) if status != run[4]
    ]
    assert survivors == []
