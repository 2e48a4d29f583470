// A view as the part of an address behind its #, and back. What comes from an address is checked word by word.

import { HOWS, PARTS } from "./acts.mjs";
import { REGISTERS } from "./instructions.mjs";
import { parseValue } from "./values.mjs";

const MAX_ACTS = 12;
const MAX_TEXT = 400; // characters of a program
const PLACE = new RegExp(`^(stack\\.\\d{1,2}|reg\\.[${REGISTERS.join("")}])$`);

/** The part of the address that stands for a view {program, token, layer, place, head, acts}. */
export function toHash(view) {
  const fields = [
    ["p", view.program],
    ["t", view.token],
    ["l", view.layer],
    ["v", view.place],
    ...(view.head ? [["h", view.head.join(".")]] : []),
    ...view.acts.map((act) => ["e", JSON.stringify(toWords(act))]),
  ];
  return fields.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
}

/** The view that an address stands for; fields that it lacks, or that make no sense, are left out. */
export function fromHash(hash, config) {
  const view = {};
  const acts = [];
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [name, encoded = ""] = part.split("=");
    const value = decoded(encoded);
    if (value === null) continue;
    if (name === "p") view.program = value.slice(0, MAX_TEXT);
    if (name === "t" && isInteger(value, -1, config.n_ctx)) view.token = Number(value);
    if (name === "l" && isInteger(value, -1, config.n_layers - 1)) view.layer = Number(value);
    if (name === "v" && PLACE.test(value)) view.place = value;
    if (name === "h") {
      const head = value.split(".");
      const isHead =
        head.length === 2 && isInteger(head[0], 0, config.n_layers - 1) && isInteger(head[1], 0, config.n_heads - 1);
      if (isHead) view.head = head.map(Number);
    }
    if (name === "e" && acts.length < MAX_ACTS) {
      const act = fromWords(value, config);
      if (act) acts.push(act);
    }
  }
  if (acts.length || view.program !== undefined) view.acts = acts;
  return view;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null; // a broken escape
  }
}

function isInteger(value, low, high) {
  return /^-?\d{1,4}$/.test(String(value)) && Number(value) >= low && Number(value) <= high;
}

function toWords(act) {
  if (act.kind === "set") {
    return ["set", act.token, act.editAt, act.place, act.value, act.layer, act.how, act.source ?? ""];
  }
  if (act.kind === "patch") return ["patch", act.token, act.from, act.source, act.part, act.layer];
  return ["block", act.query, act.key, act.layer, act.head];
}

/** The act that a JSON array stands for; null for any other. */
function fromWords(json, config) {
  let words;
  try {
    words = JSON.parse(json);
  } catch {
    return null;
  }
  if (!Array.isArray(words)) return null;
  const { n_ctx, n_heads, n_layers } = config;
  const isToken = (value) => isInteger(value, -1, n_ctx - 2);
  const isLayer = (value) => isInteger(value, -1, n_layers - 1);
  const isText = (value) => typeof value === "string" && value.length <= MAX_TEXT;
  const [kind, ...rest] = words;
  if (kind === "set") {
    const [token, editAt, place, value, layer, how, source] = rest;
    const isFine =
      isToken(token) && isToken(editAt) && PLACE.test(place) && isText(value) && parseValue(value) !== null;
    if (!isFine || !isLayer(layer) || !Object.hasOwn(HOWS, how) || !isText(source)) return null;
    return { kind, token, editAt, place, value, layer, how, source };
  }
  if (kind === "patch") {
    const [token, from, source, part, layer] = rest;
    const isHead = typeof part === "string" && /^z\d+$/.test(part) && isInteger(part.slice(1), 0, n_heads - 1);
    const isPart = isHead || Object.hasOwn(PARTS, part);
    if (!isToken(token) || !isToken(from) || !isText(source) || !isPart || !isLayer(layer)) return null;
    return part !== "stream" && layer < 0 ? null : { kind, token, from, source, part, layer };
  }
  if (kind === "block") {
    const [query, key, layer, head] = rest;
    const isFine = isToken(query) && isToken(key) && key <= query && isLayer(layer) && isInteger(head, -1, n_heads - 1);
    return isFine ? { kind, query, key, layer, head } : null;
  }
  return null;
}
