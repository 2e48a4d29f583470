// The 65 instructions as one table, row for row that of cadmus/machine/instructions.py.
//
// First why an instruction may have no result, then the effects, then the table. An effect takes the inputs, bottom
// first, none of them NAN and all of the signature's types, and returns the outputs, bottom first. The effect of an
// instruction that names a part of the machine in its signature ([register], [body]) takes the machine first.

import { Int, MAX_INT, MAX_LENGTH, MAX_TAG, NAN, Seq, isInt, isSeq, truth } from "./values.mjs";

export const VOCAB = "0123456789.+-*/%xn<>=!~m&|?:\\@o;ABCDabcd{}fghFGH(,rQ#ISXERTOPMW'\"";
export const END = ".";
export const OPEN = "{";
export const CLOSE = "}";
export const REGISTERS = ["a", "b", "c", "d"];
export const SLOTS = ["f", "g", "h"];

export const CAUSES = {
  UNDERFLOW: "an input is missing",
  NAN_INPUT: "an input is NAN",
  TYPE: "an input has the wrong type",
  REGISTER_NAN: "the register holds NAN",
  OUT_OF_RANGE: "the result is outside the Int range",
  DIVISION_BY_ZERO: "division by 0",
  LENGTHS_DIFFER: "the sequences differ in length",
  TOO_LONG: "the sequence would be longer than 32",
  NO_ELEMENT: "there is no such element",
  BAD_COUNT: "the count is outside 0..32",
  BAD_TAG: "the tag is outside 0..9",
  EMPTY: "the sequence is empty",
  UNBOUND: "no subroutine is bound",
  CALL_DEPTH: "8 calls are active already",
  NO_RESULT: "the call left nothing",
  BAD_RESULT: "f gave an element no usable result",
};

/** Thrown by an effect that has no result; the machine turns it into NAN outputs. */
export class Undefined extends Error {}

function undefinedFor(cause) {
  throw new Undefined(CAUSES[cause]);
}

// --- effects ----------------------------------------------------------------------------------------------------------

function int(v) {
  return Math.abs(v) <= MAX_INT ? Int(v) : undefinedFor("OUT_OF_RANGE"); // doubles are exact far beyond the range
}

function seq(items) {
  return items.length <= MAX_LENGTH ? Seq(items) : undefinedFor("TOO_LONG");
}

/** Lift an operation on integers to Ints and Seqs: an Int meets every element, Seqs of one length go in step. */
function pervasive(operation) {
  return (...inputs) => {
    const sequences = inputs.filter(isSeq);
    if (!sequences.length) return [int(operation(...inputs.map((input) => input.v)))];
    const length = sequences[0].items.length;
    if (sequences.some((other) => other.items.length !== length)) undefinedFor("LENGTHS_DIFFER");
    const element = (i) => int(operation(...inputs.map((input) => (isSeq(input) ? input.items[i].v : input.v))));
    return [Seq(Array.from({ length }, (_, i) => element(i)))];
  };
}

const divide = (a, b) => (b === 0 ? undefinedFor("DIVISION_BY_ZERO") : Math.floor(a / b));
const remainder = (a, b) => a - b * divide(a, b);

function countUp(k) {
  if (k.v < 0 || k.v > MAX_LENGTH) undefinedFor("BAD_COUNT");
  return [Seq(Array.from({ length: k.v }, (_, i) => Int(i)))];
}

function element(s, i) {
  return i.v >= 0 && i.v < s.items.length ? [s.items[i.v]] : undefinedFor("NO_ELEMENT");
}

function largest(s) {
  return s.items.length ? [Int(Math.max(...s.items.map((item) => item.v)))] : undefinedFor("EMPTY");
}

function tail(s) {
  return s.items.length ? [Seq(s.items.slice(1))] : undefinedFor("EMPTY");
}

function runningSums(s) {
  let total = 0;
  return [Seq(s.items.map((item) => int((total += item.v))))];
}

function decorate(a, k) {
  if (k.v < 0 || k.v > MAX_TAG) undefinedFor("BAD_TAG");
  return [isInt(a) ? Int(a.v, k.v) : Seq(a.items.map((item) => Int(item.v, k.v)))];
}

function decoration(a) {
  return [isInt(a) ? Int(a.tag) : Seq(a.items.map((item) => Int(item.tag)))];
}

const call = (slot) => (machine, x) => [machine.call(slot, x)];
const callIf = (slot) => (machine, c, x) => [truth(c) ? machine.call(slot, x) : x];

function map(machine, s) {
  const results = [];
  for (const item of s.items) {
    const result = machine.call("f", item);
    if (!isInt(result)) undefinedFor("BAD_RESULT");
    results.push(result);
  }
  return [Seq(results)];
}

function select(machine, s) {
  const items = [];
  for (const item of s.items) {
    const result = machine.call("f", item);
    if (result === NAN) undefinedFor("BAD_RESULT");
    if (truth(result)) items.push(item);
  }
  return [Seq(items)];
}

const load = (register) => (machine) => [machine.load(register)];
const store = (register) => (machine, a) => machine.store(register, a);
const nothing = () => [];
const total = (s) => s.items.reduce((sum, item) => sum + item.v, 0);
const sorted = (s) => [...s.items].sort((i, j) => i.v - j.v); // stable

// --- the instruction table --------------------------------------------------------------------------------------------

/** A row: the token, its name, its signature, its effect, what it leaves, and whether it runs on a NAN or nothing. */
function row(token, name, signature, effect, doc, takesNan = false) {
  const [inputTypes, outputTypes] = signature
    .split("->")
    .map((side) => side.split(" ").filter((word) => word && word[0] !== "["));
  const usesMachine = signature.includes("[register]") || signature.includes("[body]");
  const outputs = outputTypes.length;
  return { token, name, signature, effect, doc, takesNan, inputTypes, inputs: inputTypes.length, outputs, usesMachine };
}

const bit = (condition) => (condition ? 1 : 0);
const digit = (d) => row(String(d), `digit ${d}`, "-> int", () => [Int(d)], `the number ${d}`);

const TABLE = [
  ...Array.from({ length: 10 }, (_, d) => digit(d)),
  row(".", "end", "[end] ->", nothing, "ends the text; never executed"),
  row(
    "+",
    "add",
    "num num -> num",
    pervasive((a, b) => a + b),
    "a + b",
  ),
  row(
    "-",
    "subtract",
    "num num -> num",
    pervasive((a, b) => a - b),
    "a - b",
  ),
  row(
    "*",
    "multiply",
    "num num -> num",
    pervasive((a, b) => a * b),
    "a * b",
  ),
  row("/", "divide", "num num -> num", pervasive(divide), "a / b rounded down; NAN for b = 0"),
  row("%", "remainder", "num num -> num", pervasive(remainder), "a - b * (a / b); NAN for b = 0"),
  row("x", "maximum", "num num -> num", pervasive(Math.max), "the larger of a and b"),
  row("n", "minimum", "num num -> num", pervasive(Math.min), "the smaller of a and b"),
  row(
    "<",
    "less",
    "num num -> bit",
    pervasive((a, b) => bit(a < b)),
    "1 where a < b, else 0",
  ),
  row(
    ">",
    "greater",
    "num num -> bit",
    pervasive((a, b) => bit(a > b)),
    "1 where a > b, else 0",
  ),
  row(
    "=",
    "equal",
    "num num -> bit",
    pervasive((a, b) => bit(a === b)),
    "1 where a = b, else 0",
  ),
  row(
    "!",
    "not",
    "num -> bit",
    pervasive((a) => bit(a === 0)),
    "1 where a = 0, else 0",
  ),
  row(
    "~",
    "negate",
    "num -> num",
    pervasive((a) => -a),
    "-a",
  ),
  row("m", "magnitude", "num -> num", pervasive(Math.abs), "|a|"),
  row(
    "&",
    "and",
    "num num -> bit",
    pervasive((a, b) => bit(a !== 0 && b !== 0)),
    "1 where neither is 0",
  ),
  row(
    "|",
    "or",
    "num num -> bit",
    pervasive((a, b) => bit(a !== 0 || b !== 0)),
    "1 where either is not 0",
  ),
  row("?", "choose", "any any any -> any", (c, a, b) => [truth(c) ? a : b], "a if c is true, else b"),
  row(":", "duplicate", "any -> any any", (a) => [a, a], "a a"),
  row("\\", "swap", "any any -> any any", (a, b) => [b, a], "b a"),
  row("@", "rotate", "any any any -> any any any", (a, b, c) => [b, c, a], "b c a"),
  row("o", "over", "any any -> any any any", (a, b) => [a, b, a], "a b a"),
  row(";", "drop", "any ->", () => [], "removes a"),
  ...REGISTERS.map((r) =>
    row(r.toUpperCase(), `store ${r}`, "any -> [register]", store(r), `moves a into register ${r}`, true),
  ),
  ...REGISTERS.map((r) => row(r, `load ${r}`, "[register] -> any", load(r), `the value of register ${r}`)),
  row("{", "open", "[open] ->", nothing, "opens a definition; inside one it does nothing"),
  row("}", "close", "[close] ->", nothing, "closes a definition; a stray one does nothing"),
  ...SLOTS.map((s) => row(s, `call ${s}`, "any [body] -> any", call(s), `${s}(x)`)),
  ...SLOTS.map((s) =>
    row(s.toUpperCase(), `call ${s} if`, "any any [body] -> any", callIf(s), `${s}(x) if c is true, else x`),
  ),
  row("(", "empty", "-> seq", () => [Seq()], "the empty sequence"),
  row(",", "append", "seq int -> seq", (s, a) => [seq([...s.items, a])], "s with a at its end"),
  row("r", "count up", "int -> seq", countUp, "0, 1, ..., k-1; NAN unless 0 <= k <= 32"),
  row("Q", "concatenate", "seq seq -> seq", (s, t) => [seq([...s.items, ...t.items])], "s followed by t"),
  row("#", "length", "seq -> int", (s) => [Int(s.items.length)], "the number of elements"),
  row("I", "element", "seq int -> int", element, "element i, from 0; NAN where there is none"),
  row("S", "sum", "seq -> int", (s) => [int(total(s))], "the total; 0 for none"),
  row("X", "largest", "seq -> int", largest, "the largest value; NAN for none"),
  row("E", "contains", "seq int -> bit", (s, a) => [Int(bit(s.items.some((i) => i.v === a.v)))], "1 if a occurs in s"),
  row("R", "reverse", "seq -> seq", (s) => [Seq([...s.items].reverse())], "s backwards"),
  row("T", "tail", "seq -> seq", tail, "s without its first element; NAN for none"),
  row("O", "sort", "seq -> seq", (s) => [Seq(sorted(s))], "s ascending by value, stable"),
  row("P", "running sums", "seq -> seq", runningSums, "the sums of the first 1, 2, ... elements"),
  row("M", "map", "seq [body] -> seq", map, "f of every element; NAN unless each is an Int"),
  row("W", "where", "seq [body] -> seq", select, "the elements for which f is true; NAN if f gives NAN"),
  row("'", "decorate", "any int -> any", decorate, "a with tag k, on every element of a sequence"),
  row('"', "decoration", "any -> any", decoration, "the tag of a; a sequence of tags for a sequence"),
];

/** From a token to its row. */
export const INSTRUCTIONS = new Map(TABLE.map((instruction) => [instruction.token, instruction]));
