// What the page knows, and where it comes from: a socket on which the server speaks and the page never does.

const KEPT = 500; // points of a plot
export const CUT_MS = 2000;

export const store = {
  snapshot: null,
  history: new Map(), // by environment and device: points of a plot
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
  const now = Date.now() / 1000;
  for (const environment of snapshot.environments) {
    if (!store.record) for (const [label, device] of Object.entries(environment.devices)) remember(`${environment.env_id}/${label}`, device, now);
    loadNetwork(environment);
  }
  changed();
}

function remember(key, device, now) {
  const points = store.history.get(key) || { t: [], told: [], done: [] };
  points.t.push(now);
  points.told.push(device.setpoint_mw === null ? null : device.setpoint_mw * 1000);
  points.done.push(device.p_mw === null || device.p_mw === undefined ? null : device.p_mw * 1000);
  if (points.t.length > KEPT) for (const series of Object.values(points)) series.shift();
  store.history.set(key, points);
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

export function connect() {
  const live = socket("/live");
  live.addEventListener("open", () => { store.connected = true; });
  live.addEventListener("message", (event) => hear(JSON.parse(event.data)));
  live.addEventListener("close", () => {
    store.connected = false;
    changed();
    setTimeout(connect, 1000);
  });
}
