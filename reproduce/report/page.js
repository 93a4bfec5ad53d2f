'use strict';
const provenance = JSON.parse(document.getElementById('data').textContent);
const dialog = document.getElementById('provenance');
const find = (id) => document.getElementById(id);

function chip(element, verdict, value) {
  element.className = `chip v-${verdict}`;
  element.textContent = verdict;
  element.hidden = !verdict || (verdict === 'unprinted' && !value);
}

function show(key) {
  const cell = provenance[key];
  find('p-title').textContent = cell.title;
  find('p-measured').textContent = cell.measured || '–';
  find('p-paper').textContent = cell.paper || '–';
  find('p-reference').textContent = cell.reference || '–';
  chip(find('p-verdict'), cell.verdict, cell.paper || cell.measured);
  chip(find('p-reference-verdict'), cell.reference_verdict, cell.reference);
  const facts = cell.facts.flatMap(([name, text]) => {
    const term = document.createElement('dt');
    const value = document.createElement('dd');
    term.textContent = name;
    if (name === 'Again' || name === 'Command') {
      value.append(Object.assign(document.createElement('code'), { textContent: text }));
    } else {
      value.textContent = text;
    }
    return [term, value];
  });
  find('p-facts').replaceChildren(...facts);
  dialog.showModal();
}

document.addEventListener('click', (event) => {
  const opener = event.target.closest('[data-cell], [data-open]');
  if (opener) show(opener.dataset.cell ?? opener.dataset.open);
  else if (event.target === dialog) dialog.close(); // the backdrop is the dialog itself
});

// Arrow keys move between the cells of a table, as in a spreadsheet.
const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
document.addEventListener('keydown', (event) => {
  const step = steps[event.key];
  const cell = event.target.closest?.('.cell');
  if (!step || !cell) return;
  let at = cell.closest('td');
  for (;;) {
    if (step[1]) at = step[1] > 0 ? at.nextElementSibling : at.previousElementSibling;
    else {
      let row = at.parentElement;
      do row = step[0] > 0 ? row.nextElementSibling : row.previousElementSibling;
      while (row?.hidden);
      at = row?.cells[at.cellIndex];
    }
    if (!at) return;
    const target = at.querySelector('.cell');
    if (target) {
      event.preventDefault();
      target.focus();
      return;
    }
  }
});

const tables = [...document.querySelectorAll('table.cells')];
for (const table of tables) {
  const body = table.tBodies[0];
  const printed = [...body.rows];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, index) => {
    head.querySelector('.sort').addEventListener('click', () => {
      // Numbers: the most first; names: from A; the third click is the printed order again.
      const order = head.classList.contains('num')
        ? ['descending', 'ascending', 'none']
        : ['ascending', 'descending', 'none'];
      const next = order[(order.indexOf(head.getAttribute('aria-sort')) + 1) % 3];
      heads.forEach((other) => other.setAttribute('aria-sort', 'none'));
      head.setAttribute('aria-sort', next);
      table.classList.toggle('sorted', next !== 'none');
      const sign = next === 'ascending' ? 1 : -1;
      const value = (row) => row.cells[index].dataset.value;
      const compare = (a, b) => {
        if (!head.classList.contains('num')) {
          return sign * a.cells[index].textContent.localeCompare(b.cells[index].textContent, 'en', { numeric: true });
        }
        if (!value(a) || !value(b)) return (value(a) ? 0 : 1) - (value(b) ? 0 : 1); // gaps last
        return sign * (value(a) - value(b));
      };
      body.append(...(next === 'none' ? printed : [...printed].sort(compare)));
    });
  });
}

function filter() {
  const words = find('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const verdict = find('verdict').value;
  let shown = 0;
  let total = 0;
  for (const table of tables) {
    let left = 0;
    for (const row of table.tBodies[0].rows) {
      const cells = [...row.querySelectorAll('.cell')];
      const fits = words.every((word) => row.dataset.text.includes(word));
      row.hidden = !fits || (verdict !== '' && !cells.some((cell) => cell.dataset.verdict === verdict));
      cells.forEach((cell) => cell.classList.toggle('dim', verdict !== '' && cell.dataset.verdict !== verdict));
      total += 1;
      left += row.hidden ? 0 : 1;
    }
    shown += left;
    const section = table.closest('section');
    section.querySelector('.scroll').hidden = left === 0;
    section.querySelector('.nothing').hidden = left !== 0;
  }
  find('shown').textContent = shown === total ? '' : `${shown} of ${total} rows`;
}
find('filter').addEventListener('input', filter);
find('verdict').addEventListener('change', filter);

// A page opened from a disk may have no storage; the toggle works all the same.
const dark = matchMedia('(prefers-color-scheme: dark)');
try {
  const kept = localStorage.getItem('theme');
  if (kept) document.documentElement.dataset.theme = kept;
} catch {}
find('theme').addEventListener('click', () => {
  const now = document.documentElement.dataset.theme ?? (dark.matches ? 'dark' : 'light');
  const next = now === 'dark' ? 'light' : 'dark';
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem('theme', next);
  } catch {}
});
