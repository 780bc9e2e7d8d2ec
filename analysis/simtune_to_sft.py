#!/usr/bin/env python3
"""Turns a simulation-tuning set into prompt/completion JSON lines for `zerosearch sft`.

Each row of the set is one search: {"query", "question", "golden_answers", "label": "useful" | "noisy",
"documents": [{"title", "text"}, ...]}. The prompt is the template of its label filled in, the same files that
the simulator is asked with; the completion is what it should write: "Doc 1: ...", one document a line.

Sets made from whole trajectories label the trajectory, not each document. So a noisy document that states an answer
is left out (and a row without another is skipped), and a long useful one is cut round the answer that it states.

    analysis/simtune_to_sft.py simtune.jsonl > sft.jsonl
"""
import argparse
import gzip
import json
import pathlib
import re
import sys

PROMPTS = pathlib.Path(__file__).resolve().parent.parent / "configs" / "prompts"


class BadRow(Exception):
    """A row that cannot be converted; says which key and why."""


def load_template(path):
    text = path.read_text(encoding="utf-8")
    return text[:-1] if text.endswith("\n") else text  # as the program reads it: one final newline dropped


def fill(template, values):
    def value(match):
        if match.group(1) not in values:
            raise BadRow(f"the template has an unknown placeholder {match.group(0)}")
        return values[match.group(1)]

    return re.sub(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", value, template)


def cut_words(text, limit):
    """About `limit` words: ends with the sentence in which the limit falls when it is near, else at the limit."""
    words = text.split()
    if limit <= 0 or len(words) <= limit:
        return " ".join(words)
    for end in range(limit, min(len(words), limit + limit // 2)):
        if words[end - 1].endswith((".", "!", "?")):
            return " ".join(words[:end])
    return " ".join(words[:limit])


def states(text, answers):
    """Does the text hold one of the answers as whole words?"""
    return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) for answer in answers)


def snippet(text, limit, answers):
    """The beginning of the text, or what begins with the sentence that states the answer, when only that does."""
    begun = cut_words(text, limit)
    if states(begun, answers) or not states(text, answers):
        return begun
    sentences = re.split(r"(?<=[.!?])\s+", text)
    for i, sentence in enumerate(sentences):
        if states(sentence, answers):
            return cut_words(" ".join(sentences[i:]), limit)
    return begun


def get(row, key, kind):
    if not isinstance(row.get(key), kind):
        raise BadRow(f'key "{key}": {kind.__name__} was expected')
    return row[key]


def convert(row, templates, words, top_k, end):
    label = get(row, "label", str)
    if label not in templates:
        raise BadRow(f'key "label": "useful" or "noisy" was expected, not "{label}"')
    answers = [str(answer) for answer in get(row, "golden_answers", list) if str(answer).strip()]
    documents = get(row, "documents", list)
    if not documents:
        raise BadRow('key "documents": is empty')
    lines = []
    for document in documents:
        if isinstance(document, str):
            title, text = "", document
        elif isinstance(document, dict) and isinstance(document.get("text"), str):
            title, text = document.get("title") or "", document["text"]
        else:
            raise BadRow('key "documents": texts, or objects with "title" and "text", were expected')
        if label == "noisy" and states(f"{title} {text}", answers):
            continue
        body = snippet(text, words, answers if label == "useful" else [])
        if title:
            body = f'"{" ".join(title.split())}" {body}'.rstrip()
        if body:
            lines.append(f"Doc {len(lines) + 1}: {body}")
    if not lines:
        return None
    lines = lines[:top_k]
    prompt = fill(templates[label], {
        "query": get(row, "query", str),
        "question": get(row, "question", str),
        "answer": " or ".join(answers),
        "topk": str(len(lines)),
        "words": str(words),
    })
    return {"prompt": prompt, "completion": "\n".join(lines) + end}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=pathlib.Path, help="the set, JSON lines, gzip accepted")
    parser.add_argument("--useful", type=pathlib.Path, default=PROMPTS / "simulate_sft_useful.txt",
                        help="prompt template of useful documents")
    parser.add_argument("--noisy", type=pathlib.Path, default=PROMPTS / "simulate_sft_noisy.txt",
                        help="prompt template of noisy documents")
    parser.add_argument("--words", type=int, default=30,
                        help="words of a document, as search.words asks for; longer ones are cut (default 30)")
    parser.add_argument("--top-k", type=int, default=5, help="documents of a completion at most (default 5)")
    parser.add_argument("--end", default="", help="put after each completion, for models without an end token")
    options = parser.parse_args()
    count = skipped = number = 0
    try:
        templates = {"useful": load_template(options.useful), "noisy": load_template(options.noisy)}
        opener = gzip.open if options.input.suffix == ".gz" else open
        with opener(options.input, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise BadRow("an object was expected")
                example = convert(row, templates, options.words, options.top_k, options.end)
                if example is None:
                    skipped += 1
                    continue
                sys.stdout.write(json.dumps(example, ensure_ascii=False) + "\n")
                count += 1
    except (BadRow, json.JSONDecodeError) as reason:
        sys.exit(f"{options.input}:{number}: {reason}")
    except (OSError, UnicodeDecodeError) as reason:
        sys.exit(str(reason))
    print(f"{count} examples, {skipped} skipped", file=sys.stderr)


if __name__ == "__main__":
    main()
