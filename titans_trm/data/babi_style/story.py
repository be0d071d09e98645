"""A world in which people walk, take things and leave them; the facts of a story, and what follows from them."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

PEOPLE = ("Ada", "Ben", "Cleo", "Dora", "Emil", "Fay")
THINGS = ("apple", "book", "coin", "drum", "key", "lamp")
PLACES = ("attic", "barn", "cellar", "garden", "kitchen", "office", "porch", "studio")

Pick = Callable[[int], int]  # n -> a random number below n

_FACT = re.compile(
    r"(?P<who>[A-Z]\w+) (?:went to the (?P<place>\w+)|took the (?P<thing>\w+)|left the (?P<left>\w+) there)\. "
)
_QUESTION = re.compile(
    r"\nWhere (?:is (?P<who>[A-Z]\w+)|is the (?P<thing>\w+)|was the (?P<before>\w+) before the (?P<then>\w+))\? "
)


@dataclass
class World:
    """Where everybody and everything is, as far as the facts say."""

    place: dict[str, str] = field(default_factory=dict)  # of people
    holder: dict[str, str] = field(default_factory=dict)  # of things that are carried
    history: dict[str, list[str]] = field(default_factory=dict)  # places of things, the last one first known last

    def go(self, who: str, place: str) -> str:
        """Move a person, and what is carried with them."""
        self.place[who] = place
        for thing, holder in self.holder.items():
            if holder == who:
                self._note(thing, place)
        return f"{who} went to the {place}. "

    def take(self, who: str, thing: str) -> str:
        """Give a thing to a person whose place is known."""
        self.holder[thing] = who
        self._note(thing, self.place[who])
        return f"{who} took the {thing}. "

    def leave(self, who: str, thing: str) -> str:
        """Put a carried thing down."""
        del self.holder[thing]
        return f"{who} left the {thing} there. "

    def _note(self, thing: str, place: str) -> None:
        places = self.history.setdefault(thing, [])
        if not places or places[-1] != place:
            places.append(place)


def tell(variant: str, count: int, pick: Pick) -> tuple[list[str], str, str]:
    """Return `count` facts in order, the question, and its one-word answer."""
    world, facts = World(), []
    if variant != "qa1":  # one thing at least has been carried, for qa3 from one place to another
        who = PEOPLE[pick(len(PEOPLE))]
        facts.append(world.go(who, PLACES[pick(len(PLACES))]))
        facts.append(world.take(who, THINGS[pick(len(THINGS))]))
        facts.append(_walk(world, who, pick))
    while len(facts) < count:
        facts.append(_happen(world, variant, pick))
    if variant == "qa1":
        who = sorted(world.place)[pick(len(world.place))]
        return facts, f"\nWhere is {who}? ", world.place[who]
    known = sorted(thing for thing, places in world.history.items() if len(places) >= 2 or variant == "qa2")
    thing = known[pick(len(known))]
    places = world.history[thing]
    if variant == "qa2":
        return facts, f"\nWhere is the {thing}? ", places[-1]
    return facts, f"\nWhere was the {thing} before the {places[-1]}? ", places[-2]


def derive(text: str) -> str:
    """Return the answer to the question at the end of a text, worked out from its facts; "" when it has none."""
    world = World()
    for fact in _FACT.finditer(text):
        who = fact["who"]
        if fact["place"]:
            world.go(who, fact["place"])
        elif fact["thing"]:
            world.take(who, fact["thing"])
        else:
            world.leave(who, fact["left"])
    asked = list(_QUESTION.finditer(text))
    if len(asked) != 1:
        return ""
    question = asked[0]
    if question["who"]:
        return world.place.get(question["who"], "")
    if question["thing"]:
        return world.history.get(question["thing"], [""])[-1]
    places = world.history.get(question["before"], [])
    return places[-2] if len(places) > 1 and places[-1] == question["then"] else ""


def _happen(world: World, variant: str, pick: Pick) -> str:
    """Let one thing happen that is possible now."""
    who = PEOPLE[pick(len(PEOPLE))]
    kind = 0 if variant == "qa1" else pick(4)  # half of the facts are walks
    if kind == 2 and who in world.place:
        free = [thing for thing in THINGS if _can_take(world, who, thing)]
        if free:
            return world.take(who, free[pick(len(free))])
    if kind == 3:
        held = sorted(thing for thing, holder in world.holder.items() if holder == who)
        if held:
            return world.leave(who, held[pick(len(held))])
    return _walk(world, who, pick)


def _can_take(world: World, who: str, thing: str) -> bool:
    """Tell whether nobody holds a thing, and it was not last seen elsewhere."""
    places = world.history.get(thing)
    return thing not in world.holder and (places is None or places[-1] == world.place[who])


def _walk(world: World, who: str, pick: Pick) -> str:
    others = [place for place in PLACES if place != world.place.get(who)]
    return world.go(who, others[pick(len(others))])
