// The page at work: one view, changed by clicks, keys and the address, drawn again after each change.

import { fromHash, toHash } from "./link.mjs";
import { $, fill, h, select } from "./dom.mjs";
import { firstUnknown } from "./machine.mjs";
import { Model } from "./model.mjs";
import { drawAnswer, drawHeads, drawNext, drawVerdict } from "./panels.mjs";
import { Probes } from "./probes.mjs";
import { drawScore, placesOf, scrollToToken } from "./score.mjs";
import { Session } from "./session.mjs";
import { decodeTensors } from "./tensors.mjs";
import { drawWorkbench } from "./workbench.mjs";
import { edgeEdit, siteOf } from "./edits.mjs";

const data = JSON.parse($("data").textContent);
const tensors = decodeTensors($("tensors").textContent, data.entries);
const model = new Model(data.config, tensors);
const session = new Session(model, new Probes(data.probes, tensors, data.config.d_model));

const view = { program: "", token: 0, layer: 0, place: "stack.0", head: null, acts: [] };
let draft = freshDraft();
let computed = null;

function freshDraft() {
  return { occurrence: 0, value: "", how: "exchange", patch: { source: "", from: null, part: "stream" } };
}

// --- changes ----------------------------------------------------------------------------------------------------------

/** Change the view and draw what follows from it. */
function update(changes, { isTyped = false } = {}) {
  const differs = (name) => changes[name] !== undefined && changes[name] !== view[name];
  const isOther = differs("program");
  if (isOther || differs("token") || differs("place")) draft = { ...draft, occurrence: 0, value: "" };
  Object.assign(view, changes);
  if (isOther && !changes.acts) view.acts = [];
  if (!isTyped) $("program").value = view.program;
  draw();
  remember();
}

const act = {
  token: (token) => update({ token }),
  layer: (layer) => update({ layer }),
  place: (place) => update({ place }),
  head: (head) => update({ head }),
  acts: (acts) => update({ acts }),
  add: (item) => update({ acts: [...view.acts, item] }),
  drop: (i) => update({ acts: view.acts.filter((_, k) => k !== i) }),
  draft(changes) {
    draft = { ...draft, ...changes };
    drawWorkbench(view, computed, session, draft, act);
  },
  edit(token, place) {
    update({ token, place });
    $("change").closest("details").open = true;
    $("change").querySelector("input")?.focus({ preventScroll: true });
  },
  /** Block the chosen head's attention from a query to a key, or let it pass again. */
  block(query, key) {
    if (!view.head || query === key) return;
    const [layer, head] = view.head;
    const isIt = (item) =>
      item.kind === "block" && item.query === query && item.key === key && item.layer === layer && item.head === head;
    const rest = view.acts.filter((item) => !isIt(item));
    update({
      acts: rest.length < view.acts.length ? rest : [...view.acts, { kind: "block", query, key, layer, head }],
    });
  },
};

// --- drawing ----------------------------------------------------------------------------------------------------------

function draw() {
  const fault = session.fault(view.program);
  $("program").setAttribute("aria-invalid", fault ? "true" : "false");
  $("fault").textContent = fault;
  $("work").hidden = Boolean(fault);
  if (fault) {
    fill("verdict");
    return;
  }
  computed = session.compute(view);
  const { text } = computed;
  view.token = Math.min(Math.max(view.token, -1), text.length - 1);
  drawVerdict(computed);
  drawScore(view, computed, session, act);
  drawNext(view, computed, session);
  drawAnswer(view, computed, session, act);
  drawHeads(view, computed, session, data.heads, act);
  drawWorkbench(view, computed, session, draft, act);
  scrollToToken(view.token);
}

/** Keep the view in the address, without a step in the history. */
function remember() {
  const hash = `#${toHash(view)}`;
  try {
    history.replaceState(null, "", hash);
  } catch {
    location.hash = hash; // where a file may not rewrite its address
  }
}

function open(hash) {
  const wanted = fromHash(hash, data.config);
  const program = wanted.program ?? data.program;
  const end = Math.max(0, [...program].length - 1);
  update({
    token: end,
    layer: Math.floor(data.config.n_layers / 2),
    place: "stack.0",
    head: strongestHead(),
    acts: [],
    ...wanted,
    program,
  });
}

/** The head that attends most along the data flow, of those that came with the page. */
function strongestHead() {
  const best = [...data.heads].sort((a, b) => b.mass - b.baseline - (a.mass - a.baseline))[0];
  return best ? [best.layer, best.head] : null;
}

// --- keys -------------------------------------------------------------------------------------------------------------

const KEYS = {
  ArrowLeft: () => act.token(Math.max(-1, view.token - 1)),
  ArrowRight: () => act.token(Math.min(computed.text.length - 1, view.token + 1)),
  ArrowUp: () => act.layer(Math.max(-1, view.layer - 1)),
  ArrowDown: () => act.layer(Math.min(data.config.n_layers - 1, view.layer + 1)),
  Home: () => act.token(-1),
  End: () => act.token(computed.text.length - 1),
  "[": () => act.head(stepHead(-1)),
  "]": () => act.head(stepHead(1)),
  s: () => act.place(stepPlace()),
  e: () => view.token >= 0 && act.edit(view.token, view.place),
  u: () => act.acts([]),
  "/": () => $("program").focus(),
  "?": () => $("help").showModal(),
};

function stepHead(step) {
  const { n_layers, n_heads } = data.config;
  const n = n_layers * n_heads;
  const now = view.head ? view.head[0] * n_heads + view.head[1] : step > 0 ? -1 : 0;
  const next = (now + step + n) % n;
  return [Math.floor(next / n_heads), next % n_heads];
}

function stepPlace() {
  const places = placesOf(computed);
  return places[(places.indexOf(view.place) + 1) % places.length];
}

function onKey(event) {
  const isTyping = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || $("help").open;
  if (event.key === "Escape" && isTyping) event.target.blur();
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
  if ($("work").hidden && !["/", "?"].includes(event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
}

// --- the page ---------------------------------------------------------------------------------------------------------

function start() {
  const size = `${(data.parameters / 1e6).toFixed(1)} M parameters, ${data.config.n_layers} layers of ${data.config.n_heads} heads`;
  fill("model", h("b", {}, data.name), ` ${size}`);
  fill("presets", ...presetChoice());
  $("program").addEventListener("input", (event) => {
    const end = [...event.target.value].length - 1;
    update({ program: event.target.value, token: end }, { isTyped: true });
  });
  $("share").addEventListener("click", share);
  $("show-help").addEventListener("click", () => $("help").showModal());
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => open(location.hash));
  open(location.hash);
}

function presetChoice() {
  if (!data.presets.length) return [];
  const options = [["", "Show me …"], ...data.presets.map((preset, i) => [i, preset.title])];
  const pick = (i) => {
    if (i === "") return;
    $("preset-words").textContent = data.presets[i].words;
    open(data.presets[i].hash);
  };
  return [select("preset", options, "", pick, { "aria-label": "a finding to look at" })];
}

async function share() {
  try {
    await navigator.clipboard.writeText(location.href);
    $("shared").textContent = "The link is copied.";
  } catch {
    $("shared").textContent = "The address of this page is the link to this view.";
  }
}

start();

/** For whoever has the console open, and for tests: the model, the machine and the view, as the page has them. */
document.body.dataset.ready = "";
window.explorer = { data, model, session, view, update, edgeEdit, siteOf, firstUnknown };
