"""Names, nouns and places that fill the templates' blanks."""

from __future__ import annotations

# name, he/she, his/her, him/her
_HE = ("he", "his", "him")
_SHE = ("she", "her", "her")
# fmt: off
NAMES: tuple[tuple[str, tuple[str, str, str]], ...] = (
    *((name, _SHE) for name in (
        "Ana", "Betty", "Carla", "Dina", "Ella", "Fatima", "Grace", "Helen", "Irene",
        "Jade", "Kim", "Lucy", "Maria", "Nora", "Olga", "Priya", "Rosa", "Sara",
        "Tina", "Yuki",
    )),
    *((name, _HE) for name in (
        "Adam", "Ben", "Carlos", "David", "Emil", "Frank", "George", "Hugo", "Ivan",
        "Jack", "Kofi", "Leo", "Mark", "Noah", "Omar", "Peter", "Raj", "Sam", "Tom",
        "Victor",
    )),
)

# singular, plural: things that are counted, bought, given away
THINGS: tuple[tuple[str, str], ...] = (
    ("apple", "apples"), ("orange", "oranges"), ("pencil", "pencils"),
    ("book", "books"), ("marble", "marbles"), ("sticker", "stickers"),
    ("card", "cards"), ("cookie", "cookies"), ("shell", "shells"),
    ("stamp", "stamps"), ("balloon", "balloons"), ("egg", "eggs"),
    ("pear", "pears"), ("lemon", "lemons"), ("flower", "flowers"),
    ("candle", "candles"), ("muffin", "muffins"), ("ticket", "tickets"),
    ("button", "buttons"), ("coin", "coins"), ("toy", "toys"),
    ("notebook", "notebooks"), ("peach", "peaches"), ("cup", "cups"),
    ("plate", "plates"), ("bead", "beads"), ("photo", "photos"),
    ("ribbon", "ribbons"), ("crayon", "crayons"), ("bottle", "bottles"),
    ("towel", "towels"), ("poster", "posters"),
)

CONTAINERS: tuple[tuple[str, str], ...] = (
    ("box", "boxes"), ("bag", "bags"), ("basket", "baskets"), ("jar", "jars"),
    ("crate", "crates"), ("drawer", "drawers"), ("shelf", "shelves"),
    ("tray", "trays"),
)

PLACES: tuple[str, ...] = (
    "market", "shop", "fair", "school", "library", "station", "park", "museum",
    "bakery", "farm",
)

GROUPS: tuple[tuple[str, str], ...] = (
    ("friend", "friends"), ("cousin", "cousins"), ("neighbor", "neighbors"),
    ("classmate", "classmates"), ("child", "children"), ("student", "students"),
)

DAYS: tuple[str, ...] = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)
# fmt: on
