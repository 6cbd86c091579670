"use strict";
// Train a GAN in the plane: choose or draw the data, play, or go turn by turn; see the samples, D's
// field, G's grid, the gradient.
globalThis.ganLive ??= {};
ganLive.explorers ??= {};

ganLive.trainer = (() => {
  const {
    array, finish, mlp, Adam, Plain, objectives, addPenalty, squared, oneCentred, jensenShannon,
    uniforms, normals,
  } = ganLive.numbers;

  // The settings of a run, with the names of gan_tutorial.recipes. A penalty's weight is γ.
  const FIRST = {
    data: "ring",
    objective: "non_saturating",
    optimiser: "Adam",
    lr_G: 2e-3,
    lr_D: 2e-3,
    beta1: 0,
    beta2: 0.99,
    batch_size: 128,
    hidden_G: 64,
    hidden_D: 64,
    depth: 2,
    latent_dim: 2,
    noise: "normal",
    penalty: "none",
    weight: 0.1,
    pack: 1,
    steps_D: 1,
    ema: 0.99,
    seed: 0,
  };
  const PRESETS = {
    first: FIRST, // of the chapter on generative models, but for half its width and batch
    // of the chapter on mode collapse
    film: { ...FIRST, lr_G: 1e-3, lr_D: 1e-4, beta1: 0.5, beta2: 0.999 },
    cured: { ...FIRST, lr_G: 1e-3, lr_D: 1e-3 }, // its balanced pair
  };

  // All data are equal mixtures of Gaussians. `modes` names the mode of each centre; `reach` is
  // half the side of the view.
  function mixture(centres, std, reach, modes) {
    return { centres, std, reach, modes, count: centres.length ? Math.max(...modes) + 1 : 0 };
  }

  const range = (count) => Array.from({ length: count }, (_, i) => i);
  const DATA = {
    ring() {
      // as gan_tutorial.mixtures.ring
      const angles = range(8).map((k) => (2 * Math.PI * k) / 8);
      return mixture(
        angles.map((a) => [Math.cos(a), Math.sin(a)]),
        0.01,
        1.7,
        range(8),
      );
    },
    grid() {
      // as gan_tutorial.mixtures.grid
      const centres = range(25).map((k) => [2 * Math.floor(k / 5) - 4, 2 * (k % 5) - 4]);
      return mixture(centres, 0.05, 5.2, range(25));
    },
    moons() {
      // two half circles
      const angles = range(40).map((k) => (Math.PI * (k + 0.5)) / 40);
      const upper = angles.map((a) => [Math.cos(a) - 0.5, Math.sin(a) - 0.25]);
      const lower = angles.map((a) => [0.5 - Math.cos(a), 0.25 - Math.sin(a)]);
      return mixture(
        [...upper, ...lower],
        0.05,
        2,
        range(80).map((k) => Math.floor(k / 40)),
      );
    },
    draw(points = SPIRAL) {
      // every drawn dot counts alike; no modes are known
      return mixture(
        points,
        0.02,
        1.7,
        points.map(() => 0),
      );
    },
  };
  const SPIRAL = range(60).map((k) => [
    (0.2 + k / 55) * Math.cos(k / 8),
    (0.2 + k / 55) * Math.sin(k / 8),
  ]);

  function sample({ centres, std }, count, uniform) {
    const points = normals(uniform, 2 * count);
    for (let n = 0; n < count; n++) {
      const [x, y] = centres[Math.floor(uniform() * centres.length)];
      points[2 * n] = x + std * points[2 * n];
      points[2 * n + 1] = y + std * points[2 * n + 1];
    }
    return points;
  }

  function join(a, b) {
    const both = array(a.length + b.length);
    both.set(a);
    both.set(b, a.length);
    return both;
  }

  // The two networks and their game. One step is draw(), updateD(), updateG(), as in
  // gan_tutorial.training.
  class Training {
    constructor(recipe, data = DATA[recipe.data]()) {
      const { hidden_G, hidden_D, depth, latent_dim, pack, seed } = recipe;
      const wide = (width) => Array(depth).fill(width);
      this.recipe = recipe;
      this.data = data;
      this.uniform = uniforms(seed);
      this.G = mlp([latent_dim, ...wide(hidden_G), 2], 0, this.uniform);
      this.D = mlp([2 * pack, ...wide(hidden_D), 1], 0.2, this.uniform);
      this.average = mlp([latent_dim, ...wide(hidden_G), 2], 0);
      this.average.parameters.forEach(({ value }, i) => value.set(this.G.parameters[i].value));
      this.optimise();
      this.step = 0;
    }

    optimise() {
      const Optimiser = { Adam, plain: Plain }[this.recipe.optimiser];
      this.optG = new Optimiser(this.G.parameters);
      this.optD = new Optimiser(this.D.parameters);
    }

    // A network for D's weights.
    likeD() {
      const { hidden_D, depth, pack } = this.recipe;
      return mlp([2 * pack, ...Array(depth).fill(hidden_D), 1], 0.2);
    }

    latents(count, uniform = this.uniform) {
      const length = count * this.recipe.latent_dim;
      return this.recipe.noise === "normal"
        ? normals(uniform, length)
        : array(length).map(() => 2 * uniform() - 1);
    }

    draw() {
      const N = this.recipe.batch_size;
      this.real = sample(this.data, N, this.uniform);
      this.z = this.latents(N);
      this.between = array(N).map(this.uniform); // for WGAN-GP's points between pairs
    }

    updateD() {
      const { D, real, recipe } = this,
        fake = this.G.forward(this.z);
      const logits = D.forward(join(real, fake)),
        M = logits.length / 2; // a logit for each pack: M = N / pack
      const slopes = array(2 * M);
      this.dLoss = 0;
      for (let i = 0; i < M; i++) {
        const [loss, toReal, toFake] = objectives[recipe.objective].d(logits[i], logits[M + i]);
        this.dLoss += loss / M;
        slopes[i] = toReal / M;
        slopes[M + i] = toFake / M;
      }
      D.backward(slopes);
      this.penalty = this.addPenalties(real, fake);
      this.optD.step(recipe.lr_D, [recipe.beta1, recipe.beta2]);
    }

    addPenalties(real, fake) {
      const {
        D,
        recipe: { penalty, weight },
      } = this;
      if (penalty === "WGAN-GP") {
        const points = fake.map((x, i) => x + this.between[i >> 1] * (real[i] - x));
        return addPenalty(D, points, oneCentred(weight));
      }
      let total = 0;
      if (penalty.includes("R1")) total += addPenalty(D, real, squared(weight / 2));
      if (penalty.includes("R2")) total += addPenalty(D, fake, squared(weight / 2));
      return total;
    }

    updateG() {
      const { G, recipe } = this,
        fake = G.forward(this.z);
      [this.gLoss, this.push] = this.slopes(this.real, fake);
      G.backward(this.push);
      this.optG.step(recipe.lr_G, [recipe.beta1, recipe.beta2]);
      this.average.parameters.forEach(({ value }, i) => {
        const now = G.parameters[i].value;
        for (let k = 0; k < value.length; k++) value[k] += (1 - recipe.ema) * (now[k] - value[k]);
      });
      this.step += 1;
    }

    // G's loss, and its gradient in each generated point: through D, whose weights stay as they
    // are.
    slopes(real, fake) {
      const { D, recipe } = this,
        realLogits = D.forward(real),
        logits = D.forward(fake),
        M = logits.length;
      let total = 0;
      const toFake = logits.map((f, i) => {
        const [loss, slope] = objectives[recipe.objective].g(realLogits[i], f);
        total += loss / M;
        return slope / M;
      });
      return [total, D.backward(toFake, false)];
    }

    // One step; the function* yields between the players' turns.
    *turns() {
      for (let i = 0; i < this.recipe.steps_D; i++) {
        this.draw();
        this.updateD();
        yield;
      }
      this.updateG();
    }

    run() {
      finish(this.turns());
    }
  }

  // As gan_tutorial.metrics.mode_report: the share of points within three standard deviations of a
  // centre, and the modes that have at least one such point.
  function modeReport(points, { centres, std, modes, count }) {
    const counts = new Array(count).fill(0),
      limit = (3 * std) ** 2;
    let good = 0;
    for (let n = 0; n < points.length; n += 2) {
      let [best, nearest] = [Infinity, 0];
      for (let k = 0; k < centres.length; k++) {
        const square = (points[n] - centres[k][0]) ** 2 + (points[n + 1] - centres[k][1]) ** 2;
        if (square < best) [best, nearest] = [square, k];
      }
      if (best > limit) continue;
      good += 1;
      counts[modes[nearest]] += 1;
    }
    return {
      covered: counts.filter((c) => c > 0).length,
      quality: (2 * good) / points.length,
      counts,
    };
  }

  // The shares of points in 40 × 40 cells of the view, and in one more for all outside.
  const CELLS = 40;
  function histogram(points, reach) {
    const shares = array(CELLS * CELLS + 1),
      cell = (value) => Math.floor(((value + reach) / (2 * reach)) * CELLS);
    for (let n = 0; n < points.length; n += 2) {
      const [x, y] = [cell(points[n]), cell(points[n + 1])];
      const inside = x >= 0 && x < CELLS && y >= 0 && y < CELLS;
      shares[inside ? y * CELLS + x : CELLS * CELLS] += 2 / points.length;
    }
    return shares;
  }

  const PRESET_NAMES = {
    first: "first GAN",
    film: "the film: a slow D",
    cured: "cured: equal rates, no momentum",
    own: "your own",
  };
  const OBJECTIVE_NAMES = {
    minimax: "minimax",
    non_saturating: "non-saturating",
    least_squares: "least squares",
    hinge: "hinge",
    wasserstein: "Wasserstein",
    relativistic: "relativistic",
  };
  // settings that need new networks
  const START_ANEW = ["data", "hidden_G", "hidden_D", "depth", "pack", "noise", "seed"];
  const WIDTHS = { 8: "8", 16: "16", 32: "32", 64: "64", 128: "128" };
  const FIELD = 36; // cells along a side of D's field
  // samples in the picture, samples in the numbers, steps between two numbers
  const [SHOWN, MEASURED, EVERY] = [400, 1000, 20];
  // milliseconds: of work at a time, so that the page stays smooth; of a turn in slow motion
  const [SLICE, TURN] = [11, 1100];

  function explore(root, { preset = "first", data = "ring" } = {}) {
    const {
      element, button, slider, choice, check, readout, canvas, axes, clip, line, dot, arrow, clock,
      calm, rounded,
    } = ganLive.page;
    const recipe = { ...PRESETS[preset], data };
    const shown = {
      field: true,
      grid: false,
      real: true,
      samples: true,
      arrows: false,
      average: preset === "first",
    };
    let wanted = shown.average;
    let training, drawn, latents, net, judge, history, reference, floor, points, lattice, arrows;
    let strip = 0;
    const [logits, field] = [array(FIELD * FIELD), new Uint8ClampedArray(4 * FIELD * FIELD)];
    let [playing, slow, turn, wait, glide, frames, cursor] = [false, false, "D", 0, null, 0, null];

    // What the picture shows is computed here, and drawn in paint().
    function reset() {
      training = new Training({ ...recipe }, recipe.data === "draw" ? DATA.draw(drawn) : undefined);
      training.recipe = recipe; // settings that need no new networks act at once
      latents = {
        points: training.latents(SHOWN, uniforms(7)),
        measured: training.latents(MEASURED, uniforms(8)),
      };
      net = zLines(recipe);
      judge = training.likeD();
      [history, turn, glide, underway] = [[], "D", null, null];
      refer();
      look();
      measure();
    }

    function refer() {
      floor = NaN;
      if (!training.data.centres.length) return;
      reference = histogram(sample(training.data, 20000, uniforms(9)), training.data.reach);
      floor = jensenShannon(
        histogram(sample(training.data, MEASURED, uniforms(10)), training.data.reach),
        reference,
      );
    }

    const shownG = () => (shown.average ? training.average : training.G);
    const packed = () => recipe.pack > 1;

    function look(strips = 4) {
      points = shownG().forward(latents.points);
      lattice = shown.grid ? net.map((z) => shownG().forward(z)) : [];
      arrows =
        shown.arrows && training.data.centres.length ? slopesAt(points.subarray(0, 128)) : null;
      if (shown.field && !packed())
        for (let i = 0; i < strips; i++) updateField(strips < 4 ? (strip = (strip + 1) % 4) : i);
      plot.redraw();
    }

    // Minus the gradient of G's loss at points: where each of them would go.
    function slopesAt(some) {
      const real = sample(training.data, some.length / 2, uniforms(11));
      return training.slopes(real, some)[1].map((slope) => -slope);
    }

    // A quarter of the rows of D's field, so that no frame takes long: all four by D as it was at
    // the first of them, and shown together.
    function updateField(part) {
      if (part === 0)
        judge.parameters.forEach(({ value }, i) => value.set(training.D.parameters[i].value));
      const rows = FIELD / 4,
        places = array(2 * rows * FIELD),
        reach = training.data.reach;
      for (let i = 0; i < rows * FIELD; i++) {
        places[2 * i] = ((((i % FIELD) + 0.5) / FIELD) * 2 - 1) * reach;
        places[2 * i + 1] = (1 - ((Math.floor(i / FIELD) + part * rows + 0.5) / FIELD) * 2) * reach;
      }
      logits.set(judge.forward(places), part * rows * FIELD);
      if (part < 3) return;
      // Colours are relative to the largest logit, as in the chapter's film: a slow D is not sure.
      const largest = logits.reduce((most, logit) => Math.max(most, Math.abs(logit)), 0.1);
      for (let i = 0; i < logits.length; i++) {
        const certainty = Math.tanh((2.5 * logits[i]) / largest);
        field.set(certainty > 0 ? [117, 70, 170] : [190, 100, 10], 4 * i);
        field[4 * i + 3] = 175 * Math.abs(certainty);
      }
    }

    function measure(remember = true) {
      const samples = shownG().forward(latents.measured);
      const number = (x) => (Number.isFinite(x) ? x.toFixed(3) : "–");
      if (!samples.every(Number.isFinite)) {
        const unknown = { modes: "–", quality: "–", js: "–", d: "–", g: "–" };
        numbers.show({ step: String(training.step), ...unknown });
        return stop(
          "The game has diverged: a number overflowed. Lower the learning rates, and reset.",
        );
      }
      const known = training.data.centres.length > 0;
      const { covered, quality } = modeReport(samples, training.data);
      const js = known ? jensenShannon(histogram(samples, training.data.reach), reference) : NaN;
      const { step, dLoss, gLoss } = training;
      if (step && remember) history.push({ step, js, dLoss, gLoss });
      if (history.length > 400) history = history.filter((_, i) => i % 2);
      const modes = training.data.count > 1 ? `${covered} of ${training.data.count}` : "not known";
      numbers.show({
        step: String(step),
        modes,
        quality: `${Math.round(100 * quality)}%`,
        js: number(js),
        floor: number(floor),
        d: number(dLoss),
        g: number(gLoss),
      });
      plot.node.setAttribute(
        "aria-label",
        `Step ${step}: high quality ${Math.round(100 * quality)}%, modes covered ${modes}` +
          (recipe.data === "draw"
            ? ". Arrow keys move the pen, space adds a point" +
              (drawn ? ", backspace removes the last." : ", the first in place of the spiral.")
            : ""),
      );
      divergence.redraw();
      return losses.redraw();
    }

    function paint(context, width, height, colour) {
      const { reach, centres, std } = training.data;
      const toX = (x) => ((x / reach + 1) / 2) * width,
        toY = (y) => ((1 - y / reach) / 2) * height;
      if (shown.field && !packed()) {
        small.getContext("2d").putImageData(new ImageData(field, FIELD, FIELD), 0, 0);
        context.drawImage(small, 0, 0, width, height);
      }
      if (shown.real) {
        const radius = Math.max(((3 * std) / reach / 2) * width, 3.5);
        context.strokeStyle = colour.real;
        context.lineWidth = 1.3;
        for (const [x, y] of centres) {
          context.beginPath();
          context.arc(toX(x), toY(y), radius, 0, 2 * Math.PI);
          context.stroke();
        }
      }
      context.strokeStyle = colour.green;
      context.lineWidth = 1;
      for (const curve of lattice)
        line(
          context,
          pairs(curve).map(([x, y]) => [toX(x), toY(y)]),
        );
      const t = glide ? glide.t ** 2 * (3 - 2 * glide.t) : 1; // ease in and out
      const now = glide ? points.map((x, i) => glide.from[i] + t * (x - glide.from[i])) : points;
      context.fillStyle = colour.fake;
      if (shown.samples) for (const [x, y] of pairs(now)) dot(context, toX(x), toY(y), 2);
      if (shown.arrows && arrows) {
        const longest = Math.max(...pairs(arrows).map(([x, y]) => Math.hypot(x, y)), 1e-12),
          scale = (0.12 * width) / longest;
        context.strokeStyle = colour.ink;
        context.lineWidth = 1.2;
        pairs(arrows).forEach(([dx, dy], i) =>
          arrow(context, toX(now[2 * i]), toY(now[2 * i + 1]), scale * dx, -scale * dy),
        );
      }
      if (cursor && document.activeElement === plot.node) {
        const [x, y] = [toX(cursor[0]), toY(cursor[1])];
        context.strokeStyle = colour.ink;
        context.lineWidth = 2;
        line(context, [[x - 8, y], [x + 8, y]]);
        line(context, [[x, y - 8], [x, y + 8]]);
      }
    }

    // Play, pause, and single turns.
    function frame(milliseconds) {
      if (glide && (glide.t += milliseconds / 600) >= 1) glide = null;
      if (!playing) {
        if (!glide) ticker.stop();
        plot.redraw();
      } else if (slow) {
        wait -= milliseconds;
        if (wait <= 0) takeTurn(turn);
        else plot.redraw();
      } else if (due) {
        due = false;
        measure();
      } else if (++frames % 3) {
        const start = performance.now();
        let took = 0; // by the last turn, and so about by the next
        for (let now = start; now + took < start + SLICE && !due; now += took) {
          underway ??= training.turns();
          if (underway.next().done) {
            [underway, turn] = [null, "D"];
            due = training.step % EVERY === 0;
          }
          took = performance.now() - now;
        }
      } else look(1);
    }
    let [due, underway] = [false, null]; // numbers to show; a step whose last turn is to come

    function settle() {
      if (!underway) return;
      finish(underway);
      [underway, turn] = [null, "D"];
    }

    function takeTurn(player) {
      if (!training.data.centres.length) return say("Draw some points first.");
      if (shown.average) [shown.average, layers.average.input.checked] = [false, false];
      [turn, wait] = [player === "D" ? "G" : "D", TURN];
      points = training.G.forward(latents.points);
      if (player === "D") {
        training.draw();
        training.updateD();
        look();
        say(
          `D’s turn: it judged ${recipe.batch_size} data points and ${recipe.batch_size} samples ` +
            `(loss ${training.dLoss.toFixed(2)}) and took one step down its gradient. ` +
            `${packed() ? "The" : "Its field changes; the"} samples, those of G itself, stay.`,
        );
      } else {
        if (!training.real) training.draw();
        const from = points.slice();
        training.updateG();
        look();
        glide = calm() ? null : { from, t: 0 };
        if (glide) ticker.start();
        say(
          `G’s turn: D judged its samples (loss ${training.gLoss.toFixed(2)}). The gradient says ` +
            "for each where D’s answer is higher, and G took one step. The samples move" +
            (packed() ? "." : "; the field stays."),
        );
      }
      return measure();
    }

    function turnOn(on) {
      playing = on;
      play.textContent = on ? "Pause" : "Play";
      for (const single of singles) single.disabled = on;
    }

    function stop(text) {
      settle();
      turnOn(false);
      say(text);
    }

    const sayWhat = () => say(slow ? "Slow motion: D and G take turns, one step each." : "Training.");

    // Single turns show G itself; all else what was asked for.
    function restore() {
      shown.average = layers.average.input.checked = wanted;
      look();
      measure();
    }

    function toggle() {
      if (playing) {
        due = false;
        settle();
        look();
        stop(`Paused after step ${training.step}.`);
        return measure(); // which says so if the game has diverged
      }
      if (!training.data.centres.length) return say("Draw some points first.");
      if (!slow && shown.average !== wanted) restore();
      turnOn(true);
      sayWhat();
      wait = 0;
      ticker.start();
      return null;
    }

    const status = element("p", { class: "gan-live-status", role: "status" });
    const say = (text) => {
      status.textContent = text;
    };

    // Draw your own data, with a finger, a mouse, or the keys.
    function put([x, y]) {
      drawn = [...(drawn ?? []), [x, y]].slice(-400);
      redata();
    }

    function redata() {
      settle(); // a step that is under way ends with the data that it began with
      training.data = DATA.draw(drawn);
      refer();
      measure(false);
      plot.redraw();
      if (playing && !drawn.length) toggle();
    }

    function place(event) {
      const { reach } = training.data,
        [x, y] = plot.place(event);
      return [(2 * x - 1) * reach, (1 - 2 * y) * reach];
    }

    function onPointer(event) {
      if (recipe.data !== "draw" || !event.buttons) return;
      const [x, y] = place(event),
        last = drawn?.at(-1);
      if (event.type === "pointerdown") plot.node.setPointerCapture(event.pointerId);
      if (event.type === "pointerdown" || !last || Math.hypot(x - last[0], y - last[1]) > 0.06)
        put([x, y]);
    }

    function onKey(event) {
      if (recipe.data !== "draw" || event.altKey || event.ctrlKey || event.metaKey) return;
      const step = training.data.reach / 20,
        move = {
          ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step],
        }[event.key];
      cursor ??= [0, 0];
      if (move) cursor = cursor.map((value, i) => Math.max(-1.65, Math.min(1.65, value + move[i])));
      else if (event.key === " " || event.key === "Enter") put(cursor);
      else if (event.key === "Backspace" && drawn?.length) {
        drawn = drawn.slice(0, -1);
        redata();
      } else return;
      event.preventDefault();
      plot.redraw();
    }

    // The page.
    const small = element("canvas", { width: FIELD, height: FIELD });
    const plot = canvas(root, { label: "Samples and data" }, paint);
    for (const name of ["pointerdown", "pointermove"]) plot.node.addEventListener(name, onPointer);
    plot.node.addEventListener("keydown", onKey);
    for (const name of ["focus", "blur"]) plot.node.addEventListener(name, plot.redraw);
    const ticker = clock(root, frame);
    const numbers = readout({
      step: "step",
      modes: "modes covered",
      quality: "high quality",
      js: "JS divergence (0: alike)",
      floor: "that of real data",
      d: "loss of D",
      g: "loss of G",
    });

    function chart(name, describe, curves, bounds) {
      return canvas(root, { label: describe, ratio: 2.1 }, (context, width, height, colour) => {
        const last = Math.max(history.at(-1)?.step ?? 0, 100),
          y = bounds();
        const place = { left: 46, top: 20, width: width - 56, height: height - 44 };
        const { toX, toY } = axes(context, colour, place, {
          x: [0, last], y: [y[0], y[1]], xTicks: [0, last], yTicks: y.slice(2), title: name,
        });
        clip(context, place);
        context.lineWidth = 1.6;
        for (const [of, tone, dashes] of curves) {
          context.strokeStyle = colour[tone];
          context.setLineDash(dashes);
          line(
            context,
            history.map((entry) => [toX(entry.step), toY(of(entry))]),
          );
        }
        context.restore();
      });
    }

    const short = (x) =>
      Math.abs(x) < 1000 ? rounded(x, 1) : x.toExponential(1).replace("+", "").replace("-", "−");

    const divergence = chart(
      "JS (dashed: real data)",
      "The Jensen-Shannon divergence over the steps; its value is above.",
      [
        [(entry) => entry.js, "blue", []],
        [() => floor, "grey", [4, 4]],
      ],
      () => [0, 0.72, 0, [Math.LN2, "log 2"]],
    );
    const losses = chart(
      "D purple, G orange (dashed)",
      "The losses of D and of G over the steps; their values are above.",
      [
        [(entry) => entry.dLoss, "purple", []],
        [(entry) => entry.gLoss, "orange", [5, 3]],
      ],
      () => {
        const values = history
          .flatMap(({ dLoss, gLoss }) => [dLoss, gLoss])
          .filter(Number.isFinite);
        const [low, high] = [Math.min(0, ...values), Math.max(1.5, ...values)];
        return [low, high * 1.05, [low, short(low)], [high, short(high)]];
      },
    );

    const layers = {};
    for (const [key, name, swatch] of [
      ["real", "data", "real"],
      ["samples", "samples", "fake"],
      ["field", "D’s field", "purple"],
      ["grid", "G’s grid", "green"],
      ["arrows", "gradient", "ink"],
      ["average", "average of G", null],
    ]) {
      layers[key] = check(
        name,
        shown[key],
        (on) => {
          shown[key] = on;
          look();
          if (key === "average") wanted = shown.average;
          if (key === "average") measure();
        },
        swatch,
      );
    }

    const scientific = (value) =>
      value < 0.01 ? value.toExponential(1) : String(Math.round(value * 1000) / 1000);
    const own = {};
    function set(key, value) {
      recipe[key] = value;
      own.preset.value = "own";
      if (key === "noise") recipe.latent_dim = value === "line" ? 1 : 2;
      if (key === "optimiser") training.optimise();
      if (START_ANEW.includes(key)) begin();
    }

    function begin() {
      const drawing = recipe.data === "draw";
      plot.node.setAttribute("role", drawing ? "application" : "img");
      plot.node.style.touchAction = drawing ? "none" : "";
      if (drawing) plot.node.tabIndex = 0;
      else plot.node.removeAttribute("tabindex");
      clear.hidden = !drawing;
      layers.field.input.disabled = packed();
      shown.average = layers.average.input.checked = wanted;
      reset();
      if (playing && !training.data.centres.length) toggle();
      const next = drawing ? "Draw with a finger, the mouse or the keys; then press Play." : "";
      const field = packed() ? "D judges packs of samples, so it has no field in the plane." : "";
      if (playing && !field) sayWhat();
      else say([field, playing ? "" : next].filter(Boolean).join(" ") || "Ready: step 0.");
    }

    const log = { log: true, step: 0.05, text: scientific };
    Object.assign(own, {
      preset: choice("preset", PRESET_NAMES, preset, (name) => {
        if (name === "own") return;
        Object.assign(recipe, PRESETS[name], { data: recipe.data, seed: recipe.seed });
        for (const [key, control] of Object.entries(own))
          if (key in recipe) control.value = recipe[key];
        wanted = name === "first"; // as in the chapters
        begin();
      }),
      objective: choice("objective", OBJECTIVE_NAMES, recipe.objective, (value) =>
        set("objective", value),
      ),
      lr_D: slider("learning rate of D", { ...log, min: -5, max: 0, value: recipe.lr_D }, (value) =>
        set("lr_D", value),
      ),
      lr_G: slider("learning rate of G", { ...log, min: -5, max: 0, value: recipe.lr_G }, (value) =>
        set("lr_G", value),
      ),
      optimiser: choice(
        "optimiser",
        { Adam: "Adam", plain: "plain gradient steps" },
        recipe.optimiser,
        (value) => set("optimiser", value),
      ),
      beta1: slider(
        "Adam’s momentum β₁",
        { min: 0, max: 0.9, step: 0.1, value: recipe.beta1 },
        (value) => set("beta1", value),
      ),
      penalty: choice(
        "penalty on D",
        { none: "none", R1: "R1", R2: "R2", "R1 + R2": "R1 + R2", "WGAN-GP": "WGAN-GP" },
        recipe.penalty,
        (value) => set("penalty", value),
      ),
      weight: slider(
        "weight γ of the penalty",
        { ...log, min: -3, max: 2, value: recipe.weight },
        (value) => set("weight", value),
      ),
      pack: choice("samples in a pack", { 1: "1", 2: "2", 4: "4" }, recipe.pack, (value) =>
        set("pack", Number(value)),
      ),
      steps_D: slider("steps of D per step of G", { min: 1, max: 5, step: 1, value: 1 }, (value) =>
        set("steps_D", value),
      ),
      hidden_G: choice("width of G", WIDTHS, recipe.hidden_G, (value) =>
        set("hidden_G", Number(value)),
      ),
      hidden_D: choice("width of D", WIDTHS, recipe.hidden_D, (value) =>
        set("hidden_D", Number(value)),
      ),
      depth: choice("hidden layers of both", { 1: "1", 2: "2", 3: "3" }, recipe.depth, (value) =>
        set("depth", Number(value)),
      ),
      noise: choice(
        "noise z",
        {
          normal: "two normal numbers",
          uniform: "two uniform numbers",
          line: "one uniform number",
        },
        recipe.noise,
        (value) => set("noise", value),
      ),
      seed: slider("seed", { min: 0, max: 9, step: 1, value: recipe.seed }, (value) =>
        set("seed", value),
      ),
    });
    own.data = choice(
      "data",
      { ring: "ring", grid: "grid", moons: "moons", draw: "draw your own" },
      recipe.data,
      (value) => {
        recipe.data = value;
        begin();
      },
    );
    const speed = choice("speed", { full: "full", slow: "slow motion" }, "full", (value) => {
      slow = value === "slow";
      wait = 0;
      settle();
      layers.average.input.disabled = slow;
      if (!slow) restore();
      if (playing) sayWhat();
    });
    const play = button("Play", toggle, { class: "gan-live-main" });
    const singles = ["D", "G"].map((player) => button(`Step of ${player}`, () => takeTurn(player)));
    const clear = button("Clear", () => {
      drawn = [];
      redata();
      plot.node.focus();
      say("Draw with a finger, the mouse or the keys.");
    });
    const { preset: presets, data: dataset, ...rest } = own;
    root.append(
      element(
        "div",
        { class: "gan-live-bar" },
        play,
        ...singles,
        button("Reset", begin),
        clear,
        speed.node,
        dataset.node,
        presets.node,
      ),
      element(
        "div",
        { class: "gan-live-columns" },
        element(
          "div",
          { class: "gan-live-square" },
          plot.node,
          status,
          element(
            "div",
            { class: "gan-live-bar", role: "group", "aria-label": "Show" },
            ...Object.values(layers).map((layer) => layer.node),
          ),
          element(
            "p",
            { class: "gan-live-caption" },
            "D’s field: purple where its logit is above 0, orange where it is below, strongest " +
              "where farthest from 0 now",
          ),
        ),
        element("div", { class: "gan-live-side" }, numbers.node, divergence.node, losses.node),
      ),
      element(
        "details",
        {},
        element("summary", {}, "Settings"),
        element(
          "div",
          { class: "gan-live-settings" },
          ...Object.values(rest).map((control) => control.node),
        ),
      ),
    );
    begin();
    return {
      recipe,
      get training() {
        return training;
      },
      get history() {
        return history;
      },
      advance(steps) {
        // at once, for the still pictures
        for (let i = 0; i < steps; i++) {
          training.run();
          if (training.step % EVERY === 0) measure();
        }
        look();
      },
    };
  }

  // Lines of a grid in the plane of z, or the one line of a single number.
  function zLines({ noise }) {
    const [extent, ends] = noise === "normal" ? [2, range(9)] : [1, range(9)],
      at = (i, n) => extent * ((2 * i) / n - 1);
    if (noise === "line") return [Float64Array.from(range(201), (i) => at(i, 200))];
    const along = (fixed, first) =>
      Float64Array.from(range(66), (i) => ((i % 2 === 0) === first ? fixed : at(i >> 1, 32)));
    return ends.flatMap((k) => [along(at(k, 8), true), along(at(k, 8), false)]);
  }

  function pairs(points) {
    return range(points.length / 2).map((n) => [points[2 * n], points[2 * n + 1]]);
  }

  ganLive.explorers.trainer = explore;
  return { Training, PRESETS, DATA, mixture, sample, modeReport, histogram, jensenShannon };
})();
