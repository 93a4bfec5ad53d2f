'use strict';
const find = (id) => document.getElementById(id);
const provenance = JSON.parse(find('data').textContent);
const dialog = find('provenance');

function chip(element, verdict, value) {
  element.className = `chip v-${verdict}`;
  element.textContent = verdict;
  element.hidden = !verdict || (verdict === 'unprinted' && !value);
}

function show(key) {
  const cell = provenance[key];
  find('p-title').textContent = cell.title;
  find('p-measured').textContent = cell.measured || 'not measured';
  find('p-measured').className = cell.measured ? '' : 'none';
  find('p-paper').textContent = cell.paper || '–';
  find('p-reference').textContent = cell.reference || '–';
  chip(find('p-verdict'), cell.verdict, cell.paper || cell.measured);
  chip(find('p-reference-verdict'), cell.reference_verdict, cell.reference);
  const facts = Object.entries(cell.facts).flatMap(([name, text]) => {
    const term = document.createElement('dt');
    const value = document.createElement('dd');
    term.textContent = name;
    if (['repeat', 'to measure it', 'command'].includes(name)) {
      value.append(Object.assign(document.createElement('code'), { textContent: text }));
    } else {
      value.textContent = text;
    }
    return [term, value];
  });
  find('p-facts').replaceChildren(...facts);
  find('p-link').href = `#${encodeURI(key)}`;
  if (!dialog.open) dialog.showModal();
}

// The address says what is open: a cell '#5/Swin-T/SYSTEM/box_ap', a filter '#?q=swin&verdict=known',
// or the place of a section or a finding.
const address = (hash) => history.replaceState(null, '', hash || location.pathname + location.search);

function follow() {
  const hash = decodeURI(location.hash.slice(1));
  if (provenance[hash]) show(hash);
  else if (hash.startsWith('?')) {
    const wanted = new URLSearchParams(hash);
    find('filter').value = wanted.get('q') ?? '';
    find('verdict').value = wanted.get('verdict') ?? '';
    filter();
    find('tables').scrollIntoView();
  } else if (find(hash)) {
    unfold(find(hash).querySelector(':scope > .fold') ?? find(hash));
    find(hash).scrollIntoView();
  }
}
window.addEventListener('hashchange', follow);
const unfold = (element) => {
  for (let of = element?.closest('details'); of; of = of.parentElement.closest('details')) of.open = true;
};

document.addEventListener('click', (event) => {
  const opener = event.target.closest('[data-cell], [data-open]');
  if (opener) {
    const key = opener.dataset.cell ?? opener.dataset.open;
    show(key);
    address(`#${encodeURI(key)}`);
  } else if (event.target === dialog) dialog.close(); // the backdrop is the dialog itself
});
dialog.addEventListener('close', () => address(filterAddress()));

// Each table is one tab stop. Arrow keys, Home and End move in it, as in a spreadsheet.
const grids = [...document.querySelectorAll('table[role=grid]')];
const inside = (cell) => cell.querySelector('a, button');
for (const grid of grids) {
  grid.addEventListener('focusin', (event) => {
    const old = grid.querySelector('[tabindex="0"]');
    const stop = event.target.closest('a, button');
    if (stop && stop !== old) {
      old?.setAttribute('tabindex', -1);
      stop.setAttribute('tabindex', 0);
    }
  });
  grid.addEventListener('keydown', (event) => {
    const cell = event.target.closest('td, th');
    if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = [...grid.rows].filter((row) => !row.hidden && !row.classList.contains('groups'));
    const across = [...cell.parentElement.cells];
    const column = rows.map((row) => row.cells[cell.cellIndex]);
    const sequence = {
      ArrowRight: () => across.slice(cell.cellIndex + 1),
      ArrowLeft: () => across.slice(0, cell.cellIndex).reverse(),
      ArrowDown: () => column.slice(column.indexOf(cell) + 1),
      ArrowUp: () => column.slice(0, column.indexOf(cell)).reverse(),
      Home: () => across,
      End: () => across.reverse(),
    }[event.key]?.();
    const target = sequence?.map(inside).find(Boolean);
    if (sequence) event.preventDefault();
    target?.focus();
  });
}

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

// The filter holds for all sections: rows of tables, and whatever else is an item of its own.
const sections = [...document.querySelectorAll('main section')].map((section) => ({
  section,
  items: [...section.querySelectorAll('[data-item]')].map((item) => ({
    item,
    text: item.dataset.text ?? item.textContent.toLowerCase(),
    cells: [...item.querySelectorAll('.cell')],
  })),
}));
for (const { section } of sections) {
  const nothing = { className: 'nothing', hidden: true, textContent: 'Nothing here fits the filter.' };
  section.append(Object.assign(document.createElement('p'), nothing));
}

function filterAddress() {
  const wanted = new URLSearchParams();
  if (find('filter').value) wanted.set('q', find('filter').value);
  if (find('verdict').value) wanted.set('verdict', find('verdict').value);
  return wanted.size ? `#?${wanted}` : '';
}

function filter() {
  const words = find('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const verdict = find('verdict').value;
  const filtering = words.length > 0 || verdict !== '';
  const counts = { rows: 0, allRows: 0, others: 0 };
  for (const { section, items } of sections) {
    let left = 0;
    for (const { item, text, cells } of items) {
      const verdicts = cells.length ? cells.map((cell) => cell.dataset.verdict) : [item.dataset.verdict];
      const fits = words.every((word) => text.includes(word)) && (!verdict || verdicts.includes(verdict));
      item.hidden = !fits;
      cells.forEach((cell) => cell.classList.toggle('dim', verdict !== '' && cell.dataset.verdict !== verdict));
      left += fits ? 1 : 0;
      if (cells.length) {
        counts.allRows += 1;
        counts.rows += fits ? 1 : 0;
      } else counts.others += fits ? 1 : 0;
    }
    section.classList.toggle('empty', filtering && left === 0);
    if (filtering && left) unfold(section.querySelector('.fold'));
    section.querySelector('.nothing').hidden = !filtering || left !== 0;
  }
  const others = counts.others === 1 ? '1 entry' : `${counts.others} entries`;
  find('shown').textContent = filtering
    ? `${counts.rows} of ${counts.allRows} rows, and ${others} of the other sections`
    : '';
}
for (const [id, event] of [['filter', 'input'], ['verdict', 'change']]) {
  find(id).addEventListener(event, () => {
    filter();
    address(filterAddress());
  });
}
follow();

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
// What is folded is printed as well.
window.addEventListener('beforeprint', () => {
  for (const details of document.querySelectorAll('details')) details.open = true;
});
