// Acts: what somebody does to the program or the model, as plain data that a link can hold.
//
//   {kind: "set", token, editAt, place, value, layer, how, source}  a value of the state is another one: the machine's
//       state after `editAt` is edited, and the model's stream after `layer` at `token` is exchanged for that of a
//       source program (how = "exchange") or steered along the probe of the place ("steer"), or left ("machine")
//   {kind: "patch", token, from, source, part, layer}   the activation of another program, at its token `from`
//   {kind: "block", query, key, layer, head}            attention from one token to another; layer or head -1: all
//
// Tokens are counted from 0, -1 is the marker; the model's position is the token plus 1.

import { edgeEdit, patch, patchHead, siteOf } from "./edits.mjs";
import { firstUnknown, lengthOf, run, valueAt } from "./machine.mjs";
import { parseValue } from "./values.mjs";

export const PARTS = { stream: "the stream", attn: "attention's output", mlp: "the MLP's output" };
export const HOWS = { exchange: "exchange", steer: "steer along the probe", machine: "machine only" };

/** The site of a part of the model in a layer; `z3` is head 3. */
export function siteOfPart(part, layer) {
  if (part === "attn") return `blocks.${layer}.hook_attn_out`;
  if (part === "mlp") return `blocks.${layer}.hook_mlp_out`;
  return part.startsWith("z") ? `blocks.${layer}.attn.hook_z` : siteOf(layer);
}

/** The text that a model and the machine read of what was typed: up to its first `.`. */
export function bodyOf(text) {
  return text.slice(0, lengthOf(text) + 1);
}

/** Why a source program cannot be one for a program; empty where it can. */
export function sourceFault(source, config) {
  const unknown = firstUnknown(source);
  if (unknown) return `“${unknown.character}” at position ${unknown.position} is not an instruction`;
  if (!source) return "type a second program";
  return source.length >= config.n_ctx ? `the model reads ${config.n_ctx - 1} tokens at most` : "";
}

/** The edits of the machine's state that acts are. */
export function machineEdits(acts) {
  const sets = acts.filter((act) => act.kind === "set");
  return sets.map(({ editAt, place, value }) => ({ at: editAt, place, value: parseValue(value) }));
}

/**
 * The edits of the model that acts are. `context`: {model, probes, readSource}; readSource(text) gives the run of a
 * source program. Acts that cannot be made say so in `faults` [[act, reason]].
 */
export function modelEdits(acts, context) {
  const edits = [];
  const faults = [];
  for (const act of acts) {
    const made = EDITS[act.kind](act, context);
    if (typeof made === "string") faults.push([act, made]);
    else edits.push(...made);
  }
  return { edits, faults };
}

const EDITS = {
  set(act, { model, probes, readSource }) {
    const position = act.token + 1;
    if (act.how === "machine") return [];
    if (act.how === "steer") {
      const change = probes.steering(act.layer, act.place, parseValue(act.value));
      return change ? [{ site: siteOf(act.layer), position, change }] : `no probe of ${act.place} knows ${act.value}`;
    }
    const fault = act.source
      ? sourceFault(act.source, model.config)
      : "no program of other digits has this value there";
    if (fault) return fault;
    const source = readSource(act.source);
    if (position >= source.length) return "the source program is too short";
    return [{ site: siteOf(act.layer), position, change: patch(source.at(siteOf(act.layer), position).slice()) }];
  },

  patch(act, { model, readSource }) {
    const fault = sourceFault(act.source, model.config);
    if (fault) return fault;
    const source = readSource(act.source);
    if (act.from + 1 >= source.length) return `the second program has no token ${act.from}`;
    const site = siteOfPart(act.part, act.layer);
    const values = source.at(site, act.from + 1);
    const { d_head } = model.config;
    const head = act.part.startsWith("z") ? Number(act.part.slice(1)) : null;
    const change =
      head === null ? patch(values.slice()) : patchHead(values.slice(head * d_head, (head + 1) * d_head), head);
    return [{ site, position: act.token + 1, change }];
  },

  block(act, { model }) {
    if (act.key === act.query) return "a token keeps its attention to itself: without any key it would have no output";
    const layers = act.layer < 0 ? Array.from({ length: model.config.n_layers }, (_, layer) => layer) : [act.layer];
    return layers.map((layer) => edgeEdit(model, layer, act.query + 1, [act.key + 1], act.head < 0 ? null : act.head));
  },
};

/** An act in words. */
export function describe(act, text) {
  const name = (token) => (token < 0 ? "the marker" : `“${text[token] ?? "?"}” (${token})`);
  const after = (layer) => (layer < 0 ? "before the first layer" : `after layer ${layer}`);
  if (act.kind === "set") {
    const old = act.old === undefined ? "" : `${act.old} → `;
    const how = {
      exchange: `exchanged ${after(act.layer)}`,
      steer: `steered ${after(act.layer)}`,
      machine: "machine only",
    };
    return `${placeName(act.place)} at ${name(act.token)}: ${old}${act.value}, ${how[act.how]}`;
  }
  if (act.kind === "patch") {
    const part = act.part.startsWith("z") ? `head ${act.layer}.${act.part.slice(1)}` : PARTS[act.part];
    return `${part} ${act.part === "stream" ? after(act.layer) : `of layer ${act.layer}`} at ${name(act.token)} from “${act.source}” (${act.from})`;
  }
  const head =
    act.layer < 0 ? "all heads" : act.head < 0 ? `all heads of layer ${act.layer}` : `head ${act.layer}.${act.head}`;
  return `${head}: ${name(act.query)} no longer attends to ${name(act.key)}`;
}

/** A place in words. */
export function placeName(place) {
  const [kind, name] = place.split(".");
  if (kind === "reg") return `register ${name}`;
  return name === "0" ? "top of the stack" : name === "1" ? "second on the stack" : `stack entry ${Number(name) + 1}`;
}

/** What lies in a place after a token, of a run of the machine. */
export function contentAt(text, token, place) {
  return token < 0 ? undefined : valueAt(run(text).states[token], place);
}
