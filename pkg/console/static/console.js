// What the console adds to its pages when scripts run: times in the reader's zone, live values, keys, copying. Pages work without.
const policy = window.trustedTypes ? trustedTypes.createPolicy('headgate', {createHTML: text => text}) : {createHTML: text => text};
const one = id => document.getElementById(id), all = (query, root = document) => root.querySelectorAll(query);

function local(root) {
  const two = n => String(n).padStart(2, '0');
  for (const t of all('time[datetime]', root)) {
    const d = new Date(t.dateTime);
    t.textContent = `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  }
}
local(document);

// Live values: one stream of server-sent events for the parts of this page.
const parts = [...all('[data-live]')];
let source, paused = false;
const say = text => { if (one('live').textContent !== text) { one('live').textContent = text; one('live').className = text.split(' ')[0]; } };

function put(part, text) {
  if (part.dataset.live === 'newest') return newer(part, Number(text));
  const chosen = getSelection();
  if (!chosen.isCollapsed && part.contains(chosen.anchorNode)) return; // it is being read
  const focused = part.contains(document.activeElement) && document.activeElement.getAttribute('href');
  const scrolled = [...all('.scroll', part)].map(s => s.scrollLeft);
  part.innerHTML = policy.createHTML(text);
  local(part);
  say(document.querySelector('.stale') ? 'old values' : 'live');
  all('.scroll', part).forEach((s, i) => { s.scrollLeft = scrolled[i] || 0; });
  if (focused) [...all('a', part)].find(a => a.getAttribute('href') === focused)?.focus({preventScroll: true});
}

// Rows are not inserted above what is read: a link says that there are newer ones.
function newer(part, sequence) {
  const n = sequence - Number(part.dataset.shown);
  if (n <= 0) return;
  const a = all('a', part)[0];
  a.textContent = `${n.toLocaleString('en')} newer stored: show`;
  part.hidden = false;
}

function connect() {
  source = new EventSource('/live?' + parts.map(p => 'part=' + p.dataset.live).join('&'));
  source.onopen = () => { say('live'); document.body.classList.remove('away'); };
  source.onerror = () => { say('reconnecting'); };
  for (const part of parts) source.addEventListener(part.dataset.live, e => put(part, e.data));
}

if (parts.length && one('pause')) {
  say('connecting');
  connect();
  one('pause').hidden = false;
  one('pause').addEventListener('click', () => {
    paused = !paused;
    one('pause').textContent = paused ? 'Resume' : 'Pause';
    if (paused) { source.close(); say('paused'); } else connect();
  });
  addEventListener('pagehide', () => source.close());
  addEventListener('pageshow', e => { if (e.persisted && !paused) connect(); });
}

// Forms that filter send no empty fields, and at once when a choice is made.
for (const form of all('form.filter')) {
  form.addEventListener('submit', () => { for (const f of form.elements) if (f.name && !f.value) f.disabled = true; });
  form.addEventListener('change', e => { if (e.target.tagName === 'SELECT') form.requestSubmit(); });
  addEventListener('pageshow', () => { for (const f of form.elements) f.disabled = false; });
}

for (const button of all('button[data-copy]')) {
  button.hidden = false;
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(one(button.dataset.copy).textContent);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  });
}

// Keys: ? shows them; / goes to the first field; j and k go through the rows; g and a letter to a page.
const help = document.createElement('dialog');
help.append(Object.assign(document.createElement('h2'), {textContent: 'Keys'}));
const pages = {};
for (const a of all('.bar nav a')) pages[a.textContent[0].toLowerCase()] ??= a;
const listed = [['?', 'these keys'], ['/', 'the first field of the page'], ['j k', 'next, previous row'], ['p', 'pause or resume live values'], ...Object.entries(pages).map(([key, a]) => ['g ' + key, a.textContent])];
for (const [key, text] of listed) {
  const line = document.createElement('p');
  line.append(Object.assign(document.createElement('kbd'), {textContent: key}), ' ' + text);
  help.append(line);
}
document.body.append(help);
const showKeys = () => { if (help.open) help.close(); else help.showModal(); };
if (one('keys')) { one('keys').hidden = false; one('keys').addEventListener('click', showKeys); }

let went = 0;
document.addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.matches('input, select, textarea')) return;
  const rows = [...all('main tbody a')].filter((a, i, list) => i === 0 || a.closest('tr') !== list[i - 1].closest('tr'));
  const at = rows.findIndex(a => a.closest('tr').contains(document.activeElement));
  if (Date.now() - went < 1200 && pages[e.key]) pages[e.key].click();
  else if (e.key === '?') showKeys();
  else if (e.key === '/') { e.preventDefault(); all('main input')[0]?.focus(); }
  else if (e.key === 'j') rows[Math.min(at + 1, rows.length - 1)]?.focus();
  else if (e.key === 'k') rows[Math.max(at - 1, 0)]?.focus();
  else if (e.key === 'p') one('pause')?.click();
  went = e.key === 'g' ? Date.now() : 0;
});
