// What the page can do beyond being read: show and hide methods, filter samples, follow a curve with a cursor.
// Everything it shows is in the page already; text is only ever set as text.
(() => {
  'use strict';
  const { methods, plots } = JSON.parse(document.getElementById('report-data').textContent);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (tag, className, parent) => {
    const element = document.createElement(tag);
    element.className = className;
    if (parent) parent.append(element);
    return element;
  };

  // Methods: the legend's buttons are switches. Colour classes repeat after eight.
  const hidden = new Set();
  const chips = all('.legend [data-method]');
  const showAll = document.querySelector('.legend [data-all]');
  const apply = () => {
    for (const chip of chips) chip.setAttribute('aria-pressed', String(!hidden.has(Number(chip.dataset.method))));
    for (const element of all('[data-m]')) element.classList.toggle('off', hidden.has(Number(element.dataset.m)));
    if (showAll) showAll.hidden = hidden.size === 0;
  };
  for (const chip of chips) {
    chip.disabled = false;
    chip.addEventListener('click', () => {
      const method = Number(chip.dataset.method);
      if (!hidden.delete(method)) hidden.add(method);
      apply();
    });
    // Shown alone, as plotting programs do.
    chip.addEventListener('dblclick', () => {
      const method = Number(chip.dataset.method);
      methods.forEach((_, other) => hidden.add(other));
      hidden.delete(method);
      apply();
    });
  }
  if (showAll) showAll.addEventListener('click', () => { hidden.clear(); apply(); chips[0].focus(); });

  // Samples by kind of prompt.
  const kinds = all('.samples [data-kind]');
  for (const chip of kinds) {
    chip.addEventListener('click', () => {
      for (const other of kinds) other.setAttribute('aria-pressed', String(other === chip));
      for (const sample of all('.sample')) {
        sample.classList.toggle('off', chip.dataset.kind !== '' && sample.dataset.k !== chip.dataset.kind);
      }
    });
  }

  // Curves: a cursor at the nearest step, by pointer or by arrow keys (a slider to assistive technology).
  const nearest = (points, position, at) => points.reduce(
    (best, point) => (Math.abs(point[at] - position) < Math.abs(best[at] - position) ? point : best), points[0]);
  for (const frame of all('.cursor')) {
    const plot = plots[Number(frame.dataset.plot)];
    const steps = [...new Set(plot.series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
    const places = new Map(plot.series.flatMap((s) => s.points.map((p) => [p[0], p[2]])));
    let current = steps.length - 1;
    Object.entries({
      tabindex: '0', role: 'slider', 'aria-label': `${plot.title}: step`, 'aria-valuemin': steps[0],
      'aria-valuemax': steps[steps.length - 1], 'aria-valuenow': steps[current],
    }).forEach(([name, value]) => frame.setAttribute(name, value));

    const show = (index) => {
      current = Math.min(Math.max(index, 0), steps.length - 1);
      const step = steps[current];
      const x = places.get(step);
      frame.replaceChildren();
      make('div', 'rule', frame).style.left = `${(x / plot.width) * 100}%`;
      const tip = make('div', 'tip');
      make('b', '', tip).textContent = `step ${step}`;
      const said = [];
      for (const series of plot.series) {
        if (hidden.has(series.method) || series.points.length === 0) continue;
        const point = nearest(series.points, step, 0);
        // A method that was not logged near this step says nothing about it.
        if (Math.abs(point[2] - x) > plot.width * 0.03) continue;
        const dot = make('div', `dot m${series.method % 8}`, frame);
        dot.style.left = `${(point[2] / plot.width) * 100}%`;
        dot.style.top = `${(point[3] / plot.height) * 100}%`;
        const line = make('span', '', tip);
        const name = make('span', '', line);
        const swatch = document.querySelector(`.legend [data-method="${series.method}"] .swatch`);
        if (swatch) name.append(swatch.cloneNode(true));
        name.append(methods[series.method]);
        make('span', '', line).textContent = point[1];
        said.push(`${methods[series.method]} ${point[1]}`);
      }
      if (x > plot.width * 0.55) tip.style.right = `${(1 - x / plot.width) * 100 + 3}%`;
      else tip.style.left = `${(x / plot.width) * 100 + 3}%`;
      frame.append(tip);
      frame.setAttribute('aria-valuenow', step);
      frame.setAttribute('aria-valuetext', `step ${step}: ${said.join('; ')}`);
    };
    const follow = (event) => {
      const box = frame.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * plot.width;
      show(steps.indexOf(nearest(steps.map((s) => [s, places.get(s)]), x, 1)[0]));
    };
    frame.addEventListener('pointermove', follow);
    frame.addEventListener('pointerdown', follow);
    frame.addEventListener('pointerleave', () => { if (document.activeElement !== frame) frame.replaceChildren(); });
    frame.addEventListener('focus', () => { if (frame.matches(':focus-visible')) show(current); });
    frame.addEventListener('blur', () => frame.replaceChildren());
    frame.addEventListener('keydown', (event) => {
      const far = Math.max(1, Math.round(steps.length / 10));
      const moves = {
        ArrowRight: current + 1, ArrowUp: current + 1, ArrowLeft: current - 1, ArrowDown: current - 1,
        PageUp: current + far, PageDown: current - far, Home: 0, End: steps.length - 1,
      };
      if (event.key === 'Escape') frame.replaceChildren();
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(moves[event.key]);
    });
  }
  document.documentElement.dataset.ready = 'yes';
})();
