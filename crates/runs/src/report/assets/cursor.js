// Curves: a cursor at the nearest step, by pointer or by arrow keys (a slider to assistive technology).
const wireCursors = ({ all, make, plots, methods, looks, isHidden }) => {
  // More lines than this would cover the plot.
  const MOST_LINES = 12;
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
      let more = 0;
      for (const series of plot.series) {
        if (isHidden(series.method) || series.points.length === 0) continue;
        const point = nearest(series.points, step, 0);
        // A method that was not logged near this step says nothing about it.
        if (Math.abs(point[2] - x) > plot.width * 0.03) continue;
        const dot = make('div', `dot m${looks[series.method] % 8}`, frame);
        dot.style.left = `${(point[2] / plot.width) * 100}%`;
        dot.style.top = `${(point[3] / plot.height) * 100}%`;
        if (said.length >= MOST_LINES) {
          more += 1;
          continue;
        }
        const line = make('span', '', tip);
        const name = make('span', '', line);
        const swatch = document.querySelector(`.legend [data-family="${looks[series.method]}"] .swatch`);
        if (swatch) name.append(swatch.cloneNode(true));
        name.append(methods[series.method]);
        make('span', '', line).textContent = point[1];
        said.push(`${methods[series.method]} ${point[1]}`);
      }
      if (more > 0) make('i', '', tip).textContent = `and ${more} more`;
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
};
