"""Templates whose answers take four steps."""

from __future__ import annotations

from mxmoe.evals.grade_school.template import Template

TEMPLATES = (
    Template(
        "shopping_with_change",
        (
            "{A} buys {n} {things} at ${p} each and {m} {others} at ${q} each.",
            "{He} pays with ${t}.",
        ),
        "How much change does {A} get?||How many dollars does {he} get back?",
        (
            "The {things} cost [$x=n*p].",
            "The {others} cost [$y=m*q].",
            "Together they cost [$z=x+y].",
            "{A} gets [$w=t-z] back.",
        ),
        {"n": (2, 9), "p": (2, 30), "m": (2, 9), "q": (2, 30), "t": (50, 600, 10)},
    ),
    Template(
        "three_friends_chain",
        (
            "{A} has {a} {things}.",
            "{B} has {n} times as many as {A}.",
            "{C} has {c} more than {B}.",
        ),
        "How many {things} do the three have altogether?",
        (
            "{B} has [x=n*a] {things}.",
            "{C} has [y=x+c] {things}.",
            "{A} and {B} have [z=a+x] {things}.",
            "All three have [w=z+y] {things}.",
        ),
        {"a": (3, 40), "n": (2, 7), "c": (2, 90)},
    ),
    Template(
        "bake_sale",
        (
            "{A} bakes {n} trays of {p} muffins and eats {c} of them.",
            "{He} sells the rest for ${q} each and spends ${d} on flour.",
        ),
        "How many dollars does {he} keep?",
        (
            "{A} bakes [x=n*p] muffins.",
            "{He} sells [y=x-c] muffins.",
            "They bring [$z=y*q].",
            "{A} keeps [$w=z-d].",
        ),
        {"n": (2, 8), "p": (4, 24), "c": (2, 20), "q": (2, 6), "d": (3, 60)},
    ),
    Template(
        "class_trip",
        (
            "{a} girls and {b} boys go on a trip to the {place}.",
            "A ticket costs ${p} and the bus costs ${c} in all.",
            "They already have ${m}.||The school pays ${m} of it.",
        ),
        "How many more dollars do they need?",
        (
            "There are [x=a+b] of them.",
            "The tickets cost [$y=x*p].",
            "With the bus that is [$z=y+c].",
            "They need [$w=z-m] more.",
        ),
        {"a": (4, 30), "b": (4, 30), "p": (2, 9), "c": (20, 200), "m": (20, 300, 10)},
    ),
    Template(
        "farm_boxes",
        (
            "{A} picks {a} {things} on {day} and {b} on {day2}.",
            "{c} of them are bad.",
            "The rest go into {boxes} of {n}, and each {box} sells for ${p}.",
        ),
        "How many dollars does {A} get?",
        (
            "{A} picks [x=a+b] {things}.",
            "There are [y=x-c] good ones.",
            "They fill [z=y/n] {boxes}.",
            "{A} gets [$w=z*p].",
        ),
        {"a": (5, 150), "k": (3, 40), "n": (2, 9), "c": (2, 40), "p": (2, 12)},
        {"s": "n*k", "r": "s+c", "b": "r-a"},
    ),
    Template(
        "two_workers",
        (
            "{A} paints {a} plates an hour and {B} paints {b} plates an hour.",
            "{A} works {h} hours and {B} works {g} hours.",
            "{c} of the plates break.",
        ),
        "How many plates are left?",
        (
            "{A} paints [x=a*h] plates.",
            "{B} paints [y=b*g] plates.",
            "Together they paint [z=x+y] plates.",
            "There are [w=z-c] plates left.",
        ),
        {"a": (3, 40), "b": (3, 40), "h": (2, 8), "g": (2, 8), "c": (2, 60)},
        free_order=True,
    ),
    Template(
        "saving_for_bike",
        (
            "{A} wants a bike that costs ${t}.",
            "{He} has ${a} and gets ${b} from {B}.",
            "{He} saves ${p} a day.",
        ),
        "How many weeks does {A} need for the rest?",
        (
            "{A} has [$x=a+b].",
            "{He} needs [$y=t-x] more.",
            "In a week {he} saves [$z=p*7].",
            "That takes [w=y/z] weeks.",
        ),
        {"a": (10, 200), "b": (5, 90), "p": (2, 9), "k": (2, 9)},
        {"s": "p*7*k", "t": "s+a+b"},
    ),
    Template(
        "share_then_compare",
        (
            "{A} has {a} {things} and {B} has {b} {things}.",
            "{A} buys {n} {boxes} with {p} {things} each.",
            "{B} finds {c} {things}.",
        ),
        "How many more {things} does {A} have than {B}?",
        (
            "{A} buys [x=n*p] {things}.",
            "{A} has [y=a+x] {things}.",
            "{B} has [z=b+c] {things}.",
            "{A} has [w=y-z] more.",
        ),
        {"a": (5, 200), "b": (5, 150), "n": (2, 9), "p": (4, 40), "c": (2, 90)},
    ),
    Template(
        "half_and_quarter",
        (
            "A box holds {t} {things}.",
            "{A} takes half of them and {B} takes {b}.",
            "The rest is shared equally by {n} {friends}.",
        ),
        "How many {things} does each {friend} get?",
        (
            "{A} takes [x=t/2] {things}.",
            "Then there are [y=t-x] {things}.",
            "After {B} there are [z=y-b] {things}.",
            "Each {friend} gets [w=z/n] {things}.",
        ),
        {"b": (2, 90), "n": (2, 9), "k": (2, 40)},
        {"s": "n*k", "m": "s+b", "t": "m*2"},
    ),
    Template(
        "rides_at_fair",
        (
            "{A} goes to the fair with ${m}.",
            "{He} takes {n} rides for ${p} each and eats for ${q}.",
            "Then {B} gives {him} ${b}.",
        ),
        "How much money does {A} have now?",
        (
            "The rides cost [$x=n*p].",
            "{A} spends [$y=x+q].",
            "{He} has [$z=m-y] left.",
            "With the money from {B} {he} has [$w=z+b].",
        ),
        {"m": (40, 400), "n": (2, 9), "p": (2, 20), "q": (3, 60), "b": (2, 90)},
    ),
    Template(
        "zoo_food",
        (
            "A zoo has {a} monkeys that eat {p} bananas a day each.",
            "It has {b} bears that eat {q} apples a day each.",
        ),
        "How many bananas and apples does the zoo need for {d} days?",
        (
            "The monkeys eat [x=a*p] bananas a day.",
            "The bears eat [y=b*q] apples a day.",
            "Together that is [z=x+y] a day.",
            "For {d} days the zoo needs [w=z*d].",
        ),
        {"a": (2, 9), "p": (2, 12), "b": (2, 9), "q": (2, 12), "d": (2, 5)},
        free_order=True,
    ),
    Template(
        "printer_paper",
        (
            "An office has {n} packs of {p} sheets and {a} loose sheets.",
            "{A} prints {d} pages a day for {k} days.",
        ),
        "How many sheets are left?",
        (
            "The packs hold [x=n*p] sheets.",
            "The office has [y=x+a] sheets.",
            "{A} prints [z=d*k] pages.",
            "There are [w=y-z] sheets left.",
        ),
        {"n": (2, 9), "p": (10, 90, 10), "a": (5, 90), "d": (4, 40), "k": (2, 9)},
    ),
    Template(
        "pool_and_bucket",
        (
            "A pool holds {t} liters and has {a} liters in it.",
            "{A} pours in {n} buckets of {p} liters.",
            "After that a hose adds {r} liters a minute.",
        ),
        "After how many minutes is the pool full?",
        (
            "The buckets bring [x=n*p] liters.",
            "The pool has [y=a+x] liters.",
            "It needs [z=t-y] more liters.",
            "That takes [w=z/r] minutes.",
        ),
        {"a": (5, 200), "n": (2, 9), "p": (3, 20), "r": (2, 12), "k": (2, 40)},
        {"s": "n*p", "u": "r*k", "t": "s+u+a"},
    ),
)
