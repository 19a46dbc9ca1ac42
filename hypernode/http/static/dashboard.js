// The dashboard: follows the node's events and asks again for what they are about. Only what no event tells is asked
// for every two seconds, while the page is looked at: counters of bytes, and what peers do. No library, nothing from
// elsewhere. What authors and peers wrote (names, messages, addresses) becomes text nodes only, never markup.
"use strict";

const PAUSE_MS = 2000;
const GATHER_MS = 150;
const SAMPLES = 150;
const BOOTS = 12;
const ROWS = 50;
const STAGES = ["log", "manifest", "header", "mount"];
const KNOWN_EVENTS = 2000;
const samples = [];
let events = [];
let lastId = null;
let movedIn = null;
const changed = new Set();
let isGathering = false;
const $ = (id) => document.getElementById(id);

// The token comes behind the #, which browsers do not send; it is kept for this tab and taken out of the address.
function takeToken() {
  const given = decodeURIComponent(location.hash.slice(1));
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token");
}

async function request(operation, fields, headers = {}) {
  const query = new URLSearchParams(fields).toString();
  const answer = await fetch(`/v1/${operation}${query && "?" + query}`, {
    headers: { Authorization: `Bearer ${sessionStorage.getItem("token")}`, ...headers },
  });
  if (!answer.ok) {
    const failure = new Error((await answer.json()).error.message);
    failure.status = answer.status;
    throw failure;
  }
  return answer;
}

async function ask(operation, fields = {}) {
  return (await request(operation, fields)).json();
}

function size(bytes) {
  let value = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000) return unit === "B" ? `${Math.round(value)} B` : `${value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

function row(...cells) {
  const made = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    if (cell instanceof Node) td.append(cell);
    else td.textContent = cell;
    if (typeof cell === "number") td.className = "number";
    made.append(td);
  }
  return made;
}

function draw(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawTransfer(status) {
  const now = { at: performance.now(), in: status.bytes_in, out: status.bytes_out };
  samples.push(now);
  if (samples.length > SAMPLES + 1) samples.shift();
  const rates = samples.slice(1).map((sample, i) => {
    const seconds = (sample.at - samples[i].at) / 1000 || 1;
    return { in: (sample.in - samples[i].in) / seconds, out: (sample.out - samples[i].out) / seconds };
  });
  const top = Math.max(1, ...rates.map((rate) => Math.max(rate.in, rate.out)));
  const line = (way) =>
    rates.map((rate, i) => `${600 - (rates.length - 1 - i) * (600 / SAMPLES)},${115 - (110 * rate[way]) / top}`).join(" ");
  $("transfer").replaceChildren(...["in", "out"].map((way) => draw("polyline", { class: way, points: line(way) })));
  const last = rates.at(-1) ?? { in: 0, out: 0 };
  $("rates").textContent =
    `${size(last.in)}/s in, ${size(last.out)}/s out (top of the plot: ${size(top)}/s); ` +
    `since the start ${size(status.bytes_in)} in, ${size(status.bytes_out)} out`;
}

// One bar for each boot, newest first; its parts are the stages of the node's share of it, in milliseconds.
function drawBoots(events) {
  const boots = events.filter((event) => event.type === "boot" && event.action === "start").slice(-BOOTS).reverse();
  const known = boots.map((boot) => STAGES.map((stage) => Number(boot.attributes[stage] ?? 0)));
  const longest = Math.max(1, ...known.map((stages) => stages.reduce((sum, ms) => sum + ms, 0)));
  const parts = [];
  known.forEach((stages, i) => {
    let x = 120;
    stages.forEach((ms, stage) => {
      const width = (400 * ms) / longest;
      const bar = draw("rect", { class: `stage${stage}`, x, y: 4 + i * 18, width, height: 12 });
      bar.append(draw("title", {}, `${STAGES[stage]}: ${ms} ms`));
      parts.push(bar);
      x += width;
    });
    const when = new Date(boots[i].time * 1000).toLocaleTimeString();
    parts.push(draw("text", { x: 4, y: 14 + i * 18 }, `${when} @${boots[i].attributes.version}`));
    const sum = stages.reduce((all, ms) => all + ms, 0);
    parts.push(draw("text", { x: x + 6, y: 14 + i * 18 }, `${sum.toFixed(1)} ms`));
  });
  if (!boots.length) parts.push(draw("text", { x: 4, y: 14 }, "no boot in the last day"));
  $("boots").setAttribute("viewBox", `0 0 600 ${8 + Math.max(1, boots.length) * 18}`);
  $("boots").replaceChildren(...parts);
  $("stages").replaceChildren(...STAGES.map((stage, i) => {
    const made = document.createElement("span");
    made.className = `stage${i}`;
    made.textContent = stage;
    return made;
  }));
}

async function showVersions(link, name) {
  const { result } = await ask("log", { link });
  const shown = $("versions");
  shown.hidden = false;
  shown.querySelector("h3").textContent = `Versions of ${name}`;
  shown.querySelector("tbody").replaceChildren(...result.versions.slice(-ROWS).reverse().map((version) => row(
    version.number, new Date(version.created * 1000).toLocaleString(), size(version.image_bytes),
    version.tags.join(" "), version.error ?? version.message ?? "")));
}

function showImages(images, logs) {
  const peers = new Map(logs.map((log) => [log.link, log.peers]));
  $("images").replaceChildren(...images.slice(0, ROWS).map((image) => {
    const name = document.createElement("button");
    name.textContent = image.name ?? "(no name)";
    name.addEventListener("click", () => showVersions(image.link, image.name ?? image.link).catch(lost));
    const here = image.stored_bytes ? `${Math.floor((100 * image.local_bytes) / image.stored_bytes)} %` : "–";
    return row(name, image.versions, size(image.image_bytes), here, peers.get(image.link) ?? 0, image.link);
  }));
}

function showNode(status) {
  $("node").textContent = `${status.peer_id ?? "network not started"} · ${status.addresses.length} address(es)`;
  $("peers").replaceChildren(...status.peers.slice(0, ROWS).map((peer) => row(
    peer.peer, peer.address, size(peer.bytes_in), size(peer.bytes_out),
    peer.banned ? `banned: ${peer.fault}` : peer.sessions ? "seen" : "known")));
}

async function showStatus() {
  const { result } = await ask("status");
  drawTransfer(result);
  showNode(result);
  if (movedIn !== null && movedIn !== result.bytes_in) await showAllImages(result);
  movedIn = result.bytes_in;
  return result;
}

async function showAllImages(status) {
  const { logs } = status ?? (await ask("status")).result;
  showImages((await ask("images")).result.images, logs);
}

async function showContainers() {
  const { containers } = (await ask("container-list", { all: true })).result;
  $("running").hidden = !containers.length;
  $("containers").replaceChildren(...containers.slice(0, ROWS).map((one) => row(
    one.name, one.state.health ? `${one.state.status} (${one.state.health})` : one.state.status, one.config.link,
    one.id.slice(0, 12))));
}

async function showSeeds() {
  const { seeds } = (await ask("seeds")).result;
  $("seeding").hidden = !seeds.length;
  $("seeds").replaceChildren(...seeds.slice(0, ROWS).map((seed) => row(
    seed.name ?? seed.link, seed.state, size(seed.here_bytes), size(seed.total_bytes), seed.detail ?? "")));
}

// What the page's policy forbids, or a mistake in here, is seen instead of passing by.
for (const kind of ["securitypolicyviolation", "error", "unhandledrejection"]) {
  addEventListener(kind, (event) => {
    document.body.dataset.fault = event.message ?? event.violatedDirective ?? String(event.reason);
  });
}

function lost(failure) {
  document.body.dataset.state = "lost";
  $("state").textContent = failure.message;
}

function showEvents() {
  drawBoots(events);
  $("events").replaceChildren(...events.slice(-ROWS).reverse().map((event) => row(
    new Date(event.time * 1000).toLocaleTimeString(), event.type, event.action, event.id)));
}

// What events of each type change, besides the lists of events and boots.
const CHANGED_BY = {
  container: showContainers,
  seed: showSeeds,
  peer: showStatus,
  image: showAllImages,
  boot: showAllImages,
  store: showAllImages,
};

// Events come in bursts; what they change is asked for once after each.
function gather(event) {
  changed.add(event.type);
  if (isGathering) return;
  isGathering = true;
  setTimeout(async () => {
    const what = new Set([...changed].map((type) => CHANGED_BY[type]).filter(Boolean));
    changed.clear();
    isGathering = false;
    showEvents();
    await Promise.all([...what].map((show) => show())).catch(lost);
  }, GATHER_MS);
}

// Ids are read as text: they have more digits than numbers of this language.
function hear(block) {
  const told = {};
  for (const line of block.split("\n")) {
    const [, name, value] = /^(\w+): (.*)$/.exec(line) ?? [];
    if (name) told[name] = value;
  }
  if (told.event === "error") throw new Error(JSON.parse(told.data).message);
  if (told.event !== "happened") return;
  lastId = told.id;
  events = [...events, JSON.parse(told.data)].slice(-KNOWN_EVENTS);
  gather(events.at(-1));
}

// The last day at first; after a break, what came since the last event. Throws when the stream ends.
async function follow() {
  const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
  const stream = (await request("events", { since: "1d" }, headers)).body.pipeThrough(new TextDecoderStream());
  const reader = stream.getReader();
  await Promise.all([showStatus().then(showAllImages), showContainers(), showSeeds()]);
  showEvents();
  $("shown").hidden = false;
  $("ask").hidden = true;
  document.body.dataset.state = "live";
  $("state").textContent = "live";
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the node ended the connection");
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    blocks.forEach(hear);
  }
}

async function run() {
  for (;;) {
    if (takeToken() === null) {
      $("ask").hidden = false;
      $("state").textContent = "a token is needed";
    } else {
      try {
        await follow();
      } catch (failure) {
        lost(failure);
        if (failure.status === 401) sessionStorage.removeItem("token");
      }
    }
    await new Promise((done) => setTimeout(done, PAUSE_MS));
  }
}

setInterval(() => {
  if (document.body.dataset.state === "live" && !document.hidden) showStatus().catch(lost);
}, PAUSE_MS);

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  $("token").value = "";
});
run();
