// The page for operators: it asks the node that serves it, once a second while somebody looks at its numbers, and else
// when a button is pressed. Whatever clients wrote is put in as text.
'use strict';

const root = document.documentElement.dataset.prefix;
const find = (selector) => document.querySelector(selector);
const make = (name, text, className) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};

// --- asking ---

class Refusal extends Error {}

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body),
  };
  const response = await fetch(`${root}/${path}`, { ...options, credentials: 'same-origin', cache: 'no-store' });
  if (response.status === 401 && path !== 'login') signIn();
  if (!response.ok) throw new Refusal((await response.text()).trim() || `status ${response.status}`);
  return response;
}

/** One call of the server API; what it refuses is thrown. */
async function call(method, request) {
  const answer = await (await ask(`api/${method}`, request)).json();
  if (answer.error) throw new Refusal(`error ${answer.error.code}: ${answer.error.message}`);
  return answer.result;
}

function tell(text, bad) {
  find('#state').textContent = text;
  find('#state').classList.toggle('bad', Boolean(bad));
}

// --- numbers ---

const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat('en');
const count = (value) => (value < 10_000 ? whole.format(Math.round(value)) : short.format(value));
const perSecond = (value) => `${count(value)}/s`;
const percent = (value) => `${Math.round(value)} %`;
function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const at = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(value) / 10));
  const scaled = value / 1024 ** at;
  return `${scaled < 10 && at > 0 ? scaled.toFixed(1) : Math.round(scaled)} ${units[at]}`;
}
function age(seconds) {
  const parts = [['d', 86_400], ['h', 3600], ['min', 60]];
  const part = parts.find(([, size]) => seconds >= size);
  return part ? `${Math.floor(seconds / part[1])} ${part[0]}` : `${Math.floor(seconds)} s`;
}

/** A page of Prometheus: of each name its series, with labels as they are written. */
function parse(text) {
  const page = new Map();
  for (const line of text.split('\n')) {
    const found = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!found) continue;
    const series = page.get(found[1]) ?? [];
    series.push([found[2] ?? '', Number(found[3])]);
    page.set(found[1], series);
  }
  return page;
}
const sum = (page, name) => (page.get(name) ?? []).reduce((total, [, value]) => total + value, 0);

const REFUSED = [
  'gannet_node_handshake_refusals_total', 'gannet_client_rejected_total', 'gannet_client_num_reply_errors_total',
  'gannet_node_client_connection_limit_total', 'gannet_node_client_connection_rate_limit_total',
  'gannet_node_memory_limit_total', 'gannet_node_accept_rate_limit_total', 'gannet_client_origins_refused_total',
];
const CHARTS = [
  { title: 'Clients', of: (now) => sum(now, 'gannet_node_num_clients'), show: count },
  { title: 'Messages in', rate: ['gannet_transport_messages_received_total'], show: perSecond },
  { title: 'Messages out', rate: ['gannet_transport_messages_sent_total'], show: perSecond },
  { title: 'Memory in use', of: (now) => sum(now, 'gannet_process_memory_in_use_bytes'), show: bytes },
  { title: 'CPU, of one core', rate: ['process_cpu_seconds_total'], factor: 100, show: percent },
  { title: 'Refusals and errors', rate: REFUSED, show: perSecond },
];
/** Seconds that are kept, and that a chart shows at least. */
const KEPT = 300;
const SHOWN = 60;
let samples = [];

function sample(page) {
  const at = performance.now() / 1000;
  const before = samples.at(-1);
  const values = CHARTS.map(({ of, rate, factor = 1 }, index) => {
    if (of) return { value: of(page) };
    const total = rate.reduce((all, name) => all + sum(page, name), 0);
    const span = before ? at - before.at : 0;
    return { total, value: span > 0 ? Math.max(0, (total - before.values[index].total) / span) * factor : 0 };
  });
  samples = [...samples, { at, values }].slice(-KEPT);
}

const SVG = 'http://www.w3.org/2000/svg';
function drawCharts() {
  const charts = find('#charts');
  if (!charts.children.length) {
    for (const { title } of CHARTS) {
      const figure = make('figure');
      const caption = make('figcaption', title);
      caption.append(make('b'));
      const svg = document.createElementNS(SVG, 'svg');
      svg.setAttribute('preserveAspectRatio', 'none');
      svg.setAttribute('role', 'img');
      svg.append(document.createElementNS(SVG, 'path'));
      figure.append(caption, svg);
      charts.append(figure);
    }
  }
  CHARTS.forEach(({ title, show }, index) => {
    const line = samples.map(({ values }) => values[index].value);
    const top = Math.max(...line, 0) || 1;
    const span = Math.max(SHOWN, line.length);
    const points = line.map((value, at) => `${span - line.length + at},${(98 - 94 * value / top).toFixed(1)}`);
    const figure = charts.children[index];
    figure.querySelector('b').textContent = show(line.at(-1));
    figure.querySelector('svg').setAttribute('viewBox', `0 0 ${span - 1} 100`);
    figure.querySelector('svg').setAttribute('aria-label', `${title}: ${show(line.at(-1))} now, ${show(top)} at most`);
    const path = points.length > 1 ? `M${span - line.length},100 L${points.join(' L')} L${span - 1},100` : '';
    figure.querySelector('path').setAttribute('d', path);
  });
}

/** Rows of `[text]`, `[number]`, or `[text, action]` for a cell that can be pressed. */
function fill(table, heads, rows, none) {
  table.replaceChildren();
  const head = make('tr');
  heads.forEach((text, at) => head.append(make('th', text, typeof rows[0]?.[at] === 'number' ? 'number' : undefined)));
  table.append(head);
  for (const row of rows) {
    const line = make('tr');
    for (const cell of row) {
      const [value, act] = Array.isArray(cell) ? cell : [cell];
      const place = make('td', undefined, typeof value === 'number' ? 'number' : undefined);
      if (act) {
        const button = make('button', value === '' ? '(nobody)' : value);
        button.type = 'button';
        button.addEventListener('click', act);
        place.append(button);
      } else place.textContent = typeof value === 'number' ? whole.format(value) : value;
      line.append(place);
    }
    table.append(line);
  }
  if (!rows.length) {
    const line = make('tr');
    const place = make('td', none, 'empty');
    place.colSpan = heads.length;
    line.append(place);
    table.append(line);
  }
}

function drawNode(page, info) {
  const figures = [
    ['Clients', count(sum(page, 'gannet_node_num_clients'))],
    ['Clients at most', count(sum(page, 'gannet_client_connections_limit'))],
    ['Subscriptions', count(sum(page, 'gannet_node_num_subscriptions'))],
    ['Channels', count(sum(page, 'gannet_node_num_channels'))],
    ['Waits for delivery', bytes(sum(page, 'gannet_reactor_fanout_waiting_bytes'))],
    ['Histories', bytes(sum(page, 'gannet_reactor_history_bytes'))],
    ['Up for', age(sum(page, 'gannet_node_uptime_seconds'))],
  ];
  find('#figures').replaceChildren(...figures.map(([name, value]) => {
    const pair = make('div');
    pair.append(make('dt', name), make('dd', value));
    return pair;
  }));
  if (info) {
    fill(find('#nodes'), ['Name', 'Version', 'Clients', 'Users', 'Subscriptions', 'Channels', 'Up for'],
      info.nodes.map((node) => [node.name, node.version, node.num_clients, node.num_users, node.num_subs,
        node.num_channels, age(node.uptime)]));
  }
  const names = [...REFUSED, 'gannet_client_num_server_disconnects_total'];
  const counted = names.flatMap((name) => (page.get(name) ?? []).map(([labels, value]) => [name, labels, value]));
  const rows = counted.filter(([, , value]) => value > 0).sort((one, other) => other[2] - one[2]);
  fill(find('#refusals'), ['What', 'Which', 'How often'],
    rows.map(([name, labels, value]) => [name.replace(/^gannet_|_total$/g, '').replaceAll('_', ' '),
      labels.replaceAll('"', ''), value]), 'Nothing yet.');
}

// --- looking ---

let looks = 0;
let timer;
async function look() {
  clearTimeout(timer);
  if (document.hidden || find('#node').hidden) return;
  try {
    // All nodes are asked now and then: that takes a count of users.
    const [page, info] = await Promise.all([
      ask('metrics').then((response) => response.text()).then(parse),
      looks++ % 5 ? undefined : call('info', {}),
    ]);
    if (find('#node').hidden) return;
    sample(page);
    drawCharts();
    drawNode(page, info);
    tell('live');
  } catch (error) {
    if (!find('#login').hidden) return;
    tell(error instanceof Refusal ? error.message : 'the node does not answer', true);
  }
  clearTimeout(timer);
  timer = setTimeout(look, 1000);
}
document.addEventListener('visibilitychange', look);

/** Carries out what a button asks for, and says what came of it. */
async function carryOut(place, work) {
  place.hidden = false;
  try {
    const result = await work();
    place.classList.remove('bad');
    place.textContent = JSON.stringify(result, null, 2);
  } catch (error) {
    place.classList.add('bad');
    place.textContent = error.message;
  }
}

const field = (form, name) => form.elements[name].value;

function showChannel(name) {
  find('#one-channel').elements.channel.value = name;
  carryOut(find('#channel-answer'), () => call('presence', { channel: name }).catch(() => call('presence_stats', { channel: name })));
  find('#one-channel').scrollIntoView({ behavior: 'smooth' });
}

async function listChannels() {
  try {
    const { channels } = await call('channels', { pattern: field(find('#find-channels'), 'pattern') });
    const rows = Object.entries(channels).sort((one, other) => other[1].num_clients - one[1].num_clients);
    fill(find('#channel-list'), ['Channel', 'Subscribers'],
      rows.slice(0, 1000).map(([name, { num_clients: clients }]) => [[name, () => showChannel(name)], clients]),
      'No channel has subscribers.');
    tell(rows.length === 1 ? '1 channel' : `${whole.format(rows.length)} channels`);
  } catch (error) {
    tell(error.message, true);
  }
}

function chooseUser({ user, client }) {
  const form = find('#one-user');
  form.elements.user.value = user;
  form.elements.client.value = client;
  listClients({ user: '', client });
}

async function listClients(search) {
  try {
    const found = await (await ask(`clients?${new URLSearchParams(search)}`)).json();
    const heads = ['Client', 'User', 'Transport', 'Address', 'Connected', 'Subscriptions', 'Bytes that wait'];
    fill(find('#client-list'), heads, found.map((one) => [
      [one.client, () => chooseUser(one)], [one.user, () => listClients({ user: one.user, client: '' })],
      one.transport, one.address, one.minutes ? age(one.minutes * 60) : 'under 1 min', one.subscriptions, one.waiting,
    ]), 'No client fits.');
    if (search.client && found.length) {
      find('#user-answer').hidden = false;
      find('#user-answer').classList.remove('bad');
      find('#user-answer').textContent = `subscribed to:\n${found[0].channels.join('\n') || '(nothing)'}`;
    }
    tell(found.length === 1 ? '1 client' : `${whole.format(found.length)} clients`);
  } catch (error) {
    tell(error.message, true);
  }
}

find('#find-channels').addEventListener('submit', (event) => { event.preventDefault(); listChannels(); });
find('#find-clients').addEventListener('submit', (event) => {
  event.preventDefault();
  listClients({ user: field(event.target, 'user'), client: field(event.target, 'client') });
});

find('#one-channel').addEventListener('submit', (event) => {
  event.preventDefault();
  const [form, method] = [event.target, event.submitter?.value ?? 'publish'];
  const channel = field(form, 'channel');
  if (method === 'history_remove' && !confirm(`Remove the history of ${channel}?`)) return;
  carryOut(find('#channel-answer'), () => {
    if (method !== 'publish') return call(method, method === 'history' ? { channel, limit: 50, reverse: true } : { channel });
    let data;
    try { data = JSON.parse(field(form, 'data')); } catch (error) { throw new Refusal(`the data is no JSON: ${error.message}`); }
    return call('publish', { channel, data });
  });
});

find('#one-user').addEventListener('submit', (event) => {
  event.preventDefault();
  const [form, method] = [event.target, event.submitter?.value ?? 'subscribe'];
  const [user, client, channel] = ['user', 'client', 'channel'].map((name) => field(form, name));
  const answer = find('#user-answer');
  // Clients without a name are one user to the API, and it would meet all of them.
  if (!user && !client) return carryOut(answer, () => Promise.reject(new Refusal('name a user, a client, or both')));
  if (method === 'disconnect' && !confirm(`Disconnect ${client || `all clients of ${user}`}?`)) return;
  return carryOut(answer, () => call(method, { user, client, ...(channel && method !== 'disconnect' ? { channel } : {}) }));
});

// --- a live trace ---

/** Messages that are shown, the newest first. */
const TRACED = 300;
/** What is watched, with what came of it; it ends with its page. */
let watched;
let traceTimer;

function drawTrace() {
  const rows = watched.messages.map((it) => [
    new Date(it.at_ms).toISOString().slice(11, 23), it.kind, it.channel, it.user, it.offset || '',
    it.kind === 'end' ? `code ${it.code}` : it.data + (it.size > new Blob([it.data]).size ? ` … ${bytes(it.size)}` : ''),
  ]);
  fill(find('#trace-list'), ['Time (UTC)', 'What', 'Channel, method', 'User', 'Offset', 'Data'], rows, 'Nothing yet.');
  find('#skipped').textContent = watched.skipped ? `${whole.format(watched.skipped)} more came than are kept.` : '';
}

async function trace() {
  clearTimeout(traceTimer);
  const mine = watched;
  if (!mine) return;
  try {
    const query = new URLSearchParams({ id: mine.id, channel: mine.channel, user: mine.user });
    const { messages, skipped } = await (await ask(`trace?${query}`)).json();
    if (watched !== mine) return;
    mine.messages = [...messages.reverse(), ...mine.messages].slice(0, TRACED);
    mine.skipped += skipped;
    drawTrace();
    tell(`watching ${mine.channel || mine.user}`);
  } catch (error) {
    if (watched !== mine) return;
    tell(error instanceof Refusal ? error.message : 'the node does not answer', true);
  }
  traceTimer = setTimeout(trace, 1000);
}

function unwatch() {
  clearTimeout(traceTimer);
  watched = undefined;
  find('#stop').disabled = true;
}

find('#watch').addEventListener('submit', (event) => {
  event.preventDefault();
  const [channel, user] = ['channel', 'user'].map((name) => field(event.target, name));
  unwatch();
  if (Boolean(channel) === Boolean(user)) return tell('name a channel, or a user', true);
  const [id] = crypto.getRandomValues(new Uint32Array(1));
  watched = { id, channel, user, messages: [], skipped: 0 };
  find('#stop').disabled = false;
  drawTrace();
  return trace();
});
find('#stop').addEventListener('click', () => { unwatch(); tell(''); });

// --- pages ---

const PAGES = ['node', 'channels', 'clients', 'trace', 'config'];
async function show() {
  const here = PAGES.find((name) => location.hash === `#${name}`) ?? 'node';
  find('#login').hidden = true;
  find('#places').hidden = find('#leave').hidden = false;
  for (const name of PAGES) find(`section#${name}`).hidden = name !== here;
  for (const link of document.querySelectorAll('nav a')) {
    if (link.hash === `#${here}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  tell('');
  if (here !== 'trace') unwatch();
  else if (!watched) fill(find('#trace-list'), ['Time (UTC)', 'What', 'Data'], [], 'Nothing is watched.');
  if (here === 'node') look();
  if (here === 'channels') listChannels();
  if (here === 'clients') listClients({ user: '', client: '' });
  if (here === 'config') {
    try { find('#config-text').textContent = await (await ask('config')).text(); } catch (error) { tell(error.message, true); }
  }
}
addEventListener('hashchange', () => { if (find('#login').hidden) show(); });

function signIn() {
  clearTimeout(timer);
  unwatch();
  samples = [];
  for (const name of PAGES) find(`section#${name}`).hidden = true;
  find('#places').hidden = find('#leave').hidden = true;
  find('#login').hidden = false;
  tell('');
  find('#login input[type=password]').focus();
}

find('#login').addEventListener('submit', async (event) => {
  event.preventDefault();
  const [form, trouble] = [event.target, event.target.querySelector('.trouble')];
  try {
    await ask('login', { password: field(form, 'password') });
    form.elements.password.value = '';
    trouble.textContent = '';
    show();
  } catch (error) {
    trouble.textContent = error instanceof Refusal ? error.message : 'the node does not answer';
  }
});
find('#leave').addEventListener('click', async () => {
  await ask('logout', {}).catch(() => {});
  signIn();
});

// Whoever is signed in, or need not be, sees the numbers at once.
ask('metrics').then(show, (error) => { if (!(error instanceof Refusal) || find('#login').hidden) tell(error.message, true); });
