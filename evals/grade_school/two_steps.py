"""Templates whose answers take two steps."""

from __future__ import annotations

from mxmoe.evals.grade_school.template import Template

TEMPLATES = (
    Template(
        "buys_and_gives",
        (
            "{A} has {a} {things}.||{A} starts with {a} {things}.",
            "{A} buys {b} more and gives {c} to {B}."
            "||{He} gets {b} more from {C} and then gives {c} to {B}.",
        ),
        "How many {things} does {A} have now?||How many {things} are left with {A}?",
        (
            "First {A} has [x=a+b] {things}.",
            "After giving {c} away {A} has [y=x-c] {things}.",
        ),
        {"a": (5, 200), "b": (3, 150), "c": (2, 200)},
    ),
    Template(
        "twice_as_many",
        ("{B} has {a} {things}.", "{A} has {n} times as many {things} as {B}."),
        "How many {things} do {A} and {B} have together?",
        (
            "{A} has [x=n*a] {things}.",
            "Together they have [y=x+a] {things}.",
        ),
        {"n": (2, 8), "a": (3, 60)},
        free_order=True,
    ),
    Template(
        "change_from_bill",
        (
            "{A} buys {n} {things} for ${p} each.",
            "{He} pays with ${m}.||{He} hands over ${m}.",
        ),
        "How much change does {A} get?||How many dollars does {he} get back?",
        (
            "The {things} cost [$x=n*p].",
            "{A} gets [$y=m-x] back.",
        ),
        {"n": (2, 9), "p": (2, 40), "m": (20, 400, 10)},
    ),
    Template(
        "boxes_minus_broken",
        (
            "A truck brings {n} {boxes} with {p} {things} in each.",
            "{c} of the {things} are broken.||On the way {c} {things} get lost.",
        ),
        "How many good {things} are there?||How many {things} can be used?",
        (
            "The truck brings [x=n*p] {things}.",
            "Without the bad ones there are [y=x-c] {things}.",
        ),
        {"n": (2, 12), "p": (4, 50), "c": (2, 90)},
    ),
    Template(
        "fewer_than",
        ("{A} has {a} {things}.", "{B} has {b} fewer {things} than {A}."),
        "How many {things} do they have in total?||How many {things} is that together?",
        (
            "{B} has [x=a-b] {things}.",
            "In total they have [y=a+x] {things}.",
        ),
        {"a": (10, 300), "b": (2, 250)},
        free_order=True,
    ),
    Template(
        "more_than",
        ("{A} sold {a} {things}.", "{B} sold {b} more {things} than {A}."),
        "How many {things} did {A} and {B} sell altogether?",
        (
            "{B} sold [x=a+b] {things}.",
            "Altogether they sold [y=a+x] {things}.",
        ),
        {"a": (5, 250), "b": (2, 150)},
        free_order=True,
    ),
    Template(
        "share_the_rest",
        (
            "{A} has {a} {things} and keeps {k} of them.",
            "{He} shares the rest equally among {n} {friends}.",
        ),
        "How many {things} does each {friend} get?",
        (
            "{A} shares [x=a-k] {things}.",
            "Each {friend} gets [y=x/n] {things}.",
        ),
        {"k": (2, 60), "n": (2, 9), "p": (2, 40)},
        {"s": "n*p", "a": "s+k"},
    ),
    Template(
        "combine_and_pack",
        (
            "{A} picks {a} {things}.",
            "{B} picks {b} {things}.",
            "They pack all of them into {boxes} of {n}.",
        ),
        "How many {boxes} do they fill?",
        (
            "They pick [x=a+b] {things} together.",
            "They fill [y=x/n] {boxes}.",
        ),
        {"n": (2, 9), "p": (4, 50), "b": (2, 150)},
        {"s": "n*p", "a": "s-b"},
    ),
    Template(
        "weekly_wage",
        (
            "{A} works {h} hours a day at the {place}.",
            "{He} earns ${p} an hour.||{He} is paid ${p} for each hour.",
        ),
        "How many dollars does {A} earn in {d} days?",
        (
            "{A} earns [$x=h*p] a day.",
            "In {d} days {he} earns [$y=x*d].",
        ),
        {"h": (2, 8), "p": (5, 20), "d": (2, 7)},
    ),
    Template(
        "half_sold",
        (
            "{A} bakes {t} {things}.||{A} brings {t} {things} to the {place}.",
            "{He} sells half of them in the morning and {c} in the afternoon.",
        ),
        "How many {things} did {he} sell that day?",
        (
            "In the morning {A} sold [x=t/2] {things}.",
            "In total {he} sold [y=x+c] {things}.",
        ),
        {"m": (5, 200), "c": (2, 100)},
        {"t": "m*2"},
    ),
    Template(
        "two_prices",
        (
            "A {thing} costs ${p} and a {other} costs ${q}.",
            "{A} buys {n} of each.||{A} takes {n} {things} and {n} {others}.",
        ),
        "How much does {A} spend?||What does {he} pay in dollars?",
        (
            "One of each costs [$x=p+q].",
            "{A} pays [$y=x*n].",
        ),
        {"p": (2, 40), "q": (2, 40), "n": (2, 9)},
    ),
    Template(
        "people_on_bus",
        (
            "A bus leaves the {place} with {a} people.",
            "At the first stop {b} people get off and {c} people get on.",
        ),
        "How many people are on the bus now?",
        (
            "After {b} got off there are [x=a-b] people.",
            "Then there are [y=x+c] people on the bus.",
        ),
        {"a": (10, 90), "b": (2, 80), "c": (2, 80)},
    ),
    Template(
        "rows_and_extra",
        (
            "There are {n} rows with {p} chairs each in the {place}.",
            "{A} brings {c} more chairs.||Another {c} chairs stand at the wall.",
        ),
        "How many chairs are there in all?",
        (
            "The rows have [x=n*p] chairs.",
            "In all there are [y=x+c] chairs.",
        ),
        {"n": (2, 12), "p": (4, 50), "c": (2, 200)},
        free_order=True,
    ),
    Template(
        "tank_fills",
        (
            "A tank holds {t} liters.",
            "There are {a} liters in it already.",
            "A pump adds {r} liters every minute.",
        ),
        "After how many minutes is the tank full?",
        (
            "The tank needs [x=t-a] more liters.",
            "That takes [y=x/r] minutes.",
        ),
        {"a": (5, 300), "r": (2, 12), "m": (2, 50)},
        {"s": "r*m", "t": "s+a"},
        free_order=True,
    ),
    Template(
        "distance_left",
        (
            "{A} rides {v} kilometers an hour for {h} hours.",
            "The whole way to the {place} is {t} kilometers.",
        ),
        "How many kilometers are left?",
        (
            "{A} has done [x=v*h] kilometers.",
            "There are [y=t-x] kilometers left.",
        ),
        {"v": (4, 60), "h": (2, 8), "t": (50, 600, 5)},
        free_order=True,
    ),
    Template(
        "cookies_per_child",
        (
            "{A} bakes {n} trays of {p} cookies.",
            "{He} gives them to {k} {friends}, the same number to each.",
        ),
        "How many cookies does each {friend} get?",
        (
            "{A} bakes [x=n*p] cookies.",
            "Each {friend} gets [y=x/k] cookies.",
        ),
        {"n": (2, 12), "p": (4, 40), "k": (2, 9)},
    ),
    Template(
        "age_later",
        (
            "{A} is {a} years old.",
            "{B} is {b} years older than {A}.",
        ),
        "How old will {B} be in {c} years?",
        (
            "{B} is [x=a+b] years old.",
            "In {c} years {B} will be [y=x+c] years old.",
        ),
        {"a": (3, 50), "b": (2, 40), "c": (2, 30)},
        free_order=True,
    ),
    Template(
        "eats_each_day",
        (
            "{A} has {t} {things}.",
            "{He} uses {p} {things} a day for {n} days.",
        ),
        "How many {things} are left after that?",
        (
            "{A} uses [x=p*n] {things}.",
            "There are [y=t-x] {things} left.",
        ),
        {"p": (2, 40), "n": (2, 9), "t": (20, 500)},
    ),
    Template(
        "each_costs",
        (
            "{A} paid ${t} for {n} {things} and a {other}.",
            "The {other} cost ${q}.",
        ),
        "How much did one {thing} cost?",
        (
            "The {things} cost [$x=t-q] together.",
            "One {thing} cost [$y=x/n].",
        ),
        {"n": (2, 9), "p": (2, 50), "q": (2, 90)},
        {"s": "n*p", "t": "s+q"},
    ),
    Template(
        "missing_part",
        (
            "{A}, {B} and {C} have {t} {things} together.",
            "{A} has {a} and {B} has {b}.",
        ),
        "How many {things} does {C} have?",
        (
            "{A} and {B} have [x=a+b] {things}.",
            "{C} has [y=t-x] {things}.",
        ),
        {"a": (2, 200), "b": (2, 200), "c": (2, 200)},
        {"t": "a+b+c"},
    ),
)
