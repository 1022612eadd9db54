"""Pairs of questions: paraphrases, and near misses that differ in one thing that matters.

    python -m tests.bench.response_cache_pairs > tests/bench/data/pairs_by_template.tsv

Those written by hand are in data/paraphrases_by_hand.txt and data/traps_by_hand.txt. Here are the templates, 240 pairs
of each kind, which `tests.bench.response_cache` and the tests read from the file. Pairs are drawn with a fixed seed, so
the file is the same at every run.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parent / "data"
EACH = 240

TASKS = [
    ("renew", "renewing", "my passport"), ("clean", "cleaning", "a cast iron pan"), ("train", "training", "a puppy"),
    ("configure", "configuring", "the firewall"), ("register", "registering", "a trademark"),
    ("prune", "pruning", "roses"), ("export", "exporting", "my contacts"), ("change", "changing", "a flat tire"),
    ("improve", "improving", "my handwriting"), ("measure", "measuring", "blood pressure"),
    ("negotiate", "negotiating", "a salary"), ("translate", "translating", "a website"),
    ("rotate", "rotating", "a PDF page"), ("descale", "descaling", "the coffee machine"),
    ("schedule", "scheduling", "a meeting"), ("recover", "recovering", "deleted photos"),
    ("calculate", "calculating", "compound interest"), ("plant", "planting", "tomatoes"),
    ("compress", "compressing", "a video"), ("reserve", "reserving", "a table"), ("knit", "knitting", "a scarf"),
    ("merge", "merging", "two spreadsheets"), ("unblock", "unblocking", "a drain"), ("tune", "tuning", "a guitar"),
    ("report", "reporting", "a lost card"), ("verify", "verifying", "my identity"),
    ("bake", "baking", "sourdough bread"),
    ("restart", "restarting", "the router"), ("iron", "ironing", "a shirt"), ("archive", "archiving", "old emails"),
]  # fmt: skip
TASK_FORMS = [
    "How do I {v} {o}?", "How can I {v} {o}?", "How to {v} {o}", "What is the best way to {v} {o}?",
    "Could you tell me how to {v} {o}?", "Please explain how to {v} {o}.", "I want to know how to {v} {o}.",
    "What are the steps to {v} {o}?", "What's the right way to {v} {o}?", "How does {g} {o} work?",
    "I need help with {g} {o}.", "Is there a simple way to {v} {o}?", "What do I have to do to {v} {o}?",
    "Show me how to {v} {o}, please.", "Hi! How should I {v} {o}?", "Any idea how to {v} {o}?",
    "How would one {v} {o}?", "Give me instructions for {g} {o}.",
]  # fmt: skip
THINGS = [
    "inflation", "a black hole", "blockchain", "a mortgage", "recursion", "osmosis", "a carbon tax", "jet lag",
    "an index fund", "quantum entanglement", "a leap year", "the greenhouse effect", "an allergy", "dark matter",
    "the stock market", "a supply chain", "a load balancer", "an opportunity cost", "the placebo effect", "a monad",
]  # fmt: skip
THING_FORMS = [
    "What is {x}?", "What's {x}?", "Explain {x}.", "Can you explain {x}?", "Please describe {x}.", "Define {x}.",
    "What does {x} mean?", "Tell me what {x} is.", "I'd like to understand {x}.", "What exactly is {x}?",
    "Give me a definition of {x}.", "How would you describe {x}?", "What is meant by {x}?",
]  # fmt: skip

NUMBER_FORMS = [
    "What is {n} plus 7?", "How do I cook pasta for {n} people?", "Give me {n} ideas for a party.",
    "Which films came out {n} years ago?", "What does exit code {n} mean?", "Is {n} a prime number?",
    "Write a poem of {n} lines.", "Can a child of {n} years travel alone?", "How many days are {n} weeks?",
    "What is chapter {n} about?", "Plan a trip of {n} days.", "What is the factorial of {n}?",
    "Which bus stops at platform {n}?", "Explain article {n} of the law.", "Is a score of {n} good?",
    "Who lives in house number {n}?", "How do I split a bill of 90 dollars by {n}?", "Show the top {n} customers.",
    "What was built {n} centuries ago?", "Repeat it {n} times.",
]  # fmt: skip
NUMBERS = ["2", "3", "5", "6", "8", "12", "13", "15", "20", "21", "30", "45", "50", "51", "two", "three", "five", "six",
           "eight", "twelve", "thirteen", "1,500", "1500000", "0.5"]  # fmt: skip
PLACES = ["France", "Spain", "Norway", "Sweden", "Peru", "Chile", "India", "Kenya", "Ghana", "Japan", "Vienna",
          "Berlin", "Oslo", "Lima", "Boston", "Austin", "Kyoto", "Leeds"]  # fmt: skip
PEOPLE = [
    "Anna Weber",
    "Hanna Weber",
    "Tom Miller",
    "Tim Miller",
    "Maria Lopez",
    "Mario Lopez",
    "Kim Lee",
    "Kim Li",
]
PRODUCTS = [
    "Postgres",
    "MySQL",
    "React",
    "Angular",
    "Excel",
    "Word",
    "Linux",
    "Windows",
    "Rust",
    "Go",
    "Zoom",
    "Slack",
]
NAME_FORMS = [
    ("What is the capital of {x}?", PLACES), ("How is the weather in {x} in spring?", PLACES),
    ("Do I need a visa for {x}?", PLACES), ("Which language do people speak in {x}?", PLACES),
    ("Recommend a restaurant in {x}.", PLACES), ("How do I get from here to {x}?", PLACES),
    ("Who is {x}?", PEOPLE), ("Write a letter to {x}.", PEOPLE), ("When does {x} have time?", PEOPLE),
    ("What is the phone number of {x}?", PEOPLE), ("How do I install {x}?", PRODUCTS),
    ("Is {x} free of charge?", PRODUCTS), ("What are the alternatives to {x}?", PRODUCTS),
    ("Who develops {x}?", PRODUCTS), ("Why is {x} so slow?", PRODUCTS),
]  # fmt: skip
UNIT_SETS = [
    ["meters", "feet", "miles", "kilometers", "inches"], ["grams", "ounces", "pounds", "kilograms"],
    ["seconds", "minutes", "hours", "days", "weeks", "years"], ["dollars", "euros", "yen", "rupees"],
    ["liters", "gallons", "cups", "milliliters"], ["megabytes", "gigabytes", "terabytes", "bits"],
    ["km", "mi", "cm", "mm"], ["kg", "lb", "mg", "oz"], ["€", "$", "£"], ["°C", "°F"],
]  # fmt: skip
UNIT_FORMS = [
    "How much is 25 {u}?", "Is 40 {u} a lot?", "I have 12 {u}, is that enough?", "Write 7 {u} in words.",
    "Why are 100 {u} the limit?", "Compare 3 {u} with what is usual.", "What can I do with 60 {u}?",
    "Is it more than 5 {u}?",
]  # fmt: skip
DATE_SETS = [
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    ["January", "February", "March", "April", "June", "July", "August", "October", "December"],
    ["today", "tomorrow", "yesterday"], ["2019", "2020", "2021", "2024"], ["spring", "summer", "autumn", "winter"],
    ["last week", "this week", "next week"], ["the morning", "the evening", "the afternoon"],
    ["3 May 2021", "5 May 2021", "3 June 2021", "3 May 2022"], ["8 am", "8 pm", "noon", "midnight"],
]  # fmt: skip
DATE_FORMS = [
    "What happened {d}?", "Is the office open {d}?", "Show me the sales of {d}.", "Which holidays are around {d}?",
    "What is the forecast for {d}?", "Remind me of it {d}.", "Who was on duty {d}?", "Is there a train {d}?",
    "How was the traffic {d}?",
]  # fmt: skip
NEGATION_PAIRS = [
    ("Which of these foods {a} lactose?", "contain", "do not contain"),
    ("Why {a} the engine start?", "does", "doesn't"), ("{a} I mix these two cleaners?", "Can", "Can't"),
    ("Show customers {a} an address.", "with", "without"), ("What {a} I say in an interview?", "should", "should not"),
    ("The light is {a}, what is wrong?", "on", "off"), ("Is the account {a}?", "active", "not active"),
    ("List the tests that {a}.", "passed", "never passed"), ("Is it {a} to park here?", "legal", "illegal"),
    ("How do I {a} automatic updates?", "enable", "disable"), ("Is the valve {a}?", "open", "closed"),
    ("What happens if I {a} the reminder?", "answer", "don't answer"),
    ("Is this offer {a}?", "valid", "no longer valid"),
    ("Which employees {a} a parking space?", "have", "have no"), ("May guests {a} the kitchen?", "use", "not use"),
    ("Which patients {a} aspirin?", "tolerate", "cannot tolerate"),
]  # fmt: skip
NEGATION_AROUND = [
    "{q}", "Please tell me: {q}", "{q} I need it for a report.", "Quick question. {q}", "{q} Answer in one sentence.",
    "In our company: {q}", "{q} Thanks.", "For beginners: {q}", "{q} Give an example.", "Be brief. {q}",
    "{q} It is urgent.", "My colleague asks: {q}", "{q} Explain why.", "Hello, {q}", "{q} Use a table.",
]  # fmt: skip


class Pair(NamedTuple):
    """Two questions."""

    kind: str
    """`paraphrase`, or what differs."""
    source: str
    """`hand` or `template`."""
    one: str
    other: str

    @property
    def same(self) -> bool:
        """Whether one answer does for both."""
        return self.kind == "paraphrase"


def by_hand() -> list[Pair]:
    """Those that were written one by one."""
    found = []
    for line in (DATA / "paraphrases_by_hand.txt").read_text().splitlines():
        first, *others = [part.strip() for part in line.split(" | ")]
        found += [Pair("paraphrase", "hand", first, other) for other in others]
    for line in (DATA / "traps_by_hand.txt").read_text().splitlines():
        kind, one, other = [part.strip() for part in line.split(" | ")]
        found.append(Pair(kind, "hand", one, other))
    return found


def by_template() -> list[Pair]:
    """Those in the file."""
    lines = (DATA / "pairs_by_template.tsv").read_text().splitlines()
    return [Pair(*line.split("\t")) for line in lines]


def pairs() -> list[Pair]:
    """All of them."""
    return by_hand() + by_template()


def _drawn(rng: random.Random, kind: str, every: list[tuple[str, str]]) -> list[Pair]:
    chosen = rng.sample(sorted(set(every)), EACH)
    return [Pair(kind, "template", *both) for both in chosen]


def _filled(form: str, mark: str, words: list[str]) -> list[tuple[str, str]]:
    filled = [form.replace(mark, word) for word in words]
    return [(one, other) for one in filled for other in filled if one != other]


def made() -> list[Pair]:
    """What the templates make."""
    rng = random.Random(6)
    paraphrases = []
    for v, g, o in TASKS:
        forms = [form.format(v=v, g=g, o=o) for form in TASK_FORMS]
        paraphrases += [(one, other) for one in forms for other in forms if one != other]
    for x in THINGS:
        forms = [form.format(x=x) for form in THING_FORMS]
        paraphrases += [(one, other) for one in forms for other in forms if one != other]
    numbers = [
        both
        for form in NUMBER_FORMS
        for both in _filled(form, "{n}", NUMBERS)
        if not _same_number(form, *both)
    ]
    names = [both for form, words in NAME_FORMS for both in _filled(form, "{x}", words)]
    names += [(one.lower(), other.lower()) for one, other in names]
    units = [both for form in UNIT_FORMS for words in UNIT_SETS for both in _filled(form, "{u}", words)]
    dates = [both for form in DATE_FORMS for words in DATE_SETS for both in _filled(form, "{d}", words)]
    negations = []
    for form, yes, no in NEGATION_PAIRS:
        for around in NEGATION_AROUND:
            one, other = (around.replace("{q}", form.replace("{a}", word)) for word in (yes, no))
            negations += [(one, other)]
    return [
        *_drawn(rng, "paraphrase", paraphrases),
        *_drawn(rng, "numbers", numbers),
        *_drawn(rng, "names", names),
        *_drawn(rng, "units", units),
        *_drawn(rng, "dates", dates),
        *_drawn(rng, "negations", negations),
    ]


def _same_number(form: str, one: str, other: str) -> bool:
    """Whether a number is only written otherwise."""
    words = {
        "two": "2",
        "three": "3",
        "five": "5",
        "six": "6",
        "eight": "8",
        "twelve": "12",
        "thirteen": "13",
    }
    before, _, behind = form.partition("{n}")
    found = [text[len(before) : len(text) - len(behind)] for text in (one, other)]
    return words.get(found[0], found[0]) == words.get(found[1], found[1])


if __name__ == "__main__":
    for pair in made():
        print("\t".join(pair))
