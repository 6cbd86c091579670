"use strict";
// The minimax game on a line: move q over p and see the best D, the value of the game and the
// Jensen-Shannon divergence.
globalThis.ganLive ??= {};
ganLive.explorers ??= {};

ganLive.game = (() => {
  const { array, sigmoid, softplus, jensenShannon } = ganLive.numbers;
  const COUNT = 2801,
    EXTENT = 14,
    SPACING = (2 * EXTENT) / (COUNT - 1); // beyond, the widest bell has a mass of 1e-5
  const line = array(COUNT).map((_, i) => -EXTENT + i * SPACING);
  const REAL = {
    one: [[1, 0, 1]],
    two: [
      [0.5, -2, 0.6],
      [0.5, 2, 0.6],
    ],
  }; // weight, mean, std of each bell

  // The logarithm of a sum of bells at every point of the line.
  function logDensity(bells) {
    return line.map((x) => {
      const logs = bells.map(
        ([weight, mean, std]) =>
          Math.log(weight / (std * Math.sqrt(2 * Math.PI))) - ((x - mean) / std) ** 2 / 2,
      );
      const top = Math.max(...logs);
      return top + Math.log(logs.reduce((sum, log) => sum + Math.exp(log - top), 0));
    });
  }

  // V of a D with these logits: the integral of p log σ(D) + q log(1 - σ(D)), with
  // log σ(o) = -softplus(-o).
  function value(logits, logP, logQ) {
    let sum = 0;
    for (let i = 0; i < COUNT; i++)
      sum -= Math.exp(logP[i]) * softplus(-logits[i]) + Math.exp(logQ[i]) * softplus(logits[i]);
    return sum * SPACING;
  }

  // Everything that is shown: the best logits are log p - log q, and D plays `trust` times those.
  function play({ real, mean, std, trust }) {
    const logP = logDensity(REAL[real]),
      logQ = logDensity([[1, mean, std]]);
    const best = logP.map((log, i) => log - logQ[i]),
      logits = best.map((o) => trust * o);
    const [p, q] = [logP.map(Math.exp), logQ.map(Math.exp)];
    const js = jensenShannon(
      p.map((x) => x * SPACING),
      q.map((x) => x * SPACING),
    );
    return {
      p,
      q,
      probability: logits.map(sigmoid),
      value: value(logits, logP, logQ),
      best: value(best, logP, logQ),
      js,
    };
  }

  // The slope of V(D, G) in G's mean and log std, with D held still: the integral of
  // log(1 - σ(D)) times the slope of q.
  function slope({ real, mean, std, trust }) {
    const logP = logDensity(REAL[real]),
      logQ = logDensity([[1, mean, std]]);
    let [ofMean, ofLogStd] = [0, 0];
    for (let i = 0; i < COUNT; i++) {
      const weight = -softplus(trust * (logP[i] - logQ[i])) * Math.exp(logQ[i]) * SPACING,
        u = (line[i] - mean) / std;
      ofMean += (weight * u) / std;
      ofLogStd += weight * (u * u - 1);
    }
    return [ofMean, ofLogStd];
  }

  function explore(root, { mean = 2.8, std = 0.5 } = {}) {
    const {
      element, button, slider, choice, readout, canvas, axes, clip, line: stroke, clock, calm,
      label, rounded, onArrows,
    } = ganLive.page;
    const state = { real: "one", mean, std, trust: 1 };
    let now, [learning, wait] = [false, 0];
    const digits = (x) => rounded(x, 3);

    function update() {
      now = play(state);
      numbers.show({ js: digits(now.js), best: digits(now.best), value: digits(now.value) });
      plot.node.setAttribute(
        "aria-label",
        `Data p, samples q with mean ${rounded(state.mean)} and standard deviation ` +
          `${rounded(state.std)}, and D. ` +
          "Left and right arrow keys move q, up and down widen and narrow it.",
      );
      plot.redraw();
    }

    function paint(context, width, height, colour) {
      const box = { left: 36, top: 24, width: width - 48, height: height - 62 };
      const xTicks = [-4, -2, 0, 2, 4];
      const { toX, toY } = axes(context, colour, box, {
        x: [-5, 5],
        y: [0, 1.05],
        xTicks,
        yTicks: [0, 0.5, 1],
        xLabel: "x",
      });
      clip(context, box);
      const curve = (values) => Array.from(values, (y, i) => [toX(line[i]), toY(y)]);
      for (const [values, tone] of [
        [now.p, "grey"],
        [now.q, "orange"],
      ]) {
        context.fillStyle = context.strokeStyle = colour[tone];
        context.lineWidth = 1.5;
        const points = curve(values);
        stroke(context, points);
        context.globalAlpha = 0.3;
        context.beginPath();
        for (const [x, y] of [[points[0][0], toY(0)], ...points, [points.at(-1)[0], toY(0)]])
          context.lineTo(x, y);
        context.fill();
        context.globalAlpha = 1;
      }
      context.strokeStyle = colour.blue;
      context.lineWidth = 3;
      stroke(context, curve(now.probability));
      context.restore();
      let x = box.left;
      context.textBaseline = "top";
      context.textAlign = "left";
      for (const [text, tone] of [
        ["data p", "grey"],
        ["samples q", "orange"],
        [state.trust === 1 ? "σ(D*)" : "σ(D)", "blue"],
      ]) {
        context.fillStyle = colour[tone];
        context.fillRect(x, 8, 14, 5);
        context.fillStyle = colour.ink;
        context.fillText(text, x + 19, 3);
        x += 32 + context.measureText(text).width;
      }
    }

    function bars(context, width, height, colour) {
      const draw = (y, name, share, tone) => {
        context.fillStyle = colour.ink;
        context.textAlign = "left";
        context.textBaseline = "top";
        context.fillText(name, 0, y);
        context.fillStyle = colour[tone];
        context.fillRect(0, y + 18, Math.max(0, Math.min(1, share)) * width, 12);
        context.strokeStyle = colour.line;
        context.strokeRect(0.5, y + 18.5, width - 1, 12);
      };
      draw(4, "JS(p, q), from 0 to log 2", now.js / Math.LN2, "purple");
      const share = 1 + now.value / Math.log(4); // 0 where q is p, up to rounding
      draw(44, share < -1e-6 ? "V(D, G), below −log 4" : "V(D, G), from −log 4 to 0", share, "blue");
    }

    function move(change) {
      Object.assign(state, change);
      state.mean = Math.max(-3, Math.min(3, state.mean));
      state.std = Math.max(0.3, Math.min(2.5, state.std));
      [controls.mean.value, controls.std.value] = [state.mean, state.std];
      if (!learning) status.textContent = "";
      update();
      gauge.redraw();
    }

    // G's steps are those of the chapter: 0.2 times the slope, with D held still.
    function frame(milliseconds) {
      if ((wait -= milliseconds) > 0) return;
      wait = calm() ? 400 : 40;
      const [ofMean, ofLogStd] = slope(state),
        { mean: before, std: wide } = state;
      move({ mean: before - 0.2 * ofMean, std: wide * Math.exp(-0.2 * ofLogStd) });
      if (status.textContent !== following()) status.textContent = following(); // said once
      if (Math.hypot(ofMean, ofLogStd) < 0.002)
        stop(now.js < 0.01 ? "G has arrived: the slope is 0." : "The slope is 0, and q is not p.");
      else if (state.mean === before && state.std === wide)
        stop("G has reached the limit of the sliders.");
    }

    function following() {
      const times = `${label(state.trust)} times the best logit`;
      const D = state.trust === 1 ? "the best answer" : times;
      return `G follows the slope of V downhill; D gives ${D} at every step.`;
    }

    function stop(text) {
      learning = false;
      learn.textContent = "Let G learn";
      ticker.stop();
      status.textContent = text;
    }

    function toggle() {
      if (learning) return stop("Paused.");
      learning = true;
      learn.textContent = "Pause";
      status.textContent = following();
      return ticker.start();
    }

    const status = element("p", { class: "gan-live-status", role: "status" });
    const ticker = clock(root, frame);
    const learn = button("Let G learn", toggle, { class: "gan-live-main" });
    const plot = canvas(
      root,
      { label: "The game", ratio: 1.9, least: "14rem", interactive: true },
      paint,
    );
    const gauge = canvas(
      root,
      { label: "Two bars: JS and V, whose values are beside them", ratio: 3.2 },
      bars,
    );
    const numbers = readout({
      js: "JS(p, q), nats",
      best: "V(D*, G) = 2 JS − log 4",
      value: "V(D, G) of this D",
    });
    const controls = {
      mean: slider(
        "mean of q",
        { min: -3, max: 3, step: 0.05, value: mean, text: (x) => rounded(x) },
        (x) => move({ mean: x }),
      ),
      std: slider(
        "standard deviation of q",
        { min: 0.3, max: 2.5, step: 0.05, value: std, text: (x) => rounded(x) },
        (x) => move({ std: x }),
      ),
      trust: slider(
        "D’s logit, as a multiple of D*’s",
        { min: -0.5, max: 2, step: 0.1, value: 1, text: (x) => label(x) },
        (x) => move({ trust: x }),
      ),
    };
    const real = choice("data p", { one: "one bell", two: "two bells" }, "one", (name) =>
      move({ real: name }),
    );

    let grabbed = null;
    plot.node.style.touchAction = "pan-y";
    plot.node.addEventListener("pointerdown", (event) => {
      grabbed = plot.place(event)[0];
      plot.node.setPointerCapture(event.pointerId);
    });
    plot.node.addEventListener("pointermove", (event) => {
      if (grabbed === null || !event.buttons) return;
      const x = plot.place(event)[0],
        scale = (10 * plot.node.clientWidth) / (plot.node.clientWidth - 48);
      move({ mean: state.mean + (x - grabbed) * scale });
      grabbed = x;
    });
    onArrows(plot.node, (right, up) =>
      move({ mean: state.mean + right / 10, std: state.std + up / 10 }));

    root.append(
      element(
        "div",
        { class: "gan-live-bar" },
        learn,
        button("Reset", () => {
          stop("");
          [controls.trust.value, real.value] = [1, "one"];
          move({ real: "one", mean, std, trust: 1 });
        }),
        real.node,
      ),
      plot.node,
      element(
        "div",
        { class: "gan-live-columns gan-live-below" },
        element(
          "div",
          { class: "gan-live-side" },
          ...Object.values(controls).map((control) => control.node),
        ),
        element("div", { class: "gan-live-side" }, gauge.node, numbers.node),
      ),
      status,
    );
    update();
    gauge.redraw();
    return {
      state,
      get now() {
        return now;
      },
    };
  }

  ganLive.explorers.game = explore;
  return { play, slope };
})();
