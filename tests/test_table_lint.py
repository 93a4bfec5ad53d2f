"""Faults that a table shows by itself: twenty planted ones, and the paper's tables without any."""

from pathlib import Path

import pytest

from reproduce.audit.table_lint import faults as found
from reproduce.paper import FOLDER, TABLES

# Tables of other fields than the paper's, without a fault.
LATEX = r"""
\begin{table}\caption{Reading, 100\% of the test set. % a comment & a column
}\begin{tabular}{@{}llcccc@{}}
\toprule
 & & \multicolumn{2}{c}{Accuracy (\%)} & Latency & FLOPs \\
\cmidrule(lr){3-4}
Method & Data & dev & test & (ms) & (G) \\
\midrule
Small & 10k & 71.2 & 70.4 & \textbf{12} & 4.5\textsuperscript{a} \\
Small, distilled (+1.1) & 10k & 72.0 & 71.5 & 13 & 4.6 \\
\underline{Wide} & 10k & \textbf{73.9} & \textbf{72.8} & 15 & 6.1 \\[2pt]
\midrule
Large & 1M & 80.1 & 79.3 (+8.9) & 31 & 15.2 \\
Large, longer & 1M & $\mathbf{81.0}$ & {\bf 80.6} & 31 & 15.2 \\
\bottomrule
\end{tabular}\end{table}
"""
CSV = """name,setting,BLEU,WER,params (M),note,block
Base,none,27.3,9.1,65,,small
Base,dropout,**28.0**,8.8,65,+0.7 over the row above,small
Big,none,28.4,8.1,213,"+1.1, and four times the parameters",large
Big,dropout,**29.1**,**7.9**,213,better than Base by +1.8,large
Average,none,28.9,8.0,213,,large
"""
SEVEN = FOLDER / 'table5.csv'

PLANTED = [
    # Bold that is not the best
    (LATEX, '80.1 & 79.3', r'\textbf{80.1} & 79.3'),
    (LATEX, '72.0 & 71.5', r'72.0 & \bfseries 71.5'),
    (LATEX, '& 15 & 6.1', r'& \textbf{15} & 6.1'),
    (CSV, '27.3,9.1', '**27.3**,9.1'),
    (CSV, '28.9,8.0', '28.9,**8.0**'),
    # Changes that the numbers do not give
    (LATEX, '(+1.1)', '(+1.7)'),
    (LATEX, '(+8.9)', '(+7.9)'),
    (LATEX, '79.3 (+8.9)', '79.3 (-0.4)'),
    (CSV, '+0.7 over', '+0.9 over'),
    (CSV, 'by +1.8', 'by +2.8'),
    # FLOPs of two conventions
    (LATEX, ('4.6 \\\\', '6.1 \\\\'), ('4.6ᵗ \\\\', '6.1ˡ \\\\')),
    (
        LATEX,
        ('31 & 15.2', '31 & 15.2 \\\\\n\\b'),
        ('31 & 15.2 (total)', '31 & 15.2 (layer) \\\\\n\\b'),
    ),
    (SEVEN, ('44,260,', '44,245,'), ('44,260 (total),', '44,245 (layer),')),
    # Rows that cannot differ
    (LATEX, 'Large, longer', 'Large'),
    (CSV, 'Big,dropout', 'Big,none'),
    (SEVEN, 'TwinsP-S,', 'Twins-S,'),
    (SEVEN, 'PVT-M,', 'Res101,'),
    # Digits of the neighbouring row
    (LATEX, '72.0 & 71.5', '71.2 & 70.4'),
    (SEVEN, '41.9,62.5,45.9,37.5', '40.4,61.1,44.2,37.5'),
    (SEVEN, '47.9,70.1,52.6,43.2,67.1', '44.8,66.6,48.9,40.9,67.1'),
]


def sheet(folder, text):
    path = folder / ('table.tex' if '\\begin' in text else 'table.csv')
    path.write_text(text)
    return path


def planted(before, old, new):
    text = before.read_text() if isinstance(before, Path) else before
    pairs = [(old, new)] if isinstance(old, str) else zip(old, new, strict=True)
    for a, b in pairs:
        assert a in text
        text = text.replace(a, b, 1)
    return text


def test_planted_faults_are_found(tmp_path):
    missed, alarms = [], []
    for case in PLANTED:
        faults = found(sheet(tmp_path, planted(*case)))
        missed += [case[1:]] * (not faults)
        alarms.append(len(faults))
    assert len(PLANTED) == 20
    assert len(missed) <= 1, missed
    assert max(alarms) <= 2  # the fault, and at most one false alarm


@pytest.mark.parametrize(
    ('heading', 'best', 'faults'),
    [('Top-1 (%)', 83.1, 1), ('Top-1 (%)', 84.0, 0), ('AP$^b$', 83.1, 1), ('BLEU', 83.1, 0)],
)
def test_a_lead_that_the_images_do_not_resolve_is_found(tmp_path, heading, best, faults):
    """Another sample of 50,000 or of 5,000 images would have given another order."""
    text = f'name,{heading}\nours,**{best}**\ntheirs,83.0\nolder,81.2\n'
    assert len(found(sheet(tmp_path, text))) == faults


def test_all_tables_of_a_paper_s_folder_are_read(run):
    assert run('lint', *FOLDER.glob('table*.csv'))[:2] == (0, 'No fault was found.\n')


@pytest.mark.parametrize('table', TABLES)
def test_the_paper_s_tables_give_no_alarm(table):
    assert found(FOLDER / f'table{table}.csv') == []


def test_sound_tables_give_no_alarm(tmp_path):
    assert found(sheet(tmp_path, LATEX)) == found(sheet(tmp_path, CSV)) == []


def test_a_long_table_is_read(tmp_path):
    text = planted(LATEX, '72.0 & 71.5', '71.2 & 70.4')
    short = found(sheet(tmp_path, text))
    assert short and found(sheet(tmp_path, text.replace('tabular', 'longtable'))) == short


def test_the_command_finds_the_mixed_flops_of_the_tables_in_latex(run):
    results = Path(__file__).parents[1] / 'results'
    assert run('tables', 5, '--output', 'made', '--results', results)[0] == 0
    code, out, err = run('lint', 'made/table5.tex')
    assert (code, err) == (1, '')
    assert 'FLOPs (G): layer FLOPs and total FLOPs are in the group of Res50.' in out
    assert run('lint', FOLDER / 'table5.csv')[:2] == (0, 'No fault was found.\n')


def test_what_is_no_table_is_one_line(run, tmp_path):
    texts = {'a.txt': 'a', 'a.csv': 'a,b\n1\n', 'empty.csv': '', 'a.tex': 'a'}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    for name in texts:
        code, out, err = run('lint', tmp_path / name)
        assert (code, out, err.count('\n')) == (2, '', 1)
