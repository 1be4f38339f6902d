"""The answers as tables in Markdown, and whether they are good enough."""

from cases import ARCHITECTURES, MADE, RELEASED, UNDECIDED
from tools import REFUSED, UNREAD, WARNED

# What is asked of ckpt.
MISSED, FALSE_ALARMS, RELEASED_MODELS = 0.05, 0.02, 25


class Column:
    """A program, and what is taken for its refusal."""

    def __init__(self, program, label, warnings=False, ours=False):
        self.program, self.label, self.ours = program, label, ours
        self.refusing = {REFUSED, WARNED} if warnings else {REFUSED}

    def wrong(self, row):
        """Whether the answer on a case is not the truth."""
        answer = row.answers[self.program][0]
        if row.case.sick:
            return not (answer in self.refusing or answer == UNREAD and row.case.damaged)
        # That a tool cannot read a file is no false alarm of it; of ckpt it is.
        return answer in self.refusing or answer == UNREAD and self.ours


COLUMNS = [
    Column("ckpt", "ckpt", ours=True),
    Column("weightlens", "weightlens, errors"),
    Column("weightlens", "weightlens, warnings too", warnings=True),
    Column("model-clinic", "model-clinic, errors"),
    Column("model-clinic", "model-clinic, warnings too", warnings=True),
]


class Row:
    """A case with each program's answer and reason."""

    def __init__(self, case, answers):
        self.case, self.answers = case, answers


def table(head, lines):
    """Markdown's table; numbers are to the right."""
    right = ["---" if i == 0 or isinstance(lines[0][i], str) else "---:" for i in range(len(head))]
    rows = [head, right, *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows) + "\n"


def _groups(rows):
    sick = [r for r in rows if r.case.group == MADE and r.case.sick]
    healthy = {group: [r for r in rows if r.case.group == group and r.case.sick is False] for group in (MADE, ARCHITECTURES, RELEASED)}
    return sick, healthy


def summary(rows):
    """Caught, false alarms and unread, by program."""
    sick, healthy = _groups(rows)
    head = ["", f"caught of {len(sick)} sick", f"false alarms in {len(healthy[MADE])} made",
            f"in {len(healthy[ARCHITECTURES])} of architectures", f"in {len(healthy[RELEASED])} released", "could not read"]
    lines = []
    for column in COLUMNS:
        wrong = [sum(map(column.wrong, healthy[group])) for group in (MADE, ARCHITECTURES, RELEASED)]
        unread = sum(r.answers[column.program][0] == UNREAD and not r.case.damaged and r.case.group != UNDECIDED for r in rows)
        lines.append([column.label, len(sick) - sum(map(column.wrong, sick)), *wrong, unread])
    return table(head, lines)


def by_kind(rows, what):
    """Right answers by kind, of the sick or of the healthy."""
    sick, healthy = _groups(rows)
    chosen = sick if what == "sick" else [r for group in healthy.values() for r in group]
    kind_of = lambda row: "released models" if row.case.group == RELEASED else row.case.kind
    kinds = list(dict.fromkeys(map(kind_of, chosen)))
    count = (lambda c, some: len(some) - sum(map(c.wrong, some))) if what == "sick" else (lambda c, some: sum(map(c.wrong, some)))
    lines = []
    for kind in kinds:
        some = [r for r in chosen if kind_of(r) == kind]
        lines.append([kind, len(some), *(count(c, some) for c in COLUMNS)])
    head = ["fault" if what == "sick" else "false alarms, by kind", "cases", *(c.label for c in COLUMNS)]
    return table(head, lines) if lines else ""


def undecided(rows):
    """What cannot be told from the file, and what the programs say of it."""
    lines = [[r.case.name, r.case.why, *(r.answers[p][0] for p in ("ckpt", "weightlens", "model-clinic"))]
             for r in rows if r.case.group == UNDECIDED]
    return table(["case", "why the file alone cannot tell", "ckpt", "weightlens", "model-clinic"], lines) if lines else ""


def wrong(rows):
    """ckpt's misses and false alarms."""
    lines = []
    for row in rows:
        if row.case.group != UNDECIDED and COLUMNS[0].wrong(row):
            said = row.answers["ckpt"][1].splitlines()
            said = " ".join((said[0] if row.case.sick else ": ".join(line.strip(" -") for line in said[1:3])).split())
            lines.append([f"`{row.case.name}`", "missed" if row.case.sick else "false alarm", row.case.why, said[:160].replace("|", "/")])
    return table(["case", "ckpt", "how it comes about", "it says"], lines) if lines else "ckpt is right about all of them.\n"


def failures(rows, complete):
    """What is not as good as it should be; empty where all is."""
    sick, healthy = _groups(rows)
    ours, made = COLUMNS[0], healthy[MADE] + healthy[ARCHITECTURES]
    everything = made + healthy[RELEASED]
    out = []
    missed, alarms, released = (sum(map(ours.wrong, some)) for some in (sick, made, healthy[RELEASED]))
    if missed > MISSED * len(sick):
        out.append(f"{missed} of {len(sick)} sick checkpoints were missed")
    if alarms > FALSE_ALARMS * len(made):
        out.append(f"{alarms} false alarms in {len(made)} made checkpoints")
    if released:
        out.append(f"{released} false alarms in {len(healthy[RELEASED])} released models")
    if not complete:
        return out
    if len(healthy[RELEASED]) < RELEASED_MODELS:
        out.append(f"only {len(healthy[RELEASED])} released models were fetched")
    total = alarms + released
    for column in COLUMNS[1:]:
        if len(sick) - missed <= len(sick) - sum(map(column.wrong, sick)):
            out.append(f"{column.label}: catches no fewer")
        theirs = sum(map(column.wrong, everything))
        if total > theirs or total == theirs > 0:
            out.append(f"{column.label}: {theirs} false alarms, ckpt {total}")
    return out
