// A page that is served while a run goes on: asks its server whether files changed, and takes over the new page in place.
const goLive = ({ all, make, start }) => {
  const every = Number(document.documentElement.dataset.live);
  const badge = make('p', 'live', document.body);
  badge.setAttribute('role', 'status');
  // As text: the number may be larger than a script's numbers are exact.
  let known = document.documentElement.dataset.version;

  // Details are told apart by their place in the page.
  const openness = () => new Map(all('details').map((d, i) => [`${i} ${d.querySelector('summary').textContent}`, d.open]));
  const takeOver = (text) => {
    const page = new DOMParser().parseFromString(text, 'text/html');
    const open = openness();
    const { scrollX, scrollY } = window;
    document.querySelector('main').replaceWith(document.importNode(page.querySelector('main'), true));
    for (const id of ['report-data', 'report-samples']) {
      document.getElementById(id).textContent = page.getElementById(id).textContent;
    }
    document.title = page.title;
    all('details').forEach((d, i) => {
      const was = open.get(`${i} ${d.querySelector('summary').textContent}`);
      if (was !== undefined) d.open = was;
    });
    start();
    window.scrollTo({ left: scrollX, top: scrollY, behavior: 'instant' });
  };
  // Nothing is taken from under a reader's hands.
  const isBusy = () => {
    const at = document.activeElement;
    return (at && (at.tagName === 'INPUT' || at.classList.contains('cursor'))) || !window.getSelection().isCollapsed;
  };
  const look = async () => {
    try {
      const state = await (await fetch('state', { cache: 'no-store' })).json();
      if (state.version !== known && !isBusy()) {
        takeOver(await (await fetch('./', { cache: 'no-store' })).text());
        known = state.version;
      }
      badge.textContent = `live · ${state.says}`;
      badge.dataset.state = 'on';
    } catch {
      badge.textContent = 'no longer served; this is the last state';
      badge.dataset.state = 'off';
    }
    setTimeout(look, every);
  };
  look();
};
