// The Cadmus machine, as cadmus/machine/vm.py runs it: any text over VOCAB runs, and what cannot be computed is NAN.
//
// `run` gives the state after every token, with the state edited after some of them if that is wanted; `trueSet` says
// which tokens would make a prefix a true-program, as cadmus/machine/oracle.py does.

import { CAUSES, CLOSE, END, INSTRUCTIONS, OPEN, REGISTERS, SLOTS, Undefined, VOCAB } from "./instructions.mjs";
import { NAN, allTrue, isInt, isSeq } from "./values.mjs";

export const FUEL = 4096; // instructions executed per run
export const MAX_CALLS = 8; // calls active at once; the main text is not a call

/** Thrown where an instruction is due and no fuel is left. */
class OutOfFuel extends Error {}

/** The first character that is not an instruction, as {character, position}; null where all are. */
export function firstUnknown(text) {
  const characters = [...text]; // by character, not by half of one
  const position = characters.findIndex((character) => !INSTRUCTIONS.has(character));
  return position < 0 ? null : { character: characters[position], position };
}

/** How many tokens stand before the text's first `.`. */
export function lengthOf(text) {
  return text.includes(END) ? text.indexOf(END) : text.length;
}

/** The positions of the main text, and the ranges [begin, end) of the bodies bound to f, g, h (hoisted). */
export function parse(text) {
  const end = lengthOf(text);
  const mainText = [];
  const ranges = [];
  let position = 0;
  while (position < end) {
    if (text[position] !== OPEN) {
      mainText.push(position++);
      continue;
    }
    const close = text.indexOf(CLOSE, position);
    const bodyEnd = close < 0 || close > end ? end : close;
    ranges.push([position + 1, bodyEnd]);
    position = bodyEnd + 1;
  }
  return { mainText, bodies: new Map(ranges.slice(0, SLOTS.length).map((range, i) => [SLOTS[i], range])) };
}

/** Whether the inputs are as the instruction takes them; else why not. */
export function faultOf(instruction, inputs) {
  if (instruction.takesNan) return null;
  if (inputs.length < instruction.inputs) return CAUSES.UNDERFLOW;
  for (let i = 0; i < inputs.length; i++) {
    const type = instruction.inputTypes[i];
    if (inputs[i] === NAN) return CAUSES.NAN_INPUT;
    if ((type === "int" && !isInt(inputs[i])) || (type === "seq" && !isSeq(inputs[i]))) return CAUSES.TYPE;
  }
  return null;
}

/** A machine at work on one text. */
export class Machine {
  constructor(text) {
    const { mainText, bodies } = parse(text);
    this.text = text;
    this.positions = mainText;
    this.bodies = bodies;
    this.stack = [];
    this.registers = Object.fromEntries(REGISTERS.map((register) => [register, NAN]));
    this.fuel = FUEL;
    this.calls = 0;
    this.causes = []; // why instructions since the last `advance` left NAN
  }

  /** A snapshot: the stack with its top last, the registers, the fuel. */
  get state() {
    return { stack: [...this.stack], registers: { ...this.registers }, fuel: this.fuel };
  }

  /** Execute the token at a position of the main text. Out of fuel, the stack becomes a single NAN. */
  advance(position) {
    this.causes = [];
    try {
      this.execute(this.text[position], this.stack);
    } catch (error) {
      if (!(error instanceof OutOfFuel)) throw error;
      this.stack = [NAN];
      this.causes = [`no fuel is left after ${FUEL} instructions`];
    }
  }

  /** Execute one instruction on a stack. */
  execute(token, stack) {
    if (this.fuel === 0) throw new OutOfFuel();
    this.fuel -= 1;
    const instruction = INSTRUCTIONS.get(token);
    const inputs = stack.splice(Math.max(0, stack.length - instruction.inputs));
    try {
      stack.push(...this.apply(instruction, inputs));
    } catch (error) {
      if (!(error instanceof Undefined)) throw error;
      this.causes.push(error.message);
      for (let i = 0; i < instruction.outputs; i++) stack.push(NAN);
    }
  }

  /** Apply the uniform rules on missing, NAN and ill-typed inputs, then the instruction's own effect. */
  apply(instruction, inputs) {
    const fault = faultOf(instruction, inputs);
    if (fault) throw new Undefined(fault);
    if (instruction.takesNan && !inputs.length) inputs = [NAN];
    return instruction.usesMachine ? instruction.effect(this, ...inputs) : instruction.effect(...inputs);
  }

  load(register) {
    if (this.registers[register] === NAN) throw new Undefined(CAUSES.REGISTER_NAN);
    return this.registers[register];
  }

  store(register, value) {
    this.registers[register] = value;
    return [];
  }

  /** Run the body bound to a slot on a new stack that holds only x; its top at the end is the result. */
  call(slot, x) {
    if (!this.bodies.has(slot)) throw new Undefined(CAUSES.UNBOUND);
    if (this.calls === MAX_CALLS) throw new Undefined(CAUSES.CALL_DEPTH);
    this.calls += 1;
    const stack = [x];
    const [begin, end] = this.bodies.get(slot);
    for (let position = begin; position < end; position++) this.execute(this.text[position], stack);
    this.calls -= 1;
    if (!stack.length) throw new Undefined(CAUSES.NO_RESULT);
    return stack[stack.length - 1];
  }

  /** Put a value into a place, `reg.a` or `stack.K` (K from the top); false where there is no such place. */
  put(place, value) {
    const [kind, name] = place.split(".");
    if (kind === "reg") {
      if (!REGISTERS.includes(name)) return false;
      this.registers[name] = value;
      return true;
    }
    const index = this.stack.length - 1 - Number(name);
    if (!(index >= 0 && index < this.stack.length)) return false;
    this.stack[index] = value;
    return true;
  }
}

/** What lies in a place of a state; undefined where there is no such place. */
export function valueAt(state, place) {
  const [kind, name] = place.split(".");
  return kind === "reg" ? state.registers[name] : state.stack[state.stack.length - 1 - Number(name)];
}

/**
 * Run a program. `edits` [{at, place, value}] are made to the state after the token `at` (-1: before the first).
 *
 * Returns {states, causes, outputs, isTrue}: the state after every token (of a definition's token and of what follows
 * the end it is the state before it), and why a NAN arose there.
 */
export function run(text, edits = []) {
  const machine = new Machine(text);
  const mainText = new Set(machine.positions);
  const states = [];
  const causes = [];
  edit(machine, edits, -1);
  for (let position = 0; position < text.length; position++) {
    machine.causes = [];
    if (mainText.has(position)) machine.advance(position);
    edit(machine, edits, position);
    states.push(machine.state);
    causes.push(machine.causes);
  }
  return { states, causes, outputs: [...machine.stack], isTrue: allTrue(machine.stack) };
}

function edit(machine, edits, at) {
  for (const change of edits) if (change.at === at) machine.put(change.place, change.value);
}

/** The position of the `{` of a definition that is open at the end of a text; -1: none is. */
export function opening(text) {
  let start = text.indexOf(OPEN);
  while (start >= 0) {
    const close = text.indexOf(CLOSE, start);
    if (close < 0) return start;
    start = text.indexOf(OPEN, close);
  }
  return -1;
}

/**
 * Which single tokens make a prefix true, by token id; at that of `.`, whether it is true as it is.
 *
 * Without edits a program is judged with the definitions of its whole text. With edits, be it none ([]), the prefix is
 * frozen: it ran with its own definitions, its state was edited, and the continuation goes on from there.
 */
export function trueSet(prefix, edits = null) {
  const machine = new Machine(prefix);
  edit(machine, edits ?? [], -1);
  for (const position of machine.positions) {
    machine.advance(position);
    edit(machine, edits ?? [], position);
  }
  const before = machine.state;
  const isOpen = opening(prefix) >= 0;
  const verdict = (token) => {
    if (token === END) return allTrue(before.stack);
    if (isOpen || token === OPEN) return edits ? allTrue(before.stack) : run(prefix + token).isTrue;
    Object.assign(machine, { stack: [...before.stack], registers: { ...before.registers } });
    Object.assign(machine, { text: prefix + token, fuel: before.fuel, calls: 0 });
    machine.advance(prefix.length);
    return allTrue(machine.stack);
  };
  return [...VOCAB].map(verdict);
}

/** Whether what stands behind `cut` makes the program true, the prefix being frozen and its state edited. */
export function continuationIsTrue(text, cut, edits) {
  const prefix = text.slice(0, cut);
  const machine = new Machine(prefix);
  edit(machine, edits, -1);
  for (const position of machine.positions) {
    machine.advance(position);
    edit(machine, edits, position);
  }
  const whole = parse(text);
  machine.text = text;
  machine.bodies = whole.bodies;
  for (const position of whole.mainText) if (position >= cut) machine.advance(position);
  return allTrue(machine.stack);
}
