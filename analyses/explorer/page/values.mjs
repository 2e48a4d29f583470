// The machine's values, as cadmus/machine/values.py has them: Int, Seq and NAN, their limits and their truth.
//
// An Int is {v, tag}, a Seq {items: [Int]}, NAN the one object of that name; none is ever changed.

export const MAX_INT = 2 ** 31 - 1; // an Int lies in [-MAX_INT, MAX_INT]
export const MAX_TAG = 9;
export const MAX_LENGTH = 32; // elements of a Seq

export const NAN = Object.freeze({ nan: true });

/** An Int; `v + 0` makes 0 of -0, which the machine does not know. */
export function Int(v, tag = 0) {
  return { v: v + 0, tag };
}

export function Seq(items = []) {
  return { items };
}

export const isInt = (value) => value.v !== undefined;
export const isSeq = (value) => value.items !== undefined;

/** Truth of a value: an Int that is not 0; a Seq that is not empty and holds no 0; never NAN. */
export function truth(value) {
  if (isInt(value)) return value.v !== 0;
  if (isSeq(value)) return value.items.length > 0 && value.items.every((item) => item.v !== 0);
  return false;
}

/** Whether there are one or more values, all of them true. */
export function allTrue(values) {
  return values.length > 0 && values.every(truth);
}

/** The value as text: 7, 7'2 (with its tag), (1 2 3), NAN. */
export function show(value) {
  if (isInt(value)) return value.tag ? `${value.v}'${value.tag}` : String(value.v);
  if (isSeq(value)) return `(${value.items.map(show).join(" ")})`;
  return "NAN";
}

/** The value that a text as `show` writes it stands for; null where it stands for none. */
export function parseValue(text) {
  const trimmed = text.trim();
  if (trimmed.toUpperCase() === "NAN") return NAN;
  const inner = /^\((.*)\)$/.exec(trimmed);
  if (!inner) return parseInt_(trimmed);
  const items = inner[1]
    .split(/[\s,]+/)
    .filter(Boolean)
    .map(parseInt_);
  return items.length <= MAX_LENGTH && items.every((item) => item !== null) ? Seq(items) : null;
}

function parseInt_(text) {
  const parts = /^([-−]?\d{1,10})(?:'(\d))?$/.exec(text);
  if (!parts) return null;
  const v = Number(parts[1].replace("−", "-"));
  return Math.abs(v) <= MAX_INT ? Int(v, Number(parts[2] ?? 0)) : null;
}

/** Whether two values are the same, tags included. */
export function same(a, b) {
  return show(a) === show(b);
}
