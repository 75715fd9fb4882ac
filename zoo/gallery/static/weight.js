// The plots of a weight's page, and all its wrong images.
(function () {
  "use strict";
  var P = window.ZooPlots, root = document.documentElement.dataset.root;
  var mine = document.querySelector("h1").textContent, data = window.ZOO["weights/" + mine];
  var get = function (id) { return document.getElementById(id); };
  function column(lines, key) { return lines.map(function (line) { return line[key]; }); }

  function curve() {
    var losses = column(data.log, "loss");
    var seeds = Array.from(new Set(column(data.seeds || [], "seed")));
    var traces = seeds.map(function (seed) {
      var own = data.seeds.filter(function (line) { return line.seed === seed; });
      return { x: column(own, "epoch"), y: column(own, "loss"), mode: "lines", name: "loss, seed " + seed,
        line: { width: 1, color: P.colour("--strong") } };
    });
    traces.push({ x: column(data.log, "epoch"), y: column(data.log, "loss"), mode: "lines", name: "loss",
      line: { width: 2.5, color: P.colour("--c3") } });
    traces.push({ x: column(data.log, "epoch"), y: column(data.log, "lr"), mode: "lines", name: "learning rate",
      yaxis: "y2", line: { width: 1.5, dash: "dot", color: P.colour("--c1") } });
    if (data.log.some(function (line) { return typeof line.held_out_top1 === "number"; })) {
      traces.push({ x: column(data.log, "epoch"), y: column(data.log, "held_out_top1"), mode: "lines",
        name: "held-out top-1 %", yaxis: "y3", line: { width: 2, color: P.colour("--c2") } });
    }
    return { traces: traces, layout: P.layout({
      xaxis: P.axis({ title: { text: "epoch" } }),
      yaxis: P.axis(Math.max.apply(null, losses) > 20 * Math.min.apply(null, losses)
        ? { title: { text: "training loss" }, type: "log", dtick: 1 } : { title: { text: "training loss" }, rangemode: "tozero" }),
      yaxis2: P.axis({ title: { text: "learning rate" }, overlaying: "y", side: "right", showgrid: false,
        rangemode: "tozero", tickmode: "auto", nticks: 6 }),
      yaxis3: P.axis({ overlaying: "y", side: "right", visible: false, showgrid: false })
    }) };
  }
  function layers() {
    var kinds = Array.from(new Set(column(data.layers, "kind"))), names = column(data.layers, "layer");
    var colours = { plain: "--strong", shared: "--c2", bank: "--c1", symmetric: "--c3", masked: "--c4", branches: "--c5" };
    var words = { plain: "learned as it is", shared: "coefficients of templates", bank: "templates", symmetric: "learned part of a symmetric kernel",
      masked: "weights that are on", branches: "branches, with their batch norms", tied: "values of tied weights" };
    var traces = kinds.map(function (kind) {
      var own = data.layers.filter(function (l) { return l.kind === kind; });
      return { type: "bar", name: words[kind] || kind, x: column(own, "layer"),
        y: own.map(function (l) { return l.on === null ? l.learned : l.on; }),
        marker: { color: P.colour(colours[kind] || "--c1") }, hoverinfo: "text",
        text: own.map(function (l) {
          return "<b>" + l.layer + "</b><br>" + l.kernel.join(" × ") + ", " + l.made + "<br>"
            + (l.on === null ? "" : l.on.toLocaleString("en") + " switched on of ") + l.learned.toLocaleString("en") + " learned"
            + (l.runs > 1 ? "<br>runs " + l.runs + " times" : "");
        }), textposition: "none" };
    });
    traces.push({ type: "bar", name: "entries of its kernels, every run", x: names, y: column(data.layers, "entries"),
      marker: { color: "rgba(0,0,0,0)", line: { color: P.colour("--ink"), width: 1.2 } }, hoverinfo: "skip" });
    return { traces: traces, layout: P.layout({ barmode: "overlay", bargap: 0.15,
      xaxis: P.axis({ categoryorder: "array", categoryarray: names, tickangle: -60, tickfont: { size: 10 }, showgrid: false }),
      yaxis: P.axis({ type: "log", dtick: 1, tickformat: "~s", title: { text: "entries" } }) }) };
  }
  function confusion() {
    var classes = data.classes, matrix = data.confusion, many = classes.length > 20;
    var sums = matrix.map(function (row) { return row.reduce(function (a, b) { return a + b; }, 0); });
    var shares = matrix.map(function (row, i) { return row.map(function (v) { return sums[i] ? 100 * v / sums[i] : 0; }); });
    // wrong ones are a few in a hundred: their share is drawn, the diagonal as if it were none
    var wrong = shares.map(function (row, i) { return row.map(function (v, k) { return k === i ? null : v; }); });
    return { traces: [{ type: "heatmap", x: classes, y: classes, z: wrong, hoverongaps: false, xgap: many ? 0 : 2, ygap: many ? 0 : 2,
      colorscale: [[0, P.colour("--sunk")], [0.4, P.colour("--heat1")], [1, P.colour("--heat2")]],
      text: matrix, texttemplate: many ? undefined : "%{text}", textfont: { color: P.colour("--ink") },
      hovertemplate: "%{y} taken for %{x}: %{text} images, %{z:.1f} % of the class<extra></extra>",
      colorbar: { title: { text: "% of class", side: "right" }, thickness: 12, outlinewidth: 0 } }],
    layout: P.layout({
      annotations: many ? [] : classes.map(function (c, i) {
        return { x: c, y: c, text: "<b>" + matrix[i][i] + "</b>", showarrow: false, font: { color: P.colour("--good") } };
      }),
      xaxis: P.axis({ title: { text: "guess" }, side: "bottom", showgrid: false, tickangle: -40, type: "category" }),
      yaxis: P.axis({ title: { text: "true class" }, autorange: "reversed", showgrid: false, type: "category" }) }) };
  }
  function corruptions() {
    var own = data.corruptions.slice().sort(function (a, b) { return a.top1 - b.top1; });
    var words = own.map(function (c) { return c.name.replace(/_/g, " ") + " " + c.severity; });
    return { traces: [{ type: "bar", x: words, y: column(own, "top1"), marker: { color: P.colour("--c2") },
      hovertemplate: "%{x}: %{y:.2f} %<extra></extra>" }],
    layout: P.layout({ xaxis: P.axis({ tickangle: -40, showgrid: false }), yaxis: P.axis({ title: { text: "top-1 %" }, range: [0, 100] }) }) };
  }
  [["plot-curve", curve], ["plot-layers", layers], ["plot-confusion", confusion], ["plot-corruptions", corruptions]]
    .forEach(function (pair) { if (get(pair[0])) P.draw(get(pair[0]), pair[1]); });

  if (!get("w-images")) return;
  var I = window.ZooImages, set = window.ZOO["sets/" + data.set], said = I.predictions(mine), number = 24;
  var list = get("w-images"), count = get("w-count"), more = get("w-more"), page = number;
  var wrong = set.labels.map(function (_, i) { return i; }).filter(function (i) { return !I.right(set, said, i); });
  wrong.sort(function (a, b) { return said.score[b] - said.score[a] || a - b; });
  function show() {
    var label = get("w-true").value, guess = get("w-guess").value;
    var chosen = wrong.filter(function (i) {
      return (label === "" || set.labels[i] === Number(label)) && (guess === "" || said.prediction[i] === Number(guess));
    });
    list.replaceChildren.apply(list, chosen.slice(0, page).map(function (i) {
      return I.item(set, i, root, [I.line(set.classes[said.prediction[i]] + ", " + I.percent(said.score[i]), "bad")]);
    }));
    more.hidden = chosen.length <= page;
    count.textContent = Math.min(page, chosen.length) + " of " + chosen.length + " shown, the surest first";
  }
  more.addEventListener("click", function () { page += 2 * number; show(); });
  [get("w-true"), get("w-guess")].forEach(function (select) {
    select.addEventListener("input", function () { page = number; show(); });
  });
  get("plot-confusion").on("plotly_click", function (event) {
    get("w-true").value = String(set.classes.indexOf(event.points[0].y));
    get("w-guess").value = String(set.classes.indexOf(event.points[0].x));
    page = number;
    show();
    get("wrong").scrollIntoView();
  });
  show();
})();
