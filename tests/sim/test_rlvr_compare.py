from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import signal

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from sim.__main__ import app
from sim.rlvr.compare import Scale, compare
from sim.rlvr.compare_measure import measure
from sim.rlvr.compare_page import write_page
from sim.rlvr.compare_results import Run, band, estimate, load, write_finals
from sim.rlvr.compare_tasks import NumberSorting
from sim.rlvr.compare_tokens import profile
from sim.rlvr.model import build_model

TINY = Scale(
    steps=3,
    prompts=4,
    group_size=4,
    minibatches=2,
    hidden_size=16,
    layers=1,
    warmup_accuracy=0.0,
    warmup_steps=2,
    problems=6,
    samples=4,
    shown=2,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Many short parallel regions: one thread is faster where the cores are shared."""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two recipes on both tasks with two seeds."""
    out = tmp_path_factory.mktemp("compare")
    finished = compare(
        ["grpo", "kl_cov"], tasks=["chain_sum", "number_sorting"], seeds=2, out=out, scale=TINY
    )
    assert finished
    return out


def _files(out, name):
    return {path.relative_to(out): path.read_bytes() for path in out.rglob(name) if path.is_file()}


def test_finished_runs_are_not_repeated(done):
    """Would catch a comparison that starts anew, or samples again, when it is called again."""
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}
    steps = []
    again = compare(
        ["grpo", "kl_cov"],
        tasks=["chain_sum"],
        seeds=2,
        out=done,
        scale=TINY,
        on_step=lambda *step: steps.append(step),
    )
    assert again
    assert steps == []
    assert before == {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}


def test_no_line_of_progress_stays_behind(done):
    """Would catch the line of a last run, at 0 of its steps if that was finished before."""
    console = Console(file=io.StringIO(), width=100)
    options = {"tasks": ["chain_sum"], "seeds": 2, "out": done, "scale": TINY}
    assert compare(["grpo", "kl_cov"], console=console, **options)
    lines = console.file.getvalue().strip().splitlines()
    assert [line.split()[0] for line in lines] == ["runs"]
    assert "4/4" in lines[0]


def test_interrupted_comparison_goes_on_to_the_same_numbers(tmp_path, done):
    """Ctrl-C in the second run: what is finished stays, the rest gives what a straight run gave."""
    out = tmp_path / "broken"
    seen = []

    def press_ctrl_c(task, name, seed, row):
        seen.append((name, row["step"]))
        if (name, row["step"]) == ("kl_cov", 2):
            signal.raise_signal(signal.SIGINT)

    def called(**more):
        return compare(
            ["grpo", "kl_cov"], tasks=["chain_sum"], seeds=1, out=out, scale=TINY, **more
        )

    assert not called(on_step=press_ctrl_c)
    assert seen == [("grpo", 1), ("grpo", 2), ("grpo", 3), ("kl_cov", 1), ("kl_cov", 2)]
    seen.clear()
    assert called(on_step=lambda task, name, seed, row: seen.append((name, row["step"])))
    # Two rows are read back, one is new; the finished recipe is not touched.
    assert seen == [("kl_cov", 1), ("kl_cov", 2), ("kl_cov", 3)]
    straight = _files(done, "final.json")
    for path, content in _files(out, "final.json").items():
        assert content == straight[path]
    assert len(_files(out, "final.json")) == 2


def test_a_longer_comparison_continues_and_another_one_is_refused(tmp_path):
    """Would catch finals of a shorter run taken for those of the longer, and mixed settings."""
    short = Scale(**{**vars(TINY), "steps": 1})
    longer = Scale(**{**vars(TINY), "steps": 2})
    other = Scale(**{**vars(TINY), "learning_rate": 1e-5})
    out = tmp_path / "grows"

    def called(scale):
        return compare(["grpo"], tasks=["chain_sum"], seeds=1, out=out, scale=scale)

    assert called(short)
    assert called(longer)
    (results,) = load(out, ["grpo"], ["chain_sum"], 1, steps=2)
    assert [row["step"] for row in results.runs["grpo"][0].rows] == [1, 2]
    assert results.runs["grpo"][0].final["label"]["steps"] == 2
    with pytest.raises(ValueError, match="learning_rate"):
        called(other)
    # Interrupted on the way to a third step: its finals are still those of two.
    (unfinished,) = load(out, ["grpo"], ["chain_sum"], 1, steps=3)
    assert unfinished.runs == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [("final.json", "[1, "), ("final.json", "{}"), ("checkpoint.pt", "PK"), ("checkpoint.pt", "")],
)
def test_a_damaged_file_is_named(tmp_path, done, name, content):
    """Would catch an error of the parser's alone, which leaves all files to be searched."""
    out = tmp_path / "damaged"
    shutil.copytree(done, out)
    run = out / "chain_sum" / "seed0" / "grpo"
    (run / "final.json").unlink()
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(run / name))):
        compare(["grpo"], tasks=["chain_sum"], seeds=1, out=out, scale=TINY)


def test_what_all_runs_have_alike_is_no_option(tmp_path):
    """Would catch a page that says temperature 1 and groups of 4 of runs with others."""
    for name, value in (("temperature", 0.6), ("group_size", 8), ("minibatches", 1)):
        with pytest.raises(ValueError, match=f"options: {name}"):
            compare(["grpo"], tasks=["chain_sum"], seeds=1, out=tmp_path, options={name: value})


@pytest.mark.parametrize(
    ("names", "tasks", "message"),
    [
        (["grpo", "grpo"], ["chain_sum"], "recipes"),
        (["grpoo"], ["chain_sum"], "grpoo"),
        (["grpo"], ["chess"], "chess"),
        (["grpo"], [], "tasks"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_trained(tmp_path, names, tasks, message):
    """Would catch a typing error that shows after an hour."""
    with pytest.raises(ValueError, match=message):
        compare(names, tasks=tasks, seeds=1, out=tmp_path, scale=TINY)
    assert not list(tmp_path.iterdir())


def test_page_shows_every_run_and_needs_nothing_else(tmp_path, done):
    """Would catch a recipe without a curve, finals that are not the files', and outside links."""
    results = load(done, ["grpo", "kl_cov"], ["chain_sum", "number_sorting"], 2, steps=3)
    path = tmp_path / "page.html"
    write_page(path, results, names=["grpo", "kl_cov"], scale=TINY, command="python <&>")
    page = path.read_text()
    assert "8 runs" in page
    assert "python &lt;&amp;&gt;" in page
    assert not re.search(r'(src|href)="(?!#)(?!data:)', page.replace("xlink:href", "href"))
    assert "<script" not in page
    for task in results:
        section = page.partition(f'<section id="{task.task}">')[2].partition("</section>")[0]
        assert section.count("<svg") == 1
        for label in ("nats", "training step", "share", "k, samples per held-out problem"):
            assert label in section
        for name, runs in task.runs.items():
            values = [run.final["pass_at_k"]["1"] for run in runs]
            row = section.partition(f"<tr><th>{name}</th>")[2].partition("</tr>")[0]
            assert f"{sum(values) / 2:.3f} ± " in row
            # The profile's characters are those that were sampled, in their order.
            for each in runs[0].final["profiles"]:
                text = "".join(token[0] for token in each["tokens"])
                shown = section.partition("Token entropies")[2]
                lines = re.findall(r'<div class="line">(.*?)</div>', shown)
                plain = [re.sub(r"<[^>]+>", "", line) for line in lines]
                assert any(f"{text}" in line.replace("&lt;", "<") for line in plain)
    # The same numbers give the same page.
    again = tmp_path / "again.html"
    write_page(again, results, names=["grpo", "kl_cov"], scale=TINY, command="python <&>")
    assert again.read_text() == page


def test_finals_in_the_csv_are_those_of_the_runs(tmp_path, done):
    """Would catch columns mixed up, and the policy before training counted as a recipe."""
    results = load(done, ["grpo", "kl_cov"], ["chain_sum"], 2, steps=3)
    write_finals(tmp_path / "finals.csv", results)
    with (tmp_path / "finals.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["recipe"], row["seed"]) for row in rows] == [
        ("", "0"),
        ("", "1"),
        ("grpo", "0"),
        ("grpo", "1"),
        ("kl_cov", "0"),
        ("kl_cov", "1"),
    ]
    run = results[0].runs["kl_cov"][1]
    assert float(rows[-1]["pass@4"]) == run.final["pass_at_k"]["4"]
    assert float(rows[-1]["forking"]) == run.final["forking"]
    assert float(rows[-1]["reward"]) == pytest.approx(sum(r["reward"] for r in run.rows) / 3)
    assert rows[0]["sampled"] == ""


def test_profile_marks_forking_tokens_and_darkens_with_entropy():
    """Would catch an underline on the wrong side of the threshold, and a reversed scale."""
    response = {"prompt": "1+1=", "right": True, "tokens": [["2", 0.1, 0.9], ["<", 1.9, 0.2]]}
    text = profile(response, top=2.0, forking_above=0.5)
    sure, unsure = re.findall(r'<span class="(token[^"]*)" style="background:#(\w{6})', text)
    assert (sure[0], unsure[0]) == ("token", "token fork")
    brightness = [sum(bytes.fromhex(colour)) for _, colour in (sure, unsure)]
    assert brightness[0] > brightness[1]
    assert "entropy 1.90 nats, probability 0.20" in text
    assert "&lt;" in text


def test_estimates_are_students():
    """[1, 2, 3]: mean 2, standard error 1/√3, t 4.3027; one value has no interval."""
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert math.isnan(estimate([1.0]).half)
    # 0.975 quantile for 9 degrees of freedom, from the expansion.
    ten = estimate([float(i) for i in range(10)])
    assert ten.half == pytest.approx(2.26216 * math.sqrt(55 / 6 / 10), rel=1e-4)


def test_bands_are_over_the_steps_that_all_seeds_have():
    """Would catch a mean over different seeds at each step, and an average that looks ahead."""
    rows = [
        [{"step": s, "reward": s * k} for s in range(1, n + 1)] for k, n in ((1.0, 4), (3.0, 3))
    ]
    runs = [Run(seed, each, {}) for seed, each in enumerate(rows)]
    raw = band(runs, "reward", window=1)
    assert raw.at == [1, 2, 3]
    assert raw.mean == [2.0, 4.0, 6.0]
    assert (raw.low, raw.high) == ([1.0, 2.0, 3.0], [3.0, 6.0, 9.0])
    smooth = band(runs, "reward", window=2)
    assert smooth.mean == [2.0, 3.0, 5.0]
    assert smooth.low == [1.0, 1.5, 2.5]


def test_measures_against_a_policy_that_is_known():
    """A uniform policy: every token's entropy is ln V, none forks, and right is right."""
    held_out = NumberSorting(size=300, seed=0, held_out=True)
    model = build_model(vocab_size=16, seed=0, hidden_size=16, layers=1)
    torch.nn.init.zeros_(model.lm_head.weight)
    found = measure(model, held_out, problems=5, samples=4, shown=2, max_length=6, seed=0)
    assert found["entropy"] == pytest.approx(math.log(16), abs=1e-5)
    assert found["forking_above"] == pytest.approx(math.log(16), abs=1e-5)
    assert list(found["pass_at_k"]) == ["1", "2", "4"]
    for each in found["profiles"]:
        assert 1 <= len(each["tokens"]) <= 6
        for _, entropy, probability in each["tokens"]:
            assert entropy == pytest.approx(math.log(16), abs=1e-3)
            assert probability == pytest.approx(1 / 16, abs=1e-3)
    everything = measure(
        model, held_out, problems=5, samples=4, shown=0, max_length=6, seed=0, forking_above=1.0
    )
    assert everything["forking"] == 1.0
    assert everything["profiles"] == []


def test_number_sorting_knows_right_from_wrong():
    """Would catch the wrong direction, a list in the wrong order, and text that is no list."""
    task = NumberSorting(size=200, seed=3)
    for at in range(20):
        numbers = [int(n) for n in task.prompts[at][:-1].split(",")]
        descending = task.prompts[at].endswith(">")
        assert bool(task.domain[at]) == descending
        assert task.solutions[at] == ",".join(map(str, sorted(numbers, reverse=descending)))
    at = next(i for i, s in enumerate(task.solutions) if len(set(s.split(","))) == 3)
    right = task.solutions[at]
    turned = ",".join(reversed(right.split(",")))
    texts = [right, turned, right + ",", right.replace(",", ""), "", ",".join(right.split(",")[:2])]
    assert task.score([at] * 6, texts).tolist() == [True] + [False] * 5
    assert task.answer("7,03") == "7,3"
    assert task.answer("7,,3") is None


def test_number_sorting_steps_are_numbers_in_their_places():
    """Would catch a comma that belongs to the wrong number, and numbers beyond the solution."""
    task = NumberSorting(size=200, seed=3)
    at = next(i for i, s in enumerate(task.solutions) if len(set(s.split(","))) == 3)
    first, second, third = task.solutions[at].split(",")
    text = f"{first},{third},{third},1"
    tokens = torch.tensor([[*task.tokenizer.encode(text), task.tokenizer.eos]])
    mask = torch.ones_like(tokens, dtype=torch.bool)
    expected = (
        [True] * (len(first) + 1) + [False] * (len(third) + 1) + [True] * (len(third) + 1)
    ) + [False] * 2
    assert task.score_steps([at], tokens, mask)[0].tolist() == expected
    assert second != third


def test_number_sorting_holds_out_problems_that_are_never_trained_on():
    """Would catch a held-out set that overlaps."""
    trained = set(NumberSorting(size=2000, seed=1).prompts)
    held_out = set(NumberSorting(size=2000, seed=1, held_out=True).prompts)
    assert not trained & held_out
    assert 0.05 < len(held_out) / len(trained) < 0.2


def test_command_line_takes_several_names(tmp_path, done):
    """`--recipes a b --tasks c d`, and the page at the end."""
    arguments = ["--small", "--steps", "1", "--seeds", "1", "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(
        app, ["rlvr-compare", "--recipes", "grpo", "gspo", "--tasks", "chain_sum", *arguments]
    )
    assert told.exit_code == 0, told.output
    finals = sorted(path.parent.name for path in (tmp_path / "out").rglob("final.json"))
    assert finals == ["gspo", "grpo"] or finals == ["grpo", "gspo"]
    label = json.loads(next((tmp_path / "out").rglob("final.json")).read_text())["label"]
    assert label["steps"] == 1
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<tr><th>gspo</th>" in page
    wrong = CliRunner().invoke(app, ["rlvr-compare", "--recipes", "grpoo", *arguments])
    assert wrong.exit_code == 2
    assert "grpoo" in wrong.output
