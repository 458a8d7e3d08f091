"""Templates whose answers take three steps."""

from __future__ import annotations

from mxmoe.evals.grade_school.template import Template

TEMPLATES = (
    Template(
        "two_purchases",
        (
            "{A} buys {n} {things} for ${p} each.",
            "{He} also buys {m} {others} for ${q} each.",
        ),
        "How much does {A} spend in total?||How many dollars is that altogether?",
        (
            "The {things} cost [$x=n*p].",
            "The {others} cost [$y=m*q].",
            "In total {A} spends [$z=x+y].",
        ),
        {"n": (2, 9), "p": (2, 40), "m": (2, 9), "q": (2, 40)},
    ),
    Template(
        "three_people",
        (
            "{A} has {a} {things}.",
            "{B} has {n} times as many as {A}.",
            "{C} has {c} fewer than {B}.",
        ),
        "How many {things} do {A} and {C} have together?",
        (
            "{B} has [x=n*a] {things}.",
            "{C} has [y=x-c] {things}.",
            "{A} and {C} have [z=a+y] {things}.",
        ),
        {"a": (3, 50), "n": (2, 8), "c": (2, 90)},
    ),
    Template(
        "sells_and_splits",
        (
            "{A} and {B} sell {n} {boxes} with {p} {things} each for $1 a {thing}.",
            "They pay ${c} for the stand and split the rest equally.",
        ),
        "How many dollars does each of them get?",
        (
            "They take in [$x=n*p].",
            "After the stand they have [$y=x-c].",
            "Each of them gets [$z=y/2].",
        ),
        {"n": (2, 12), "p": (4, 50), "c": (2, 90)},
    ),
    Template(
        "money_left_after_two",
        (
            "{A} has ${m}.||{A} goes to the {place} with ${m}.",
            "{He} buys a {thing} for ${p} and {n} {others} for ${q} each.",
        ),
        "How much money does {A} have left?",
        (
            "After the {thing} {A} has [$x=m-p].",
            "The {others} cost [$y=n*q].",
            "{A} has [$z=x-y] left.",
        ),
        {"m": (40, 600), "p": (2, 90), "n": (2, 9), "q": (2, 40)},
    ),
    Template(
        "week_of_pages",
        (
            "A book has {t} pages.",
            "{A} reads {p} pages a day for {d} days.",
            "On {day} {he} reads {c} more pages.",
        ),
        "How many pages are left to read?",
        (
            "In {d} days {A} reads [x=p*d] pages.",
            "With {day} that is [y=x+c] pages.",
            "There are [z=t-y] pages left.",
        ),
        {"t": (80, 700, 10), "p": (4, 40), "d": (2, 9), "c": (3, 60)},
    ),
    Template(
        "garden_rows",
        (
            "{A} plants {n} rows of {p} flowers.",
            "{B} plants {m} rows of {p} flowers.",
        ),
        "How many more flowers does {A} plant than {B}?",
        (
            "{A} plants [x=n*p] flowers.",
            "{B} plants [y=m*p] flowers.",
            "{A} plants [z=x-y] more.",
        ),
        {"n": (4, 12), "m": (2, 11), "p": (3, 40)},
        free_order=True,
    ),
    Template(
        "average_of_three",
        (
            "{A} scored {a} points in the first game.",
            "{He} scored {b} points in the second game and {c} in the third.",
        ),
        "How many points is that per game on average?",
        (
            "In two games {A} scored [x=a+b] points.",
            "In all games {he} scored [y=x+c] points.",
            "The average is [z=y/3] points.",
        ),
        {"a": (4, 60), "b": (4, 60), "p": (4, 60)},
        {"s": "p*3", "r": "a+b", "c": "s-r"},
    ),
    Template(
        "stock_of_shop",
        (
            "A shop has {a} {things}.",
            "On {day} it sells {b} of them.",
            "On {day2} it gets {n} {boxes} with {p} {things} each.",
        ),
        "How many {things} does the shop have now?",
        (
            "After {day} the shop has [x=a-b] {things}.",
            "It gets [y=n*p] {things}.",
            "Now it has [z=x+y] {things}.",
        ),
        {"a": (20, 400), "b": (3, 300), "n": (2, 9), "p": (3, 40)},
    ),
    Template(
        "wage_and_savings",
        (
            "{A} earns ${p} an hour and works {h} hours a week.",
            "{He} spends ${c} every week and saves the rest.",
        ),
        "How many dollars does {A} save in {w} weeks?",
        (
            "{A} earns [$x=p*h] a week.",
            "{He} saves [$y=x-c] a week.",
            "In {w} weeks {he} saves [$z=y*w].",
        ),
        {"p": (5, 20), "h": (3, 12), "c": (10, 150), "w": (2, 9)},
    ),
    Template(
        "animals_legs",
        (
            "There are {a} cows and {b} hens on {A}'s farm.",
            "A cow has 4 legs and a hen has 2 legs.||Cows have 4 legs, hens have 2.",
        ),
        "How many legs is that in all?||How many legs do they have together?",
        (
            "The cows have [x=a*4] legs.",
            "The hens have [y=b*2] legs.",
            "Together that is [z=x+y] legs.",
        ),
        {"a": (2, 60), "b": (2, 90)},
    ),
    Template(
        "half_then_some",
        (
            "{A} has {t} {things}.",
            "{He} gives half of them to {B}.",
            "Then {he} gives {c} to {C} and finds {d} more.",
        ),
        "How many {things} does {A} have in the end?",
        (
            "{A} gives away [x=t/2] {things} and keeps as many.",
            "After {C} got some {A} has [y=x-c] {things}.",
            "In the end {A} has [z=y+d] {things}.",
        ),
        {"m": (8, 200), "c": (2, 150), "d": (2, 150)},
        {"t": "m*2"},
    ),
    Template(
        "tickets_for_family",
        (
            "A ticket to the {place} costs ${p} for adults and ${q} for children.",
            "{n} adults and {m} children go there.",
        ),
        "How many dollars do they pay?||What do the tickets cost in dollars?",
        (
            "The adults pay [$x=n*p].",
            "The children pay [$y=m*q].",
            "They pay [$z=x+y] in all.",
        ),
        {"n": (2, 9), "m": (2, 9), "p": (5, 40), "q": (2, 30)},
        free_order=True,
    ),
    Template(
        "road_trip",
        (
            "{A} drives {v} kilometers an hour for {h} hours.",
            "Then {he} drives {w} kilometers an hour for {g} hours.",
        ),
        "How many kilometers does {A} drive?",
        (
            "First {A} drives [x=v*h] kilometers.",
            "Then {he} drives [y=w*g] kilometers.",
            "Altogether {he} drives [z=x+y] kilometers.",
        ),
        {"v": (20, 90, 5), "h": (2, 6), "w": (20, 90, 5), "g": (2, 6)},
    ),
    Template(
        "discount_each",
        (
            "A {thing} costs ${p}.",
            "With a card from the {place} it costs ${c} less.",
            "{A} has such a card and buys {n} {things} with ${m}.",
        ),
        "How many dollars does {A} have left?",
        (
            "With the card a {thing} costs [$x=p-c].",
            "{A} pays [$y=n*x].",
            "{A} has [$z=m-y] left.",
        ),
        {"p": (6, 60), "c": (2, 40), "n": (2, 9), "m": (50, 500, 10)},
    ),
    Template(
        "eggs_of_hens",
        (
            "{A} has {n} hens and each lays {p} eggs a week.",
            "{He} eats {c} eggs a week and sells the rest in boxes of {k}.",
        ),
        "How many boxes does {A} sell each week?",
        (
            "The hens lay [x=n*p] eggs.",
            "{A} sells [y=x-c] eggs.",
            "That makes [z=y/k] boxes.",
        ),
        {"n": (4, 40), "p": (3, 7), "c": (2, 40), "k": (2, 9)},
    ),
    Template(
        "teams_and_rest",
        (
            "{a} girls and {b} boys come to the {place}.",
            "{c} of them go home.",
            "The others make {n} teams of the same size.",
        ),
        "How many are there in each team?",
        (
            "At first there are [x=a+b] of them.",
            "Then there are [y=x-c].",
            "Each team has [z=y/n].",
        ),
        {"a": (5, 150), "p": (3, 40), "n": (2, 9), "c": (2, 60)},
        {"s": "n*p", "r": "s+c", "b": "r-a"},
    ),
    Template(
        "older_sum",
        (
            "{A} is {a} years old.",
            "{B} is {n} times as old as {A}.",
            "{C} is {c} years younger than {B}.",
        ),
        "How old will {C} be in {d} years?",
        (
            "{B} is [x=a*n] years old.",
            "{C} is [y=x-c] years old.",
            "In {d} years {C} will be [z=y+d].",
        ),
        {"a": (4, 25), "n": (2, 5), "c": (2, 40), "d": (2, 20)},
    ),
    Template(
        "two_days_sum",
        (
            "On {day} {A} made {a} {things}.",
            "On {day2} {he} made {n} times as many.",
            "{He} sold {c} of them all.",
        ),
        "How many {things} are left?",
        (
            "On {day2} {A} made [x=n*a] {things}.",
            "In both days {he} made [y=a+x] {things}.",
            "There are [z=y-c] left.",
        ),
        {"a": (4, 60), "n": (2, 8), "c": (2, 300)},
    ),
    Template(
        "fill_shelves",
        (
            "A library has {n} shelves with {p} books each and {r} books on a table.",
            "{A} moves all of them to a new room.",
        ),
        "How many trips does {he} make with {k} books a trip?",
        (
            "There are [x=n*p] books on the shelves.",
            "With the others there are [y=x+r] books.",
            "{A} makes [z=y/k] trips.",
        ),
        {"n": (2, 9), "p": (4, 40), "r": (3, 60), "k": (2, 9)},
    ),
)
