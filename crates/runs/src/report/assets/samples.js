// Samples: filtered in memory, and only a page of them is built. Returns what shows them anew.
const wireSamples = ({ all, make, stored, methods, looks, isHidden, chosen }) => {
  const PAGE = 20;
  const root = document.querySelector('.samples');
  if (!root) return () => {};
  const list = root.querySelector('.list');
  const find = root.querySelector('input');
  let data = null;
  let found = [];

  const shown = (prompt) => prompt.r.filter((r) => typeof r.m !== 'number' || !isHidden(r.m));
  const differ = (responses, field) => {
    const known = responses.map((r) => r[field]).filter((value) => value !== undefined);
    return known.some((value) => value !== known[0]);
  };
  const matches = (prompt, words) => {
    if (chosen.kind !== '' && data.kinds[prompt.k] !== chosen.kind) return false;
    if (chosen.only.size > 0) {
      const responses = shown(prompt);
      if (chosen.only.has('differ') && !differ(responses, 'u') && !differ(responses, 'f')) return false;
      if (chosen.only.has('unsafe') && !responses.some((r) => r.u === true)) return false;
    }
    if (words === '') return true;
    return prompt.p.toLowerCase().includes(words) || shown(prompt).some((r) => r.t.toLowerCase().includes(words));
  };

  const text = (parent, words) => {
    const element = make('p', 'text', parent);
    element.dir = 'auto';
    element.textContent = words;
    return element;
  };
  const pill = (parent, words, look = '') => { make('span', `pill ${look}`, parent).textContent = words; };
  const build = (prompt) => {
    const article = make('article', 'sample');
    const header = make('header', '', article);
    pill(header, data.kinds[prompt.k]);
    if (prompt.a) pill(header, prompt.a);
    text(header, prompt.p);
    const responses = make('div', 'responses', article);
    for (const r of shown(prompt)) {
      const section = make('section', '', responses);
      const title = make('h4', '', section);
      if (typeof r.m === 'number') {
        const swatch = document.querySelector(`.legend [data-family="${looks[r.m]}"] .swatch`);
        if (swatch) title.append(swatch.cloneNode(true));
        title.append(methods[r.m]);
      } else {
        title.append(r.m);
      }
      if (r.t === '') make('em', '', text(section, '')).textContent = '(empty)';
      else text(section, r.t);
      const pills = make('p', 'pills', section);
      if (r.u !== undefined) pill(pills, r.u ? 'unsafe' : 'safe', r.u ? 'bad' : 'good');
      if (r.f) pill(pills, 'refuses');
      for (const fact of r.x || []) pill(pills, fact);
    }
    return article;
  };

  const pagers = all('.pager', root);
  const turn = (by, focus) => {
    chosen.page += by;
    build_page();
    root.scrollIntoView({ block: 'start' });
    const button = pagers[0].querySelector(focus);
    if (button && !button.disabled) button.focus();
  };
  const build_page = () => {
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    chosen.page = Math.min(Math.max(chosen.page, 0), last);
    const first = chosen.page * PAGE;
    const here = found.slice(first, first + PAGE);
    list.replaceChildren(...here.map(build));
    for (const pager of pagers) {
      pager.replaceChildren();
      const button = (label, className, by, disabled) => {
        const element = make('button', `chip ${className}`, pager);
        element.type = 'button';
        element.textContent = label;
        element.disabled = disabled;
        element.addEventListener('click', () => turn(by, `.${className}`));
      };
      button('← back', 'back', -1, chosen.page === 0);
      const count = make('span', 'count', pager);
      const all_of = data.prompts.length === found.length ? '' : ` (of ${data.prompts.length})`;
      count.textContent = found.length === 0
        ? `no prompt${all_of}`
        : `${first + 1}–${first + here.length} of ${found.length} prompts${all_of}`;
      button('next →', 'next', 1, chosen.page >= last);
    }
    pagers[0].querySelector('.count').setAttribute('role', 'status');
    pagers[1].hidden = here.length < 4;
  };

  const show = () => {
    if (!root.open) return;
    data = data || stored('report-samples');
    for (const chip of all('[data-kind]', root)) {
      const kind = chip.dataset.kind === '' ? '' : data.kinds[Number(chip.dataset.kind)];
      chip.setAttribute('aria-pressed', String(kind === chosen.kind));
    }
    for (const chip of all('[data-only]', root)) {
      chip.setAttribute('aria-pressed', String(chosen.only.has(chip.dataset.only)));
    }
    const words = chosen.find.trim().toLowerCase();
    found = data.prompts.filter((prompt) => matches(prompt, words));
    build_page();
  };
  const change = () => { chosen.page = 0; show(); };
  for (const chip of all('[data-kind]', root)) {
    chip.addEventListener('click', () => {
      chosen.kind = chip.dataset.kind === '' ? '' : data.kinds[Number(chip.dataset.kind)];
      change();
    });
  }
  for (const chip of all('[data-only]', root)) {
    chip.addEventListener('click', () => {
      if (!chosen.only.delete(chip.dataset.only)) chosen.only.add(chip.dataset.only);
      change();
    });
  }
  find.value = chosen.find;
  let waiting = 0;
  find.addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { chosen.find = find.value; change(); }, 150);
  });
  root.addEventListener('toggle', show);
  return show;
};
