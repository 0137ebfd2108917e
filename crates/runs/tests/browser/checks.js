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
  one('[data-family="1"]').click();
  check('pressed state', one('[data-family="1"]').getAttribute('aria-pressed') === 'false');
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
  one('[data-family="0"]').click();
  point(0.5);
  check('hidden method is silent', !/DPO-helpful/.test(cursor.getAttribute('aria-valuetext')));
  one('[data-all]').click();
  cursor.dispatchEvent(new PointerEvent('pointerleave'));
  check('cursor gone', cursor.children.length === 0);

  // The frontier: a row a method, none for a hidden one; what is said of all methods goes when some are hidden.
  check('frontier rows', visible('.frontier tbody tr').length === 7);
  check('frontier line', visible('path.whole').length === 1);
  one('[data-family="4"]').click();
  check('frontier row hidden', visible('.frontier tbody tr').length === 5 && visible('path.whole').length === 0);
  check('finding of a hidden method', visible('.findings li').length === 0);
  check('column of a hidden method', visible('.metrics thead th').length === 6);
  one('[data-all]').click();
  check('finding shown', visible('.findings li').length === 1);

  // Settings: only what differs.
  check('differences', /safety_penalty/.test(one('.settings').textContent) && !/seed/.test(one('.settings').textContent));

  // Samples: closed at first, nothing built; then filtered by kind, by disagreement, by safety, by words.
  const samples = one('.samples');
  check('samples closed', !samples.open && all('.sample').length === 0);
  const open = () => {
    samples.open = true;
    // The event comes later; what it does is done now.
    samples.dispatchEvent(new Event('toggle'));
  };
  open();
  check('all samples', visible('.sample').length === 6);
  one('[data-kind="2"]').click();
  check('two of a kind', visible('.sample').length === 2);
  one('[data-only="unsafe"]').click();
  check('unsafe ones', visible('.sample').length === 2 && all('.pill.bad').length === 2);
  one('[data-kind=""]').click();
  check('unsafe of all kinds', visible('.sample').length === 2);
  one('[data-only="unsafe"]').click();
  one('[data-only="differ"]').click();
  check('disagreement', visible('.sample').length === 4);
  // Only among the methods that are shown: DPO-helpful alone answers the unsafe prompts, DPO-harmless refuses the others.
  one('[data-family="0"]').click();
  check('disagreement among the shown', visible('.sample').length === 2);
  one('[data-family="1"]').click();
  check('agreement', visible('.sample').length === 0 && /no prompt/.test(one('.pager').textContent));
  one('[data-all]').click();
  one('[data-only="differ"]').click();
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
