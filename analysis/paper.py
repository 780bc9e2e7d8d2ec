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

# A table: title, rows (label, cell), the cells whose curves are drawn, findings (better, worse, at_least, words). With
# `at_least` the paper finds the first no worse than the second, else better. Paper: Sun et al. 2025, arXiv 2505.04588.
TABLES = [
    ("Methods", [("direct answer, base", "direct"), ("chain of thought, base", "cot"), ("RAG, base", "rag"),
                 ("search agent by prompt, base", "search"), ("direct answer, instruct", "direct_instruct"),
                 ("chain of thought, instruct", "cot_instruct"), ("RAG, instruct", "rag_instruct"),
                 ("search agent by prompt, instruct", "search_instruct"), ("R1 (RL without search), base", "r1"),
                 ("R1 (RL without search), instruct", "r1_instruct"), ("Search-R1 (RL with the engine), base", "search_r1"),
                 ("Search-R1, instruct", "search_r1_instruct"), ("ZeroSearch, base", "zerosearch"),
                 ("ZeroSearch, instruct", "zerosearch_instruct")], [],
     [("zerosearch", "search_r1", True, "main results: ZeroSearch is no worse than RL with a real engine"),
      ("zerosearch", "r1", False, "main results: ZeroSearch is better than RL without search"),
      ("zerosearch", "rag", False, "main results: ZeroSearch is better than one retrieval by prompt"),
      ("zerosearch", "search", False, "main results: ZeroSearch is better than a search agent by prompt")]),
    ("Base against instruct start", [("base", "zerosearch"), ("instruct", "zerosearch_instruct"), ("base before RL", "search"),
                                     ("instruct before RL", "search_instruct")], ["zerosearch", "zerosearch_instruct"],
     [("zerosearch", "search", False, "base and instruct models: RL lifts the base start"),
      ("zerosearch_instruct", "search_instruct", False, "base and instruct models: RL lifts the instruct start")]),
    ("Real engine against simulation", [("real engine, base", "search_r1"), ("simulation, base", "zerosearch"),
                                        ("real engine, instruct", "search_r1_instruct"),
                                        ("simulation, instruct", "zerosearch_instruct")],
     ["search_r1", "zerosearch", "search_r1_instruct", "zerosearch_instruct"],
     [("zerosearch", "search_r1", True, "reward curves: simulation reaches what the real engine does, base start"),
      ("zerosearch_instruct", "search_r1_instruct", True, "reward curves: simulation reaches it, instruct start")]),
    ("Choice of simulator", [("none", "no_simulator"), ("prompted, S", "prompted_s"), ("prompted, M", "prompted_m"),
                             ("prompted, L", "prompted_l"), ("tuned, S", "tuned_s"), ("tuned, M", "zerosearch"),
                             ("tuned, L", "tuned_l"), ("tuned on collected searches, M", "tuned_collected"),
                             ("real engine", "search_r1")],
     ["no_simulator", "prompted_m", "tuned_s", "zerosearch", "tuned_l", "search_r1"],
     [("zerosearch", "prompted_m", False, "choice of simulation model: tuned is better than prompted"),
      ("zerosearch", "search_r1", True, "choice of simulation model: 7B tuned is comparable to the real engine"),
      ("tuned_l", "search_r1", False, "choice of simulation model: 14B tuned is better than the real engine"),
      ("tuned_l", "tuned_s", False, "choice of simulation model: larger is better")]),
    ("RL algorithms", [("REINFORCE", "reinforce"), ("REINFORCE++", "reinforce++"), ("RLOO", "rloo"), ("GRPO", "zerosearch"),
                       ("Dr. GRPO", "dr_grpo"), ("DAPO", "dapo"), ("GSPO", "gspo"), ("PPO", "ppo")],
     ["reinforce", "reinforce++", "rloo", "zerosearch", "dr_grpo", "dapo", "gspo", "ppo"],
     [("reinforce", "search", False, "RL algorithms: REINFORCE works"),
      ("zerosearch", "search", False, "RL algorithms: GRPO works"), ("ppo", "search", False, "RL algorithms: PPO works")]),
    ("Curriculum", [("exponential (the paper's)", "zerosearch"), ("reversed", "reversed"), ("constant", "constant"),
                    ("linear", "linear"), ("adaptive", "adaptive")],
     ["zerosearch", "reversed", "constant", "linear", "adaptive"],
     [("zerosearch", "reversed", False, "curriculum: easy to hard is better than reversed")]),
    ("Document masking", [("documents masked", "zerosearch"), ("not masked", "unmasked")], ["zerosearch", "unmasked"],
     [("zerosearch", "unmasked", False, "loss masking: leaving document tokens out of the loss is better")]),
    ("Number of turns", [("1 turn", "turns_1"), ("2 turns", "turns_2"), ("3 turns", "turns_3"), ("4 turns", "zerosearch")],
     ["turns_1", "turns_2", "turns_3", "zerosearch"],
     [("zerosearch", "turns_1", False, "interaction turns: answers need more than one search")]),
]
# The simulators themselves: (label, cell); findings as above, on the share of useful replies that hold the answer less that
# of noisy ones.
SIMULATORS = [(f"{way}, {size.upper()}", f"quality_{cell}_{size}")
              for way, cell in (("prompted", "prompted"), ("tuned on the world's texts", "tuned"),
                                ("tuned on collected searches", "collected")) for size in "sml"]
REAL_ENGINE = "corpus"
QUALITY_FINDINGS = [("quality_tuned_m", "quality_prompted_m", False, "simulation tuning: a tuned model does better as it is told"),
                    ("quality_collected_m", "quality_prompted_m", False,
                     "simulation tuning: so does one tuned on a policy's searches with a real engine")]
CELLS = {cell: f"{title}: {label}" for title, rows, _, _ in reversed(TABLES) for label, cell in rows}


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


def obedience(run, _):
    """How far a simulator's useful documents hold the answer oftener than its noisy ones."""
    return run["useful"]["holds"] - run["noisy"]["holds"]


def sentence(runs, better, worse, at_least, finding, figure=score, unit="EM"):
    """Whether the miniature agrees with a finding, from the differences of the mean EM on the seeds that both have."""
    claim = f"Paper, {finding}."
    pairs = [(figure(runs[better][seed], "mean"), figure(runs[worse][seed], "mean"))
             for seed in sorted(runs[better]) if seed in runs[worse]]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if not differences:
        lacking = [cell for cell in (better, worse) if not runs[cell]] or [better, worse]
        return f"{claim} Open: {', '.join(lacking)} missing."
    mean = statistics.mean(differences)
    spread = statistics.stdev(differences) if len(differences) > 1 else math.nan
    measured = (f"{better} − {worse} = {mean:+.3f}" + (f" ± {spread:.3f}" if len(differences) > 1 else "") +
                f" {unit} over {len(differences)} seed{'s' if len(differences) > 1 else ''}")
    if math.isnan(spread):
        verdict = ("points the paper's way" if mean > 0 or (at_least and mean == 0) else
                   "shows no difference" if mean == 0 else "points the other way") + ", but one seed has no spread"
    elif mean < -spread:
        verdict = "does not agree"
    elif mean > spread or at_least:
        verdict = "agrees" + ("" if mean > spread else ": no difference beyond the spread")
    else:
        verdict = "does not settle it: the difference is within the spread"
    return f"{claim} The miniature {verdict} ({measured})."


# --- curves ---

def mean_curve(seeds, *keys):
    """Steps that all seeds have, with the mean and the spread of a key of metrics.jsonl."""
    curves = [dict(zip(*report.series(run["metrics"], *keys))) for run in seeds.values()]
    curves = [curve for curve in curves if curve]
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = [[curve[step] for curve in curves] for step in steps]
    return steps, [statistics.mean(one) for one in values], [statistics.stdev(one) if len(one) > 1 else 0 for one in values]


def draw_curves(title, runs, rows, cells):
    """Reward in training, and EM with the real engine on the dev set."""
    if report.plt is None:
        return ""
    labels, pieces = {cell: label for label, cell in rows}, []
    for name, keys in (("reward in training", ("reward_mean",)), ("EM with the real engine", ("eval", "em"))):
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
                 "holds the answer: the share of replies that hold it, and that are five documents in the exact form.")
ABOUT = ("Exact match with the real engine on held-out entities, greedy: mean ± standard deviation over seeds. A finding agrees, "
         "or does not, where the difference seed by seed is larger than its own standard deviation.")


def quality_sentences(simulators):
    return [sentence(simulators, *finding, figure=obedience, unit="of useful less noisy replies that hold the answer,")
            for finding in QUALITY_FINDINGS]


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
