// A family's picture: plotly shows one frame after another; buttons and a slider move it.
(function () {
  "use strict";
  const PAUSE = 1100; // milliseconds that a frame stays
  const P = window.ZooPlots, plot = document.getElementById("moving"), figure = window.ZOO[plot.dataset.picture];
  const range = document.getElementById("moving-range"), words = document.getElementById("moving-step");
  const play = document.querySelector("[data-step=play]");
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const bars = figure.data[0].type === "bar", last = figure.frames.length - 1;
  let step = 0, timer = 0;

  function make() {
    const colour = bars ? { marker: { color: P.colour("--accent") } } : {};
    const layout = P.layout(figure.layout);
    if (bars) {
      layout.xaxis = P.axis(layout.xaxis);
      layout.yaxis = P.axis(layout.yaxis);
      layout.transition = { duration: still.matches ? 0 : 400 };
    }
    return {
      traces: figure.data.map(function (trace, i) {
        return Object.assign({}, trace, figure.frames[step].data[i], colour);
      }),
      layout: layout,
    };
  }
  function show(index) {
    step = Math.max(0, Math.min(last, index));
    words.textContent = figure.frames[step].name;
    range.value = step;
    range.setAttribute("aria-valuetext", figure.frames[step].name);
    P.draw(plot, make).then(function () { plot.dataset.step = step; });
  }
  function stop() {
    window.clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  }
  function start() {
    if (step === last) show(0);
    play.textContent = "Pause";
    timer = window.setInterval(function () {
      show(step + 1);
      if (step === last) stop();
    }, PAUSE);
  }
  document.querySelector(".moving-bar").addEventListener("click", function (event) {
    const what = event.target.dataset.step;
    if (!what) return;
    const playing = timer;
    stop();
    if (what === "play" && !playing) start();
    if (what === "back") show(step - 1);
    if (what === "on") show(step + 1);
  });
  range.addEventListener("input", function () { stop(); show(Number(range.value)); });

  range.max = last;
  plot.classList.toggle("bars", bars);
  show(0);
  if (!still.matches) start();
})();
