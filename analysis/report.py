#!/usr/bin/env python3
"""Makes report.html of a run folder: curves, evaluation table and readable traces, in one file.

    analysis/report.py RUN_FOLDER [--out FILE]

Reads metrics.jsonl, eval*.json, episodes.jsonl and config.cfg, as far as they are there; lines that were cut off by
an interruption are skipped. Needs matplotlib for the curves; without it the rest is still written.
"""
import argparse
import collections
import glob
import html
import io
import json
import math
import os
import re
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator
except ImportError:
    plt = None

# Okabe and Ito's colours, which colour-blind readers can tell apart
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#9B4F83", "#56B4E9", "#777777"
PHASES = {"generate": BLUE, "simulate": ORANGE, "exchange": RED, "reference": SKY, "update": GREEN, "reduce": PURPLE,
          "broadcast": "#B8860B", "checkpoint": "#555555", "evaluate": "#BBBBBB"}
SHOWN_TRACES = 4  # early, and as many late


# --- reading ---

def read_lines(path):
    """The objects of a JSON-lines file, bad lines left out; nothing when there is no such file."""
    bad = 0
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    value = json.loads(line)
                except ValueError:
                    bad += bool(line.strip())
                    continue
                if isinstance(value, dict):
                    yield value
    except OSError:
        return
    if bad:
        print(f"{path}: {bad} unreadable line(s) left out", file=sys.stderr)


def number(value):
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else math.nan


def read_metrics(folder):
    """Records by step, ascending. A resumed run repeats steps: the later record counts, keys of the earlier stay."""
    steps = {}
    for record in read_lines(os.path.join(folder, "metrics.jsonl")):
        step = number(record.get("step"))
        if not math.isnan(step):
            steps.setdefault(int(step), {}).update(record)
    return [dict(steps[step], step=step) for step in sorted(steps)]


def read_tables(folder):
    """(name, table) of each eval*.json, name without "eval_"."""
    tables = []
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "eval*.json"))):
        name = os.path.basename(path)[4:-5].strip("_-.") or "evaluation"
        try:
            with open(path, encoding="utf-8") as file:
                table = json.load(file)
        except (OSError, ValueError) as error:
            print(f"{path}: left out: {error}", file=sys.stderr)
            continue
        if not isinstance(table, dict) or not isinstance(table.get("sets"), list):
            continue
        sets = [one for one in table["sets"] if isinstance(one, dict)]
        methods = list(dict.fromkeys(one.get("method") for one in sets))
        if len(methods) < 2:
            tables.append((name, dict(table, sets=sets)))
            continue
        for method in methods:  # a table of its own for each
            own = [one for one in sets if one.get("method") == method]
            tables.append((f"{name}_{method}", dict(table, sets=own, engine=own[0].get("engine"))))
    order = lambda name: (0 if "before" in name else 1 if "after" in name else 2, name)
    return sorted(tables, key=lambda item: order(item[0]))


def read_traces(folder):
    """Some of the first and of the last episodes; different questions first, right and wrong ones among the last."""
    first, last = [], collections.deque(maxlen=SHOWN_TRACES * 12)
    for place, episode in enumerate(read_lines(os.path.join(folder, "episodes.jsonl"))):
        if not isinstance(episode.get("spans"), list):
            continue
        if len(first) < SHOWN_TRACES * 2:
            first.append((place, episode))
        last.append((place, episode))

    def different(episodes, count):
        """Up to count of them, as many different questions as there are."""
        seen, chosen, others = set(), [], []
        for place, episode in episodes:
            question = str(episode.get("question"))
            (others if question in seen else chosen).append((place, episode))
            seen.add(question)
        return (chosen + others)[:count]

    early = different(first, SHOWN_TRACES)
    taken = {place for place, _ in early}
    last = [item for item in reversed(last) if item[0] not in taken][:SHOWN_TRACES * 6]
    wrong = different([item for item in last if number(item[1].get("em")) < 1], 1)
    others = [item for item in last if item not in wrong]
    others.sort(key=lambda item: number(item[1].get("em")) < 1)  # right ones first, newest first among equals
    late = different(others, SHOWN_TRACES - len(wrong)) + wrong
    return [episode for _, episode in early], [episode for _, episode in late]


# --- curves ---

def series(metrics, *keys):
    """Steps and values of a key (a path of keys), where there are some."""
    steps, values = [], []
    for record in metrics:
        value = record
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        value = number(value)
        if not math.isnan(value):
            steps.append(record["step"])
            values.append(value)
    return steps, values


def svg_of(figure, title):
    """The figure as inline SVG, its text kept as text and its ids its own."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg"):]
    prefix = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", text)
    return f'<figure aria-label="{html.escape(title)}">{text}</figure>'


def new_axes(width, height, title):
    figure, axes = plt.subplots(figsize=(width, height))
    style(axes, title)
    return figure, axes


def style(axes, title):
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color="#222222")
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    axes.tick_params(colors="#333333", labelsize=8)


def marks(steps):
    """Few points are marked, since a line through one point cannot be seen."""
    return "o" if len(steps) < 3 else None


def main_curve(metrics):
    """Reward with its spread, the engine's EM and the share of noise."""
    steps, reward = series(metrics, "reward_mean")
    eval_steps, em = series(metrics, "eval", "em")
    noise_steps, noise = series(metrics, "noise")
    if not (steps or eval_steps or noise_steps):
        return ""
    title = "Reward, exact match with the engine, and noise"
    figure, axes = new_axes(9.6, 3.9, title)
    if steps:
        spread = dict(zip(*series(metrics, "reward_std")))
        low = [max(0, value - spread.get(step, 0)) for step, value in zip(steps, reward)]
        high = [min(1, value + spread.get(step, 0)) for step, value in zip(steps, reward)]
        axes.fill_between(steps, low, high, color=BLUE, alpha=0.13, linewidth=0, label="reward: \u00b1 standard deviation")
        axes.plot(steps, reward, color=BLUE, linewidth=1.4, marker=marks(steps), label="reward (mean of the step)")
    if noise_steps:
        axes.plot(noise_steps, noise, color=GREY, linewidth=1.4, linestyle="--", marker=marks(noise_steps),
                  label="share of noisy documents")
    if eval_steps:
        engines = {record["eval"].get("engine") for record in metrics if isinstance(record.get("eval"), dict)}
        engine = ", ".join(sorted(str(one) for one in engines if one)) or "engine"
        axes.plot(eval_steps, em, color=RED, linewidth=2.4, marker="o", markersize=5,
                  label=f"EM, evaluated with the engine ({engine})")
        axes.annotate(f"{em[-1]:.2f}", (eval_steps[-1], em[-1]), textcoords="offset points", xytext=(7, 0),
                      color=RED, fontsize=9, va="center")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("step", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2)
    return svg_of(figure, title)


def small_curves(metrics):
    """One small plot for each quantity that was recorded."""
    wanted = [("Response tokens", [("response_tokens", BLUE)]),
              ("Turns, searches, invalid actions", [("turns", BLUE), ("searches", GREEN), ("invalid_actions", RED)]),
              ("KL to the reference", [("kl", PURPLE)]), ("Entropy", [("entropy", ORANGE)]),
              ("Clip fraction", [("clip_fraction", RED)]), ("Gradient norm", [("grad_norm", GREEN)]),
              ("Rollout's policy against the learner's, mean |log p|", [("log_prob_mismatch", SKY)]),
              ("Scores in training", [("em", RED), ("f1", BLUE)]), ("Learning rate", [("learning_rate", GREY)]),
              ("Tokens per second", [("tokens_generated_per_s", BLUE), ("tokens_trained_per_s", GREEN)])]
    pieces = []
    for title, keys in wanted:
        lines = [(key, colour, *series(metrics, key)) for key, colour in keys]
        lines = [line for line in lines if line[2]]
        if not lines:
            continue
        figure, axes = new_axes(4.5, 2.1, title)
        for key, colour, steps, values in lines:
            axes.plot(steps, values, color=colour, linewidth=1.5, marker=marks(steps), label=key.replace("_", " "))
        if min(min(line[3]) for line in lines) >= 0:
            axes.set_ylim(bottom=0)
        if len(keys) > 1:
            axes.legend(fontsize=7, frameon=False, loc="best")
        pieces.append(svg_of(figure, title))
    return f'<div class="grid">{"".join(pieces)}</div>' if pieces else ""


def names_in(metrics, key):
    names = {}
    for record in metrics:
        if isinstance(record.get(key), dict):
            names.update(dict.fromkeys(record[key]))
    return list(names)


def time_curves(metrics):
    """Where the time goes: seconds of each phase stacked, and how busy each role is."""
    pieces = []
    timed = [record for record in metrics if isinstance(record.get("seconds"), dict)]
    if timed:
        title = "Seconds per step by phase"
        steps = [record["step"] for record in timed]
        phases = [name for name in names_in(timed, "seconds")
                  if any(number(record["seconds"].get(name)) > 0 for record in timed)]
        values = [[max(0.0, number(record["seconds"].get(name)) if name in record["seconds"] else 0.0)
                   for record in timed] for name in phases]
        values = [[0.0 if math.isnan(value) else value for value in row] for row in values]
        if phases:
            figure, axes = new_axes(9.6, 2.8, title)
            bottom = [0.0] * len(steps)
            for name, row in zip(phases, values):  # bars, since steps are separate and one step must be seen too
                axes.bar(steps, row, bottom=bottom, width=0.9, color=PHASES.get(name, SKY), label=name, linewidth=0)
                bottom = [a + b for a, b in zip(bottom, row)]
            axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
            axes.set_xlabel("step", fontsize=9)
            pieces.append(svg_of(figure, title))
    roles = [(name, *series(metrics, "busy", name)) for name in names_in(metrics, "busy")]
    roles = [role for role in roles if role[1]]
    if roles:
        title = "Busy share of each role"
        figure, axes = new_axes(9.6, 2.1, title)
        for (name, steps, values), colour in zip(roles, (ORANGE, BLUE, GREEN, PURPLE, RED, SKY)):
            axes.plot(steps, values, color=colour, linewidth=1.5, marker=marks(steps), label=name)
        axes.set_ylim(0, 1.03)
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        pieces.append(svg_of(figure, title))
    return "".join(pieces)


def curves(metrics):
    if not metrics:
        return '<p class="missing">No metrics.jsonl in this folder.</p>'
    if plt is None:
        return '<p class="missing">The curves need matplotlib, which this Python lacks.</p>'
    return main_curve(metrics) + small_curves(metrics) + time_curves(metrics)


# --- words and tables ---

def percent(value):
    return "\u2013" if math.isnan(value) else f"{100 * value:.1f} %"


def table_em(table):
    """EM over all sets of a table, each question counting once."""
    total, right = 0, 0.0
    for one in table["sets"]:
        em, n = number(one.get("em")), number(one.get("n"))
        if not math.isnan(em):
            n = 1 if math.isnan(n) else n
            total, right = total + n, right + n * em
    return right / total if total else math.nan


def headline(metrics, tables):
    """Before and after: of the tables where there are such, else of the evaluations during training."""
    scores = {name: table_em(table) for name, table in tables}
    rows = []
    for name, after in scores.items():
        before = scores.get(name.replace("after", "before"), math.nan)
        if "after" in name and not math.isnan(before):
            way = name.replace("after", "").strip("_-. ").replace("_", " ")
            rows.append((way, before, after))
    rows.sort(key=lambda row: row[0] != "greedy")
    alone = [(name, em) for name, em in scores.items() if re.search(r"no.?search|none", name) and not math.isnan(em)]
    where = "exact match on the evaluation set"
    if not rows:
        steps, em = series(metrics, "eval", "em")
        if em:
            rows = [("", em[0], em[-1])]
            _, questions = series(metrics, "eval", "questions")
            count = f" on {questions[-1]:.0f} questions" if questions else ""
            where = f"exact match with the engine{count}, step {steps[0]} \u2192 step {steps[-1]}"
    if not rows:
        steps, reward = series(metrics, "reward_mean")
        if not reward:
            return ""
        rows, where = [("", reward[0], reward[-1])], f"mean reward, step {steps[0]} \u2192 step {steps[-1]}"
    way, before, after = rows[0]
    out = (f'<p class="headline"><span class="before">{percent(before)}</span> \u2192 '
           f'<span class="after">{percent(after)}</span></p><p class="under">{html.escape(where)}'
           f'{" (" + html.escape(way) + ")" if way else ""}')
    for way, before, after in rows[1:]:
        out += f"; {html.escape(way or 'other')}: {percent(before)} \u2192 {percent(after)}"
    for name, em in alone:
        out += f"; {html.escape(name.replace('_', ' '))}: {percent(em)}"
    return out + "</p>"


def evaluation_table(tables):
    if not tables:
        return '<p class="missing">No eval*.json in this folder.</p>'
    columns = [("em", "EM"), ("cover_em", "cover-EM"), ("f1", "F1"), ("turns", "turns"), ("searches", "searches")]
    rows = []
    for name, table in tables:
        temperature = number(table.get("temperature"))
        about = [html.escape(name.replace("_", " ")), html.escape(os.path.basename(str(table.get("model", "")).rstrip("/"))),
                 html.escape(str(table.get("engine", ""))), "" if math.isnan(temperature) else f"{temperature:g}"]
        for one in table["sets"]:
            n = number(one.get("n"))
            cells = about + [html.escape(os.path.basename(str(one.get("name", "")))), "" if math.isnan(n) else f"{n:.0f}"]
            row = "".join(f"<td>{cell}</td>" for cell in cells)
            for key, _ in columns:
                value = number(one.get(key))
                digits = 3 if key in ("em", "cover_em", "f1") else 2
                text = "\u2013" if math.isnan(value) else f"{value:.{digits}f}"
                row += f'<td class="number">{text}</td>'
            rows.append(f"<tr>{row}</tr>")
    heads = ["evaluation", "model", "engine", "temperature", "set", "questions"] + [label for _, label in columns]
    return ("<table><thead><tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr></thead><tbody>" +
            "".join(rows) + "</tbody></table>")


# --- traces ---

TAG = re.compile(r"(</?(?:think|search|information|answer)>)")


def blocks_of(spans):
    """Cuts an episode into blocks (tag, [(masked, kind, text)]). A block may run over several spans: the opening
    <answer> of a last turn is put in by the environment, its words are the policy's."""
    blocks, tag = [("plain", [])], "plain"
    for span in spans:
        if not isinstance(span, dict):
            continue
        kind = str(span.get("kind", ""))
        for part in TAG.split(str(span.get("text") or "")):
            if not part:
                continue
            is_tag = TAG.fullmatch(part)
            opens = is_tag and not part.startswith("</")
            if kind == "prompt":
                opens = is_tag = None  # an instruction may speak of the tags
            name = "prompt" if kind == "prompt" else part.strip("</>") if opens else tag
            if opens or name != blocks[-1][0]:
                blocks.append((name, []))
            blocks[-1][1].append((kind != "policy", kind, part))
            if kind != "prompt":
                tag = "plain" if is_tag and not opens else name
    return [(name, parts) for name, parts in blocks if "".join(text for _, _, text in parts).strip()]


def trace(episode):
    em, f1, reward = number(episode.get("em")), number(episode.get("f1")), number(episode.get("reward"))
    verdict = ("right", "\u2714 right") if em >= 1 else ("partly", "\u25d0 partly right") if f1 > 0 else ("wrong", "\u2718 wrong")
    if math.isnan(em) and math.isnan(f1):
        verdict = ("unknown", "not scored")
    golden = episode.get("golden_answers")
    golden = " | ".join(str(one) for one in golden) if isinstance(golden, list) else str(golden or "")
    facts = [f"step {episode.get('step', '?')}", f"reward {reward:.2f}" if not math.isnan(reward) else ""]
    for key in ("searches", "noisy_searches", "invalid_actions"):
        value = number(episode.get(key))
        facts.append("" if math.isnan(value) else f"{value:.0f} {key.replace('_', ' ')}")
    out = [f'<article class="trace {verdict[0]}"><header><span class="verdict">{verdict[1]}</span> '
           f'<strong>{html.escape(str(episode.get("question", "")))}</strong>'
           f'<div class="facts">true answer: <em>{html.escape(golden)}</em> &middot; '
           f'{html.escape(", ".join(fact for fact in facts if fact))}</div></header>']
    for name, parts in blocks_of(episode["spans"]):
        text = "".join(f'<span class="masked" title="{html.escape(kind, quote=True)}: not trained on">{html.escape(part)}</span>'
                       if masked else html.escape(part) for masked, kind, part in parts)
        out.append(f'<div class="block {name}">{text.strip()}</div>')
    return "".join(out) + "</article>"


def traces(folder):
    early, late = read_traces(folder)
    if not early and not late:
        return '<p class="missing">No episodes.jsonl in this folder.</p>'
    out = ['<p class="legend"><span class="block think">think</span> <span class="block search">search</span> '
           '<span class="block information">information</span> <span class="block answer">answer</span> '
           '<span class="masked">shaded: masked, the loss is not over it</span></p>']
    for title, episodes in (("Early in training", early), ("Late in training", late)):
        if episodes:
            out.append(f"<h3>{title}</h3>" + "".join(trace(episode) for episode in episodes))
    return "".join(out)


# --- the page ---

STYLE = """
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: #222; background: #fff; max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; border-bottom: 2px solid #ddd; }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .4rem; } nav a { margin-right: 1rem; color: #0059a0; }
.headline { font-size: 2.6rem; font-weight: 700; margin: .8rem 0 0; } .before { color: #777; } .after { color: #b54708; }
.under, .facts, .missing { color: #555; margin: .1rem 0; } .facts { font-size: .88rem; }
figure { margin: .6rem 0; } svg { max-width: 100%; height: auto; font-family: system-ui, sans-serif; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: .2rem 1rem; }
table { border-collapse: collapse; font-size: .9rem; } th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; }
th { background: #f4f4f4; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.trace { border: 1px solid #ccc; border-left: .4rem solid #999; border-radius: .3rem; padding: .6rem .8rem; margin: .8rem 0; }
.trace.right { border-left-color: #009E73; } .trace.wrong { border-left-color: #D55E00; } .trace.partly { border-left-color: #E69F00; }
.verdict { font-weight: 700; margin-right: .4rem; } .right .verdict { color: #00704f; } .wrong .verdict { color: #a84300; }
.partly .verdict { color: #8a6000; }
.block { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace; padding: .1rem .5rem;
         margin: .25rem 0; border-left: 4px solid #bbb; }
.block.think { border-color: #0072B2; color: #00466e; } .block.search { border-color: #E69F00; color: #6e4a00; font-weight: 600; }
.block.information { border-color: #009E73; color: #00503a; } .block.answer { border-color: #9B4F83; color: #6d2457; font-weight: 700; }
.block.prompt { color: #555; max-height: 9rem; overflow-y: auto; }
.masked { background: #ececec; } .legend .block { display: inline; margin-right: .6rem; }
pre { font-size: 12px; background: #f7f7f7; padding: .6rem; overflow-x: auto; }
@media print { nav { display: none; } .trace { break-inside: avoid; } }
"""


def settings(folder):
    try:
        with open(os.path.join(folder, "config.cfg"), encoding="utf-8", errors="replace") as file:
            return f'<h2 id="settings">Settings</h2><details><summary>config.cfg</summary><pre>{html.escape(file.read())}</pre></details>'
    except OSError:
        return ""


def page(folder):
    metrics, tables = read_metrics(folder), read_tables(folder)
    name = html.escape(os.path.basename(os.path.abspath(folder)))
    steps = [record["step"] for record in metrics if "reward_mean" in record]
    about = f"{len(steps)} steps" if steps else "no steps yet"
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: ZeroSearch run</title>'
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
            f'<h1>ZeroSearch run: {name}</h1><p class="under">{about}</p>'
            f'<nav><a href="#curves">Curves</a><a href="#evaluation">Evaluation</a><a href="#traces">Traces</a></nav>'
            f'{headline(metrics, tables)}<h2 id="curves">Curves</h2>{curves(metrics)}'
            f'<h2 id="evaluation">Evaluation</h2>{evaluation_table(tables)}'
            f'<h2 id="traces">Traces</h2>{traces(folder)}{settings(folder)}</body></html>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="run folder")
    parser.add_argument("--out", help="where to write (default: RUN_FOLDER/report.html)")
    arguments = parser.parse_args()
    if not os.path.isdir(arguments.folder):
        sys.exit(f"report.py: {arguments.folder}: no such folder")
    out = arguments.out or os.path.join(arguments.folder, "report.html")
    text = page(arguments.folder)
    try:
        with open(out + ".tmp", "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.replace(out + ".tmp", out)
    except OSError as error:
        sys.exit(f"report.py: {out}: {error.strerror}")
    if plt is None:
        print("report.py: no matplotlib in this Python: the report has no curves", file=sys.stderr)
    print(f"report: {out}", file=sys.stderr)


if __name__ == "__main__":
    main()
