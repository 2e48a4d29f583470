// The decoder, as cadmus/models/model.py and layers.py have it: a pre-LayerNorm GELU transformer with TransformerLens's
// names. What happens inside is kept at sites under its hook names, [position, width] each, and edits act there; at the
// sites of on_demand.mjs, too, of which nothing is kept.
//
// A `Run` is all that the model computed of one program. Reading it again from some layer and position on leaves what
// lies before as it was, keys and values included: a token more at the end is one position's work.

import { changesAt } from "./edits.mjs";
import { isOnDemand, mlpInput, projectHeadInputs, sumResults } from "./on_demand.mjs";
import { dot, erf, linear } from "./tensors.mjs";

const GELU_SCALE = Math.SQRT1_2;

/** What the model computed of one program, by site. */
export class Run {
  constructor(model) {
    this.tokens = []; // ids; position 0 holds the marker
    this.sites = new Map(model.sites.map(({ site, width }) => [site, new Float32Array(model.config.n_ctx * width)]));
    this.model = model;
  }

  get length() {
    return this.tokens.length;
  }

  /** The activation at a site and position, as a view. */
  at(site, position) {
    const width = this.model.widths.get(site);
    return this.sites.get(site).subarray(position * width, (position + 1) * width);
  }

  /** The logits of the token behind a position. */
  logits(position) {
    return this.at("unembed.hook_out", position);
  }

  /** The attention that a head's query pays to each key up to itself. */
  pattern(layer, head, query) {
    const start = head * this.model.config.n_ctx;
    return this.at(`blocks.${layer}.attn.hook_pattern`, query).subarray(start, start + query + 1);
  }

  copyFrom(other) {
    this.tokens = [...other.tokens];
    for (const [site, values] of other.sites) {
      this.sites.get(site).set(values.subarray(0, other.length * this.model.widths.get(site)));
    }
  }
}

export class Model {
  /** config: the fields of ModelConfig; weights: by HookedTransformer's names, matrices as [out, in]. */
  constructor(config, weights) {
    this.config = config;
    this.weights = weights;
    this.sites = siteList(config);
    this.widths = new Map(this.sites.map(({ site, width }) => [site, width]));
    this.rotary = config.positional_embedding_type === "rotary" ? rotaryTables(config) : null;
    this.splitBuffer = new Float32Array(config.n_heads * config.d_model);
  }

  newRun() {
    return new Run(this);
  }

  /** Read tokens into a run that may hold others: positions before the first that differs stay. */
  read(run, tokens) {
    let from = 0;
    while (from < tokens.length && tokens[from] === run.tokens[from]) from++;
    run.tokens = [...tokens];
    this.forward(run, from, 0, []);
    return run;
  }

  /** The same program with edits, into `run`: only what they can reach is computed. */
  edit(run, base, edits) {
    const { n_layers } = this.config;
    const unknown = edits.find(({ site }) => !this.widths.has(site) && !isOnDemand(site, n_layers));
    if (unknown) throw new Error(`${unknown.site} is no site of this model; docs/sites.md lists them`);
    run.copyFrom(base);
    if (edits.length) {
      const layers = edits.map((edit) => beginOf(edit.site, n_layers));
      const positions = edits.map((edit) => edit.position ?? 0);
      this.forward(run, Math.min(...positions), Math.min(...layers), edits);
    }
    return run;
  }

  /** Go on with one token more; edits at sites do not reach it, but it attends to what they left. */
  append(run, token) {
    run.tokens.push(token);
    this.forward(run, run.length - 1, 0, []);
  }

  /** Compute positions from `from` on, from block `layer` on (0: the embedding too; n_layers: what stands behind). */
  forward(run, from, layer, edits) {
    const { n_layers } = this.config;
    if (layer <= 0) this.embed(run, from, edits);
    else this.apply(run, `blocks.${layer - 1}.hook_resid_post`, from, edits);
    for (let l = Math.max(layer, 0); l < n_layers; l++) this.block(run, l, from, edits);
    this.unembed(run, from, edits);
  }

  embed(run, from, edits) {
    const { d_model } = this.config;
    const x = run.sites.get("blocks.0.hook_resid_pre");
    const [tokens, places] = [run.sites.get("hook_embed"), run.sites.get("hook_pos_embed")];
    const [W_E, W_pos] = [this.weights.get("embed.W_E"), this.weights.get("pos_embed.W_pos")];
    for (let i = from; i < run.length; i++) {
      const at = i * d_model;
      const row = run.tokens[i] * d_model;
      for (let k = 0; k < d_model; k++) tokens[at + k] = W_E[row + k];
      if (places) places.set(W_pos.subarray(at, at + d_model), at);
    }
    this.apply(run, "hook_embed", from, edits);
    if (places) this.apply(run, "hook_pos_embed", from, edits);
    for (let k = from * d_model; k < run.length * d_model; k++) x[k] = tokens[k] + (places ? places[k] : 0);
  }

  block(run, layer, from, edits) {
    const { d_model, d_mlp } = this.config;
    const name = `blocks.${layer}`;
    const to = run.length;
    const weight = (rest) => this.weights.get(`${name}.${rest}`);
    const site = (rest) => run.sites.get(`${name}.${rest}`);
    const done = (rest) => this.apply(run, `${name}.${rest}`, from, edits);

    if (layer > 0)
      carry(run.sites.get(`blocks.${layer - 1}.hook_resid_post`), site("hook_resid_pre"), d_model, from, to);
    done("hook_resid_pre");
    this.attention(run, layer, site("hook_resid_pre"), from, edits);
    addRows(site("hook_resid_pre"), site("hook_attn_out"), site("hook_resid_mid"), d_model, from, to);
    done("hook_resid_mid");

    const mid = mlpInput(site("hook_resid_mid"), name, d_model, from, to, edits);
    const normalized = this.layerNorm(run, `${name}.ln2`, mid, from, edits);
    linear(normalized, d_model, weight("mlp.W_in"), weight("mlp.b_in"), site("mlp.hook_pre"), d_mlp, from, to);
    done("mlp.hook_pre");
    const [pre, post] = [site("mlp.hook_pre"), site("mlp.hook_post")];
    for (let k = from * d_mlp; k < to * d_mlp; k++) post[k] = 0.5 * pre[k] * (1 + erf(pre[k] * GELU_SCALE));
    done("mlp.hook_post");
    linear(post, d_mlp, weight("mlp.W_out"), weight("mlp.b_out"), site("hook_mlp_out"), d_model, from, to);
    done("hook_mlp_out");
    addRows(site("hook_resid_mid"), site("hook_mlp_out"), site("hook_resid_post"), d_model, from, to);
    done("hook_resid_post");
  }

  /** LayerNorm of x; returns its output [position, d_model], which is no site. */
  layerNorm(run, name, x, from, edits) {
    const { d_model, eps } = this.config;
    const [scale, normalized] = [run.sites.get(`${name}.hook_scale`), run.sites.get(`${name}.hook_normalized`)];
    const means = new Float64Array(run.length);
    for (let i = from; i < run.length; i++) {
      const at = i * d_model;
      let sum = 0;
      for (let k = 0; k < d_model; k++) sum += x[at + k];
      const mean = sum / d_model;
      let square = 0;
      for (let k = 0; k < d_model; k++) square += (x[at + k] - mean) ** 2;
      means[i] = mean;
      scale[i] = Math.sqrt(square / d_model + eps);
    }
    this.apply(run, `${name}.hook_scale`, from, edits);
    for (let i = from; i < run.length; i++) {
      for (let k = i * d_model; k < (i + 1) * d_model; k++) normalized[k] = (x[k] - means[i]) / scale[i];
    }
    this.apply(run, `${name}.hook_normalized`, from, edits);
    const [w, b] = [this.weights.get(`${name}.w`), this.weights.get(`${name}.b`)];
    const output = new Float32Array(run.length * d_model);
    for (let i = from; i < run.length; i++) {
      const at = i * d_model;
      for (let k = 0; k < d_model; k++) output[at + k] = normalized[at + k] * w[k] + b[k];
    }
    return output;
  }

  /** The attention of a block that reads the stream x. */
  attention(run, layer, x, from, edits) {
    const { d_model, n_heads, d_head } = this.config;
    const [block, name] = [`blocks.${layer}`, `blocks.${layer}.attn`];
    const to = run.length;
    const width = n_heads * d_head;
    const normalized = this.layerNorm(run, `${block}.ln1`, x, from, edits);
    for (const letter of ["Q", "K", "V"]) {
      const projected = run.sites.get(`${name}.hook_${letter.toLowerCase()}`);
      const [W, b] = [this.weights.get(`${name}.W_${letter}`), this.weights.get(`${name}.b_${letter}`)];
      linear(normalized, d_model, W, b, projected, width, from, to);
    }
    projectHeadInputs(this, run, block, x, from, edits);
    for (const letter of ["q", "k", "v"]) this.apply(run, `${name}.hook_${letter}`, from, edits);
    let [q, k] = [run.sites.get(`${name}.hook_q`), run.sites.get(`${name}.hook_k`)];
    if (this.rotary) {
      q = this.turn(run, q, `${name}.hook_rot_q`, from, edits);
      k = this.turn(run, k, `${name}.hook_rot_k`, from, edits);
    }
    this.attend(run, name, q, k, from, edits);
    const [W_O, b_O] = [this.weights.get(`${name}.W_O`), this.weights.get(`${name}.b_O`)];
    const output = run.sites.get(`${block}.hook_attn_out`);
    linear(run.sites.get(`${name}.hook_z`), width, W_O, b_O, output, d_model, from, to);
    sumResults(this, run, block, from, edits);
    this.apply(run, `${block}.hook_attn_out`, from, edits);
  }

  /** Queries and keys to what the heads give, hook_z, by way of scores and pattern [position, head, key]. */
  attend(run, name, q, k, from, edits) {
    const { n_heads, d_head, n_ctx } = this.config;
    const width = n_heads * d_head;
    const [scores, pattern] = [run.sites.get(`${name}.hook_attn_scores`), run.sites.get(`${name}.hook_pattern`)];
    const [v, z] = [run.sites.get(`${name}.hook_v`), run.sites.get(`${name}.hook_z`)];
    for (let i = from; i < run.length; i++) {
      for (let head = 0; head < n_heads; head++) {
        const row = (i * n_heads + head) * n_ctx;
        scores.fill(-Infinity, row, row + n_ctx);
        for (let j = 0; j <= i; j++) {
          scores[row + j] = dot(q, i * width + head * d_head, k, j * width + head * d_head, d_head) / Math.sqrt(d_head);
        }
      }
    }
    this.apply(run, `${name}.hook_attn_scores`, from, edits);
    for (let i = from; i < run.length; i++) {
      for (let head = 0; head < n_heads; head++)
        softmaxRow(scores, pattern, (i * n_heads + head) * n_ctx, i + 1, n_ctx);
    }
    this.apply(run, `${name}.hook_pattern`, from, edits);
    for (let i = from; i < run.length; i++) {
      for (let head = 0; head < n_heads; head++) {
        const [row, at] = [(i * n_heads + head) * n_ctx, i * width + head * d_head];
        for (let d = 0; d < d_head; d++) {
          let sum = 0;
          for (let j = 0; j <= i; j++) sum += pattern[row + j] * v[j * width + head * d_head + d];
          z[at + d] = sum;
        }
      }
    }
    this.apply(run, `${name}.hook_z`, from, edits);
  }

  /** Turn pairs of dimensions (i and i + half) by angles that grow with the position (Su et al. 2021). */
  turn(run, x, site, from, edits) {
    const { n_heads, d_head } = this.config;
    const { half, cos, sin } = this.rotary;
    const turned = run.sites.get(site);
    for (let i = from; i < run.length; i++) {
      for (let head = 0; head < n_heads; head++) {
        const at = (i * n_heads + head) * d_head;
        for (let k = 2 * half; k < d_head; k++) turned[at + k] = x[at + k];
        for (let k = 0; k < half; k++) {
          const [a, b, angle] = [x[at + k], x[at + half + k], i * half + k];
          turned[at + k] = a * cos[angle] - b * sin[angle];
          turned[at + half + k] = b * cos[angle] + a * sin[angle];
        }
      }
    }
    this.apply(run, site, from, edits);
    return turned;
  }

  unembed(run, from, edits) {
    const { d_model, d_vocab, n_layers } = this.config;
    const last = run.sites.get(`blocks.${n_layers - 1}.hook_resid_post`);
    const input = run.sites.get("unembed.hook_in");
    const normalized = this.layerNorm(run, "ln_final", last, from, edits);
    carry(normalized, input, d_model, from, run.length);
    this.apply(run, "unembed.hook_in", from, edits);
    const [W_U, b_U] = [this.weights.get("unembed.W_U"), this.weights.get("unembed.b_U")];
    linear(input, d_model, W_U, b_U, run.sites.get("unembed.hook_out"), d_vocab, from, run.length);
    this.apply(run, "unembed.hook_out", from, edits);
  }

  /** Make the edits of a site, in their order. */
  apply(run, site, from, edits) {
    for (const [position, change] of changesAt(edits, site, from, run.length)) change(run.at(site, position), position);
  }
}

/** The sites in the order of a pass, each with how many numbers it has at a position. */
export function siteList(config) {
  const { d_model, d_mlp, d_vocab, n_ctx, n_layers } = config;
  const [heads, keys] = [config.n_heads * config.d_head, config.n_heads * n_ctx];
  const isRotary = config.positional_embedding_type === "rotary";
  const ofBlock = [
    ["hook_resid_pre", d_model],
    ["ln1.hook_scale", 1],
    ["ln1.hook_normalized", d_model],
    ["attn.hook_q", heads],
    ["attn.hook_k", heads],
    ["attn.hook_v", heads],
    ...(isRotary
      ? [
          ["attn.hook_rot_q", heads],
          ["attn.hook_rot_k", heads],
        ]
      : []),
    ["attn.hook_attn_scores", keys],
    ["attn.hook_pattern", keys],
    ["attn.hook_z", heads],
    ["hook_attn_out", d_model],
    ["hook_resid_mid", d_model],
    ["ln2.hook_scale", 1],
    ["ln2.hook_normalized", d_model],
    ["mlp.hook_pre", d_mlp],
    ["mlp.hook_post", d_mlp],
    ["hook_mlp_out", d_model],
    ["hook_resid_post", d_model],
  ];
  const blocks = Array.from({ length: n_layers }, (_, l) =>
    ofBlock.map(([site, width]) => [`blocks.${l}.${site}`, width]),
  );
  const list = [
    ["hook_embed", d_model],
    ...(isRotary ? [] : [["hook_pos_embed", d_model]]),
    ...blocks.flat(),
    ["ln_final.hook_scale", 1],
    ["ln_final.hook_normalized", d_model],
    ["unembed.hook_in", d_model],
    ["unembed.hook_out", d_vocab],
  ];
  return list.map(([site, width]) => ({ site, width }));
}

/** The block from which a pass that edits a site must be computed: n_layers for what stands behind the blocks. */
export function beginOf(site, nLayers) {
  const block = /^blocks\.(\d+)\.(.*)$/.exec(site);
  if (block) return Number(block[1]) + (block[2] === "hook_resid_post" ? 1 : 0);
  return site === "hook_embed" || site === "hook_pos_embed" ? 0 : nLayers;
}

function rotaryTables({ d_head, n_ctx, rotary_base, rotary_dim }) {
  const half = (rotary_dim ?? d_head) / 2;
  const angle = (i) => Math.floor(i / half) / rotary_base ** ((i % half) / half);
  const size = n_ctx * half;
  return {
    half,
    cos: Float32Array.from({ length: size }, (_, i) => Math.cos(angle(i))),
    sin: Float32Array.from({ length: size }, (_, i) => Math.sin(angle(i))),
  };
}

function softmaxRow(scores, pattern, row, visible, n) {
  let largest = -Infinity;
  for (let j = 0; j < visible; j++) largest = Math.max(largest, scores[row + j]);
  let total = 0;
  for (let j = 0; j < visible; j++) total += pattern[row + j] = Math.exp(scores[row + j] - largest);
  for (let j = 0; j < visible; j++) pattern[row + j] /= total;
  pattern.fill(0, row + visible, row + n);
}

function addRows(x, y, into, width, from, to) {
  for (let k = from * width; k < to * width; k++) into[k] = x[k] + y[k];
}

function carry(x, into, width, from, to) {
  into.set(x.subarray(from * width, to * width), from * width);
}
