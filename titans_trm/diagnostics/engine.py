"""`Engine`: feeds signals to rules, waits for enough evidence, and raises one alarm per cause.

A rule says at each check whether its criterion holds. The engine believes it after `needed` of its last `window`
checks. A believed finding then waits `settle_checks` checks for a better explanation: symptoms often show before their
cause. Where an active or waiting alert `explains` it, it is written down as an effect of that alert and nobody is
called twice (one storm, one alarm). An alert is over after `clear` checks without its criterion.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from titans_trm.diagnostics.alert import SEVERITIES, Alert, Severity, at_least
from titans_trm.diagnostics.config import DiagnosticsConfig
from titans_trm.diagnostics.rule import ALL, Finding, Rule
from titans_trm.diagnostics.signals import RunFacts, Signals


@dataclass
class Update:
    """What changed at one check."""

    raised: list[Alert] = field(default_factory=list)  # new root causes, in causal order
    effects: list[Alert] = field(default_factory=list)  # alerts explained by another, their `cause`
    escalated: list[Alert] = field(default_factory=list)  # active alerts that became graver
    cleared: list[Alert] = field(default_factory=list)  # alerts that are over

    def events(self) -> Iterable[tuple[str, Alert]]:
        """Yield (event of `events.jsonl`, alert) in the order in which they are written."""
        yield from (("alert", alert) for alert in self.raised)
        yield from (("effect", alert) for alert in self.effects)
        yield from (("escalated", alert) for alert in self.escalated)
        yield from (("cleared", alert) for alert in self.cleared)


@dataclass
class _Track:
    """How one rule has fared lately."""

    hits: list[int]  # steps of the window's checks at which the criterion held
    checks: list[int]  # steps of the window's checks
    quiet: int = 0  # checks since the criterion last held
    waiting_since: int | None = None  # checks counted when evidence sufficed, until it is raised; None = it does not
    since_step: int = 0  # of the first check of that evidence
    muted_until: int = -1  # step before which a cleared alert is not raised again


class Engine:
    """Turn a sequence of `Signals` into alerts.

    Args:
        rules: in causal order: of two that appear together and do not explain each other, the first comes first.
        facts: of the run.
        config: warm-up, settling time, cool-down.
    """

    def __init__(self, rules: Sequence[Rule], facts: RunFacts, config: DiagnosticsConfig) -> None:
        self.rules = {rule.id: rule for rule in rules}
        self.facts = facts
        self.config = config
        self.active: dict[str, Alert] = {}  # by rule
        self.alerts: list[Alert] = []  # everything ever raised or written down as an effect, newest state
        self.looked: list[str] = []  # rules that had what they watch at least once
        self.checks = 0
        self.last_step = 0
        self._tracks = {rule.id: _Track([], []) for rule in rules}
        self._findings: dict[str, Finding] = {}  # newest of each rule
        self._explains = _closure(rules)
        self._order = {rule.id: place for place, rule in enumerate(rules)}

    @property
    def warm_up_steps(self) -> int:
        """Steps during which rules with a warm-up are silent."""
        share = int(self.config.warm_up_share * self.facts.max_steps)
        return max(2 * self.facts.warmup_steps, min(self.config.warm_up_steps, share))

    def update(self, signals: Signals) -> Update:
        """Look at one check's signals and return what changed."""
        self.checks += 1
        self.last_step = signals.step
        update = Update()
        for rule in self.rules.values():
            if not rule.can_look(signals):
                continue
            if rule.id not in self.looked:
                self.looked.append(rule.id)
            finding = rule.look(signals)
            if rule.warm_up and signals.step <= self.warm_up_steps:
                finding = None
            self._note(rule, finding, signals.step, update)
        self._raise_settled(signals.step, update)
        return update

    def finish(self) -> Update:
        """Raise what still waits: the run is over, no better explanation will come."""
        update = Update()
        self._raise_settled(self.last_step, update, at_once=True)
        return update

    def diagnosis(self) -> list[Alert]:
        """Return the root causes found so far: alarms before mere notes, then by step, then in causal order."""
        roots = [alert for alert in self.alerts if alert.cause is None]
        return sorted(
            roots, key=lambda a: (not at_least(a.severity, "warn"), a.step, self._order[a.rule], a.since_step)
        )

    def standing(self, severity: Severity = "warn") -> list[Alert]:
        """Return the root causes of `severity` and above that are not over, in the order of `diagnosis`."""
        now = [alert for alert in self.diagnosis() if self.active.get(alert.rule) == alert]
        return [alert for alert in now if at_least(alert.severity, severity)]

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides what is raised next, as plain values; rules about the process are left out."""
        lasting = [name for name, rule in self.rules.items() if not rule.of_process]
        return {
            "checks": self.checks,
            "last_step": self.last_step,
            "looked": list(self.looked),
            "active": list(self.active),
            "alerts": [alert.to_dict() for alert in self.alerts],
            "tracks": {name: dict(vars(self._tracks[name])) for name in lasting},
            "findings": {name: dict(vars(self._findings[name])) for name in lasting if name in self._findings},
            "rules": {name: self.rules[name].state_dict() for name in lasting},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; rules that were not there then start anew."""
        self.checks, self.last_step, self.looked = state["checks"], state["last_step"], list(state["looked"])
        self.alerts = [Alert.from_dict(alert) for alert in state["alerts"]]
        self.active = {alert.rule: alert for alert in self.alerts if alert.rule in state["active"]}
        for name, rule in self.rules.items():
            if name in state["tracks"]:
                self._tracks[name] = _Track(**state["tracks"][name])
                rule.load_state_dict(state["rules"][name])
            if name in state["findings"]:
                self._findings[name] = Finding(**state["findings"][name])

    def _note(self, rule: Rule, finding: Finding | None, step: int, update: Update) -> None:
        """Take one look of a rule into its track; end its alert where it has been quiet for long enough."""
        track = self._tracks[rule.id]
        track.checks = [*track.checks, step][-rule.window :]
        if finding is not None:
            self._findings[rule.id] = finding
            track.hits, track.quiet = [*track.hits, step], 0
        else:
            track.quiet += 1
        track.hits = [hit for hit in track.hits if hit >= track.checks[0]]
        alert = self.active.get(rule.id)
        if alert is None:
            enough = len(track.hits) >= rule.needed and step >= track.muted_until
            if enough and track.waiting_since is None:
                track.waiting_since, track.since_step = self.checks, track.hits[0]
        elif finding is None and track.quiet >= rule.clear:
            del self.active[rule.id]
            track.waiting_since, track.hits = None, []
            track.muted_until = step + self.config.cooldown_steps
            update.cleared.append(replace(alert, step=step))
        elif finding is not None and SEVERITIES.index(_severity(rule, finding)) > SEVERITIES.index(alert.severity):
            update.escalated.append(self._keep(self._alert(rule, step, cause=alert.cause, effects=alert.effects)))

    def _raise_settled(self, step: int, update: Update, at_once: bool = False) -> None:
        """Raise what has waited long enough, and with it everything that it explains or that explains it."""
        waiting = [name for name in self.rules if self._waits(name)]
        if not any(at_once or self._is_due(name) for name in waiting):
            return
        for name in sorted(waiting, key=self._order.__getitem__):
            cause = self._cause(name, waiting)
            if cause is None and (at_once or self._is_due(name) or self._has_due_effect(name, waiting)):
                update.raised.append(self._keep(self._alert(self.rules[name], step)))
        for name in waiting:
            cause = self._cause(name, ())
            if name not in self.active and cause is not None:
                update.effects.append(self._keep(self._alert(self.rules[name], step, cause=cause)))
                self._add_effect(cause, name)
        for raised in list(update.raised):
            self._take_over(raised.rule, update)
        update.raised = [self.active[alert.rule] for alert in update.raised]

    def _waits(self, name: str) -> bool:
        return name not in self.active and self._tracks[name].waiting_since is not None

    def _is_due(self, name: str) -> bool:
        since = self._tracks[name].waiting_since
        assert since is not None
        grave = self._graveness(name) == "fatal"
        return grave or self.checks - since >= self.config.settle_checks

    def _graveness(self, name: str) -> Severity:
        return _severity(self.rules[name], self._findings[name])

    def _has_due_effect(self, name: str, waiting: Sequence[str]) -> bool:
        return any(other in self._explains[name] and self._is_due(other) for other in waiting)

    def _cause(self, name: str, waiting: Sequence[str]) -> str | None:
        """Return the active or waiting rule that explains `name`: the deepest in causal order."""
        severity = self._graveness(name)
        for other in self.rules:
            if name in self._explains[other] and other != name:
                alert = self.active.get(other) or self._over_lately(other)
                if alert is not None and alert.cause is None and not _hides(alert.severity, severity):
                    return other
                # Of two that explain each other, the first in causal order is the cause.
                mutual = other in self._explains[name] and self._order[name] < self._order[other]
                if other in waiting and not mutual and not _hides(self._graveness(other), severity):
                    return other
        return None

    def _over_lately(self, name: str) -> Alert | None:
        """Return the newest alert of a rule if it was over only a storm ago: its effects may come late."""
        over = self._tracks[name].muted_until - self.config.cooldown_steps
        if over < 0 or self.last_step - over > self.config.storm_steps:
            return None
        return next(alert for alert in reversed(self.alerts) if alert.rule == name)

    def _take_over(self, name: str, update: Update) -> None:
        """Turn active alerts that the new root cause explains, and that began with it, into its effects."""
        new = self.active[name]
        for other, alert in list(self.active.items()):
            recent = new.since_step - alert.since_step <= self.config.storm_steps
            explained = other in self._explains[name] and not _hides(new.severity, alert.severity)
            if other != name and alert.cause is None and explained and recent:
                update.effects.append(self._keep(replace(alert, cause=name)))
                self._add_effect(name, other)
        update.raised = [alert for alert in update.raised if self.active[alert.rule].cause is None]

    def _add_effect(self, cause: str, effect: str) -> None:
        place = max(index for index, one in enumerate(self.alerts) if one.rule == cause)
        alert = self.alerts[place]
        if effect not in alert.effects:
            self.alerts[place] = replace(alert, effects=(*alert.effects, effect))
            if cause in self.active:
                self.active[cause] = self.alerts[place]

    def _alert(self, rule: Rule, step: int, cause: str | None = None, effects: tuple[str, ...] = ()) -> Alert:
        finding = self._findings[rule.id]
        return Alert(
            rule=rule.id,
            severity=_severity(rule, finding),
            step=step,
            since_step=self._tracks[rule.id].since_step,
            message=finding.message,
            evidence=finding.evidence,
            scope=finding.scope,
            cause=cause,
            effects=effects,
            remedies=rule.remedies(finding),
        )

    def _keep(self, alert: Alert) -> Alert:
        """Make `alert` the newest state of its rule's active alert."""
        old = self.active.get(alert.rule)
        self.active[alert.rule] = alert
        if old is None:
            self.alerts.append(alert)
        else:
            self.alerts[max(i for i, one in enumerate(self.alerts) if one.rule == alert.rule)] = alert
        return alert


def _severity(rule: Rule, finding: Finding) -> Severity:
    return finding.severity or rule.severity


def _hides(cause: Severity, effect: Severity) -> bool:
    """Tell whether an effect is too grave to be hidden behind a cause that calls nobody."""
    return not at_least(cause, "warn") and at_least(effect, "warn")


def _closure(rules: Sequence[Rule]) -> dict[str, frozenset[str]]:
    """Return for each rule everything it explains, directly or through what it explains."""
    everything = frozenset(rule.id for rule in rules)
    direct = {rule.id: everything if rule.explains == ALL else rule.explains for rule in rules}
    found = {}
    for name in direct:
        reached: set[str] = set()
        todo = list(direct[name])
        while todo:
            other = todo.pop()
            if other not in reached and other != name:
                reached.add(other)
                todo.extend(direct.get(other, ()))
        found[name] = frozenset(reached)
    return found
