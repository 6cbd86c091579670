"use strict";
// A keyboard for a generator of sounds: play its notes and those of real strings, see wave and
// spectrum, and measure pitch, decay and brightness.
globalThis.ganLive ??= {};
ganLive.explorers ??= {};

ganLive.notes = (() => {
  const { array, uniforms, mean } = ganLive.numbers;

  // A plucked string, as gan_tutorial.beyond.audio.pluck: the loudest sample is 0.9.
  function pluck({ pitch, decay, brightness, phase }, length, rate) {
    const x = array(length);
    for (let k = 1; k * pitch < rate / 2; k++) {
      for (let n = 0; n < length; n++) {
        const amplitude = (brightness ** (k - 1) / k) * Math.exp((-decay * k * n) / rate);
        x[n] += amplitude * Math.sin(k * ((2 * Math.PI * pitch * n) / rate + phase));
      }
    }
    const largest = x.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    return x.map((value) => (0.9 * value) / largest);
  }

  // The pitch in hertz, or NaN, as gan_tutorial.beyond.audio.pitch: the autocorrelation over the
  // mean energy of the parts that it compares, at quarters of a sample. The period is its first
  // peak that reaches 0.9 of the highest.
  const FINE = 4;
  function pitch(x, rate, lowest = 100, highest = 800) {
    const length = x.length, longest = Math.ceil(rate / lowest) + 2;
    const middle = mean(x), y = x.map((value) => value - middle);
    const correlation = array(length).map((_, lag) => {
      let sum = 0;
      for (let n = lag; n < length; n++) sum += y[n] * y[n - lag];
      return sum;
    });
    const sums = [0]; // of the squares before each sample
    for (const value of y) sums.push(sums.at(-1) + value ** 2);
    const energy = (lag) => (sums[length - lag] + sums[length] - sums[lag]) / 2;
    const likeness = array((longest - 1) * FINE + 1).map((_, i) => {
      const lag = i / FINE, low = Math.floor(lag), share = lag - low;
      let between = share ? 0 : correlation[low];
      if (share) for (let k = 1 - length; k < length; k++) {
        const away = Math.PI * (lag - k); // a sinc, which repeats as the padded transform does
        between += (correlation[Math.abs(k)] * Math.sin(away)) / Math.tan(away / 2 / length);
      }
      if (share) between /= 2 * length;
      return between / Math.max((1 - share) * energy(low) + share * energy(low + 1), 1e-12);
    });
    const peaks = [...likeness.keys()].filter((i) =>
      i >= (FINE * rate) / highest - 1 && i <= (FINE * rate) / lowest + 1 &&
      likeness[i] >= likeness[i - 1] && likeness[i] > likeness[i + 1]);
    const best = Math.max(0, ...peaks.map((i) => likeness[i]));
    if (best <= 0.5) return NaN;
    const first = peaks.find((i) => likeness[i] >= 0.9 * best);
    const [left, top, right] = [-1, 0, 1].map((i) => likeness[first + i]);
    return (FINE * rate) / (first + (left - right) / (2 * (left - 2 * top + right)));
  }

  // The size of x's part at a frequency, under a Hann window.
  function height(x, frequency, rate) {
    let [re, im] = [0, 0];
    x.forEach((value, n) => {
      const windowed = value * (0.5 - 0.5 * Math.cos((2 * Math.PI * n) / x.length));
      const angle = (2 * Math.PI * frequency * n) / rate;
      re += windowed * Math.cos(angle);
      im += windowed * Math.sin(angle);
    });
    return Math.hypot(re, im);
  }

  // Decay and brightness from the first two harmonics in both halves, by the equation of a string.
  function decayAndBrightness(x, f, rate) {
    const half = x.length / 2, early = x.subarray(0, half), late = x.subarray(half);
    const first = height(early, f, rate);
    const decay = (Math.log(first / height(late, f, rate)) * rate) / half;
    const second = height(early, 2 * f, rate);
    return [decay, ((2 * second) / first) * Math.exp((decay * half) / 2 / rate)];
  }

  // Power at each multiple of rate / length, in decibels below the highest.
  function spectrum(x) {
    const length = x.length, cosine = array(length), windowed = array(length);
    for (let n = 0; n < length; n++) {
      cosine[n] = Math.cos((2 * Math.PI * n) / length);
      windowed[n] = x[n] * (0.5 - 0.5 * cosine[n]);
    }
    const power = array(length / 2).map((_, k) => {
      let [re, im] = [0, 0];
      for (let n = 0; n < length; n++) {
        re += windowed[n] * cosine[(k * n) % length];
        im += windowed[n] * cosine[(k * n + length / 4) % length]; // minus the sine
      }
      return re ** 2 + im ** 2;
    });
    const top = Math.max(...power) || 1;
    return power.map((value) => 10 * Math.log10(value / top + 1e-9));
  }

  // So many samples between two, without new frequencies: a sinc under a Hann window. Browsers need
  // not play fewer than 8,000 samples a second.
  function upsample(x, factor, reach = 16) {
    return array(x.length * factor).map((_, i) => {
      const at = i / factor, middle = Math.floor(at);
      if (at === middle) return x[middle];
      let sum = 0;
      for (let k = middle - reach + 1; k <= middle + reach; k++) {
        const away = Math.PI * (at - k);
        const window = 0.5 + 0.5 * Math.cos(away / reach);
        sum += ((x[k] ?? 0) * window * Math.sin(away)) / away;
      }
      return sum;
    });
  }

  const FACTOR = 4, FADE = 0.01; // the end is faded out for so many seconds, or it would click
  const MANY = 30;

  function explore(root, { G: packed, notes, rate }) {
    const { latents, worker } = ganLive.generator;
    const { element, button, slider, choice, readout, canvas } = ganLive.page;
    const { axes, clip, line, dot, rounded, swatch } = ganLive.page;
    const names = Object.keys(notes), hertz = Object.values(notes), length = packed.side;
    const START = { note: 3, source: "generated", seed: 1, share: 0 };
    const state = { ...START, sounds: 0 };
    const TONES = { generated: "orange", real: "blue" };
    let timer = 0, shown = null;
    const cloud = new Map(); // what was measured, by source, note and seed

    // The share of the next note: of its label, or of the way to its pitch.
    const asked = ({ note, share } = state) => {
      const next = hertz[note + 1] ?? hertz[note];
      return hertz[note] ** (1 - share) * next ** share;
    };
    const mixed = () => state.share > 0 && state.note + 1 < names.length;
    const wanted = () => {
      const { source, note, seed, share } = state;
      return { source, note, seed, share: mixed() ? share : 0 };
    };

    function* make(G, { source, note, seed, share }) {
      if (source === "generated") {
        const [z] = latents(seed, 1, packed.latent);
        const label = share ? [[note, 1 - share], [note + 1, share]] : note;
        return yield* G.generating(z, label);
      }
      // as gan_tutorial.beyond.audio.plucked_strings
      const [detune, decay, brightness, phase] = array(4).map(uniforms(seed));
      return pluck({
        pitch: asked({ note, share }) * 2 ** ((20 * detune - 10) / 1200), decay: 2 + 6 * decay,
        brightness: 0.4 + 0.5 * brightness, phase: 2 * Math.PI * phase,
      }, length, rate);
    }

    // The same, played if it is asked for, and measured; one without a pitch has no decay and no
    // brightness.
    function* measured(G, ask, aloud = false) {
      const x = yield* make(G, ask);
      if (aloud && ganLive.output) sound(x);
      yield;
      const found = pitch(x, rate);
      yield;
      const [decay, brightness] = found ? decayAndBrightness(x, found, rate) : [NaN, NaN];
      const { source, note, seed, share } = ask;
      const entry = { x, pitch: found, decay, brightness, note, source };
      if (found && !share) cloud.set([source, note, seed].join(), entry);
      return entry;
    }

    function sound(x) {
      const samples = Float32Array.from(upsample(x, FACTOR)), fast = FACTOR * rate;
      const faded = Math.round(FADE * fast);
      for (let i = 1; i <= faded; i++) samples[samples.length - i] *= i / faded;
      const { output } = ganLive, buffer = output.createBuffer(1, samples.length, fast);
      buffer.copyToChannel(samples, 0);
      const source = output.createBufferSource();
      source.buffer = buffer;
      source.connect(output.destination);
      source.start();
      state.sounds += 1;
    }

    function look(aloud = false) {
      keys.forEach((key, i) => key.setAttribute("aria-pressed", String(i === state.note)));
      share.input.disabled = state.note + 1 === names.length;
      many.disabled = mixed(); // a mixture is no sound of this note
      const ask = wanted();
      work.add("look", function* (G) {
        shown = yield* measured(G, ask, aloud);
        say();
      }, true);
    }

    function say() {
      const known = Number.isFinite(shown.pitch), target = asked();
      const off = Math.round(1200 * Math.log2(shown.pitch / target));
      numbers.show({
        asked: `${rounded(target, 1)} Hz`,
        pitch: known ? `${rounded(shown.pitch, 1)} Hz` : "none",
        off: known ? `${off > 0 ? "+" : ""}${rounded(off)} cents` : "–",
        decay: known ? `${rounded(shown.decay, 1)} per s` : "–",
        brightness: known ? rounded(shown.brightness) : "–",
      });
    }

    function press(note) {
      // only now, as a page must not sound by itself
      if (globalThis.AudioContext) ganLive.output ??= new AudioContext();
      ganLive.output?.resume();
      state.note = note;
      look(true);
    }

    function stop() {
      clearTimeout(timer);
      timer = 0;
      scale.textContent = "Play the scale";
    }

    function climb(note, back) {
      if (!root.isConnected) return stop();
      if (note === names.length) {
        state.note = back;
        look();
        return stop();
      }
      press(note);
      timer = setTimeout(() => climb(note + 1, back), (1000 * length) / rate + 60);
      scale.textContent = "Stop";
      return null;
    }

    const keys = names.map((name, i) =>
      element("button", {
        type: "button", class: "gan-live-face", "aria-pressed": "false",
        "aria-label": `${name}, ${Math.round(hertz[i])} hertz`, onclick: () => {
          stop();
          press(i);
        },
      }, name, element("small", {}, String((i + 1) % 10))));
    root.addEventListener("keydown", (event) => {
      const digit = /^Digit(\d)$/.exec(event.code)?.[1];
      if (!digit || event.target.tagName === "SELECT") return;
      if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
      const note = (Number(digit) + 9) % 10; // 0 stands after 9
      stop();
      if (note < names.length) press(note);
    });

    const wave = canvas(root, { label: "The wave of the sound", ratio: 3.4 },
      (context, width, height_, colour) => {
        const box = { left: 4, top: 22, width: width - 12, height: height_ - 44 };
        const seconds = length / rate, { toX, toY } = axes(context, colour, box, {
          x: [0, 1000 * seconds], y: [-1, 1], xTicks: [0, 100, 200], yTicks: [],
          title: `wave of ${names[shown?.note ?? state.note]}, in ms`,
        });
        if (!shown) return;
        context.strokeStyle = colour[TONES[shown.source]];
        context.lineWidth = 1;
        line(context, [...shown.x].map((value, n) => [toX((1000 * n) / rate), toY(value)]));
      });
    const bars = canvas(root, { label: "The spectrum of the sound", ratio: 1.8 },
      (context, width, height_, colour) => {
        const box = { left: 30, top: 22, width: width - 40, height: height_ - 62 };
        const { toX, toY } = axes(context, colour, box, {
          x: [0, rate / 2], y: [-70, 2], xTicks: [0, 500, 1000, 1500, 2000],
          yTicks: [-60, -40, -20, 0], xLabel: "Hz; dashed: harmonics of the pitch asked for",
          title: "spectrum, dB",
        });
        if (!shown) return;
        clip(context, box);
        context.strokeStyle = colour.grey;
        context.setLineDash([2, 4]);
        for (let f = asked(); f < rate / 2; f += asked())
          line(context, [[toX(f), box.top], [toX(f), box.top + box.height]]);
        context.setLineDash([]);
        context.strokeStyle = colour[TONES[shown.source]];
        context.lineWidth = 1.5;
        const levels = (shown.levels ??= spectrum(shown.x));
        line(context, [...levels].map((level, k) => [toX((k * rate) / length), toY(level)]));
        context.restore();
      });
    const scatter = canvas(
      root, { label: "Decay and brightness of the sounds of this note so far", ratio: 1.5 },
      (context, width, height_, colour) => {
        const box = { left: 30, top: 22, width: width - 40, height: height_ - 62 };
        const { toX, toY } = axes(context, colour, box, {
          x: [0, 10], y: [0, 1.2], xTicks: [0, 2, 4, 6, 8, 10], yTicks: [0, 0.4, 0.8, 1.2],
          xLabel: "decay, per second", title: `brightness of each ${names[state.note]} so far`,
        });
        clip(context, box);
        for (const entry of cloud.values()) {
          if (entry.note !== state.note) continue;
          const [x, y] = [toX(entry.decay), toY(entry.brightness)];
          context.fillStyle = colour[TONES[entry.source]];
          dot(context, x, y, entry === shown ? 6 : 3);
        }
        context.restore();
      });
    const numbers = readout({
      asked: "pitch asked for", pitch: "pitch measured", off: "that is", decay: "decay",
      brightness: "brightness",
    });

    // Many sounds of this note that are not played: as many points.
    const work = worker(packed, () => {
      for (const { redraw } of [wave, bars, scatter]) redraw();
    });
    const many = button(`Add ${MANY} unheard`, () => {
      for (let i = 0; i < MANY; i++) {
        state.seed += 1;
        const ask = wanted();
        work.add(`sound ${ask.seed}`, function* (G) {
          const entry = yield* measured(G, ask), now = wanted();
          if (ask.source !== now.source || ask.note !== now.note || now.share) return;
          shown = entry;
          say();
        });
      }
    });
    const scale = button("Play the scale", () => {
      if (timer) stop();
      else climb(0, state.note);
    }, { class: "gan-live-main" });
    const source = choice("sounds of",
      { generated: "the generator", real: "real strings" }, state.source, (value) => {
        state.source = value;
        look();
      });
    const share = slider("share of the next note",
      { min: 0, max: 1, step: 0.05, value: 0, text: (x) => `${Math.round(100 * x)}%` }, (value) => {
        state.share = value;
        look();
      });

    root.append(
      element("div", { class: "gan-live-bar" },
        scale,
        button("Another sound", () => {
          stop();
          state.seed += 1;
          press(state.note);
        }),
        many,
        button("Reset", () => {
          stop();
          work.drop("sound ");
          Object.assign(state, START);
          [source.value, share.value] = [state.source, 0];
          cloud.clear();
          look();
        }),
        source.node),
      element("div", { class: "gan-live-faces", role: "group", "aria-label": "notes" }, ...keys),
      share.node,
      element("div", { class: "gan-live-columns gan-live-below" },
        element("div", { class: "gan-live-side" }, wave.node, bars.node),
        element("div", { class: "gan-live-side" }, numbers.node,
          element("p", { class: "gan-live-caption gan-live-halves" },
            element("span", {}, swatch("orange"), " the generator"),
            element("span", {}, swatch("blue"), " real strings")),
          scatter.node)),
    );
    look();
    return {
      state,
      get shown() {
        return shown;
      },
      get cloud() {
        return [...cloud.values()];
      },
      get busy() {
        return work.busy;
      },
    };
  }

  ganLive.explorers.notes = explore;
  return { pluck, pitch, decayAndBrightness, spectrum, upsample };
})();
