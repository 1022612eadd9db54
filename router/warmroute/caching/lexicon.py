"""Words of which `agreement` knows what they do in a question: data only. English, with its neighbours' negations.

A word that is in none of these tables counts as itself, in every language; so what is missing here costs hits, and
never makes one.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "2"
"""Changes with these tables and with `agreement`: facts of two versions are not compared."""

NEGATIONS: Final = frozenset(
    "not no never without none neither nor nobody nothing nowhere cannot unable except excluding exclude excluded avoid"
    " prevent stop fail fails failed lack lacks non unless hardly rarely seldom refuse deny denied"
    " nicht kein keine keinen keiner keines keinem nie niemals ohne nichts pas jamais sans aucun aucune rien"
    " sin nunca jamás ningún ninguna nada niet geen nooit zonder não nunca sem nenhum non mai senza nessun"
    " не нет без никогда".split()
)

DATES: Final = frozenset(
    "january february march april may june july august september october november december jan feb mar apr jun jul aug"
    " sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs fri"
    " sat sun today tomorrow yesterday tonight now currently weekend weekday weekdays weekends spring summer autumn"
    " fall winter morning afternoon evening night noon midnight am pm bc ad bce ce easter christmas".split()
)

_UNITS: Final = {
    "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres kms",
    "cm": "centimeter centimeters centimetre centimetres",
    "mm": "millimeter millimeters millimetre millimetres",
    "mi": "mile miles",
    "ft": "foot feet",
    "in.": "inch inches",
    "yd": "yard yards",
    "g": "gram grams gramme grammes",
    "kg": "kilogram kilograms kilo kilos kgs",
    "mg": "milligram milligrams",
    "lb": "pound pounds lbs",
    "oz": "ounce ounces",
    "t": "ton tons tonne tonnes",
    "l": "liter liters litre litres",
    "ml": "milliliter milliliters millilitre millilitres",
    "gal": "gallon gallons",
    "s": "second seconds sec secs",
    "min": "minute minutes mins",
    "h": "hour hours hr hrs",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years yr yrs",
    "decade": "decade decades",
    "century": "century centuries",
    "kb": "kilobyte kilobytes",
    "mb": "megabyte megabytes",
    "gb": "gigabyte gigabytes",
    "tb": "terabyte terabytes",
    "bit": "bit bits",
    "byte": "byte bytes",
    "hz": "hertz",
    "mhz": "megahertz",
    "ghz": "gigahertz",
    "w": "watt watts",
    "kw": "kilowatt kilowatts",
    "kwh": "",
    "v": "volt volts",
    "a": "amp amps ampere amperes",
    "c": "celsius centigrade",
    "f": "fahrenheit",
    "k": "kelvin",
    "usd": "dollar dollars usd",
    "eur": "euro euros",
    "gbp": "gbp",
    "jpy": "yen",
    "cny": "yuan",
    "inr": "rupee rupees",
    "percent": "percent percentage",
    "cal": "calorie calories kcal",
    "j": "joule joules",
    "pa": "pascal pascals",
    "bar": "bar bars",
    "psi": "",
    "mph": "",
    "kmh": "kph",
    "degree": "degree degrees",
    "acre": "acre acres",
    "hectare": "hectare hectares",
    "cup": "cup cups",
    "dozen": "dozen dozens",
    "hundred": "hundred hundreds",
    "thousand": "thousand thousands",
    "million": "million millions",
    "billion": "billion billions",
    "trillion": "trillion trillions",
}
UNCLEAR_UNITS: Final = frozenset(
    "m g t l s h v a c f k w j in in. mi pa bar bars cup cups bit bits cal sec".split()
)
"""Signs that are units behind a number alone: `5 m`, `12 in`."""
UNITS: Final = {name: unit for unit, names in _UNITS.items() for name in names.split()} | {
    unit: unit for unit in _UNITS
}

_SMALL: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
).split()
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS: Final = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth"
    " sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
NUMBERS: Final = (
    {word: str(value) for value, word in enumerate(_SMALL)}
    | {word: str(value) for value, word in zip(range(20, 100, 10), _TENS, strict=True)}
    | {word: f"{value}." for value, word in enumerate(_ORDINALS, 1) if word != "second"}
    | {"once": "1", "twice": "2", "half": "0.5", "quarter": "0.25", "double": "x2", "triple": "x3"}
)
"""`second` is a unit as often as a place, and counts as a word."""

STOPWORDS: Final = frozenset(
    "a an the of in on at for with to is are am be been being do does doing have has having i me my mine myself we us"
    " our ours one's it its this that these those there and as so then please any also just really actually"
    " exactly quickly simply basically generally usually would could can shall might get gets getting"
    " go about regarding concerning which what who whom whose".split()
)
"""What may differ. Prepositions that turn a meaning round (from, before, without, per) are not here, nor are persons
other than the one who asks, quantities, or words of time."""

PAST: Final = frozenset("was were did had".split())
FUTURE: Final = frozenset("will going gonna shall".split())

_SAME: Final = (
    "big large huge",
    "biggest largest",
    "bigger larger",
    "small little tiny",
    "smallest tiniest",
    "fast quick rapid speedy",
    "fastest quickest",
    "buy purchase acquire",
    "begin start commence",
    "finish complete end",
    "fix repair mend resolve",
    "show display",
    "make create build generate produce",
    "delete remove erase",
    "alter change modify",
    "choose select pick",
    "job occupation profession",
    "movie film",
    "picture photo image photograph",
    "car automobile",
    "bike bicycle",
    "tv television",
    "phone telephone",
    "doctor physician",
    "error mistake",
    "cost price",
    "town city",
    "trip journey",
    "method way approach",
    "goal aim objective",
    "benefit advantage",
    "drawback disadvantage",
    "kid child children",
    "employee worker",
    "company firm",
    "shop store",
    "weblog blog",
    "sign symptom",
    "cure treat",
    "meaning definition",
    "mean signify",
    "author writer",
    "total sum",
    "difference distinction",
    "different distinct",
    "important significant",
    "example instance",
    "sick ill",
    "silent quiet",
    "rich wealthy",
    "smart clever intelligent",
    "hard difficult tough",
    "easy simple",
    "wrong incorrect",
    "right correct",
    "scared afraid",
    "gift present",
    "garbage trash rubbish",
    "holiday vacation",
    "apartment flat",
    "lift elevator",
    "autumn fall",
    "soccer football",
    "postcode zipcode",
    "gas petrol",
    "refund reimbursement",
    "shipping delivery",
    "invoice bill",
    "forgotten forgot lost",
    "often frequently",
    "need require",
    "help assist",
    "use utilize utilise",
    "pupil student",
    "nation country",
    "ocean sea",
    "stone rock",
    "boat ship",
    "plane airplane aircraft aeroplane",
    "summary overview",
    "summarize summarise",
    "color colour",
    "center centre",
    "organize organise",
    "recognize recognise",
    "optimize optimise",
    "analyze analyse",
    "all every each",
    "someone somebody",
    "everyone everybody",
    "maybe perhaps",
    "approximately roughly around",
    "grow cultivate",
    "speak talk",
    "repository repo",
    "config configuration",
    "directory folder",
    "application app",
    "database db",
    "documentation docs",
)


def _same() -> dict[str, str]:
    table: dict[str, str] = {}
    for group in _SAME:
        first, *others = group.split()
        first = table.get(first, first)
        for word in others:
            table.setdefault(word, first)
    return table


SAME: Final = _same()
"""A word that means the same as another, and that one."""

_SIDES: Final = (
    "open opens opened opening/close closes closed closing shut",
    "before/after",
    "increase increases increased increasing rise raise/decrease decreases decreased decreasing fall reduce lower",
    "maximum max maximal most highest biggest largest/minimum min minimal least lowest smallest",
    "first/last",
    "cheap cheapest cheaper/expensive priciest costly",
    "on/off",
    "enable enabled enabling activate/disable disabled disabling deactivate",
    "start starts begin/stop stops end finish",
    "left/right",
    "up upper/down lower",
    "more/less fewer",
    "hot hotter hottest warm/cold colder coldest cool",
    "buy buying purchase/sell selling",
    "import importing/export exporting",
    "login/logout",
    "upload uploading/download downloading",
    "encrypt encrypting encryption/decrypt decrypting decryption",
    "male man men boy husband father son brother he/female woman women girl wife mother daughter sister she",
    "legal allowed permitted/illegal forbidden prohibited banned",
    "possible/impossible",
    "with/without",
    "old older oldest/new newer newest young younger youngest",
    "above over/below under beneath",
    "past/future",
    "add adding/remove removing subtract",
    "create creating/delete deleting destroy",
    "win winning won/lose losing lost",
    "push pushing/pull pulling",
    "north northern/south southern/east eastern/west western",
    "inside indoor/outside outdoor",
    "safe/dangerous unsafe",
    "plus/minus",
    "multiply multiplied times/divide divided",
    "true/false",
    "public/private",
    "deposit/withdraw withdrawal",
    "arrive arrival arrivals/depart departure departures leave",
    "lend/borrow",
    "freeze freezing/melt melting/boil boiling",
    "advantages advantage pros benefit benefits/disadvantages disadvantage cons drawback drawbacks",
    "best better good/worst worse bad",
    "high higher/low lower",
    "long longer longest/short shorter shortest",
    "fast faster fastest/slow slower slowest",
    "subscribe/unsubscribe",
    "install installing/uninstall uninstalling",
    "accept accepting/reject rejecting decline",
    "attack/defend",
    "love/hate",
    "vegetarian vegan/meat",
    "indoor/outdoor",
    "internal/external",
    "wholesale/retail",
    "front/back rear",
    "early earlier earliest/late later latest",
    "gain/loss",
    "income/expense expenses",
    "import/export",
    "lock locking/unlock unlocking",
    "mount/unmount",
    "ascending/descending",
    "horizontal/vertical",
    "even/odd",
    "prefix/suffix",
    "serial/parallel",
    "synchronous/asynchronous",
    "static/dynamic",
    "read reading/write writing",
    "client/server",
    "from/into",
)


def _sides() -> dict[str, tuple[tuple[int, int], ...]]:
    table: dict[str, tuple[tuple[int, int], ...]] = {}
    for number, line in enumerate(_SIDES):
        for side, words in enumerate(line.split("/")):
            for word in words.split():
                table[word] = (*table.get(word, ()), (number, side))
    return table


SIDES: Final = _sides()
"""Words that stand on one side of an opposition: which one, and which side."""
