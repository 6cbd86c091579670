"use strict";
// A generator in the page: its weights unpacked, latent vectors, and pictures that are drawn bit by
// bit, so that the page stays smooth.
globalThis.ganLive ??= {};

ganLive.generator = (() => {
  const { array, finish, Network, LeakyReLU, Tanh, uniforms, normals } = ganLive.numbers;

  // Whole numbers of so many bits each, from base64: a function that returns the next.
  function reader(base64, bits) {
    const text = atob(base64);
    let [at, held, count] = [0, 0, 0]; // of the bits read so far, those not yet used
    return () => {
      while (count < bits) {
        held = (held << 8) | text.charCodeAt(at++);
        count += 8;
      }
      count -= bits;
      const value = held >> count;
      held &= (1 << count) - 1;
      return value;
    };
  }

  // Long work is written as a function* that yields now and then, so that the page can breathe
  // (see worker).

  // The generator that Python has packed: { latent, classes, side, generate(z, label) }, which
  // makes an image (side²) or a sound (side). A label is a number, or a list of [number, share] for
  // a label between others. unpacking and generating do the same, and yield.
  const unpack = (packed) => finish(unpacking(packed));

  function* unpacking({ latent, classes, side, bits, layers: described, steps, weights }) {
    const layers = [];
    let size = 0; // the side of the image, or the length of the sound, on its way
    for (const [kind, options] of described) {
      if (layers.length) layers.push(new LeakyReLU());
      if (kind === "Dense") layers.push(new ganLive.numbers.Dense(options.inputs, options.outputs));
      else {
        const { kernel, stride, padding, dims = 2 } = options;
        size ||= Math.round((described[0][1].outputs / options.inputs) ** (1 / dims));
        layers.push(new ganLive.numbers[kind]({ ...options, side: size }));
        size = kind === "Convolution"
          ? Math.floor((size + 2 * padding - kernel) / stride) + 1
          : (size - 1) * stride - 2 * padding + kernel;
      }
      yield;
    }
    const network = new Network([...layers, new Tanh()]);
    const [first] = layers, biases = array(Math.max(classes, 1) * first.outputs);
    const places = network.parameters.map((parameter) => parameter.value);
    places[1] = biases;
    const next = reader(weights, bits), zero = 2 ** (bits - 1);
    for (const [k, place] of places.entries()) {
      for (let i = 0; i < place.length; i++) {
        place[i] = (next() - zero) * steps[k];
        if (i % 10000 === 0) yield;
      }
    }

    function* generating(z, label = 0) {
      const bias = first.b.value.fill(0);
      for (const [of, share] of Array.isArray(label) ? label : [[label, 1]])
        for (let i = 0; i < bias.length; i++) bias[i] += share * biases[of * bias.length + i];
      let x = Float64Array.from(z);
      for (const layer of network.layers) {
        // a copy, since another image may be on its way through the same layers
        x = layer.forwarding ? yield* layer.forwarding(x) : layer.forward(x).slice();
        yield;
      }
      return x;
    }
    const generate = (z, label) => finish(generating(z, label));
    return { latent, classes, side, generate, generating };
  }

  // Latent vectors from N(0, 1), one array for each; vector i depends on the seed, not on count.
  function latents(seed, count, size) {
    const length = 2 * Math.ceil(size / 2), all = normals(uniforms(seed), length * count);
    return Array.from({ length: count }, (_, i) => all.slice(i * length, i * length + size));
  }

  const norm = (z) => Math.hypot(...z);
  const mix = (a, b, of_a, of_b) => a.map((value, i) => of_a * value + of_b * b[i]);
  const lerp = (a, b, t) => mix(a, b, 1 - t, t);

  function slerp(a, b, t) {
    const angle = Math.acos(a.reduce((sum, value, i) => sum + value * b[i], 0) / norm(a) / norm(b));
    if (!(angle > 1e-4 && angle < Math.PI - 1e-4)) return lerp(a, b, t);
    const share = (part) => Math.sin(part * angle) / Math.sin(angle);
    return mix(a, b, share(1 - t), share(t));
  }

  const stretched = (z) => z.map((value) => (value * Math.sqrt(z.length)) / norm(z));

  // The distribution function of N(0, 1) from -EDGE to EDGE, by its series (Marsaglia 2004).
  const EDGE = 6, SPACING = 0.005;
  let table = null;
  function distribution(x) {
    if (Math.abs(x) > EDGE) return x > 0 ? 1 : 0;
    let [sum, term] = [x, x];
    for (let k = 3; Math.abs(term) > 1e-17; k += 2) sum += term *= (x * x) / k;
    return 0.5 + (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
  }

  // Its inverse, between two numbers of a table.
  function quantile(p) {
    table ??= array(Math.round((2 * EDGE) / SPACING) + 1).map((_, i) =>
      distribution(-EDGE + i * SPACING));
    let [low, high] = [0, table.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (table[middle] <= p) low = middle;
      else high = middle;
    }
    return -EDGE + SPACING * (low + (p - table[low]) / (table[high] - table[low]));
  }

  // z with each number moved into ±limit, so that N(0, 1) becomes its part within ±limit, and each
  // number keeps its rank.
  function truncate(z, limit) {
    const below = distribution(-limit);
    return z.map((value) => quantile(below + (1 - 2 * below) * distribution(value)));
  }

  const ink = (image) => image.reduce((sum, value) => sum + value, 0) / image.length;

  function distance(a, b) {
    return Math.sqrt(a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0));
  }

  // Unpack a generator, and work with it in slices of about `budget` milliseconds, so that the page
  // stays smooth. A job is a function* of the generator; one under the name of another takes its
  // place, and one that is added first goes before those that wait. after() shows what was done, 30
  // times a second, and at the end.
  function worker(packed, after, budget = 10) {
    const jobs = new Map(), { port1, port2 } = new MessageChannel(); // timers would wait 4 ms
    let G = null, [waiting, done, before] = [false, false, 0];
    const wake = () => {
      if (!waiting) port2.postMessage(null);
      waiting = true;
    };
    port1.onmessage = () => {
      waiting = false;
      const start = performance.now();
      while (jobs.size && performance.now() - start < budget) {
        const [[name, entry]] = jobs;
        entry.work ??= entry.job(G);
        if (entry.work.next().done) done = jobs.delete(name);
      }
      if (jobs.size) wake();
      if (!done || (jobs.size && start - before < 33)) return;
      [done, before] = [false, start];
      after(jobs.size === 0);
    };
    function add(name, job, first = false) {
      const others = first && G ? [...jobs].filter(([other]) => other !== name) : [];
      if (others.length) jobs.clear();
      jobs.set(name, { job, work: null });
      for (const [other, entry] of others) jobs.set(other, entry);
      wake();
    }
    add("unpack", function* () {
      G = yield* unpacking(packed);
    });
    return {
      add,
      // Forget the jobs whose names begin with start.
      drop(start) {
        for (const name of [...jobs.keys()]) if (name.startsWith(start)) jobs.delete(name);
      },
      get busy() {
        return jobs.size > 0;
      },
    };
  }

  // Images in rows on one canvas: set(place, image) draws one, frame(place) puts a frame around it,
  // in the colour tones[row].
  // above() draws on top of all.
  function sheet(
    root,
    { columns, rows = 1, side, label, gap = 2, interactive = false, above = () => {}, tones = [] },
  ) {
    const tiles = Array.from({ length: columns * rows }, () => null);
    const framed = new Set();
    const plot = ganLive.page.canvas(
      root,
      { label, ratio: columns / rows, interactive },
      (context, width, height, colour) => {
        const [w, h] = [width / columns, height / rows];
        tiles.forEach((tile, i) => {
          const [x, y] = [(i % columns) * w, Math.floor(i / columns) * h];
          if (tile) context.drawImage(tile, x + gap / 2, y + gap / 2, w - gap, h - gap);
          if (!framed.has(i)) return;
          context.strokeStyle = colour[tones[Math.floor(i / columns)] ?? "orange"];
          context.lineWidth = 3;
          context.strokeRect(x + 1.5, y + 1.5, w - 3, h - 3);
        });
        above(context, width, height, colour);
      },
    );
    return {
      ...plot,
      tiles,
      set(place, image) {
        tiles[place] = picture(image, side, tiles[place]);
      },
      frame(...places) {
        framed.clear();
        for (const place of places) framed.add(place);
      },
      // The place under a pointer.
      at(event) {
        const [x, y] = plot.place(event).map((share) => Math.max(0, Math.min(0.999, share)));
        return Math.floor(y * rows) * columns + Math.floor(x * columns);
      },
    };
  }

  // An image in [-1, 1] as a canvas of its own size, white ink on black.
  function picture(image, side, canvas = null) {
    canvas ??= ganLive.page.element("canvas", { width: side, height: side });
    const context = canvas.getContext("2d"), pixels = context.createImageData(side, side);
    for (let i = 0; i < image.length; i++) {
      const level = Math.round((Math.max(-1, Math.min(1, image[i])) + 1) * 127.5);
      pixels.data.set([level, level, level, 255], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  return {
    unpack, latents, norm, lerp, slerp, stretched, distribution, quantile, truncate, ink, distance,
    worker, sheet, picture,
  };
})();
