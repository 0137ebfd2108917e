// Runs inside the example report, after its own script. Writes "all passed" or the failures into the page.
(() => {
  'use strict';
  const failures = [];
  const check = (what, holds) => { if (!holds) failures.push(what); };
  const all = (selector) => [...document.querySelectorAll(selector)];
  const visible = (selector) => all(selector).filter((e) => e.getClientRects().length > 0);
  const one = (selector) => document.querySelector(selector);

  // Legend: hides and shows a method everywhere.
  const points = visible('.hit').length;
  check('eight points', points === 8);
  one('[data-method="1"]').click();
  check('pressed state', one('[data-method="1"]').getAttribute('aria-pressed') === 'false');
  check('point hidden', visible('.hit').length === points - 1);
  check('row hidden', visible('.results [data-m="1"]').length === 0);
  check('line hidden', visible('svg [data-m="1"] path').length === 0);
  one('[data-all]').click();
  check('all shown again', visible('.hit').length === points && one('[data-all]').hidden);

  // Plane: every visible point is reachable by keyboard and named; its tip shows on focus.
  for (const hit of visible('.hit')) check('point named', hit.tabIndex === 0 && /Safe rate/.test(hit.ariaLabel));
  const hit = visible('.hit')[3];
  hit.focus({ focusVisible: true });
  check('tip shown on focus', getComputedStyle(hit.nextElementSibling).display === 'block');
  const tip = hit.nextElementSibling.getBoundingClientRect();
  check('tip inside the page', tip.left >= 0 && tip.right <= innerWidth);
  hit.blur();
  check('tip gone', getComputedStyle(hit.nextElementSibling).display === 'none');

  // Curves: pointer and keys move the cursor; hidden methods say nothing.
  const cursor = one('.cursor');
  const box = cursor.getBoundingClientRect();
  const point = (share) => cursor.dispatchEvent(new PointerEvent('pointermove', {
    clientX: box.left + box.width * share, clientY: box.top + 20,
  }));
  point(0.3);
  const before = Number(cursor.ariaValueNow);
  check('tip names six methods', cursor.querySelectorAll('.tip > span').length === 6);
  point(0.8);
  check('cursor follows', Number(cursor.ariaValueNow) > before);
  cursor.dispatchEvent(new KeyboardEvent('keydown', { key: 'Home' }));
  const first = Number(cursor.ariaValueNow);
  cursor.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));
  check('arrow moves', Number(cursor.ariaValueNow) > first);
  check('values said', /DPO-helpful/.test(cursor.getAttribute('aria-valuetext')));
  one('[data-method="0"]').click();
  point(0.5);
  check('hidden method is silent', !/DPO-helpful/.test(cursor.getAttribute('aria-valuetext')));
  one('[data-all]').click();
  cursor.dispatchEvent(new PointerEvent('pointerleave'));
  check('cursor gone', cursor.children.length === 0);

  // Samples: closed at first, filtered by kind.
  const samples = one('.samples');
  check('samples closed', !samples.open);
  samples.open = true;
  check('all samples', visible('.sample').length === 6);
  one('[data-kind="2"]').click();
  check('two of a kind', visible('.sample').length === 2);
  one('[data-kind=""]').click();
  check('all samples again', visible('.sample').length === 6);

  // Every plot has words and a table; nothing is wider than the page; ids are unique.
  for (const svg of all('svg.plot')) {
    check('plot described', svg.getAttribute('role') === 'img' && svg.querySelector('title') && svg.querySelector('desc'));
    check('table behind plot', svg.closest('figure').querySelector('details table'));
  }
  check('no sideways scroll', document.documentElement.scrollWidth <= innerWidth);
  const ids = all('[id]').map((e) => e.id);
  check('unique ids', new Set(ids).size === ids.length);
  for (const problem of window.problems) failures.push(`console: ${problem}`);

  const pre = document.createElement('pre');
  pre.id = 'checks';
  pre.textContent = failures.length === 0 ? 'all passed' : failures.join('; ');
  document.body.append(pre);
})();
