// Source programs for an exchange: the same program with other digits, in which a value is what it is wanted to be.

import { lengthOf, run, valueAt } from "./machine.mjs";
import { isInt, same } from "./values.mjs";

const PAIRS = 6; // digits that are changed two at a time

/**
 * The program nearest to `text`, one or two digits away, in which what lies in `place` after the token `at` is `value`;
 * null where there is none. Nearest: fewest other places that differ after that token, then fewest digits changed.
 */
export function findSource(text, at, place, value) {
  if (!isInt(value)) return null;
  const base = run(text).states[at];
  const digits = [...text.slice(0, lengthOf(text))].flatMap((token, i) => (/\d/.test(token) ? [i] : []));
  const best = { text: null, distance: Infinity };
  const moving = digits.filter((position) => {
    let moves = false;
    for (const changed of variants(text, position)) {
      const state = run(changed.slice(0, Math.max(at + 1, definitionsEnd(text)))).states[at];
      const there = valueAt(state, place);
      moves ||= there === undefined || !same(there, valueAt(base, place));
      consider(best, changed, state, base, place, value, 0);
    }
    return moves;
  });
  if (best.text) return best.text;
  const near = moving.slice(-PAIRS); // the digits that stand last come from nearest by
  for (let i = 0; i < near.length; i++) {
    for (let j = i + 1; j < near.length; j++) {
      for (const once of variants(text, near[i])) {
        for (const twice of variants(once, near[j])) {
          consider(best, twice, run(twice).states[at], base, place, value, 0.5);
        }
      }
    }
  }
  return best.text;
}

/** How far a text must be run so that its definitions, wherever they stand, are bound. */
function definitionsEnd(text) {
  return text.includes("{") ? text.length : 0;
}

function* variants(text, position) {
  for (let digit = 0; digit < 10; digit++) {
    if (String(digit) !== text[position]) yield text.slice(0, position) + digit + text.slice(position + 1);
  }
}

function consider(best, text, state, base, place, value, extra) {
  const there = valueAt(state, place);
  if (there === undefined || !same(there, value)) return;
  const distance = differences(state, base) + extra;
  if (distance < best.distance) Object.assign(best, { text, distance });
}

/** How many places of two states hold different values. */
function differences(one, other) {
  const registers = Object.keys(one.registers).filter((name) => !same(one.registers[name], other.registers[name]));
  const depth = Math.max(one.stack.length, other.stack.length);
  let n = registers.length;
  for (let k = 0; k < depth; k++) {
    const [a, b] = [one.stack[k], other.stack[k]];
    n += a === undefined || b === undefined || !same(a, b) ? 1 : 0;
  }
  return n;
}
