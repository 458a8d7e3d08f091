"""Templates whose answers take one step."""

from __future__ import annotations

from mxmoe.evals.grade_school.template import Template

TEMPLATES = (
    Template(
        "buys_more",
        (
            "{A} has {a} {things}.||There are {a} {things} in {A}'s {box}.",
            "{He} buys {b} more {things} at the {place}.||{He} finds {b} more.",
        ),
        "How many {things} does {A} have now?||How many {things} is that in total?",
        ("{A} has [x=a+b] {things} now.",),
        {"a": (3, 300), "b": (3, 300)},
    ),
    Template(
        "gives_away",
        (
            "{A} had {a} {things}.||{A} collected {a} {things}.",
            "{He} gave {b} of them to {B}.||{He} lost {b} of them at the {place}.",
        ),
        "How many {things} does {A} have left?||How many {things} are left?",
        ("{A} has [x=a-b] {things} left.",),
        {"a": (10, 500), "b": (2, 400)},
    ),
    Template(
        "full_boxes",
        (
            "There are {n} {boxes} at the {place}.||{A} has {n} {boxes}.",
            "Each {box} holds {p} {things}.||There are {p} {things} in every {box}.",
        ),
        "How many {things} are there in all?||How many {things} is that altogether?",
        ("There are [x=n*p] {things} in all.",),
        {"n": (2, 12), "p": (3, 60)},
        free_order=True,
    ),
    Template(
        "shared_equally",
        (
            "{A} shares {t} {things} equally among {n} {friends}."
            "||{n} {friends} share {t} {things} equally.",
        ),
        "How many {things} does each {friend} get?",
        ("Each {friend} gets [x=t/n] {things}.",),
        {"n": (2, 12), "p": (2, 60)},
        {"t": "n*p"},
    ),
    Template(
        "price_of_many",
        ("One {thing} costs ${p} at the {place}.", "{A} buys {n} {things}."),
        "How much does {A} pay?||How many dollars does {A} spend?",
        ("{A} pays [$x=n*p].",),
        {"n": (2, 12), "p": (2, 60)},
        free_order=True,
    ),
    Template(
        "how_many_more",
        ("{A} has {a} {things}.", "{B} has {b} {things}."),
        "How many more {things} does {A} have than {B}?",
        ("{A} has [x=a-b] more {things} than {B}.",),
        {"a": (20, 400), "b": (3, 350)},
        free_order=True,
    ),
    Template(
        "packed_evenly",
        (
            "{A} packs {t} {things} into {boxes}.",
            "{He} puts {p} {things} into each {box}.||Each {box} takes {p} {things}.",
        ),
        "How many {boxes} does {A} need?||How many {boxes} does {he} fill?",
        ("{A} needs [x=t/p] {boxes}.",),
        {"n": (2, 60), "p": (2, 12)},
        {"t": "n*p"},
    ),
    Template(
        "days_until_full",
        (
            "{A} wants to save ${t} for a trip to the {place}.",
            "{He} already has ${a}.||So far {he} saved ${a}.",
        ),
        "How many more dollars does {he} need?",
        ("{A} needs [$x=t-a] more.",),
        {"t": (50, 900), "a": (10, 800)},
    ),
    Template(
        "read_per_day",
        ("{A} reads {p} pages every day.||Every day {A} reads {p} pages of a book.",),
        "How many pages does {he} read in {n} days?",
        ("{A} reads [x=n*p] pages.",),
        {"n": (2, 12), "p": (5, 70)},
    ),
    Template(
        "three_parts",
        (
            "{A} found {a} {things} on {day}.",
            "{B} found {b} {things}.",
            "{C} found {c} {things}.",
        ),
        "How many {things} did they find together?",
        ("Together they found [x=a+b+c] {things}.",),
        {"a": (2, 60), "b": (2, 60), "c": (2, 60)},
        free_order=True,
    ),
)
