"use strict";
// Networks by hand, where there is no PyTorch: layers forward and back, optimisers, objectives,
// penalties, random numbers.
//
// A batch of N samples is one array, sample after sample. Like autograd, a layer remembers what its
// backward pass needs: its input x and, for penalties, the gradient dy of its output. What a dense
// layer or an activation returns lies in memory of its own and is good until its next call; what a
// network returns is a copy. Numbers have 64 bits, since that is how JavaScript computes.
globalThis.ganLive ??= {};

ganLive.numbers = (() => {
  const array = (length) => new Float64Array(length);
  const ONE = Float64Array.of(1);

  // Zeros in memory that an object keeps under a name, so that a batch needs no new memory.
  function kept(owner, name, length) {
    if (!(owner[name]?.length >= length)) owner[name] = array(length);
    return owner[name].subarray(0, length).fill(0);
  }

  // out (rows, columns) += A (rows, inner) · B (inner, columns); a[0] and a[1] are A's steps in
  // memory from row to row and from column to column, so that a transpose costs nothing. Blocks of
  // 4 × 2 results use each number that was loaded more than once; four rows of A lie side by side
  // meanwhile, as steps of a large power of two are slow.
  function addProduct(out, rows, columns, inner, A, a, B, b) {
    const four = array(4 * inner);
    for (let r = 0; r < rows; r += 4) {
      if (r + 4 <= rows && columns > 1) {
        for (let k = 0; k < inner; k++)
          for (let i = 0; i < 4; i++) four[4 * k + i] = A[(r + i) * a[0] + k * a[1]];
      }
      for (let c = 0; c < columns; c += 2) {
        if (r + 4 > rows || c + 2 > columns) {
          const [r1, c1] = [Math.min(r + 4, rows), Math.min(c + 2, columns)];
          addRest(out, r, r1, c, c1, columns, inner, A, a, B, b);
          continue;
        }
        let [b0, b1] = [c * b[1], (c + 1) * b[1]];
        const down = b[0];
        let s00 = 0, s01 = 0, s10 = 0, s11 = 0, s20 = 0, s21 = 0, s30 = 0, s31 = 0;
        for (let k = 0; k < 4 * inner; k += 4) {
          const left = B[b0], right = B[b1];
          const p = four[k], q = four[k + 1], s = four[k + 2], t = four[k + 3];
          s00 += p * left; s01 += p * right;
          s10 += q * left; s11 += q * right;
          s20 += s * left; s21 += s * right;
          s30 += t * left; s31 += t * right;
          b0 += down; b1 += down;
        }
        const o = r * columns + c;
        out[o] += s00; out[o + 1] += s01;
        out[o + columns] += s10; out[o + columns + 1] += s11;
        out[o + 2 * columns] += s20; out[o + 2 * columns + 1] += s21;
        out[o + 3 * columns] += s30; out[o + 3 * columns + 1] += s31;
      }
    }
  }

  function addRest(out, r0, r1, c0, c1, columns, inner, A, a, B, b) {
    for (let r = r0; r < r1; r++) {
      for (let c = c0; c < c1; c++) {
        let sum = 0;
        for (let k = 0; k < inner; k++) sum += A[r * a[0] + k * a[1]] * B[k * b[0] + c * b[1]];
        out[r * columns + c] += sum;
      }
    }
  }

  // The same by strips of rows; a function* that yields after each, so that a page can breathe.
  const STRIP = 5e5; // multiplications, about a millisecond
  function* addingProduct(out, rows, columns, inner, A, a, B, b) {
    const strip = 4 * Math.ceil(STRIP / (4 * columns * inner));
    for (let r = 0; r < rows; r += strip) {
      const count = Math.min(strip, rows - r);
      addProduct(out.subarray(r * columns), count, columns, inner, A.subarray(r * a[0]), a, B, b);
      yield;
    }
  }

  // The result of a function* at once.
  function finish(work) {
    for (;;) {
      const { done, value } = work.next();
      if (done) return value;
    }
  }

  // Weights and their gradient, which backward passes add to and optimisers set to 0. PyTorch's
  // default: within ±1/√inputs.
  class Parameter {
    constructor(length, inputs, uniform) {
      this.value = array(length);
      this.gradient = array(length);
      if (!uniform) return;
      for (let i = 0; i < length; i++) this.value[i] = (2 * uniform() - 1) / Math.sqrt(inputs);
    }
  }

  // y = x Wᵀ + b, with W (outputs, inputs) as in PyTorch.
  class Dense {
    constructor(inputs, outputs, uniform) {
      [this.inputs, this.outputs] = [inputs, outputs];
      this.W = new Parameter(outputs * inputs, inputs, uniform);
      this.b = new Parameter(outputs, inputs, uniform);
      this.parameters = [this.W, this.b];
    }

    forward(x) {
      const { inputs, outputs } = this, N = x.length / inputs;
      const y = kept(this, "y", N * outputs);
      for (let n = 0; n < N; n++) y.set(this.b.value, n * outputs);
      this.x = x;
      addProduct(y, N, outputs, inputs, x, [inputs, 1], this.W.value, [1, inputs]);
      return y;
    }

    // The chain rule: dx = dy W. On the way to it, unless only dx is wanted, dW += dyᵀ x, and db +=
    // the sum of dy.
    backward(dy, train = true) {
      const { inputs, outputs } = this, N = dy.length / outputs;
      const dx = kept(this, "dx", N * inputs);
      this.dy = dy;
      addProduct(dx, N, inputs, outputs, dy, [outputs, 1], this.W.value, [inputs, 1]);
      if (train) {
        addProduct(this.W.gradient, outputs, inputs, N, dy, [1, outputs], this.x, [inputs, 1]);
        addProduct(this.b.gradient, 1, outputs, N, ONE, [0, 0], dy, [outputs, 1]);
      }
      return dx;
    }

    // For penalties: see addPenalty.
    tangent(t) {
      const { inputs, outputs } = this, N = t.length / inputs;
      const y = kept(this, "ty", N * outputs);
      addProduct(this.W.gradient, outputs, inputs, N, this.dy, [1, outputs], t, [inputs, 1]);
      addProduct(y, N, outputs, inputs, t, [inputs, 1], this.W.value, [1, inputs]);
      return y;
    }
  }

  // max(x, slope · x); with slope 0 it is ReLU.
  class LeakyReLU {
    constructor(slope = 0) {
      this.slope = slope;
      this.parameters = [];
    }

    forward(x) {
      this.x = x;
      return this.bend("y", x);
    }

    backward(dy) {
      return this.bend("dx", dy);
    }

    tangent(t) {
      return this.bend("ty", t);
    }

    // Wherever x is negative, slope times the values.
    bend(name, values) {
      const { x, slope } = this, out = kept(this, name, values.length);
      for (let i = 0; i < out.length; i++) out[i] = x[i] > 0 ? values[i] : slope * values[i];
      return out;
    }
  }

  class Tanh {
    parameters = [];

    forward(x) {
      return (this.y = x.map(Math.tanh));
    }

    backward(dy) {
      return dy.map((value, i) => value * (1 - this.y[i] ** 2));
    }
  }

  // The pixel of an image (channels, side, side) under each number of a kernel, wherever the kernel
  // stands: (channels · kernel², count²) indices, row by row; -1 in the padding. To gather is to
  // unfold an image, to add back is to fold it. With one dimension, as a sound has, side, kernel
  // and count are not squared: an image of one row.
  function patches(channels, side, kernel, stride, padding, dims) {
    const count = Math.floor((side + 2 * padding - kernel) / stride) + 1;
    const [rows, tall, down, above] = dims === 1 ? [1, 1, 1, 0] : [side, kernel, count, padding];
    const index = new Int32Array(channels * tall * kernel * down * count);
    let at = 0;
    for (let place = 0; place < channels * tall * kernel; place++) {
      const [c, within] = [Math.floor(place / (tall * kernel)), place % (tall * kernel)];
      const [i, j] = [Math.floor(within / kernel), within % kernel];
      for (let y = 0; y < down; y++) {
        for (let x = 0; x < count; x++) {
          const [row, column] = [y * stride + i - above, x * stride + j - padding];
          const inside = row >= 0 && row < rows && column >= 0 && column < side;
          index[at++] = inside ? (c * rows + row) * side + column : -1;
        }
      }
    }
    return { index, count };
  }

  function unfold(image, index) {
    const columns = array(index.length);
    for (let i = 0; i < index.length; i++) if (index[i] >= 0) columns[i] = image[index[i]];
    return columns;
  }

  function fold(image, columns, index) {
    for (let i = 0; i < index.length; i++) if (index[i] >= 0) image[index[i]] += columns[i];
  }

  // Sample n of a batch in which each has so many numbers: a view, not a copy.
  const item = (batch, n, size) => batch.subarray(n * size, (n + 1) * size);

  // A convolution is a dense layer on unfolded images: one product of the kernels (outputs, depth)
  // with the patches. x is (N, inputs, side, side), y is (N, outputs, count, count); with one
  // dimension (N, inputs, side) and (N, outputs, count).
  class Convolution {
    constructor({ inputs, outputs, side, kernel, stride = 1, padding = 0, dims = 2 }, uniform) {
      const { index, count } = patches(inputs, side, kernel, stride, padding, dims);
      const [depth, places] = [inputs * kernel ** dims, count ** dims];
      const [from, to] = [inputs * side ** dims, outputs * places]; // numbers in an x, in a y
      Object.assign(this, { outputs, index, depth, places, from, to });
      this.W = new Parameter(outputs * depth, depth, uniform);
      this.b = new Parameter(outputs, depth, uniform);
      this.parameters = [this.W, this.b];
    }

    forward(x) {
      return finish(this.forwarding(x));
    }

    // Now and then it yields.
    *forwarding(x) {
      const { outputs, index, depth, places, from, to, W, b } = this;
      const N = x.length / from, y = array(N * to);
      this.x = x;
      for (let n = 0; n < N; n++) {
        const out = item(y, n, to), columns = unfold(item(x, n, from), index);
        for (let i = 0; i < to; i++) out[i] = b.value[Math.floor(i / places)];
        const product = [out, outputs, places, depth, W.value, [depth, 1], columns, [places, 1]];
        yield* addingProduct(...product);
      }
      return y;
    }

    backward(dy, train = true) {
      const { outputs, index, depth, places, from, to, W, b } = this;
      const N = dy.length / to, dx = array(N * from);
      for (let n = 0; n < N; n++) {
        const slopes = item(dy, n, to), columns = array(depth * places);
        addProduct(columns, depth, places, outputs, W.value, [1, depth], slopes, [places, 1]);
        fold(item(dx, n, from), columns, index);
        if (!train) continue;
        const seen = unfold(item(this.x, n, from), index);
        addProduct(W.gradient, outputs, depth, places, slopes, [places, 1], seen, [1, places]);
        for (let i = 0; i < to; i++) b.gradient[Math.floor(i / places)] += slopes[i];
      }
      return dx;
    }
  }

  // A transposed convolution goes forward as a convolution goes back: each number of x stamps its
  // kernel on the result. x is (N, inputs, side, side), W (inputs, outputs, kernel, kernel), as in
  // PyTorch, and the side of y is (side - 1) · stride - 2 · padding + kernel.
  class TransposedConvolution {
    constructor({ inputs, outputs, side, kernel, stride = 1, padding = 0, dims = 2 }, uniform) {
      const result = (side - 1) * stride - 2 * padding + kernel;
      const { index } = patches(outputs, result, kernel, stride, padding, dims);
      const [depth, places, area] = [outputs * kernel ** dims, side ** dims, result ** dims];
      const [from, to] = [inputs * places, outputs * area]; // numbers in an x, in a y
      Object.assign(this, { inputs, index, depth, places, area, from, to });
      this.W = new Parameter(inputs * depth, depth, uniform);
      this.b = new Parameter(outputs, depth, uniform);
      this.parameters = [this.W, this.b];
    }

    forward(x) {
      return finish(this.forwarding(x));
    }

    // Now and then it yields.
    *forwarding(x) {
      const { inputs, index, depth, places, area, from, to, W, b } = this;
      const N = x.length / from, y = array(N * to);
      this.x = x;
      for (let n = 0; n < N; n++) {
        const out = item(y, n, to), columns = array(depth * places);
        for (let i = 0; i < to; i++) out[i] = b.value[Math.floor(i / area)];
        const image = item(x, n, from);
        const product = [columns, depth, places, inputs, W.value, [1, depth], image, [places, 1]];
        yield* addingProduct(...product);
        fold(out, columns, index);
      }
      return y;
    }

    backward(dy, train = true) {
      const { inputs, index, depth, places, area, from, to, W, b } = this;
      const N = dy.length / to, dx = array(N * from);
      for (let n = 0; n < N; n++) {
        const slopes = item(dy, n, to), columns = unfold(slopes, index), out = item(dx, n, from);
        addProduct(out, inputs, places, depth, W.value, [depth, 1], columns, [places, 1]);
        if (!train) continue;
        const seen = item(this.x, n, from);
        addProduct(W.gradient, inputs, depth, places, seen, [places, 1], columns, [1, places]);
        for (let i = 0; i < to; i++) b.gradient[Math.floor(i / area)] += slopes[i];
      }
      return dx;
    }
  }

  class Network {
    constructor(layers) {
      this.layers = layers;
      this.parameters = layers.flatMap((layer) => layer.parameters);
    }

    forward(x) {
      return this.layers.reduce((input, layer) => layer.forward(input), x).slice();
    }

    // From the gradient of the output to that of the input. `train: false` leaves the weights'
    // gradients alone.
    backward(dy, train = true) {
      return this.layers.reduceRight((slope, layer) => layer.backward(slope, train), dy).slice();
    }

    tangent(t) {
      return this.layers.reduce((input, layer) => layer.tangent(input), t).slice();
    }
  }

  // Dense layers with LeakyReLU between; a slope of 0 is ReLU.
  function mlp(sizes, slope, uniform) {
    const layers = [];
    for (let i = 0; i + 1 < sizes.length; i++) {
      if (i) layers.push(new LeakyReLU(slope));
      layers.push(new Dense(sizes[i], sizes[i + 1], uniform));
    }
    return new Network(layers);
  }

  // Adam (Kingma and Ba 2015, algorithm 1), and plain gradient steps.
  class Adam {
    constructor(parameters) {
      this.moments = parameters.map((parameter) => {
        const { length } = parameter.value;
        return { parameter, m: array(length), v: array(length) };
      });
      this.t = 0;
    }

    step(lr, [beta1, beta2]) {
      this.t += 1;
      const [c1, c2] = [1 - beta1 ** this.t, 1 - beta2 ** this.t];
      for (const { parameter: { value, gradient }, m, v } of this.moments) {
        for (let i = 0; i < value.length; i++) {
          m[i] = beta1 * m[i] + (1 - beta1) * gradient[i];
          v[i] = beta2 * v[i] + (1 - beta2) * gradient[i] ** 2;
          value[i] -= (lr * (m[i] / c1)) / (Math.sqrt(v[i] / c2) + 1e-8);
          gradient[i] = 0;
        }
      }
    }
  }

  class Plain {
    constructor(parameters) {
      this.parameters = parameters;
    }

    step(lr) {
      for (const { value, gradient } of this.parameters) {
        for (let i = 0; i < value.length; i++) {
          value[i] -= lr * gradient[i];
          gradient[i] = 0;
        }
      }
    }
  }

  const sigmoid = (o) => (o >= 0 ? 1 / (1 + Math.exp(-o)) : Math.exp(o) / (1 + Math.exp(o)));
  const softplus = (o) => Math.max(o, 0) + Math.log1p(Math.exp(-Math.abs(o)));
  const relu = (o) => Math.max(o, 0);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  // For a real logit r and a generated one f: d gives D's loss and its slopes in r and in f; g
  // gives G's loss and its slope in f.
  const crossEntropy = (r, f) => [softplus(-r) + softplus(f), -sigmoid(-r), sigmoid(f)];
  const objectives = {
    minimax: { d: crossEntropy, g: (r, f) => [-softplus(f), -sigmoid(f)] },
    non_saturating: { d: crossEntropy, g: (r, f) => [softplus(-f), -sigmoid(-f)] },
    least_squares: {
      d: (r, f) => [((r - 1) ** 2 + f ** 2) / 2, r - 1, f],
      g: (r, f) => [(f - 1) ** 2 / 2, f - 1],
    },
    hinge: {
      d: (r, f) => [relu(1 - r) + relu(1 + f), r < 1 ? -1 : 0, f > -1 ? 1 : 0],
      g: (r, f) => [-f, -1],
    },
    wasserstein: { d: (r, f) => [f - r, -1, 1], g: (r, f) => [-f, -1] },
    relativistic: {
      d: (r, f) => [softplus(f - r), -sigmoid(f - r), sigmoid(f - r)],
      g: (r, f) => [softplus(r - f), -sigmoid(r - f)],
    },
  };

  // Add to D's gradients those of a penalty on its slopes g = ∇D(x): the mean over M points, or
  // packs of points, of a function of |g|².
  //
  // `measure(square)` returns the function's value and its derivative in |g|². Layer by layer g is
  // the backward pass, dx = dy W, which is linear in each W. So its derivative needs no new
  // calculus: with t = dP/dg for an input, go forward through the same layers without their biases,
  // and in each add dyᵀ t to W's gradient, as training adds dyᵀ x. (A second derivative of the
  // activations would enter too; that of LeakyReLU is 0.)
  function addPenalty(D, x, measure) {
    const logits = D.forward(x), M = logits.length, size = x.length / M;
    const g = D.backward(logits.fill(1), false), t = array(g.length);
    let total = 0;
    for (let start = 0; start < g.length; start += size) {
      let square = 0;
      for (let i = start; i < start + size; i++) square += g[i] ** 2;
      const [value, slope] = measure(square);
      total += value / M;
      for (let i = start; i < start + size; i++) t[i] = (2 * slope * g[i]) / M;
    }
    D.tangent(t);
    return total;
  }

  // R1 and R2 have the weight γ/2
  const squared = (weight) => (square) => [weight * square, weight];
  const oneCentred = (weight) => (square) => { // WGAN-GP's
    const norm = Math.sqrt(square + 1e-12);
    return [weight * (norm - 1) ** 2, (weight * (norm - 1)) / norm];
  };

  // Jensen-Shannon divergence, in nats, of two lists of probabilities, or of two densities times
  // the spacing of their points.
  function jensenShannon(p, q) {
    let sum = 0;
    for (let i = 0; i < p.length; i++) {
      const middle = (p[i] + q[i]) / 2;
      if (p[i] > 0) sum += (p[i] / 2) * Math.log(p[i] / middle);
      if (q[i] > 0) sum += (q[i] / 2) * Math.log(q[i] / middle);
    }
    return sum;
  }

  // Random numbers: sfc32 (Chris Doty-Humphrey), uniform in [0, 1), and from pairs of these normal
  // ones (Box and Muller).
  function uniforms(seed) {
    let [a, b, c, count] = [0x9e3779b9, 0x243f6a88, seed | 0, 1];
    const next = () => {
      const sum = (((a + b) | 0) + count) | 0;
      count = (count + 1) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = (((c << 21) | (c >>> 11)) + sum) | 0;
      return (sum >>> 0) / 2 ** 32;
    };
    for (let i = 0; i < 15; i++) next(); // after which neighbouring seeds have nothing in common
    return next;
  }

  function normals(uniform, length) {
    const out = array(length);
    for (let i = 0; i < length; i += 2) {
      const [radius, angle] = [Math.sqrt(-2 * Math.log(1 - uniform())), 2 * Math.PI * uniform()];
      out[i] = radius * Math.cos(angle);
      if (i + 1 < length) out[i + 1] = radius * Math.sin(angle);
    }
    return out;
  }

  return {
    array, addProduct, finish, Dense, LeakyReLU, Tanh, Convolution, TransposedConvolution, Network,
    mlp, Adam, Plain, sigmoid, softplus, objectives, addPenalty, squared, oneCentred,
    jensenShannon, uniforms, normals, mean,
  };
})();
