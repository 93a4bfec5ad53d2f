"""Faults that a table of results shows by itself, in CSV or LaTeX."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

from reproduce.base.errors import UserError
from reproduce.paper import load_tolerances

# Headings of columns in which less is better, and of those that describe a row.
_LESS = re.compile(r'param|flop|\bmacs?\b|time|latency|memory|err|loss|fid|ppl|rmse|\bwer', re.I)
_DESCRIBES = re.compile(r'size|resol|epoch|sched|seed|depth|dim|blocks|layers|stride|window', re.I)
_BOLD = re.compile(r'\\(?:textbf|bfseries|mathbf|boldsymbol|bf)\b|\*\*')
_NUMBER = re.compile(r'[~≈]?\s*(-?\d[\d,]*\.?\d*)\s*(?:[%MGKlt•≠◦⋆†‡*±ˡᵗ]|\d[\d.]*|\([^)]*\)|\s)*')
_MACRO = re.compile(r'\\(?:multirow{.*?}|c\w*line|cite\w*|\w*color)[^{\s]*{[^}]*}|\\[a-zA-Z]+\*?')
_CHANGE = re.compile(r'(?:(?<![\w.])\+|(?<=\()[-−])\d*\.?\d+')
_CONVENTIONS = {
    'layer FLOPs': re.compile(r'ˡ|(?:subscript|convention){l}|\blayer\b'),
    'total FLOPs': re.compile(r'ᵗ|(?:subscript|convention){t}|\btotal\b'),
}
# Headings of accuracies on the data sets whose images are known.
_RESOLVED = {
    'top1': re.compile(r'top-?1', re.I),
    'box_ap': re.compile(r'\bap[\s^]*(b|box|ᵇ)$|box.?ap$', re.I),
    'mask_ap': re.compile(r'\bap[\s^]*(m|mask|ᵐ)$|mask.?ap$', re.I),
    'miou': re.compile(r'miou', re.I),
}


class LintedRow(NamedTuple):
    """A row: its group, and by column its sources, its plain texts and its numbers."""

    group: str | int  # from rules in LaTeX, from a column `block` in CSV
    sources: Sequence[str]
    texts: Sequence[str]
    numbers: dict[int, Decimal]

    @property
    def name(self) -> str:
        return ', '.join(t for i, t in enumerate(self.texts) if i not in self.numbers and t)


def read(path: Path) -> list[tuple[Sequence[str], Sequence[LintedRow]]]:
    """Return headings and rows of the table of a CSV file, or of all tables of a LaTeX file."""
    if path.suffix == '.csv':
        rows = [row for row in csv.reader(path.read_text().splitlines()) if row]
        if len(set(map(len, rows))) != 1:
            raise UserError(f'{path}: expected rows with one number of fields.')
        block = rows[0].index('block') if 'block' in rows[0] else None
        heads = list(map(_plain, rows[0]))
        return [_sheet(heads, [('' if block is None else row[block], row) for row in rows[1:]])]
    if path.suffix != '.tex':
        raise UserError(f'{path} is not a table: expected a file that ends in .csv or .tex.')
    text = re.sub(r'(?<!\\)%.*', '', path.read_text())
    kinds = '{(?:tabular|longtable)'
    tables = re.findall(rf'\\begin{kinds}.*?(?=\\end{kinds})', text, re.S)
    if not tables:
        raise UserError(f'{path} has no tabular and no longtable.')
    return list(map(_latex, tables))


def _latex(body: str) -> tuple[Sequence[str], Sequence[LintedRow]]:
    group, rows = 0, []
    for line in re.split(r'\\\\(?:\[[^]]*])?', body):
        *rules, line = re.split(r'\\(?:toprule|midrule|hline|bottomrule)\b', line)
        group += bool(rules)
        for several in re.finditer(r'\\multicolumn{(\d+)}{[^}]*}({[^}]*})', line):
            line = line.replace(several[0], '&'.join([several[2]] * int(several[1])))
        fields = re.split(r'(?<!\\)&', line)
        if any(map(_plain, fields)):
            rows.append((group, fields))
    heads = [map(_plain, fields) for group, fields in rows if group == rows[0][0]]
    return _sheet([' '.join(of).strip() for of in zip(*heads, strict=False)], rows[len(heads) :])


def _plain(source: str) -> str:
    text = _MACRO.sub(' ', source).replace('**', '')
    return ' '.join(re.sub(r'[{}$]|\\(?=\W)', ' ', text).split())


def _sheet(
    heads: Sequence[str], rows: Iterable[tuple[str | int, Sequence[str]]]
) -> tuple[Sequence[str], Sequence[LintedRow]]:
    lines = []
    for group, fields in (row for row in rows if len(row[1]) == len(heads)):
        texts = list(map(_plain, fields))
        found = {i: _NUMBER.fullmatch(text) for i, text in enumerate(texts)}
        numbers = {i: Decimal(match[1].replace(',', '')) for i, match in found.items() if match}
        lines.append(LintedRow(group, fields, texts, numbers))
    for i, head in enumerate(heads):
        if 2 * sum(i in line.numbers for line in lines) <= len(lines) or _DESCRIBES.search(head):
            for line in lines:
                line.numbers.pop(i, None)
    return heads, lines


def faults(path: Path) -> list[str]:
    """Return what is wrong or improbable in the tables of a file, a sentence for each fault."""
    return [sentence for table in read(path) for sentence in lint(*table)]


def lint(heads: Sequence[str], lines: Sequence[LintedRow]) -> list[str]:
    """Return what is wrong or improbable in a table, a sentence for each fault."""
    return [
        s for rule in (_bold, _leads, _changes, _flops, _same, _copied) for s in rule(heads, lines)
    ]


def _bold(heads: Sequence[str], lines: Sequence[LintedRow]) -> Iterator[str]:
    """Bold numbers that are the best neither of their group nor of their column."""
    for line in lines:
        bold = [i for i in line.numbers if _BOLD.search(line.sources[i])]
        for i in bold if len(bold) < max(len(line.numbers), 2) else []:  # else the row is bold
            of_column = [x for x in lines if i in x.numbers]
            of_group = [x for x in of_column if x.group == line.group]
            end = min if _LESS.search(heads[i]) else max
            best = {end(x.numbers[i] for x in of) for of in (of_column, of_group) if len(of) > 1}
            if best and line.numbers[i] not in best:
                yield f'{line.name}: {line.numbers[i]} is bold and not the best {heads[i]}.'


def _leads(heads: Sequence[str], lines: Sequence[LintedRow]) -> Iterator[str]:
    """Leads of bold accuracies over the next of their group that the data set does not resolve."""
    for i, head in enumerate(heads):
        metric = next((name for name, pattern in _RESOLVED.items() if pattern.search(head)), None)
        bold = [line for line in lines if i in line.numbers and _BOLD.search(line.sources[i])]
        for line in bold if metric else []:
            of_group = [x.numbers[i] for x in lines if x.group == line.group and i in x.numbers]
            lead = line.numbers[i] - sorted(of_group)[-2:][0]  # 0 where it is alone
            resolvable = load_tolerances()[metric].resolvable
            if 0 < lead < resolvable:
                yield (
                    f'{line.name}: {head} leads by {lead}, less than the {resolvable:.2f} that the '
                    'validation images resolve.'
                )


def _changes(heads: Sequence[str], lines: Sequence[LintedRow]) -> Iterator[str]:
    """Changes such as '+0.3' that are none from the row above, the first or a named one."""
    for place, line in enumerate(lines):
        for i, text in enumerate(line.texts):
            first = next(x for x in lines if x.group == line.group)
            named = [x for x in lines if x.texts[0] and x.texts[0] in text]
            found = [
                number - other.numbers[n]
                for n, number in line.numbers.items()
                for other in (lines[max(place - 1, 0)], lines[0], first, *named)
                if other is not line and n in other.numbers and (n == i or i not in line.numbers)
            ]
            for change in _CHANGE.findall(text):
                value = Decimal(change.replace('−', '-'))
                half = Decimal(5).scaleb(int(value.as_tuple().exponent) - 1)
                if found and all(abs(difference - value) > half for difference in found):
                    yield f'{line.name}: no numbers of the table differ by {change}.'


def _flops(heads: Sequence[str], lines: Sequence[LintedRow]) -> Iterator[str]:
    """FLOPs of two conventions in a group, as their marks or a column say."""
    for i, head in enumerate(heads):
        kinds: dict[str | int, set[str]] = {}
        for line in lines if re.search(r'flop|\bmacs?\b|convention', head, re.I) else []:
            found = {kind for kind, mark in _CONVENTIONS.items() if mark.search(line.sources[i])}
            kinds[line.group] = kinds.get(line.group, set()) | found
        for group in (group for group, found in kinds.items() if len(found) > 1):
            first = next(line.texts[0] for line in lines if line.group == group)
            yield f'{head}: {" and ".join(sorted(kinds[group]))} are in the group of {first}.'


def _same(heads: Sequence[str], lines: Sequence[LintedRow]) -> Iterator[str]:
    """Rows with one description and different numbers."""
    for a, b in combinations(lines, 2):
        if a.name == b.name and a.texts[0] and a.numbers != b.numbers:
            yield f'{a.name}: two rows with this description have different numbers.'


def _copied(heads: Sequence[str], lines: Sequence[LintedRow]) -> Iterator[str]:
    """Neighbouring rows that have most of their accuracies in common, to the digit."""
    for a, b in pairwise(lines):
        both = [i for i in a.numbers if i in b.numbers and not _LESS.search(heads[i])]
        same = sum(a.numbers[i] == b.numbers[i] for i in both)
        if same > 1 and 2 * same >= len(both):
            yield f'{b.name}: {same} of {len(both)} numbers are those of the row above.'
