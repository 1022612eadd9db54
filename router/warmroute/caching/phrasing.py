"""How questions are put, as `agreement` reads it: what is said around a question, and what it asks for. Data
only, English.

A beginning that is in neither table is part of the question.
"""

from __future__ import annotations

import re
from typing import Final

FRAMES: Final = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"^(?:hi|hello|hey|good (?:morning|day|evening)|dear \w+)\b[ ,!.]*", ""),
        (r"^(?:please|kindly|ok|okay|so|well|um)\b[ ,]*", ""),
        (r"[ ,]*\b(?:please|thanks|thank you|thx|for me)[ .!]*$", ""),
        (
            r"^(?:i (?:was|am|'m) (?:just )?(?:wondering|curious)|i wonder|just wondering)\b[ ,]*(?:about )?",
            "",
        ),
        (
            r"^i (?:would|'d)? ?(?:like|love|want|need) (?:you )?to (?:know|find out|learn|understand|hear)\b[ ,]*",
            "",
        ),
        (r"^(?:do|would|might) you (?:happen to )?know\b[ ,]*", ""),
        (
            r"^(?:can|could|would|will) (?:you|someone|anyone|somebody|anybody) (?:please |kindly |possibly |quickly )?"
            r"(?:tell|show|explain to|remind|help|teach|advise|inform|let) (?:me|us)(?: know)?\b[ ,]*",
            "",
        ),
        (
            r"^(?:can|could|would|will) (?:you|someone|anyone) (?:please |kindly |possibly |quickly )?(?=\w)",
            "",
        ),
        (r"^is it possible for you to\b[ ,]*", ""),
        (r"^(?:tell|show|teach|remind|let) (?:me|us)(?: know)?\b[ ,]*", "what"),
        (r"^(?:help me|help)\b[ ,]*(?:to )?(?:understand |find out |know )?", ""),
        (r"^(?:any idea|any clue)\b[ ,]*", ""),
    )
)
"""Beginnings and ends that ask for an answer and add nothing to the question; tried again and again."""

KINDS: Final = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (
            r"^(?:how (?:do|does|can|could|would|should|might|must|is|to)"
            r"(?: (?:i|you|we|one|someone|people|a person))?"
            r"|how (?:am|are) (?:i|we|you) (?:able|supposed) to|how to|what (?:is|are|would be) (?:the|a|some|an)?"
            r" ?(?:best |right |correct |proper |easiest |simplest |good )?(?:ways?|methods?|steps?|procedures?"
            r"|approach|process) (?:to|for|of|on|in)"
            r"|what (?:do|should|must|can) (?:i|you|we|one) (?:have to |need to )?do to"
            r"|(?:the )?(?:steps|ways|procedure|instructions|process) (?:to|for|of)"
            r"|in what way (?:do|can|could|should) (?:i|you|we|one)|which steps (?:do i|should i) (?:take|follow) to)\b"
            r" ?",
            "how",
        ),
        (
            r"^(?:what is the reason(?: why| that| for)?|what(?: is| are)? the (?:reasons?|causes?)"
            r" (?:why|that|for|of|behind)|what causes|what makes|why is it that|why|how come)\b ?",
            "why",
        ),
        (
            r"^(?:at what time|what time|on what (?:date|day)|on which (?:date|day)|what (?:date|day)|in (?:what|which)"
            r" year|what year|which year|when)\b ?",
            "when",
        ),
        (
            r"^(?:in (?:what|which) (?:place|location)|at (?:what|which) (?:place|location)|what is the location of"
            r"|where)\b ?",
            "where",
        ),
        (
            r"^(?:what is the name of the (?:person|one) (?:who|that)|which person|what person|who|whom)\b ?",
            "who",
        ),
        (r"^(?:how many|what (?:is|was) the number of|what number of)\b ?", "how many"),
        (r"^(?:how much)\b ?", "how much"),
        (
            r"^(?:how (long|often|old|far|tall|high|deep|big|large|fast|heavy|hot|cold|soon|late|wide|strong))\b ?",
            "how x",
        ),
        (
            r"^(?:am i|are we) (?:allowed|permitted) to\b ?|^is it (?:allowed|permitted|possible|ok|okay|fine"
            r"|acceptable)"
            r" (?:for me )?to\b ?|^(?:can|could|may) (?:i|we|you|one)\b ?",
            "can",
        ),
        (r"^(?:should|ought) (?:i|we|you|one)(?: to)?\b ?|^is it advisable to\b ?", "should"),
        (
            r"^(?:must|do|does) (?:i|we|you|one) (?:have|need) to\b ?|^must (?:i|we|you|one)\b ?|^am i required to\b ?"
            r"|^is it (?:necessary|required|mandatory) to\b ?",
            "must",
        ),
        (
            r"^(?:is|are|was|were|do|does|did|has|have|had|will|would|can|could|should|must|may|am)\b ?",
            "whether",
        ),
        (
            r"^(?:give (?:me|us) (?:a |an |some |the )?(?:explanation|description|overview|summary|definition)"
            r" (?:of|on)"
            r"|explain(?: to me)?(?: briefly)?|describe|define|what does|what do you mean by|what (?:is|are) meant by"
            r"|what(?: is|are| was| were)? the (?:definition|meaning) of|what(?: is| are| was| were)?"
            r"|which(?: is| are| was| were)?|(?:give|get|list|name|provide|find|show|tell)(?: me| us)?)\b ?",
            "what",
        ),
    )
)
"""How a question begins, and what is asked by that; the first that fits counts."""
