// Two forms of each network, run by ONNX Runtime Web on the visitor's own image; files come as scripts (try_page.py).
(function () {
  "use strict";
  const ROUNDS = 7, LASTING = 8; // timed rounds of each form, and milliseconds that a round takes at least
  const root = document.documentElement.dataset.root;
  const facts = window.ZOO.try;
  const status = document.getElementById("try-status");
  const pad = document.getElementById("try-pad"), pen = pad.getContext("2d", { willReadFrequently: true });
  const inverted = document.getElementById("try-inverted");
  let current = null, latest = 0, ready = false;

  function loaded(path) {
    return new Promise(function (resolve, reject) {
      const script = document.createElement("script");
      script.src = root + path;
      script.onload = resolve;
      script.onerror = function () { reject(new Error(path + " is missing beside this page.")); };
      document.head.append(script);
    });
  }
  async function unpacked(key) {
    const bytes = Uint8Array.from(atob(window.ZOO[key]), function (letter) { return letter.charCodeAt(0); });
    delete window.ZOO[key];
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  function pause() { return new Promise(function (resolve) { window.setTimeout(resolve); }); }
  function say(text) { status.textContent = text; }

  async function start() {
    if (!window.WebAssembly || !window.DecompressionStream) {
      throw new Error("This browser is too old for it: it lacks WebAssembly or DecompressionStream.");
    }
    await Promise.all(facts.scripts.map(loaded));
    const wasm = ort.env.wasm;
    wasm.numThreads = 1;
    wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([await unpacked("loader")], { type: "text/javascript" })) };
    wasm.wasmBinary = await unpacked("wasm");
    for (const network of facts.networks) {
      network.place = document.querySelector('[data-network="' + network.name + '"]');
      for (const form of network.forms) {
        form.session = await ort.InferenceSession.create(await unpacked(form.key), {
          executionProviders: ["wasm"],
          // folding would make the train form's kernels once and for all: a part of the collapse
          extra: { optimization: { disable_specified_optimizers: "ConstantFolding" } },
        });
      }
    }
    ready = true;
    say("Ready: choose an image, or draw one.");
    if (current) look(current);
  }

  function softmax(scores) {
    const top = Math.max(...scores), powers = scores.map(function (s) { return Math.exp(s - top); });
    const sum = powers.reduce(function (a, b) { return a + b; }, 0);
    return powers.map(function (p) { return p / sum; });
  }
  function cell(kind, text, className) {
    const element = document.createElement(kind);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  }
  function tiny(value) { return value ? value.toExponential(1) : "0"; }
  function drawSeen(canvas, seen) {
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const image = context.createImageData(canvas.width, canvas.height);
    for (let i = 0; i < seen[0].length; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = seen[seen.length === 3 ? c : 0][i];
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }
  function tell(network, scores) {
    const place = network.place, shares = scores.map(softmax);
    const order = network.classes.map(function (_, i) { return i; })
      .sort(function (a, b) { return shares[0][b] - shares[0][a]; });
    const gaps = scores[0].map(function (s, i) { return Math.abs(s - scores[1][i]); });
    const largest = Math.max(...scores[0].map(Math.abs));
    place.querySelector("[data-classes]").replaceChildren(...order.map(function (i) {
      const row = document.createElement("tr"), name = cell("th", network.classes[i]);
      name.scope = "row";
      row.dataset.label = i;
      row.append(name);
      shares.forEach(function (share, form) {
        const value = cell("td", (100 * share[i]).toFixed(2) + " %", "number try-share");
        value.style.setProperty("--share", share[i]);
        value.dataset.score = scores[form][i];
        value.dataset.probability = share[i];
        row.append(value);
      });
      row.append(cell("td", tiny(gaps[i]), "number"));
      return row;
    }));
    const best = order[0];
    const guess = network.classes[best] + ", " + (100 * shares[0][best]).toFixed(1) + " %";
    place.querySelector("[data-guess]").textContent = guess;
    const gap = Math.max(...gaps), found = place.querySelector("[data-difference]");
    found.dataset.difference = gap;
    found.textContent = "Greatest difference of the scores: " + tiny(gap) + "; the largest score is " +
      largest.toFixed(2) + ".";
    return guess;
  }

  async function answer(network, image, mine) {
    const prepared = zooImage.prepare(image, network, inverted.checked && network.size[0] === 1);
    drawSeen(network.place.querySelector(".try-seen"), prepared.seen);
    const feeds = { images: new ort.Tensor("float32", prepared.input, [1, ...network.size]) };
    const scores = [];
    for (const form of network.forms) scores.push(Array.from((await form.session.run(feeds)).scores.data));
    const guess = tell(network, scores), runs = [], times = network.forms.map(function () { return []; });
    for (let round = 0; round <= ROUNDS && mine === latest; round++) { // the first finds out how many runs last so long
      await pause();
      for (const [k, form] of network.forms.entries()) {
        const before = performance.now();
        for (let run = 0; run < (runs[k] || 1); run++) await form.session.run(feeds);
        const time = performance.now() - before;
        if (round) times[k].push(time / runs[k]);
        else runs[k] = Math.ceil(LASTING / Math.max(time, 0.1));
      }
    }
    if (mine !== latest) return guess;
    network.forms.forEach(function (form, k) {
      const row = network.place.querySelector('[data-form="' + form.name + '"] [data-time]');
      row.dataset.time = Math.min(...times[k]); // what else the machine does only adds to it
      row.textContent = Math.min(...times[k]).toFixed(2) + " ms";
    });
    return guess;
  }

  let queue = Promise.resolve(); // one image after another: a session runs once at a time
  function look(source) {
    const mine = ++latest;
    current = source;
    if (!ready) return;
    document.body.dataset.tried = "running";
    queue = queue.then(async function () {
      if (mine !== latest) return;
      try {
        const image = await zooImage.pixels(source), guesses = [];
        for (const network of facts.networks) {
          if (mine === latest) guesses.push(network.name + ": " + await answer(network, image, mine));
        }
        if (mine !== latest) return;
        say(guesses.join("; "));
      } catch (error) {
        if (mine === latest) say(error.message);
      }
      if (mine === latest) document.body.dataset.tried = "done";
    });
  }

  const file = document.getElementById("try-file");
  file.addEventListener("click", function () { file.value = ""; }); // so that the same file can be chosen again
  file.addEventListener("change", function (event) {
    if (event.target.files.length) look(event.target.files[0]);
  });
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", function () { look(button.querySelector("img")); });
  }
  inverted.addEventListener("change", function () { if (current) look(current); });

  const save = document.getElementById("try-save");
  function clear() {
    pen.fillStyle = "black";
    pen.fillRect(0, 0, pad.width, pad.height);
    save.hidden = true;
  }
  function place(event) {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) * pad.width / box.width, (event.clientY - box.top) * pad.height / box.height];
  }
  pad.addEventListener("pointerdown", function (event) {
    pad.setPointerCapture(event.pointerId);
    pen.strokeStyle = document.getElementById("try-pen").value;
    pen.lineWidth = 22;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...place(event));
    pen.lineTo(...place(event));
    pen.stroke();
  });
  pad.addEventListener("pointermove", function (event) {
    if (!pad.hasPointerCapture(event.pointerId)) return;
    pen.lineTo(...place(event));
    pen.stroke();
  });
  pad.addEventListener("pointerup", function () {
    save.href = pad.toDataURL("image/png");
    save.hidden = false;
    look(pad);
  });
  document.getElementById("try-clear").addEventListener("click", clear);
  clear();
  start().catch(function (error) { say("The networks cannot run here: " + error.message); });
})();
