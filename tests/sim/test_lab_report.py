"""Results, verdicts and the page: what is stored reads back, what is broken is noticed."""

from __future__ import annotations

import dataclasses
import html.parser
import inspect
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from sim.__main__ import app
from sim.lab import command, runner, store
from sim.lab.compare import (
    AT_LEVEL,
    arm,
    at_level,
    compare,
    difference,
    ends,
    falls,
    final,
    gained,
    initial,
    lost,
    misses,
    second_halves,
)
from sim.lab.experiment import QUICK, Criterion
from sim.lab.experiments import EXPERIMENTS
from sim.lab.report import write
from sim.lab.statistics import Interval, exactly, interval, order, paired, ratio, t_quantile
from sim.lab.store import Corrupt, Result, Store, key_of
from sim.lab.tables import Table
from sim.lab.tasks import random_bandit

CHEAP = EXPERIMENTS["first_order"]


@pytest.fixture(scope="module")
def measured():
    return Result(CHEAP.measure(QUICK), 1.25)


def test_student_quantiles_against_a_table():
    """Catches a normal quantile in place of Student's, and a wrong term of the expansion."""
    for freedom, quantile in {9: 2.262157, 19: 2.093024, 39: 2.022691, 99: 1.984217}.items():
        assert t_quantile(0.975, freedom) == pytest.approx(quantile, abs=2e-5)


def test_intervals_by_hand():
    """Catches a biased variance, and pairs that are not subtracted seed by seed."""
    values = [float(v) for v in range(1, 11)]
    half = 2.262157 * math.sqrt(55 / 6 / 10)
    assert interval(values)[:3] == pytest.approx((5.5, 5.5 - half, 5.5 + half), abs=2e-5)
    assert paired(values, [v - 2 for v in values]) == Interval(2.0, 2.0, 2.0, 10)
    assert ratio([3 * v for v in values], values) == Interval(3.0, 3.0, 3.0, 10)
    with pytest.raises(ValueError, match="values: expected at least 10, got 9"):
        interval(values[:9])


def test_a_criterion_wants_the_whole_interval():
    """Catches a verdict on the mean alone, on one end, or on NaN."""
    above, between = Criterion("x", above=0.5), Criterion("x", above=0.0, below=1.0)
    assert above.holds(Interval(0.7, 0.51, 0.9, 20))
    assert not above.holds(Interval(0.7, 0.49, 0.9, 20))
    assert not between.holds(Interval(0.7, 0.4, 1.01, 20))
    assert not above.holds(Interval(math.nan, math.nan, math.nan, 20))
    assert not Criterion("x", below=0.5).holds(exactly(0.5))
    assert (above.wanted, between.wanted) == ("> 0.5", "0 to 1")


def test_verdicts():
    """Catches a claim reproduced by some of its criteria, or by none that could fail."""
    two = dataclasses.replace(
        CHEAP,
        criteria=(Criterion("a", above=0), Criterion("b", above=0)),
        judge=lambda tables: [exactly(1.0), exactly(-1.0)],
    )
    assert two.verdict(two.findings({})) == "not reproduced"
    outside = dataclasses.replace(two, outside="no network")
    assert outside.verdict(outside.findings({})) == "outside a tabular model"
    with pytest.raises(ValueError, match="zip"):
        dataclasses.replace(two, judge=lambda tables: [exactly(1.0)]).findings({})


def test_comparisons_pair_the_seeds():
    """Catches arms with other luck, differences across seeds, and a curve of another arm."""
    task = random_bandit(range(10))
    arms = {"a": arm("grpo"), "b": arm("grpo"), "slow": arm("grpo", train={"learning_rate": 0.01})}
    tables = compare(task, arms, steps=4, learning_rate=2.0, points=2)
    assert difference(tables, "reward", "a", "b") == Interval(0.0, 0.0, 0.0, 10)
    assert difference(tables, "reward", "a", "slow").low > 0
    end = final(tables, "slow", "reward")
    curve = tables["curves"].where(arm="slow", measure="reward")
    assert curve.numbers("step") == [0, 2, 4]
    assert curve.numbers("mean")[-1] == end.value
    entropies = tables["finals"].where(arm="a", measure="entropy")
    shares = zip(entropies.numbers("start"), entropies.numbers("value"), strict=True)
    assert lost(tables, "a").value == pytest.approx(sum(1 - b / a for a, b in shares) / 10)
    start = tables["finals"].numbers("start", arm="a", measure="reward")
    assert curve.numbers("mean")[0] == pytest.approx(sum(start) / 10, rel=1e-12)
    tables = compare(task, arms, steps=4, learning_rate=2.0, points=4, runs=True)
    halves = second_halves(tables["runs"], "slow", "reward")
    assert [half[-1] for half in halves] == ends(tables, "slow", "reward")
    assert {len(half) for half in halves} == {3}
    rise = gained(tables, "a", "reward")
    reached = final(tables, "a", "reward").value
    assert initial(tables, "a", "reward").value == pytest.approx(sum(start) / 10, rel=1e-12)
    assert rise.value == pytest.approx(reached - sum(start) / 10, rel=1e-12)


def test_entropy_at_a_reward_is_interpolated():
    """Catches the later of two crossings, a point off the line, a level never reached as 0."""
    rising = torch.tensor([[0.0, 0.6, 0.0], [0.4, 0.7, 0.1], [0.8, 0.2, 0.2], [0.3, 0.9, 0.3]])
    other = torch.tensor([[1.0, 9.0, 1.0], [0.8, 5.0, 1.0], [0.2, 4.0, 1.0], [0.1, 3.0, 1.0]])
    found = at_level(rising.double(), other.double(), 0.5)
    assert found[0] == pytest.approx(0.8 - 0.25 * 0.6, rel=1e-6)
    assert found[1] == 9.0
    assert math.isnan(found[2])


def test_seeds_that_never_reach_a_level_do_not_count():
    """Catches NaN in a mean, and a mean over too few seeds."""
    rows = [(a, AT_LEVEL, n, 1.0, 0.5 + n) for a in "ab" for n in range(12)]
    rows[3] = ("a", AT_LEVEL, 3, 1.0, math.nan)
    tables = {"finals": Table.of(("arm", "measure", "seed", "start", "value"), rows)}
    assert difference(tables, AT_LEVEL, "a", "b") == Interval(0.0, 0.0, 0.0, 11)
    for n in range(3):
        rows[n] = ("a", AT_LEVEL, n, 1.0, math.nan)
    tables = {"finals": Table.of(("arm", "measure", "seed", "start", "value"), rows)}
    assert math.isnan(difference(tables, AT_LEVEL, "a", "b").value)


def test_ends_misses_and_falls_by_hand():
    """Catches a sign kept, a fall from the start instead of the best, and runs mixed up."""
    rewards = {0: (0.1, 0.6, 0.4, 0.5), 1: (0.1, 0.2, 0.9, 1.0)}
    runs = [("a", n, k, row[k]) for k in range(4) for n, row in rewards.items()]
    rows = [("a", "reward", n, row[0], row[-1]) for n, row in rewards.items()]
    tables = {
        "runs": Table.of(("arm", "seed", "step", "reward"), runs),
        "finals": Table.of(("arm", "measure", "seed", "start", "value"), rows),
    }
    assert ends(tables, "a", "reward") == [0.5, 1.0]
    assert misses(tables, "a", 0.75, "reward") == [0.25, 0.25]
    assert falls(tables, "a") == pytest.approx([0.2, 0.0])


def test_orders_by_hand():
    """Catches a slope of the values themselves."""
    assert order((0.1, 0.2, 0.4), (3e-2, 12e-2, 48e-2)) == pytest.approx(2.0)


def test_rows_by_seed():
    """Catches seeds and keys exchanged."""
    values = {("a", 1): torch.tensor([0.5, 0.25]), ("b", 2): torch.tensor([1.0, 2.0])}
    table = Table.by_seed(("arm", "size", "seed", "x"), values)
    assert table.rows == (("a", 1, 0, 0.5), ("a", 1, 1, 0.25), ("b", 2, 0, 1.0), ("b", 2, 1, 2.0))


def test_tables_name_what_is_missing():
    """Catches a silent mean over nothing."""
    table = Table.of(("arm", "value"), [("a", 0.1), ("b", 2)])
    assert table.numbers("value", arm="b") == [2.0]
    with pytest.raises(KeyError, match="no rows with"):
        table.numbers("value", arm="c")
    with pytest.raises(ValueError, match="row: expected 2 cells"):
        Table.of(("arm", "value"), [("a",)])
    assert table.csv() == "arm,value\na,0.1\nb,2\n"


def test_results_read_back_to_the_same_bits(tmp_path, measured):
    """Catches rounding on the way to disk."""
    kept = Store(tmp_path, QUICK)
    assert kept.load(CHEAP.name) is None
    saved = kept.save(CHEAP, measured)
    found = kept.load(CHEAP.name)
    assert found == saved
    assert found.tables == measured.tables
    assert found.key == key_of(CHEAP, QUICK)
    assert [path.suffix for path in tmp_path.iterdir()] == [".json", ".json"]
    # Code edited while an experiment runs did not make its result.
    kept.save(CHEAP, dataclasses.replace(measured, key="of the start"))
    assert kept.load(CHEAP.name).key == "of the start"


@pytest.mark.parametrize("harm", ["cut", "edit", "empty", "other"])
def test_broken_results_are_noticed(tmp_path, measured, harm):
    """Catches a truncated, edited or foreign file that passes for a result."""
    kept = Store(tmp_path, QUICK)
    kept.save(CHEAP, measured)
    path = kept.path(CHEAP.name)
    text = path.read_text()
    broken = {
        "cut": text[:-100],
        "edit": text.replace('"seconds": 1.25', '"seconds": 1.35'),
        "empty": "",
        "other": "[1, 2]",
    }[harm]
    assert broken != text
    path.write_text(broken)
    with pytest.raises(Corrupt, match=re.escape(str(path))):
        kept.load(CHEAP.name)


def test_the_key_knows_code_and_profile(tmp_path, monkeypatch):
    """Catches a result of older code, or of a short run, taken for this one."""
    key = key_of(CHEAP, QUICK)
    assert key == key_of(CHEAP, QUICK)
    assert key != key_of(CHEAP, QUICK._replace(seeds=21))
    assert key != key_of(EXPERIMENTS["chain_rule"], QUICK)
    copy = tmp_path / "copy.py"
    copy.write_text(Path(inspect.getfile(CHEAP.measure)).read_text() + "\n# changed\n")
    monkeypatch.setattr(store.inspect, "getfile", lambda function: str(copy))
    assert key != key_of(CHEAP, QUICK)


def test_the_key_knows_the_library_but_not_its_adapters(tmp_path, monkeypatch):
    """Catches results kept after a recipe changed, or thrown away for an adapter's sake."""
    package = tmp_path / "library"
    (package / "integrations" / "deep").mkdir(parents=True)
    files = ("__init__.py", "losses.py", "integrations/trainer.py", "integrations/deep/more.py")
    for name in files:
        (package / name).write_text("")
    monkeypatch.setattr(store.entropy_ext, "__file__", str(package / "__init__.py"))
    key = key_of(CHEAP, QUICK)
    for name in files[2:]:
        (package / name).write_text("x = 1\n")
    assert key == key_of(CHEAP, QUICK)
    (package / "losses.py").write_text("x = 1\n")
    assert key != key_of(CHEAP, QUICK)


def test_the_laboratory_does_not_load_the_adapters():
    """Catches an import that would make results depend on files the key leaves out."""
    code = "import sys, sim.lab.command; print([m for m in sys.modules if 'integrations' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.split("\n") if "entropy_ext" in line] == []


def test_runs_resume_and_recompute_what_is_corrupt(tmp_path, monkeypatch):
    """Catches finished work done again, and a broken file that stops or fools the report."""
    # Code that is edited while the tests run is no matter here.
    monkeypatch.setattr(runner, "key_of", lambda experiment, profile: "fixed")
    console = Console(record=True, width=200)
    kept = Store(tmp_path, QUICK)
    first, failures = runner.run([CHEAP], kept, console, jobs=1)
    assert failures == {}
    content = kept.path(CHEAP.name).read_bytes()
    again, _ = runner.run([CHEAP], kept, console, jobs=1)
    assert again == first
    assert kept.path(CHEAP.name).read_bytes() == content
    other = dataclasses.replace(first[CHEAP.name], tables={})
    older = json.loads(content)["body"] | {"key": "older", "tables": {}}
    kept.path(CHEAP.name).write_text(
        json.dumps({"sha256": store._checksum(older), "body": older}), encoding="utf-8"
    )
    assert kept.load(CHEAP.name).tables == other.tables
    assert not runner._fits(CHEAP, kept.load(CHEAP.name))
    assert runner._fits(CHEAP, first[CHEAP.name])
    kept.path(CHEAP.name).write_bytes(content[:500])
    third, _ = runner.run([CHEAP], kept, console, jobs=1)
    assert "corrupt, computed anew" in console.export_text()
    assert third[CHEAP.name].tables == first[CHEAP.name].tables


def test_a_failure_is_told_and_not_a_result(monkeypatch):
    """Catches an experiment whose exception stops all others or vanishes."""

    def fail(profile):
        raise RuntimeError("no such luck")

    monkeypatch.setitem(EXPERIMENTS, "broken", dataclasses.replace(CHEAP, measure=fail))
    outcome = runner._work("broken", QUICK)
    assert isinstance(outcome, str)
    assert "no such luck" in outcome


class _Tags(html.parser.HTMLParser):
    """Whether every element that is opened is closed."""

    void = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_shows_the_numbers_and_links_to_all_of_them(tmp_path, measured):
    """Catches broken markup, links to elsewhere, lost digits, a changed criterion left out."""
    kept = Store(tmp_path / "results", QUICK)
    results = {CHEAP.name: kept.save(CHEAP, measured)}
    looser = (CHEAP.criteria[0]._replace(above=1.5), *CHEAP.criteria[1:])
    changed = dataclasses.replace(CHEAP, criteria=looser, revisions=("2026: 1 → 2, because",))
    kept.note_criteria(changed)
    page = tmp_path / "index.html"
    other = EXPERIMENTS["chain_rule"]
    write(page, [changed, other], kept, results, {other.name: "Traceback <boom>"})
    text = page.read_text()
    tags = _Tags()
    tags.feed(text)
    assert tags.open == ["html"] or tags.open == []
    files = [link for link in tags.links if not link.startswith(("#", "data:image/svg+xml,"))]
    assert [(tmp_path / file).read_text() for file in files] == [
        table.csv() for table in measured.tables.values()
    ]
    assert "tables/quick-first_order-orders.csv" in files
    pictures = [unquote(link).split(",", 1)[1] for link in tags.links if link.startswith("data:")]
    (picture,) = map(xml.etree.ElementTree.fromstring, pictures)
    assert picture.tag.endswith("svg")
    assert picture.get("viewBox")
    assert "1.95 to 2.05 → order of the error" in text.replace("\n", " ")
    assert "2026: 1 → 2, because" in text
    assert "Traceback &lt;boom&gt;" in text
    assert "reproduced" in text


def test_the_same_numbers_give_the_same_page(tmp_path, measured):
    """Catches a date, a version or random names in the pictures: pages could not be compared."""
    kept = Store(tmp_path / "results", QUICK)
    results = {CHEAP.name: kept.save(CHEAP, measured)}
    for name in ("one.html", "two.html"):
        write(tmp_path / name, [CHEAP], kept, results, {})
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_standings_are_a_file_and_whole_on_the_page(tmp_path, measured):
    """Catches a table of standings cut to the rows of a preview."""
    table = Table.of(("recipe", "rank"), [(f"r{n}", n) for n in range(30)])
    ranked = dataclasses.replace(CHEAP, standings=lambda tables: table)
    kept = Store(tmp_path / "results", QUICK)
    write(tmp_path / "p.html", [ranked], kept, {CHEAP.name: kept.save(CHEAP, measured)}, {})
    assert "r29" in (tmp_path / "p.html").read_text()
    assert (tmp_path / "tables/quick-first_order-standings.csv").read_text() == table.csv()


def test_older_code_is_marked(tmp_path, measured):
    """Catches numbers of other code shown as this code's."""
    kept = Store(tmp_path, QUICK)
    saved = kept.save(CHEAP, measured)
    for key, marked in ((saved.key, False), ("another", True)):
        result = dataclasses.replace(saved, key=key)
        write(tmp_path / "p.html", [CHEAP], kept, {CHEAP.name: result}, {})
        assert ("computed by other code" in (tmp_path / "p.html").read_text()) == marked


def test_declarations_are_whole():
    """Catches an experiment without a claim, an effect, a test, or at odds with its file."""
    for name, experiment in EXPERIMENTS.items():
        file = Path(inspect.getfile(experiment.measure))
        assert file.stem == name == experiment.name
        for text in ("title", "claim", "paper", "effect", "test", "caption"):
            assert getattr(experiment, text), f"{name}: {text}"
        assert experiment.criteria
        assert all(c.above is not None or c.below is not None for c in experiment.criteria)
        assert len({c.text for c in experiment.criteria}) == len(experiment.criteria)


def test_command_line(tmp_path):
    """Catches a command that is not there, or a name that passes unchecked."""
    listed = CliRunner().invoke(app, ["--list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in EXPERIMENTS)
    unknown = CliRunner().invoke(app, ["run", "nothing", "--out", str(tmp_path)])
    assert unknown.exit_code == 2
    assert "expected one of" in unknown.output
    assert CliRunner().invoke(app, []).exit_code == 0


def test_an_interrupt_keeps_what_was_finished(tmp_path, monkeypatch):
    """Catches Ctrl-C that ends in a traceback or another status than a shell expects."""

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_experiments", interrupted)
    outcome = CliRunner().invoke(app, ["report", "--quick", "--out", str(tmp_path)])
    assert outcome.exit_code == 130
    assert "run the same command to go on" in outcome.output


def test_a_corrupt_history_of_criteria_is_not_overwritten(tmp_path, measured):
    """Catches a record of changed thresholds that quietly starts anew."""
    kept = Store(tmp_path, QUICK)
    (tmp_path / "criteria.json").write_text("{")
    with pytest.raises(Corrupt, match=r"criteria\.json"):
        kept.save(CHEAP, measured)
    assert json.loads(kept.path(CHEAP.name).read_text())["body"]["seconds"] == 1.25


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_measures_judges_and_draws(name):
    """Catches a claim whose tables, criteria and plot do not fit each other."""
    experiment = EXPERIMENTS[name]
    tables = experiment.measure(QUICK)
    findings = experiment.findings(tables)
    for criterion, measured in findings:
        # In a short run too few seeds may reach the reward at which methods are compared.
        unreached = "reward" in criterion.text and measured.samples < 10
        assert unreached or not math.isnan(measured.value), criterion.text
    figure = experiment.plot(tables).get_figure(root=True)
    assert all(axis.get_xlabel() or axis.get_xticklabels() for axis in figure.axes)
    assert all(axis.get_ylabel() for axis in figure.axes)
