#!/usr/bin/env python3
"""Draws the paper's tables in miniature from the run folders of jobs/paper.sh: report.md and report.html.

    analysis/paper.py FOLDER [--out FOLDER]

Reads FOLDER/CELL/seed-N/eval.json, simulator.json and metrics.jsonl of the cells that are done. Every number comes from there: a cell that
is not done is shown as missing, and a finding that needs it is left open. Mean and standard deviation are over seeds; two
cells are compared seed by seed, since a seed's cells share their world and their start.
"""
import argparse
import glob
import html
import json
import math
import os
import statistics
import sys

import report

SETS = [("qa_test", "in domain"), ("qa_test_relations", "other relations"), ("qa_test_hops", "more hops"),
        ("qa_test_phrasing", "other phrasing")]
COLOURS = [report.BLUE, report.RED, report.GREEN, report.ORANGE, report.PURPLE, report.SKY, report.GREY, "#000000"]

# A table: title, rows (label, cell), the cells whose curves are drawn, findings (better, worse, at_least, words, measure). With
# `at_least` the first is to be no worse than the second, else better, by a measure of MEASURES (EM where none is named). The words
# begin with the place in Sun et al. 2025, arXiv 2505.04588v2, and the paper's own figures (mean EM in per cent); or with OURS,
# where the question is not the paper's.
OURS = "Not in the paper"
TABLES = [
    ("Methods", [("direct answer, base", "direct"), ("chain of thought, base", "cot"), ("RAG, base", "rag"),
                 ("search agent by prompt, base", "search"), ("direct answer, instruct", "direct_instruct"),
                 ("chain of thought, instruct", "cot_instruct"), ("RAG, instruct", "rag_instruct"),
                 ("search agent by prompt, instruct", "search_instruct"), ("R1 (RL without search), base", "r1"),
                 ("R1 (RL without search), instruct", "r1_instruct"), ("Search-R1 (RL with the engine), base", "search_r1"),
                 ("Search-R1, instruct", "search_r1_instruct"), ("ZeroSearch, base", "zerosearch"),
                 ("ZeroSearch, instruct", "zerosearch_instruct")], [],
     [("zerosearch", "search_r1", False, "Table 3: better than RL with the real engine, base start (40.9 against 39.5; 3B: 34.5, 32.8)"),
      ("zerosearch_instruct", "search_r1_instruct", False, "Table 3: the same from the instruct start (39.1 against 38.2)"),
      ("zerosearch", "r1", False, "Table 3: better than RL without search, base start (40.9 against 27.2)"),
      ("zerosearch_instruct", "r1_instruct", False, "Table 3: the same from the instruct start (39.1 against 25.7)"),
      ("zerosearch_instruct", "rag_instruct", False, "Table 3: better than one retrieval by prompt (39.1 against 25.5)"),
      ("zerosearch_instruct", "search_instruct", False, "Table 3: better than search agents by prompt (39.1 against at most 22.1)"),
      ("r1", "cot", False, "Table 3: RL without search is better than a chain of thought by prompt (27.2 against 17.4)"),
      ("rag_instruct", "direct_instruct", False, "Table 3: one retrieval is better than none (25.5 against 15.2)")]),
    ("Base against instruct start", [("base", "zerosearch"), ("instruct", "zerosearch_instruct"), ("base before RL", "search"),
                                     ("instruct before RL", "search_instruct")], ["zerosearch", "zerosearch_instruct"],
     [("zerosearch", "search", False, "Table 4: RL lifts the base start (from 8.8 to 34.5)"),
      ("search_instruct", "search", False, "Appendix B: the instruct start is better at first"),
      ("zerosearch", "zerosearch_instruct", False, "Appendix B: the base start gains more", "gain"),
      ("zerosearch", "zerosearch_instruct", True, "Appendix B: the base start ends no worse")]),
    ("Real engine against simulation", [("real engine, base", "search_r1"), ("simulation, base", "zerosearch"),
                                        ("real engine, instruct", "search_r1_instruct"),
                                        ("simulation, instruct", "zerosearch_instruct")],
     ["search_r1", "zerosearch", "search_r1_instruct", "zerosearch_instruct"],
     [("zerosearch", "search_r1", False, "Section 5.1: the reward ends higher with simulation", "late reward"),
      ("search_r1", "zerosearch", False, "Section 5.1: the reward lags behind the real engine's at first", "early reward"),
      ("zerosearch", "search_r1", False, "Section 5.1: the reward fluctuates less with simulation", "steadiness")]),
    ("Choice of simulator", [("before RL", "search"), ("none", "no_simulator"), ("prompted, S", "prompted_s"),
                             ("prompted, M", "prompted_m"), ("prompted, L", "prompted_l"), ("tuned, S", "tuned_s"),
                             ("tuned, M", "zerosearch"), ("tuned, L", "tuned_l"),
                             ("tuned on collected searches, M", "tuned_collected"), ("real engine", "search_r1")],
     ["no_simulator", "prompted_m", "tuned_s", "zerosearch", "tuned_l", "search_r1"],
     [("tuned_s", "prompted_s", False, "Table 4: tuned is better than prompted, smallest (30.5 against 29.4)"),
      ("zerosearch", "prompted_m", False, "Table 4: tuned is better than prompted, middle (33.5 against 31.4)"),
      ("tuned_l", "prompted_l", False, "Table 4: tuned is better than prompted, largest (34.5 against 31.5)"),
      ("tuned_l", "tuned_s", False, "Table 4: larger is better, tuned (34.5 against 30.5)"),
      ("prompted_l", "prompted_s", False, "Table 4: larger is better, prompted (31.5 against 29.4)"),
      ("zerosearch", "search_r1", True, "Table 4: the middle one is as good as the real engine (33.5 against 32.8)"),
      ("tuned_l", "search_r1", False, "Table 4: the largest is better than the real engine (34.5 against 32.8)")]),
    ("RL algorithms", [("REINFORCE", "reinforce"), ("REINFORCE++", "reinforce++"), ("RLOO", "rloo"), ("GRPO", "zerosearch"),
                       ("Dr. GRPO", "dr_grpo"), ("DAPO", "dapo"), ("GSPO", "gspo"), ("PPO", "ppo")],
     ["reinforce", "reinforce++", "rloo", "zerosearch", "dr_grpo", "dapo", "gspo", "ppo"],
     [("reinforce", "search", False, "Table 5: REINFORCE works (34.5 from 8.8)"),
      ("zerosearch", "search", False, "Table 5: GRPO works (33.2 from 8.8)"), ("ppo", "search", False, "Table 5: PPO works (32.7 from 8.8)"),
      ("reinforce", "zerosearch", False, "Table 5: REINFORCE is better than GRPO (34.5 against 33.2)"),
      ("reinforce", "ppo", False, "Table 5: REINFORCE is better than PPO (34.5 against 32.7)")]),
    ("Curriculum", [("exponential (the paper's)", "zerosearch"), ("random: noise 0.5 throughout", "random"), ("reversed", "reversed"),
                    ("constant: noise 0.1", "constant"), ("linear", "linear"), ("adaptive", "adaptive")],
     ["zerosearch", "random", "reversed", "constant", "linear", "adaptive"],
     [("zerosearch", "random", False, "Table 6: the curriculum is better than noise 0.5 throughout (34.5 against 32.6)"),
      ("zerosearch", "reversed", False, f"{OURS}: easy to hard is better than hard to easy"),
      ("zerosearch", "constant", False, f"{OURS}: the curriculum is better than its mean noise throughout"),
      ("adaptive", "zerosearch", True, f"{OURS}: following the reward is no worse than a plan")]),
    ("Document masking", [("documents masked", "zerosearch"), ("not masked", "unmasked")], ["zerosearch", "unmasked"],
     [("zerosearch", "unmasked", False, "Table 7: leaving document tokens out of the loss is better (36.1 against 34.5)")]),
    ("Number of turns", [("1 turn", "turns_1"), ("2 turns", "turns_2"), ("3 turns", "turns_3"), ("4 turns", "zerosearch")],
     ["turns_1", "turns_2", "turns_3", "zerosearch"],
     [("zerosearch", "turns_1", False, f"{OURS}: answers need more than one search"),
      ("zerosearch", "turns_2", False, f"{OURS}: more than two searches help")]),
]
BEFORE_RL = {"zerosearch": "search", "zerosearch_instruct": "search_instruct"}
CELLS = list(dict.fromkeys(cell for _, rows, _, _ in TABLES for _, cell in rows))
# The simulators themselves: (label, cell), and findings as above.
SIMULATORS = [(f"{way}, {size.upper()}", f"quality_{cell}_{size}")
              for way, cell in (("prompted", "prompted"), ("tuned on the world's texts", "tuned"),
                                ("tuned on collected searches", "collected")) for size in "sml"]
REAL_ENGINE = "corpus"
QUALITY_FINDINGS = [("quality_tuned_m", "quality_prompted_m", False, "Section 5.2: a tuned model does better as it is told",
                     "obedience"),
                    ("quality_tuned_l", "quality_tuned_s", False, "Section 5.2: a larger one tells useful from noisy better",
                     "obedience"),
                    ("quality_collected_m", "quality_prompted_m", False,
                     f"{OURS}: a model tuned on a policy's searches with a real engine does better as it is told", "obedience")]


# --- reading ---

def read_cell(folder, cell):
    """{seed: {"sets": {name: EM}, "metrics": records}} of the seeds that are done."""
    seeds = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), cell, "seed-*"))):
        if not os.path.exists(os.path.join(path, "done")):
            continue
        try:
            with open(os.path.join(path, "eval.json"), encoding="utf-8") as file:
                sets = json.load(file)["sets"]
            scores = {one["name"]: report.number(one.get("em")) for one in sets}
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{path}/eval.json: left out: {error!r}", file=sys.stderr)
            continue
        scores = {name: value for name, value in scores.items() if not math.isnan(value)}
        if scores:
            seeds[path.rsplit("-", 1)[1]] = {"sets": scores, "metrics": report.read_metrics(path)}
    return seeds


def read_simulator(folder, cell):
    """{seed: {source: figures}} of the seeds that are done; the sources useful, noisy and real."""
    seeds = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), cell, "seed-*"))):
        if not os.path.exists(os.path.join(path, "done")):
            continue
        try:
            with open(os.path.join(path, "simulator.json"), encoding="utf-8") as file:
                sources = {one["name"].split(", ")[-1]: one for one in json.load(file)["sources"]}
            seeds[path.rsplit("-", 1)[1]] = {
                source: {key: float(figures[key]) for key in ("holds", "valid", "duplicates")} for source, figures in sources.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{path}/simulator.json: left out: {error!r}", file=sys.stderr)
    return {seed: sources for seed, sources in seeds.items() if {"useful", "noisy"} <= set(sources)}


def score(run, name):
    """EM of one set, or the mean over all sets for "mean"; None where one is not there."""
    if name != "mean":
        return run["sets"].get(name)
    values = [run["sets"].get(one) for one, _ in SETS]
    return None if None in values else sum(values) / len(values)


# --- words ---

def mean_and_spread(values):
    if not values:
        return "missing"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def table_rows(runs, rows):
    out = []
    for label, cell in rows:
        seeds = runs[cell]
        cells = [mean_and_spread([value for run in seeds.values() if (value := score(run, name)) is not None])
                 for name in [name for name, _ in SETS] + ["mean"]]
        out.append([label, cell, str(len(seeds)) if seeds else "missing"] + cells)
    return out


def simulator_rows(simulators):
    """A row for each simulator, and the real engine as the first of each seed's cells met it."""
    def figures(seeds, source, key):
        return mean_and_spread([sources[source][key] for sources in seeds.values() if source in sources])

    out = []
    for label, cell in SIMULATORS:
        seeds = simulators[cell]
        out.append([label, cell, str(len(seeds)) if seeds else "missing", figures(seeds, "useful", "holds"),
                    figures(seeds, "noisy", "holds"), figures(seeds, "useful", "valid"), figures(seeds, "noisy", "valid")])
    real = {}
    for seeds in simulators.values():
        for seed, sources in seeds.items():
            if REAL_ENGINE in sources:
                real.setdefault(seed, sources)
    return out + [["real engine", REAL_ENGINE, str(len(real)) if real else "missing", figures(real, REAL_ENGINE, "holds"), "",
                   figures(real, REAL_ENGINE, "valid"), ""]]


# --- findings ---

def rewards(runs, cell, seed):
    return report.series(runs[cell][seed]["metrics"], "reward_mean")[1]


def mean_em(runs, cell, seed):
    return score(runs[cell][seed], "mean")


def gain(runs, cell, seed):
    before = runs[BEFORE_RL[cell]].get(seed)
    after, begun = mean_em(runs, cell, seed), before and score(before, "mean")
    return None if after is None or begun is None else after - begun


def quarter(runs, cell, seed, late):
    """Mean reward of the first or the last quarter of the steps."""
    values = rewards(runs, cell, seed)
    count = len(values) // 4
    return statistics.mean(values[-count:] if late else values[:count]) if count else None


def steadiness(runs, cell, seed):
    """Less the standard deviation of the reward's change from step to step, over the later half of the steps."""
    values = rewards(runs, cell, seed)
    late = values[len(values) // 2:]
    return -statistics.stdev(b - a for a, b in zip(late, late[1:])) if len(late) > 2 else None


def obedience(runs, cell, seed):
    """How far a simulator's useful documents hold the answer oftener than its noisy ones."""
    sources = runs[cell][seed]
    return sources["useful"]["holds"] - sources["noisy"]["holds"]


MEASURES = {"EM": mean_em, "gain": gain, "steadiness": steadiness, "obedience": obedience,
            "early reward": lambda runs, cell, seed: quarter(runs, cell, seed, False),
            "late reward": lambda runs, cell, seed: quarter(runs, cell, seed, True)}


def verdict_of(differences, at_least):
    mean = statistics.mean(differences)
    if len(differences) == 1:
        return ("points that way" if mean > 0 or (at_least and mean == 0) else
                "shows no difference" if mean == 0 else "points the other way") + ", but one seed has no spread"
    spread = statistics.stdev(differences)
    if mean < -spread:
        return "does not agree"
    if mean > spread or at_least:
        return "agrees" + ("" if mean > spread else ": no difference beyond the spread")
    return "does not settle it: the difference is within the spread"


def sentence(runs, better, worse, at_least, words, measure="EM"):
    """Whether the miniature agrees, from the differences of a measure on the seeds that both cells have."""
    pairs = [(MEASURES[measure](runs, better, seed), MEASURES[measure](runs, worse, seed))
             for seed in sorted(runs[better]) if seed in runs[worse]]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if not differences:
        lacking = [cell for cell in (better, worse) if not runs[cell]] or [better, worse]
        return f"{words}. Open: {', '.join(lacking)} missing."
    spread = f" ± {statistics.stdev(differences):.3f}" if len(differences) > 1 else ""
    seeds = f"{len(differences)} seed{'s' if len(differences) > 1 else ''}"
    return (f"{words}. The miniature {verdict_of(differences, at_least)} "
            f"({better} − {worse} = {statistics.mean(differences):+.3f}{spread} {measure} over {seeds}).")


# --- curves ---

def mean_curve(seeds, *keys):
    """Steps that all seeds have, with the mean and the spread of a key of metrics.jsonl."""
    curves = [dict(zip(*report.series(run["metrics"], *keys))) for run in seeds.values()]
    curves = [curve for curve in curves if curve]
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = [[curve[step] for curve in curves] for step in steps]
    return steps, [statistics.mean(one) for one in values], [statistics.stdev(one) if len(one) > 1 else 0 for one in values]


def draw_curves(title, runs, rows, cells):
    """Reward in training, EM with the real engine on the dev set, and turns an episode."""
    if report.plt is None:
        return ""
    labels, pieces = {cell: label for label, cell in rows}, []
    for name, keys in (("reward in training", ("reward_mean",)), ("EM with the real engine", ("eval", "em")),
                       ("turns an episode", ("turns",))):
        lines = [(cell, *mean_curve(runs[cell], *keys)) for cell in cells]
        if not any(steps for _, steps, _, _ in lines):
            continue
        figure, axes = report.new_axes(4.8, 3.2, f"{title}: {name}")
        for (cell, steps, means, spreads), colour in zip(lines, COLOURS):
            if not steps:
                continue
            axes.plot(steps, means, color=colour, linewidth=1.5, marker=report.marks(steps), label=labels[cell])
            axes.fill_between(steps, [m - s for m, s in zip(means, spreads)], [m + s for m, s in zip(means, spreads)],
                              color=colour, alpha=0.12, linewidth=0)
        axes.set_xlabel("step", fontsize=9)
        axes.legend(fontsize=7, frameon=False, loc="best")
        pieces.append(report.svg_of(figure, f"{title}: {name}"))
    return f'<div class="grid">{"".join(pieces)}</div>' if pieces else ""


# --- the report ---

HEADS = ["", "cell", "seeds"] + [label for _, label in SETS] + ["mean"]
QUALITY_HEADS = ["", "cell", "seeds", "useful: hold the answer", "noisy: hold the answer", "useful: right form", "noisy: right form"]
QUALITY_TITLE = "The simulators themselves"
QUALITY_ABOUT = ("Replies to a policy's searches for the test questions, those that the real engine answers with a document that "
                 "holds the answer: the share of replies that hold it, and that are five documents in the exact form. "
                 "Obedience: how much oftener useful replies hold it than noisy ones.")
ABOUT = ("Exact match with the real engine on held-out entities, greedy: mean ± standard deviation over seeds. The findings are those of "
         "Sun et al. 2025 (arXiv 2505.04588v2), with the mean EM in per cent that the paper gives, and some of our own. The miniature "
         "agrees with one, or does not, where the difference seed by seed is larger than its own standard deviation.")


def quality_sentences(simulators):
    return [sentence(simulators, *finding) for finding in QUALITY_FINDINGS]


def markdown(runs, simulators):
    out = ["# The paper's tables in miniature", "", ABOUT, ""]
    for title, rows, _, findings in TABLES:
        out += [f"## {title}", "", "| " + " | ".join(HEADS) + " |", "|" + " --- |" * len(HEADS)]
        out += ["| " + " | ".join(row) + " |" for row in table_rows(runs, rows)]
        out += [""] + [f"- {sentence(runs, *finding)}" for finding in findings] + [""]
    out += [f"## {QUALITY_TITLE}", "", QUALITY_ABOUT, "", "| " + " | ".join(QUALITY_HEADS) + " |", "|" + " --- |" * len(QUALITY_HEADS)]
    out += ["| " + " | ".join(row) + " |" for row in simulator_rows(simulators)]
    out += [""] + [f"- {one}" for one in quality_sentences(simulators)] + [""]
    return "\n".join(out)


def html_table(heads, rows, sentences):
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f'<td{" class=number" if i > 1 else ""}>{html.escape(value)}</td>'
                                    for i, value in enumerate(row)) + "</tr>" for row in rows)
    return (f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table><ul>" +
            "".join(f"<li>{html.escape(one)}</li>" for one in sentences) + "</ul>")


def page(runs, simulators):
    out = [f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>The paper\'s tables in miniature</title>'
           f'<style>{report.STYLE}</style></head><body><h1>The paper\'s tables in miniature</h1><p>{html.escape(ABOUT)}</p>']
    for title, rows, curves, findings in TABLES:
        out.append(f"<h2>{html.escape(title)}</h2>" +
                   html_table(HEADS, table_rows(runs, rows), [sentence(runs, *finding) for finding in findings]) +
                   draw_curves(title, runs, rows, curves))
    out.append(f"<h2>{html.escape(QUALITY_TITLE)}</h2><p>{html.escape(QUALITY_ABOUT)}</p>" +
               html_table(QUALITY_HEADS, simulator_rows(simulators), quality_sentences(simulators)))
    return "".join(out) + "</body></html>\n"


def write(path, text):
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".tmp", path)
    print(f"report: {path}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", help="folder of jobs/paper.sh")
    parser.add_argument("--out", help="folder to write to (default: FOLDER)")
    parser.add_argument("--cells", action="store_true", help="only print the cells that the tables show")
    arguments = parser.parse_args()
    if arguments.cells:
        print("\n".join([*CELLS, *(cell for _, cell in SIMULATORS)]))
        return
    if not arguments.folder or not os.path.isdir(arguments.folder):
        sys.exit(f"paper.py: {arguments.folder}: no such folder")
    runs = {cell: read_cell(arguments.folder, cell) for cell in CELLS}
    simulators = {cell: read_simulator(arguments.folder, cell) for _, cell in SIMULATORS}
    out = arguments.out or arguments.folder
    try:
        write(os.path.join(out, "report.md"), markdown(runs, simulators))
        write(os.path.join(out, "report.html"), page(runs, simulators))
    except OSError as error:
        sys.exit(f"paper.py: {out}: {error.strerror}")
    if report.plt is None:
        print("paper.py: no matplotlib in this Python: the report has no curves", file=sys.stderr)


if __name__ == "__main__":
    main()
