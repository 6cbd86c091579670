"use strict";
// The objectives on one scale: slide the logit of a sample, and read the loss and its slope under
// each.
globalThis.ganLive ??= {};
ganLive.explorers ??= {};

ganLive.losses = (() => {
  const { objectives } = ganLive.numbers;
  const LOOKS = {
    // as in the chapter on losses: colour, dashes, name
    minimax: ["red", [7, 4], "minimax"],
    non_saturating: ["blue", [], "non-saturating"],
    least_squares: ["green", [8, 3, 2, 3], "least squares"],
    hinge: ["orange", [], "hinge"],
    wasserstein: ["grey", [2, 8], "Wasserstein"],
    relativistic: ["purple", [7, 9], "relativistic"],
  };
  const SIDES = {
    g: "G’s loss, generated sample",
    fake: "D’s loss, generated sample",
    real: "D’s loss, real sample",
  };

  // The loss of a pair, and its slope in the logit o of one of the two samples; `other` is that of
  // the other kind's.
  function evaluate(objective, side, o, other = 0) {
    const { d, g } = objectives[objective];
    if (side === "g") return g(other, o);
    const [loss, toReal, toFake] = side === "fake" ? d(other, o) : d(o, other);
    return [loss, side === "fake" ? toFake : toReal];
  }

  function explore(root, { logit = -4 } = {}) {
    const { element, button, slider, choice, check, canvas } = ganLive.page;
    const { axes, clip, line, dot, rounded } = ganLive.page;
    const state = { side: "g", logit, other: 0, shown: new Set(Object.keys(LOOKS)) };
    const digits = (x) => rounded(x, 3);
    // Two pairs of curves coincide: dashes are drawn last, so they lie on a line.
    const inOrder = () =>
      Object.keys(LOOKS)
        .filter((name) => state.shown.has(name))
        .sort((one, other) => LOOKS[one][1].length - LOOKS[other][1].length);

    function panel(which, title, y, yTicks) {
      return canvas(
        root,
        {
          label: `${title} over the logit, a curve for each objective; the table has the values.`,
          ratio: 1.25,
        },
        (context, width, height, colour) => {
          const box = { left: 30, top: 22, width: width - 40, height: height - 62 };
          const { toX, toY } = axes(context, colour, box, {
            x: [-6, 6],
            y,
            xTicks: [-6, -3, 0, 3, 6],
            yTicks,
            xLabel: "logit o",
            title,
          });
          clip(context, box);
          context.strokeStyle = colour.ink;
          context.lineWidth = 1;
          line(context, [[toX(state.logit), box.top], [toX(state.logit), box.top + box.height]]);
          for (const name of inOrder()) {
            const [tone, dashes] = LOOKS[name];
            context.strokeStyle = context.fillStyle = colour[tone];
            context.lineWidth = dashes.length ? 2.2 : 3;
            context.setLineDash(dashes);
            const points = [];
            for (let o = -6; o <= 6.001; o += 0.05)
              points.push([toX(o), toY(evaluate(name, state.side, o, state.other)[which])]);
            line(context, points);
            dot(
              context,
              toX(state.logit),
              toY(evaluate(name, state.side, state.logit, state.other)[which]),
              4.5,
            );
          }
          context.restore();
          context.setLineDash([]);
          for (const name of inOrder()) {
            // an arrowhead at the edge, where the dot lies outside
            const value = evaluate(name, state.side, state.logit, state.other)[which];
            if (value >= y[0] && value <= y[1]) continue;
            const [up, x] = [value > y[1] ? -1 : 1, toX(state.logit)];
            const edge = toY(value > y[1] ? y[1] : y[0]);
            context.fillStyle = colour[LOOKS[name][0]];
            context.beginPath();
            context.moveTo(x, edge);
            context.lineTo(x - 6, edge - 9 * up);
            context.lineTo(x + 6, edge - 9 * up);
            context.fill();
          }
        },
      );
    }

    const panels = [
      panel(0, "loss", [-6.2, 8], [-6, -3, 0, 3, 6]),
      panel(1, "slope", [-2.1, 2.1], [-2, -1, 0, 1, 2]),
    ];
    const body = element("tbody"),
      rows = {};
    for (const [name, [tone, , text]] of Object.entries(LOOKS)) {
      const box = check(
        text,
        true,
        (on) => {
          if (on) state.shown.add(name);
          else state.shown.delete(name);
          update();
        },
        tone,
      );
      const [loss, slope] = [element("td"), element("td")];
      rows[name] = { loss, slope, input: box.input };
      body.append(element("tr", {}, element("th", { scope: "row" }, box.node), loss, slope));
    }
    const head = element(
      "tr",
      {},
      ...["objective", "loss", "slope"].map((text) => element("th", { scope: "col" }, text)),
    );

    function update() {
      for (const [name, cells] of Object.entries(rows)) {
        const [loss, slope] = evaluate(name, state.side, state.logit, state.other);
        [cells.loss.textContent, cells.slope.textContent] = [digits(loss), digits(slope)];
      }
      for (const { redraw } of panels) redraw();
    }

    function reset() {
      Object.assign(state, { side: "g", logit, other: 0, shown: new Set(Object.keys(LOOKS)) });
      [state.side, state.logit, state.other].forEach((value, i) => (controls[i].value = value));
      for (const { input } of Object.values(rows)) input.checked = true;
      update();
    }

    const text = (x) => rounded(x, 1);
    const controls = [
      choice("whose loss", SIDES, state.side, (side) => {
        state.side = side;
        update();
      }),
      slider("logit o of the sample", { min: -6, max: 6, step: 0.1, value: logit, text }, (o) => {
        state.logit = o;
        update();
      }),
      slider("logit of the other sample", { min: -6, max: 6, step: 0.1, value: 0, text }, (o) => {
        state.other = o;
        update();
      }),
    ];
    for (const { node, place } of panels) {
      node.style.touchAction = "pan-y";
      const drag = (event) => {
        if (!event.buttons) return;
        const width = node.clientWidth,
          o = ((place(event)[0] * width - 30) / (width - 40)) * 12 - 6;
        controls[1].value = state.logit = Math.max(-6, Math.min(6, Math.round(10 * o) / 10));
        update();
      };
      for (const type of ["pointerdown", "pointermove"]) node.addEventListener(type, drag);
    }
    root.append(
      element(
        "div",
        { class: "gan-live-settings gan-live-above" },
        ...controls.map((control) => control.node),
        element("div", {}, button("Reset", reset)),
      ),
      element(
        "div",
        { class: "gan-live-columns" },
        ...panels.map(({ node }) => element("div", { class: "gan-live-side" }, node)),
      ),
      element("p", { class: "gan-live-caption" },
        "Where two curves coincide, one is dashed on top of the other. An arrowhead at the edge: " +
          "the value lies outside. D’s losses are those of the pair; of G’s only the relativistic " +
          "one uses the other sample."),
      element("table", {}, element("thead", {}, head), body),
    );
    update();
    return { state };
  }

  ganLive.explorers.losses = explore;
  return { evaluate };
})();
