"use strict";
// The Dirac-GAN: drag the start, and see the path of the two weights, the eigenvalues of a step,
// and the game on the line.
globalThis.ganLive ??= {};
ganLive.explorers ??= {};

ganLive.dirac = (() => {
  const { sigmoid } = ganLive.numbers;

  // Where each player wants to go: minus the gradients of the losses, with friction γψ from R1.
  function push([theta, psi], { gamma, objective }) {
    const o = psi * theta; // the generated sample's logit; the real one's is 0
    const ofG = objective === "minimax" ? sigmoid(o) : sigmoid(-o);
    return [ofG * psi, -sigmoid(o) * theta - gamma * psi];
  }

  function step(state, settings) {
    const { eta, turns } = settings,
      [theta, psi] = state;
    if (turns === "simultaneous") {
      const [toTheta, toPsi] = push(state, settings);
      return [theta + eta * toTheta, psi + eta * toPsi];
    }
    const next = psi + eta * push(state, settings)[1]; // D moves first, and G answers the new D
    return [theta + eta * push([theta, next], settings)[0], next];
  }

  function path(start, count, settings) {
    const states = [start];
    for (let i = 0; i < count; i++) states.push(step(states[i], settings));
    return states;
  }

  // The two eigenvalues [real, imaginary] of one step at the equilibrium, from the trace and the
  // determinant of its Jacobian.
  function eigenvalues({ eta, gamma, turns }) {
    const a = eta / 2,
      b = 1 - eta * gamma;
    const trace = turns === "simultaneous" ? 1 + b : 1 - a * a + b;
    const determinant = turns === "simultaneous" ? b + a * a : b;
    const square = (trace / 2) ** 2 - determinant,
      root = Math.sqrt(Math.abs(square));
    return square < 0
      ? [
          [trace / 2, root],
          [trace / 2, -root],
        ]
      : [
          [trace / 2 + root, 0],
          [trace / 2 - root, 0],
        ];
  }

  const STEPS = 150;

  function explore(root, { eta = 0.2, gamma = 0 } = {}) {
    const {
      element, button, slider, choice, readout, canvas, axes, clip, line, dot, arrow, clock, calm,
      dragFrom, rounded, onArrows,
    } = ganLive.page;
    const settings = { eta, gamma, turns: "alternating", objective: "minimax" };
    let states, [start, time, wait, playing] = [[1, 1], 0, 0, false];
    const REACH = 2.6, digits = (x, places = 3) => rounded(x, places);

    function update() {
      states = path(start, STEPS, settings);
      show();
    }

    function show() {
      const factor = Math.max(...eigenvalues(settings).map(([x, y]) => Math.hypot(x, y)));
      const [first, now] = [states[0], states[time]].map(([theta, psi]) => Math.hypot(theta, psi));
      const distance = now < 1e4 ? digits(now, 4) : "beyond 10,000";
      const verdict = factor > 1 + 1e-9 ? "grows" : factor > 1 - 1e-9 ? "undecided" : "shrinks";
      numbers.show({
        factor: digits(factor, 4),
        verdict,
        first: digits(first),
        now: distance,
      });
      plane.node.setAttribute(
        "aria-label",
        `The plane of theta and psi. Start at theta ${digits(start[0], 2)}, psi ` +
          `${digits(start[1], 2)}; arrow keys move it. ` +
          `After ${time} steps the distance from the equilibrium is ${distance}.`,
      );
      for (const plot of [plane, circle, race]) plot.redraw();
    }

    function paint(context, width, height, colour) {
      const box = { left: 30, top: 8, width: width - 40, height: height - 48 };
      const { toX, toY } = axes(context, colour, box, {
        x: [-REACH, REACH], y: [-REACH, REACH], xTicks: [-2, -1, 0, 1, 2],
        yTicks: [-2, -1, 0, 1, 2], xLabel: "θ, the generated point",
      });
      context.fillStyle = colour.ink;
      context.textAlign = "left";
      context.fillText("ψ, the slope of D", box.left + 5, box.top + 4);
      clip(context, box);
      context.strokeStyle = colour.grey;
      context.lineWidth = 1;
      for (let i = -5; i <= 5; i++)
        for (let k = -5; k <= 5; k++) {
          const [theta, psi] = [i / 2.1, k / 2.1],
            [x, y] = push([theta, psi], settings),
            long = Math.hypot(x, y);
          const scale = (0.055 * width * Math.tanh(long)) / Math.max(long, 1e-9);
          arrow(
            context,
            toX(theta) - (scale * x) / 2,
            toY(psi) + (scale * y) / 2,
            scale * x,
            -scale * y,
            3,
          );
        }
      const seen = time ? states.slice(0, time + 1) : states; // before Play, the whole path
      const points = seen.map(([theta, psi]) => [toX(theta), toY(psi)]);
      context.strokeStyle = context.fillStyle = colour.blue;
      context.lineWidth = 1.6;
      line(context, points);
      for (const [x, y] of points) dot(context, x, y, 2);
      dot(context, ...points[time], 5);
      context.strokeStyle = colour.red;
      context.lineWidth = 3;
      context.beginPath();
      context.arc(toX(start[0]), toY(start[1]), 8, 0, 2 * Math.PI);
      context.stroke();
      context.strokeStyle = colour.ink;
      context.lineWidth = 2;
      line(context, [[toX(0) - 6, toY(0) - 6], [toX(0) + 6, toY(0) + 6]]);
      line(context, [[toX(0) - 6, toY(0) + 6], [toX(0) + 6, toY(0) - 6]]);
      context.restore();
    }

    function paintCircle(context, width, height, colour) {
      const box = { left: 30, top: 22, width: width - 40, height: height - 46 },
        reach = 1.5 * (box.width / box.height);
      const { toX, toY } = axes(context, colour, box, {
        x: [-reach, reach], y: [-1.5, 1.5], xTicks: [-1, 0, 1], yTicks: [-1, 0, 1],
        title: "eigenvalues of a step",
      });
      clip(context, box);
      context.strokeStyle = colour.ink;
      context.lineWidth = 1.2;
      context.beginPath();
      context.arc(toX(0), toY(0), toX(1) - toX(0), 0, 2 * Math.PI);
      context.stroke();
      const outside = [];
      for (const [x, y] of eigenvalues(settings)) {
        context.fillStyle = colour[Math.hypot(x, y) > 1 + 1e-9 ? "red" : "blue"];
        dot(context, toX(x), toY(y), 6);
        if (Math.abs(x) > reach || Math.abs(y) > 1.5) outside.push(`${rounded(x, 1)}`);
      }
      context.restore();
      context.fillStyle = colour.red;
      context.textAlign = "right";
      context.textBaseline = "top";
      if (outside.length) context.fillText(`outside: ${outside.join(", ")}`, width - 10, 2);
    }

    function paintRace(context, width, height, colour) {
      const box = { left: 30, top: 22, width: width - 40, height: height - 46 },
        [theta, psi] = states[time];
      const { toX, toY } = axes(context, colour, box, {
        x: [-REACH, REACH], y: [-2, 2], xTicks: [-2, 0, 2], yTicks: [-2, 0, 2],
        title: `the game at step ${time}`,
      });
      clip(context, box);
      context.strokeStyle = colour.purple;
      context.lineWidth = 2;
      line(context, [[toX(-REACH), toY(-REACH * psi)], [toX(REACH), toY(REACH * psi)]]);
      context.fillStyle = colour.real;
      context.beginPath();
      for (const [x, y] of [
        [-7, 6],
        [7, 6],
        [0, -7],
      ])
        context.lineTo(toX(0) + x, toY(0) + y);
      context.fill();
      context.fillStyle = colour.blue;
      dot(context, toX(theta), toY(0), 6);
      context.restore();
    }

    function frame(milliseconds) {
      if ((wait -= milliseconds) > 0) return;
      wait = calm() ? 500 : 70;
      if (time === STEPS) return stop();
      go(time + 1);
    }

    function go(to) {
      time = to;
      moment.value = to;
      show();
    }

    function stop() {
      playing = false;
      play.textContent = "Play";
      ticker.stop();
    }

    function restart(change) {
      Object.assign(settings, change);
      stop();
      [time, moment.value] = [0, 0];
      update();
    }

    function move(to) {
      start = to.map((value) => Math.max(-2.5, Math.min(2.5, value)));
      restart({});
    }

    const ticker = clock(root, frame);
    const play = button(
      "Play",
      () => {
        if (playing) return stop();
        if (time === STEPS) go(0);
        playing = true;
        play.textContent = "Pause";
        return ticker.start();
      },
      { class: "gan-live-main" },
    );
    const plane = canvas(root, { label: "The plane of theta and psi", interactive: true }, paint);
    const circle = canvas(
      root,
      {
        label:
          "The unit circle and the two eigenvalues of a step; their size is among the numbers",
        ratio: 1.5,
      },
      paintCircle,
    );
    const race = canvas(
      root,
      {
        label: "The real sample at 0, the generated one at theta, and D as a line of slope psi",
        ratio: 1.9,
      },
      paintRace,
    );
    const numbers = readout({
      factor: "largest |λ|",
      verdict: "so a small distance",
      first: "distance at the start",
      now: "distance at this step",
    });
    const text = (x) => rounded(x);
    const moment = slider("step", { min: 0, max: STEPS, step: 1, value: 0 }, (value) => {
      stop();
      go(value);
    });
    const controls = {
      gamma: slider(
        "γ, the weight of R1",
        { min: 0, max: 11, step: 0.05, value: gamma, text },
        (value) => restart({ gamma: value }),
      ),
      eta: slider(
        "η, the learning rate",
        { min: 0.05, max: 1, step: 0.05, value: eta, text },
        (value) => restart({ eta: value }),
      ),
      turns: choice(
        "steps",
        { alternating: "alternating", simultaneous: "simultaneous" },
        "alternating",
        (value) => restart({ turns: value }),
      ),
      objective: choice(
        "G’s loss",
        { minimax: "minimax", non_saturating: "non-saturating" },
        "minimax",
        (value) => restart({ objective: value }),
      ),
    };
    const near = dragFrom(plane, () => {
      const { clientWidth: width, clientHeight: height } = plane.node;
      return [
        (30 + ((start[0] + REACH) / (2 * REACH)) * (width - 40)) / width,
        (8 + ((REACH - start[1]) / (2 * REACH)) * (height - 48)) / height,
      ];
    });
    let dragging = false;
    const drag = (event) => {
      if (event.type === "pointerdown") {
        dragging = event.pointerType !== "touch" || near(event);
        if (dragging) plane.node.setPointerCapture(event.pointerId);
      }
      if (!dragging || !event.buttons) return;
      const { clientWidth: width, clientHeight: height } = plane.node,
        [x, y] = plane.place(event);
      move([
        ((x * width - 30) / (width - 40)) * 2 * REACH - REACH,
        REACH - ((y * height - 8) / (height - 48)) * 2 * REACH,
      ]);
    };
    for (const type of ["pointerdown", "pointermove"]) plane.node.addEventListener(type, drag);
    onArrows(plane.node, (right, up) => move([start[0] + right / 10, start[1] + up / 10]));
    root.append(
      element(
        "div",
        { class: "gan-live-bar" },
        play,
        button("Reset", () => {
          for (const [key, value] of Object.entries({
            eta,
            gamma,
            turns: "alternating",
            objective: "minimax",
          }))
            controls[key].value = settings[key] = value;
          move([1, 1]);
        }),
        controls.turns.node,
        controls.objective.node,
      ),
      element(
        "div",
        { class: "gan-live-columns" },
        element("div", { class: "gan-live-square" }, plane.node),
        element("div", { class: "gan-live-side" }, numbers.node, circle.node, race.node),
      ),
      controls.gamma.node,
      controls.eta.node,
      moment.node,
    );
    update();
    return {
      settings,
      get states() {
        return states;
      },
      get start() {
        return start;
      },
    };
  }

  ganLive.explorers.dirac = explore;
  return { push, step, path, eigenvalues };
})();
