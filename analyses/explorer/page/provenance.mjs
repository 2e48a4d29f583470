// Where every value of a program comes from and what reads it, as cadmus/states/provenance_plain.py finds it.
//
// A machine whose stack holds entries: each has the `value` that lies there, which is one object for as long as it is
// the same value, and the token that put it there. What instructions compute is taken from the table; what this file
// adds is which of their results are values that they were given.

import { INSTRUCTIONS, REGISTERS, SLOTS, Undefined } from "./instructions.mjs";
import { FUEL, MAX_CALLS, faultOf, lengthOf, parse } from "./machine.mjs";
import { NAN, Seq, isSeq, truth } from "./values.mjs";

const SHUFFLES = { ":": [0, 0], "\\": [1, 0], "@": [1, 2, 0], o: [0, 1, 0] }; // which inputs are left, bottom first
const STAY = { ":": 1, o: 2 }; // how many of them stay where they were
const STORES = REGISTERS.map((register) => register.toUpperCase());

/** Thrown where the instruction at `at` is due and no fuel is left. */
class Due extends Error {
  constructor(at) {
    super("no fuel is left");
    this.at = at;
  }
}

/**
 * The provenance of the tokens before the text's `.`:
 *
 * values [{number, arose, at, content}], occurrences [{value, role, token, editAt, place}], edges of the main text
 * [{kind, value, element, query, key}], and `held`: by token of the main text, the number of the value in each place.
 */
export function provenance(text) {
  const run = new Recorder(text.slice(0, lengthOf(text)));
  run.main();
  const occurrences = run.occurrences.map((row, i) => [row, i]);
  occurrences.sort(([a, i], [b, j]) => a.token - b.token || i - j);
  const edges = run.edges.filter((edge) => edge.depth === 0);
  return { values: run.values, occurrences: occurrences.map(([row]) => row), edges, held: run.held };
}

class Recorder {
  constructor(text) {
    const { mainText, bodies } = parse(text);
    Object.assign(this, { text, mainText, bodies: new Map([...bodies].slice(0, SLOTS.length)) });
    Object.assign(this, { stack: [], fuel: FUEL, depth: 0, token: -1, previous: -1 });
    Object.assign(this, { values: [], versions: [], edges: [], occurrences: [], held: new Map() });
    this.registers = Object.fromEntries(REGISTERS.map((register) => [register, null]));
  }

  // what is recorded

  /** A new value; the elements of a Seq are new too unless they are given, and made before it. */
  make(at, content, elements = null) {
    elements ??= isSeq(content) ? content.items.map((item) => this.make(at, item)) : [];
    const value = { number: this.values.length, arose: this.token, at, content, elements };
    this.values.push(value);
    return value;
  }

  entry(at, value, version = null, loaded = -1) {
    return { value, put: this.token, putAt: at, version, loaded };
  }

  edge(kind, at, value, key, keyAt, element = -1) {
    const { token: query, depth } = this;
    this.edges.push({ kind, value: value.number, element, query, key, depth, queryAt: at, keyAt });
  }

  /** Edges to where the value, and each of its elements, arose. */
  origins(kind, at, value) {
    this.edge(kind, at, value, value.arose, value.at);
    value.elements.forEach((element, k) => this.edge(kind, at, element, element.arose, element.at, k));
  }

  occurrence(value, role, place) {
    const editAt = ["consumed", "overwritten", "decision"].includes(role) ? this.previous : this.token;
    this.occurrences.push({ value: value.number, role, token: this.token, editAt, place });
  }

  // execution

  /** Execute the main text, then look back from its end. */
  main() {
    const states = [];
    for (const position of this.mainText) {
      this.token = position;
      const before = { ...this.registers };
      let outOfFuel = false;
      try {
        this.execute(position, this.stack);
      } catch (due) {
        if (!(due instanceof Due)) throw due;
        this.depth = 0;
        outOfFuel = true;
        this.stack = [this.entry(due.at, this.make(due.at, NAN))];
      }
      this.afterToken(before);
      this.hold();
      states.push([position, { ...this.registers }]);
      this.previous = position;
      if (outOfFuel) break;
    }
    this.between(states);
    this.decision();
  }

  hold() {
    const places = {};
    [...this.stack].reverse().forEach((entry, k) => (places[`stack.${k}`] = entry.value.number));
    for (const [register, version] of Object.entries(this.registers)) {
      if (version) places[`reg.${register}`] = version.value.number;
    }
    this.held.set(this.token, places);
  }

  /** The occurrences in the state after a token of the main text; `before`: what the registers held. */
  afterToken(before) {
    [...this.stack].reverse().forEach((entry, k) => {
      if (entry.put !== this.token) return;
      if (entry.value.arose === this.token) this.occurrence(entry.value, "arose", `stack.${k}`);
      if (entry.loaded === this.token) this.occurrence(entry.value, "loaded", `stack.${k}`);
    });
    for (const [register, version] of Object.entries(this.registers)) {
      const old = before[register];
      if (version && version.token === this.token) this.occurrence(version.value, "stored", `reg.${register}`);
      if (old && version !== old && !old.loads.includes(this.token)) {
        this.occurrence(old.value, "overwritten", `reg.${register}`);
      }
    }
  }

  /** The occurrences of versions between their store and their last load. */
  between(states) {
    for (const [token, registers] of states) {
      this.token = token;
      for (const version of Object.values(registers)) {
        if (!version || !version.loads.length || version.loads.includes(token)) continue;
        const isBetween = version.token < token && token < version.loads[version.loads.length - 1];
        if (isBetween) this.occurrence(version.value, "between", `reg.${version.register}`);
      }
    }
  }

  /** The occurrences and edges at the cut. */
  decision() {
    this.token = this.text.length - 1;
    const at = this.token;
    const entries = [...this.stack].reverse();
    entries.forEach((entry, k) => this.occurrence(entry.value, "decision", `stack.${k}`));
    for (const [register, version] of Object.entries(this.registers)) {
      if (version) this.occurrence(version.value, "decision", `reg.${register}`);
    }
    for (const entry of entries) {
      this.edge("decision", at, entry.value, entry.put, entry.putAt);
      this.origins("decision_origin", at, entry.value);
    }
  }

  /** Execute the instruction at `at` on a stack, the main text's or a body's. */
  execute(at, stack) {
    if (this.fuel === 0) throw new Due(at);
    this.fuel -= 1;
    const token = this.text[at];
    const instruction = INSTRUCTIONS.get(token);
    const depthBefore = stack.length;
    const split = Math.max(0, depthBefore - instruction.inputs);
    const inputs = stack.splice(split);
    if (STORES.includes(token)) this.store(at, inputs);
    else if (REGISTERS.includes(token)) stack.push(this.load(at, this.registers[token]));
    else if (token in SHUFFLES && isValid(instruction, inputs)) stack.push(...this.shuffle(at, token, inputs));
    else if (token !== ";") {
      inputs.forEach((operand, k) => {
        this.edge("operand", at, operand.value, operand.put, operand.putAt);
        this.origins("operand_origin", at, operand.value);
        if (this.depth === 0) this.occurrence(operand.value, "consumed", `stack.${depthBefore - 1 - split - k}`);
      });
      stack.push(...this.leave(at, instruction, inputs));
    }
  }

  /** Open a version of the register; what is missing on the stack is a NAN that the store makes. */
  store(at, inputs) {
    const register = this.text[at].toLowerCase();
    for (const operand of inputs) this.edge("store", at, operand.value, operand.put, operand.putAt);
    const value = inputs.length ? inputs[0].value : this.make(at, NAN);
    const version = { register, value, token: this.token, at, loads: [] };
    this.versions.push(version);
    this.registers[register] = version;
  }

  /** A copy of the register's version; a register that was never stored gives a new NAN. */
  load(at, version) {
    if (!version) return this.entry(at, this.make(at, NAN));
    version.loads.push(this.token);
    this.edge("load_store", at, version.value, version.token, version.at);
    this.origins("load_origin", at, version.value);
    return this.entry(at, version.value, version, this.token);
  }

  /** The inputs in another order; those that stay where they were are not put there anew. */
  shuffle(at, token, inputs) {
    const stay = STAY[token] ?? 0;
    const moved = SHUFFLES[token].slice(stay);
    for (const k of [...moved].sort()) this.edge("shuffle", at, inputs[k].value, inputs[k].put, inputs[k].putAt);
    return [...inputs.slice(0, stay), ...moved.map((k) => this.again(at, inputs[k]))];
  }

  /** The same value, put there anew. */
  again(at, entry) {
    return this.entry(at, entry.value, entry.version, entry.loaded);
  }

  nans(at, instruction) {
    return Array.from({ length: instruction.outputs }, () => this.entry(at, this.make(at, NAN)));
  }

  /** What an instruction leaves that takes operands: new values, but for those that it was given. */
  leave(at, instruction, inputs) {
    const { token } = instruction;
    if (!isValid(instruction, inputs)) return this.nans(at, instruction);
    if (token === "?") return [this.again(at, inputs[truth(inputs[0].value.content) ? 1 : 2])];
    if ("fghFGH".includes(token)) return [this.call(at, token, inputs)];
    if ("MW".includes(token)) return [this.entry(at, this.overElements(at, token, inputs[0].value))];
    let contents;
    try {
      contents = instruction.effect(...inputs.map((entry) => entry.value.content));
    } catch (error) {
      if (!(error instanceof Undefined)) throw error;
      return this.nans(at, instruction);
    }
    if (token === "I") {
      const element = inputs[0].value.elements[inputs[1].value.content.v];
      this.origins("load_origin", at, element);
      return [this.entry(at, element, null, this.token)];
    }
    const elements = movedElements(
      token,
      inputs.map((entry) => entry.value),
    );
    return contents.map((content) => this.entry(at, this.make(at, content, elements)));
  }

  /** What `f g h` and `F G H` leave: what the body returns is not made anew, nor what passes it by. */
  call(at, token, inputs) {
    const argument = inputs[inputs.length - 1];
    if (inputs.length > 1 && !truth(inputs[0].value.content)) return this.again(at, argument);
    const result = this.body(at, token.toLowerCase(), argument);
    return result ? this.again(at, result) : this.entry(at, this.make(at, NAN));
  }

  /** What the body leaves on top, null where there is no body, no call left or nothing on its stack. */
  body(at, slot, argument) {
    if (!this.bodies.has(slot) || this.depth === MAX_CALLS) return null;
    this.depth += 1;
    const stack = [this.again(at, argument)];
    const [begin, end] = this.bodies.get(slot);
    for (let position = begin; position < end; position++) this.execute(position, stack);
    this.depth -= 1;
    return stack.length ? stack[stack.length - 1] : null;
  }

  /** What `M` (a Seq of results) and `W` (a Seq of the elements with a true result) make. */
  overElements(at, token, sequence) {
    const elements = [];
    for (const element of sequence.elements) {
      const result = this.body(at, "f", this.entry(at, element));
      if (!result || result.value.content === NAN) return this.make(at, NAN);
      if (token === "M") {
        if (isSeq(result.value.content)) return this.make(at, NAN);
        elements.push(result.value);
      } else if (truth(result.value.content)) elements.push(element);
    }
    return this.make(at, Seq(elements.map((element) => element.content)), elements);
  }
}

/** Whether no input is missing, NAN or of the wrong type. */
function isValid(instruction, inputs) {
  return (
    faultOf(
      instruction,
      inputs.map((entry) => entry.value.content),
    ) === null
  );
}

/** The elements of what the instruction leaves, where it moves them; null where it makes new ones. */
function movedElements(token, inputs) {
  const [s, t] = inputs.map((value) => value.elements);
  if (token === ",") return [...s, inputs[1]];
  if (token === "Q") return [...s, ...t];
  if (token === "R") return [...s].reverse();
  if (token === "T") return s.slice(1);
  if (token === "O") return [...s].sort((i, j) => i.content.v - j.content.v);
  return null;
}
