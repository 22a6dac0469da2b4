// What the page knows, and where it comes from: a socket on which the server speaks and the page never does.

export const CUT_MS = 2000;

export const store = {
  snapshot: null,
  networks: new Map(), // by environment: { n, model } of its network
  heardAt: 0,
  connected: false,
  record: null, // what a record says of itself; null: this is live
};

const listeners = new Set();

export function onChange(listener) {
  listeners.add(listener);
}

export function changed() {
  for (const listener of listeners) listener(store);
}

export const isCutOff = () => !store.connected || Date.now() - store.heardAt > CUT_MS;

export function socket(path) {
  return new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`);
}

function hear(said) {
  store.heardAt = Date.now();
  if (said.record) {
    store.record = said.record;
    changed();
  } else {
    take(said);
  }
}

export function take(snapshot) {
  store.snapshot = snapshot;
  for (const environment of snapshot.environments) loadNetwork(environment);
  changed();
}

// A network is large and stays the same: it is asked for once, whenever its number is another one.
async function loadNetwork(environment) {
  const known = store.networks.get(environment.env_id);
  if (!environment.network || (known && known.n === environment.network)) return;
  store.networks.set(environment.env_id, { n: environment.network, model: known ? known.model : null });
  const answer = await fetch(`network?env_id=${encodeURIComponent(environment.env_id)}`).catch(() => null);
  if (answer && answer.ok) {
    store.networks.set(environment.env_id, { n: environment.network, model: await answer.json() });
    changed();
  } else {
    store.networks.delete(environment.env_id);
  }
}

let live = null, looking = null, again = null;

// Each view has a socket of its own: what it does not show is not sent.
export function lookAt(view) {
  if (view === looking) return;
  looking = view;
  const before = live;
  clearTimeout(again);
  connect();
  if (before) before.close();
}

function connect() {
  const mine = live = socket(`/live?view=${looking}`);
  mine.addEventListener("open", () => { if (live === mine) store.connected = true; });
  mine.addEventListener("message", (event) => { if (live === mine) hear(JSON.parse(event.data)); });
  mine.addEventListener("close", () => {
    if (live !== mine) return; // another view is looked at
    store.connected = false;
    changed();
    again = setTimeout(connect, 1000);
  });
}
