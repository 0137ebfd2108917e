// What the page can do beyond being read: show and hide methods, filter samples, follow a curve with a cursor.
// Everything it shows is in the page already; text is only ever set as text.
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (tag, className, parent) => {
    const element = document.createElement(tag);
    element.className = className;
    if (parent) parent.append(element);
    return element;
  };
  const stored = (id) => JSON.parse(document.getElementById(id).textContent);
  // By the name on its button, so that they outlive a refreshed page.
  const hidden = new Set();
  // What the reader chose among the samples.
  const chosen = { kind: '', only: new Set(), find: '', page: 0 };

  const start = () => {
    const { methods, looks, plots } = stored('report-data');
    const chips = all('.legend [data-family]');
    const showAll = document.querySelector('.legend [data-all]');
    const nameOf = (chip) => chip.textContent;
    const isHiddenFamily = (family) => chips[family] !== undefined && hidden.has(nameOf(chips[family]));
    const isHidden = (method) => isHiddenFamily(looks[method]);

    const samples = wireSamples({ all, make, stored, methods, looks, isHidden, chosen });
    // Methods: the legend's buttons are switches.
    const apply = () => {
      for (const chip of chips) chip.setAttribute('aria-pressed', String(!hidden.has(nameOf(chip))));
      for (const element of all('[data-m]')) element.classList.toggle('off', isHidden(Number(element.dataset.m)));
      for (const element of all('[data-f]')) element.classList.toggle('off', isHiddenFamily(Number(element.dataset.f)));
      const some = chips.some((chip) => hidden.has(nameOf(chip)));
      // What is said of all methods together holds no longer.
      for (const element of all('.whole')) element.classList.toggle('off', some);
      if (showAll) showAll.hidden = !some;
      samples();
    };
    for (const chip of chips) {
      chip.disabled = false;
      chip.addEventListener('click', () => {
        if (!hidden.delete(nameOf(chip))) hidden.add(nameOf(chip));
        apply();
      });
      // Shown alone, as plotting programs do.
      chip.addEventListener('dblclick', () => {
        for (const other of chips) hidden.add(nameOf(other));
        hidden.delete(nameOf(chip));
        apply();
      });
    }
    if (showAll) showAll.addEventListener('click', () => { hidden.clear(); apply(); chips[0].focus(); });
    wireCursors({ all, make, plots, methods, looks, isHidden });
    apply();
  };
  start();
  if (document.documentElement.dataset.live) goLive({ all, make, start });
  document.documentElement.dataset.ready = 'yes';
})();
