"""What two questions must agree in, kind by kind; the whole set of pairs is tests/bench/response_cache.py's."""

from __future__ import annotations

import pytest

from warmroute.caching.agreement import CERTAIN, WORDS, differ, facts_of


def between(one: str, other: str) -> str:
    there, back = differ(facts_of(one), facts_of(other)), differ(facts_of(other), facts_of(one))
    assert bool(there) is bool(back)
    return there


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I reset my password?", "What is the best way to reset a password?"),
        ("How do I reset my password?", "Hi, could you please tell me how to reset my password? Thanks!"),
        ("Why is the sky blue?", "What is the reason that the sky is blue?"),
        ("What is the capital of France?", "Tell me France's capital."),
        ("In Python, how do I sort a list?", "How can I sort a list in Python?"),
        ("How many calories are in a banana?", "What's the number of calories in a banana?"),
        ("What is 12 plus 5?", "what is twelve + five"),
        ("What is 1,000 m in km?", "What is 1000 meters in kilometers?"),
        ("Explain photosynthesis.", "What is photosynthesis?"),
        ("Can I take the 1st train?", "Am I allowed to take the first train?"),
        ("Who can't vote?", "Who can not vote?"),
        ("How do I purchase a ticket?", "How to buy tickets?"),
        ("What is 5³?", "What is 5^3?"),
        ("Convert 1½ cups", "Convert 1 1/2 cups"),
    ],
)
def test_the_same_question_in_other_words_agrees(one: str, other: str) -> None:
    assert between(one, other) == ""


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("What is 12 plus 5?", "What is 12 plus 6?", "numbers"),
        ("Divide 10 by 5", "Divide 5 by 10", "numbers"),
        ("Give me three ideas", "Give me four ideas", "numbers"),
        ("What is 3.5 squared?", "What is 35 squared?", "numbers"),
        ("What is 5³?", "What is 53?", "numbers"),
        ("What is 2¹⁰?", "What is 210?", "numbers"),
        ("Convert 1½ cups", "Convert 11/2 cups", "numbers"),
        ("Who won the 2nd round?", "Who won the 3rd round?", "numbers"),
        ("What is Anna's address?", "What is Hanna's address?", "names"),
        ("Is GPT-4o better?", "Is GPT-4 better?", "names"),
        ("Convert 5 km", "Convert 5 miles", "units"),
        ("How many seconds has it?", "How many minutes has it?", "units"),
        ("Convert 5 dollars to euros", "Convert 5 euros to dollars", "units"),
        ("Open at 9am?", "Open at 9pm?", "dates"),
        ("What happens on Monday?", "What happens on Tuesday?", "dates"),
        ("What is the weather today?", "What is the weather tomorrow?", "dates"),
        ("Can I pay by card?", "Can't I pay by card?", "negations"),
        ("Recipes with nuts", "Recipes without nuts", "negations"),
        ("Is the library open?", "Is the library closed?", "opposites"),
        ("What is the largest city?", "What is the smallest city?", "opposites"),
        ("How do I enable it?", "How do I disable it?", "opposites"),
        ('Translate "cat"', 'Translate "dog"', "quoted"),
        ("what is the capital of france", "what is the capital of spain", WORDS),
        ("dog bites man", "man bites dog", WORDS),
        ("How do I get there from here?", "How do I get here from there?", WORDS),
        ("a flight from paris to rome", "a flight from rome to paris", WORDS),
        ("Who is the president?", "Who was the president?", WORDS),
        ("When was it built?", "Where was it built?", WORDS),
        ("Can I eat it?", "Should I eat it?", WORDS),
        ("How long is it?", "How old is it?", WORDS),
        ("What is his name?", "What is her name?", WORDS),
        ("What is your name?", "What is my name?", WORDS),
        ("print(a[0])", "print(a[1])", WORDS),
        ("东京的首都是什么", "巴黎的首都是什么", WORDS),
        ("Wie heißt du?", "Wie heißt er?", WORDS),
    ],
)
def test_what_asks_for_something_else_does_not(one: str, other: str, kind: str) -> None:
    assert kind in (*CERTAIN, WORDS)
    assert between(one, other) == kind


@pytest.mark.parametrize("text", ["", "?", "'", "12", "a" * 1000, "of of of", "\x00\ud800", "…", "”“", "İi̇"])
def test_whatever_text_it_is_it_agrees_with_itself(text: str) -> None:
    assert between(text, text) == ""
