// A family's picture: plotly shows one frame after another; buttons and a slider move it, and the page's colours suit it.
(function () {
  "use strict";
  const PAUSE = 1100; // milliseconds that a frame stays
  const plot = document.getElementById("moving");
  const figure = window.ZOO[plot.dataset.picture];
  const range = document.getElementById("moving-range"), words = document.getElementById("moving-step");
  const play = document.querySelector("[data-step=play]");
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const bars = figure.data[0].type === "bar";
  const last = figure.frames.length - 1;
  let step = 0, timer = 0;
  range.max = last;

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    const own = style.getPropertyValue("--accent").trim();
    return {
      layout: {
        "font.color": ink, "xaxis.gridcolor": line, "yaxis.gridcolor": line, "xaxis.zerolinecolor": line,
      },
      bars: bars ? { "marker.color": own } : {},
    };
  }
  function show(index) {
    step = Math.max(0, Math.min(last, index));
    const smooth = bars && !still.matches ? 400 : 0;
    words.textContent = figure.frames[step].name;
    range.value = step;
    range.setAttribute("aria-valuetext", figure.frames[step].name);
    plot.dataset.step = step;
    return Plotly.animate(plot, [figure.frames[step].name], {
      mode: "immediate", transition: { duration: smooth }, frame: { duration: smooth, redraw: !smooth },
    });
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

  plot.classList.toggle("bars", bars);
  const layout = { paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { family: "inherit" }, ...figure.layout };
  Plotly.newPlot(plot, figure.data, layout, { displayModeBar: false, responsive: true, staticPlot: true })
    .then(function () { return Plotly.addFrames(plot, figure.frames); })
    .then(function () {
      function repaint() {
        const now = colours();
        return Plotly.update(plot, now.bars, now.layout);
      }
      document.addEventListener("zoo-theme", repaint);
      return repaint();
    })
    .then(function () { return show(0); })
    .then(function () { if (!still.matches) start(); });
})();
