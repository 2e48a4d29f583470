// The numbers that the page carries: half precision in base64, decoded once to Float32Array.

/** Half-precision numbers as Float32Array: every pattern of 16 bits is looked up in a table of 65,536. */
const HALVES = (() => {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    table[bits] = bits & 0x8000 ? -size : size; // what Python writes is finite
  }
  return table;
})();

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** The tensors of a block of base64, by name: `entries` [{name, shape}], one after the other. */
export function decodeTensors(base64, entries) {
  const bytes = bytesOf(base64.trim());
  const halves = new Uint16Array(bytes.buffer, 0, bytes.length >> 1);
  const tensors = new Map();
  let start = 0;
  for (const { name, shape } of entries) {
    const size = shape.reduce((product, length) => product * length, 1);
    const values = new Float32Array(size);
    for (let i = 0; i < size; i++) values[i] = HALVES[halves[start + i]];
    tensors.set(name, values);
    start += size;
  }
  return tensors;
}

/**
 * y = x W' + b for rows from ... to - 1: x [rows, n], W [m, n], b [m], y [rows, m], all row after row.
 *
 * Four rows at a time read each weight once; what remains is a row alone. (Plain variables: in loops as hot as these
 * arrays that are taken apart cost four times as much.)
 */
export function linear(x, n, W, b, y, m, from, to) {
  let i = from;
  for (; i + 4 <= to; i += 4) fourRows(x, i * n, n, W, b, y, i * m, m);
  for (; i < to; i++) {
    for (let o = 0; o < m; o++) y[i * m + o] = b[o] + dot(x, i * n, W, o * n, n);
  }
}

function fourRows(x, x0, n, W, b, y, y0, m) {
  const x1 = x0 + n;
  const x2 = x1 + n;
  const x3 = x2 + n;
  for (let o = 0; o < m; o++) {
    const w = o * n;
    let s0 = b[o];
    let s1 = s0;
    let s2 = s0;
    let s3 = s0;
    for (let k = 0; k < n; k++) {
      const weight = W[w + k];
      s0 += weight * x[x0 + k];
      s1 += weight * x[x1 + k];
      s2 += weight * x[x2 + k];
      s3 += weight * x[x3 + k];
    }
    y[y0 + o] = s0;
    y[y0 + m + o] = s1;
    y[y0 + 2 * m + o] = s2;
    y[y0 + 3 * m + o] = s3;
  }
}

/** The product of x[at ...] and w[from ...], n numbers each, summed in four parts. */
export function dot(x, at, w, from, n) {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let k = 0;
  for (; k + 4 <= n; k += 4) {
    s0 += x[at + k] * w[from + k];
    s1 += x[at + k + 1] * w[from + k + 1];
    s2 += x[at + k + 2] * w[from + k + 2];
    s3 += x[at + k + 3] * w[from + k + 3];
  }
  for (; k < n; k++) s0 += x[at + k] * w[from + k];
  return s0 + s1 + s2 + s3;
}

/** Probabilities of logits; -Infinity has none. */
export function softmax(logits) {
  const largest = Math.max(...logits);
  const weights = Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

/** The error function, to 1.5e-7 (Abramowitz & Stegun 1964, formula 7.1.26). */
export function erf(x) {
  const size = Math.abs(x);
  const t = 1 / (1 + 0.3275911 * size);
  const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  const value = 1 - series * Math.exp(-size * size);
  return x < 0 ? -value : value;
}
